"""What a cell asks of the host while it runs: sub-calls, files, history; and the clock that stands still."""

import asyncio

import pytest

from rlm.box.results import CellResult
from tests.box import Guest

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_sub_call_returns_the_reply(guest: Guest) -> None:
    assert await guest.shows("llm_query('what?')") == "'re: what?'\n"
    assert await guest.shows("rlm_query('q', 'c')") == "'re: q'\n"


async def test_batch_is_answered_in_order_and_in_one_request(guest: Guest) -> None:
    shown = await guest.shows(
        "llm_query_batched(str(n) for n in range(500)) == [f're: {n}' for n in range(500)]"
    )
    assert shown.endswith("True\n")
    assert len(guest.host.requests) == 1
    assert await guest.shows("llm_query_batched([])") == "[]\n"
    assert len(guest.host.requests) == 1


async def test_threads_may_ask_at_once_and_each_gets_its_own(guest: Guest) -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    replies = list(pool.map(llm_query, [f'p{n}' for n in range(64)]))\n"
        "replies == [f're: p{n}' for n in range(64)]"
    )
    assert await guest.shows(code) == "True\n"
    assert sorted(guest.host.prompts) == sorted(f"p{n}" for n in range(64))


async def test_prompts_and_replies_of_many_megabytes_arrive_whole(guest: Guest) -> None:
    guest.host.reply = lambda prompt: prompt[::-1]
    assert await guest.shows("llm_query('ab' * 3_000_000) == 'ba' * 3_000_000") == "True\n"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("llm_query({'a': 1})", "TypeError: prompt must be a str, not dict"),
        ("llm_query(b'bytes')", "TypeError: prompt must be a str, not bytes"),
        ("llm_query(None)", "TypeError: prompt must be a str, not NoneType"),
        ("llm_query('x' * 10**8)", "ValueError: prompt has 100,000,000 characters; split it with chunks()"),
        ("llm_query_batched('text')", "TypeError: a batch takes a list of prompts; for one prompt use"),
        ("llm_query_batched(['ok', None])", "TypeError: prompts[1] must be a str, not NoneType"),
        ("llm_query_batched(['a'] * 100_001)", "ValueError: 100,001 prompts in one batch; at most 100,000"),
        ("rlm_query_batched(['a', 'b'], ['c'])", "ValueError: 2 prompts but 1 contexts"),
        ("llm_query_batched(['x' * 2**20] * 201)", "ValueError: a batch of 210,"),
    ],
)
async def test_prompt_that_cannot_be_is_refused_and_nothing_sent(guest: Guest, call: str, error: str) -> None:
    assert (await guest.run(call)).error.startswith(error)
    assert guest.host.requests == []


async def test_lone_surrogate_in_a_prompt_is_sent_escaped(guest: Guest) -> None:
    await guest.shows(r"llm_query('a\udc80')")
    assert guest.host.prompts == [r"a\udc80"]


async def test_lone_surrogate_in_a_system_prompt_costs_no_container(guest: Guest) -> None:
    await guest.run(r"llm_query('a', system='b\udc80')")
    await guest.is_intact()


async def test_a_system_prompt_may_be_long(guest: Guest) -> None:
    assert await guest.shows("llm_query('p' * 30_000, system='s' * 1_000_000)[:5]") == "'re: p'\n"


async def test_a_schema_makes_replies_data_and_is_asked_for_once_more(guest: Guest) -> None:
    replies = iter(['{"n": 1}', "two", '```json\n{"n": 2}\n```', "three"])
    guest.host.reply = lambda prompt: next(replies)
    shown = await guest.shows("llm_query_batched(['a', 'b'], schema={'n': int})")
    assert shown == "[{'n': 1}, {'n': 2}]\n"
    a, b, again = guest.host.prompts
    assert a.startswith("a\n\nReply with JSON only") and '"integer"' in b
    assert again.startswith(b) and "it is not JSON" in again and "two" in again
    guest.host.reply = lambda prompt: "never"
    result = await guest.run("llm_query('a', schema={'n': int})")
    assert result.error.startswith(
        "SubCallError: the reply did not fit the schema, asked twice: it is not JSON"
    )
    assert (await guest.run("llm_query('a', schema=3)")).error.startswith("ValueError: schema: 3 is not")


async def test_the_same_question_of_each_item(guest: Guest) -> None:
    await guest.shows("llm_map('Is {item} big?', ['a', 'b{item}'])")
    await guest.shows("llm_map('{name} is {age}, {else}', [{'name': '{age}', 'age': 3}])")
    await guest.shows("llm_map('Big?', ['a']); llm_map(lambda item: item * 2, ['c'])")
    asked = ["Is a big?", "Is b{item} big?", "{age} is 3, {else}", "Big?\n\na", "cc"]
    assert guest.host.prompts == asked


async def test_short_prompts_by_the_hundred_are_remarked_upon_once_a_cell(guest: Guest) -> None:
    result = await guest.run("for n in range(150): llm_query(f'line {n}')")
    assert result.shown.count("Note: 100 prompts of about 6 characters. That is slow and dear") == 1
    result = await guest.run("replies = llm_query_batched([f'{n} ' + 'x' * 600 for n in range(150)])")
    assert result.shown == ""
    result = await guest.run(
        "replies = llm_query_batched(['Say yes or no. ' * 50 + str(n) for n in range(150)])"
    )
    assert result.shown.startswith("Note: 150 prompts of about 2 characters.")


async def test_a_failed_item_is_false_and_says_why_wherever_it_is_shown(guest: Guest) -> None:
    guest.host.status = "RateLimited"
    shown = await guest.shows("reply, = llm_query_batched(['a']); print(reply, [reply], bool(reply))")
    assert shown == "RateLimited: re: a [<failed: RateLimited: re: a>] False\n"
    guest.host.status = "cut"
    shown = await guest.shows("llm_query_batched(['a', 'b'])")
    assert shown.startswith("Note: 2 of 2 replies were cut off at their length limit (index 0, 1).")
    assert shown.endswith("['re: a', 're: b']\n")


async def test_where_there_are_no_children_the_text_of_a_piece_is_sent(guest: Guest) -> None:
    guest.host.status = "whole"
    running = asyncio.ensure_future(guest.run("rlm_query('q', 'the text')"))
    await guest.host.has_been_asked(2)
    assert guest.host.prompts == ["q", "q"]
    await running


async def test_refusal_of_the_host_is_what_the_cell_reads(guest: Guest) -> None:
    assert (await guest.run("load_file('/etc/passwd')")).error == "PermissionError: load_file: not here"


async def test_interrupt_drops_requests_and_keeps_variables(guest: Guest) -> None:
    guest.host.gate.clear()
    running = asyncio.ensure_future(guest.run("before = 1\nreply = llm_query('slow')"))
    await guest.host.has_been_asked(1)
    guest.namespace.interrupt()
    assert (await running).status in ("interrupted", "error")
    assert guest.host.dropped == 1
    assert await guest.shows("before, 'reply' in globals()") == "(1, False)\n"
    guest.host.gate.set()
    assert await guest.shows("llm_query('again')") == "'re: again'\n"


async def test_interrupt_reaches_threads_that_wait_for_replies(guest: Guest) -> None:
    guest.host.gate.clear()
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool: list(pool.map(llm_query, 'abcd'))"
    )
    running = asyncio.ensure_future(guest.run(code))
    await guest.host.has_been_asked(4)
    guest.namespace.interrupt()
    assert (await running).status in ("interrupted", "error")
    assert guest.host.dropped == 4
    await guest.is_intact()


async def test_cell_that_ends_takes_its_threads_requests_with_it(guest: Guest) -> None:
    guest.host.gate.clear()
    running = asyncio.ensure_future(
        guest.run(
            "import threading\nthreading.Thread(target=llm_query, args=('late',), daemon=True).start()\n"
            "llm_query('early')"
        )
    )
    await guest.host.has_been_asked(2)
    guest.host.gate.set()
    assert (await running).status == "ok"
    guest.host.gate.clear()
    await guest.shows(
        "threading.Thread(target=llm_query, args=('late',), daemon=True).start()\nthreading.Event().wait(0.5)"
    )
    await guest.is_intact()
    assert guest.host.dropped == 1


async def test_question_asked_between_cells_is_refused(guest: Guest) -> None:
    """A `__del__` or a thread that outlives its cell spends nothing."""
    await guest.shows(
        "import threading\nstart, heard = threading.Event(), []\n"
        "def late():\n    start.wait()\n    threading.Event().wait(0.3)\n"
        "    try: heard.append(llm_query('late'))\n    except Exception as error: heard.append(str(error))\n"
        "threading.Thread(target=late, daemon=True).start(); start.set()"
    )
    await asyncio.sleep(1.0)
    assert await guest.shows("heard") == "['no cell is running']\n"
    assert guest.host.prompts == []


async def test_waiting_for_a_sub_call_does_not_count_against_the_time_limit(hasty: Guest) -> None:
    hasty.host.gate.clear()
    running = asyncio.ensure_future(hasty.run("llm_query('slow')"))
    await hasty.host.has_been_asked(1)
    await asyncio.sleep(2.5)
    hasty.host.gate.set()
    result = await running
    assert (result.status, result.shown, result.timed_out) == ("ok", "'re: slow'\n", False)


async def test_computing_counts_against_the_time_limit(hasty: Guest) -> None:
    result: CellResult = await hasty.run("started = True\nwhile True: pass")
    assert (result.status, result.timed_out) == ("interrupted", True)
    assert await hasty.shows("started") == "True\n"
