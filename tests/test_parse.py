"""The reply is prose and at most one block, however it streams in and whatever comes after the block."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlm.parse import Reply, ReplyCutter, parse

FENCE = "```"

pieces = st.sampled_from(
    [
        "```repl\n",
        "```python\n",
        "```\n",
        "~~~py\n",
        "~~~\n",
        "````repl\n",
        "````\n",
        "  ```\n",
        "```",
        "`",
        "~",
        "x = 1\n",
        "s = '''\n",
        "'''\n",
        'FINAL("x")\n',
        "FINAL_VAR(x)",
        "prose",
        " ",
        "\n",
        "\r\n",
        "é😀\u2028",
        "```json\n",
        "print('''```''')\n",
    ]
)
replies = st.lists(pieces, max_size=12).map("".join) | st.text(max_size=60)


def cut(text: str, edges: list[int]) -> tuple[Reply, str, bool]:
    cutter = ReplyCutter()
    places = [0, *sorted(min(edge, len(text)) for edge in edges), len(text)]
    shown = "".join(cutter.feed(text[a:b]) for a, b in pairwise(places))
    done = cutter.done
    return cutter.finish(), shown, done


@given(replies, st.lists(st.integers(0, 200), max_size=10))
@example("a\r\nb ```\r\n```repl\r\nx\r\n```\r\n", [2, 8, 12, 20])
def test_result_does_not_depend_on_how_the_reply_streams_in(text: str, edges: list[int]) -> None:
    reply, _, done = cut(text, edges)
    whole, _, whole_done = cut(text, [])
    assert (reply, done) == (whole, whole_done)


@given(replies)
def test_one_character_at_a_time_is_the_same(text: str) -> None:
    assert cut(text, list(range(len(text))))[0] == parse(text)


@given(replies, st.lists(st.integers(0, 200), max_size=10))
def test_what_is_shown_while_it_streams_is_prose_only(text: str, edges: list[int]) -> None:
    reply, shown, _ = cut(text, edges)
    if reply.code is not None and "FINAL" not in text:
        assert reply.prose.startswith(shown.strip())


@given(replies, replies)
def test_nothing_after_the_block_is_read(before: str, after: str) -> None:
    text = f"{before}\n```repl\nx = 1\n```\n"
    cutter = ReplyCutter()
    cutter.feed(text)
    if cutter.done:
        assert parse(text + after) == cutter.finish()


def test_prose_then_block() -> None:
    assert parse("I look first.\n\n```repl\nprint(1)\nx = 2\n```\nOut: 1\n") == Reply(
        "I look first.", "print(1)\nx = 2\n"
    )


@pytest.mark.parametrize("tag", ["repl", "python", "py", "REPL", "Python", " repl", "repl  "])
@pytest.mark.parametrize("fence", ["```", "~~~", "`````"])
def test_tags_and_fences(fence: str, tag: str) -> None:
    assert parse(f"{fence}{tag}\nx\n{fence}\n") == Reply("", "x\n")


@pytest.mark.parametrize("tag", ["", "json", "bash", "text", "pythonic", "repl x"])
def test_other_blocks_are_prose(tag: str) -> None:
    text = f"see\n```{tag}\nx\n```\nend"
    assert parse(text) == Reply(text, None)


def test_block_after_one_of_another_kind_is_found() -> None:
    assert parse("```json\n{}\n```\n```repl\nx\n```").code == "x\n"


def test_first_of_two_blocks_counts() -> None:
    assert parse("```repl\na\n```\n```repl\nb\n```").code == "a\n"


def test_longer_fence_holds_a_shorter_one() -> None:
    assert parse("````repl\ns = '''\n```\n'''\n````\n").code == "s = '''\n```\n'''\n"


def test_fence_inside_an_open_string_does_not_end_the_block() -> None:
    code = 'text = """\n```python\nx\n```\n"""\nFINAL(text)\n'
    assert parse(f"```repl\n{code}```\nafter") == Reply("", code)


def test_tilde_does_not_end_a_block_of_backticks() -> None:
    assert parse("```repl\nx\n~~~\n```\n").code == "x\n~~~\n"


def test_string_that_is_never_closed_ends_at_the_first_fence() -> None:
    assert parse('```repl\ns = """open\n```\nprose goes on\n') == Reply("", 's = """open\n')


@pytest.mark.parametrize("text", ["```repl\nx = 1\ny", "```repl\nx = 1\n", "```repl\n"])
def test_block_that_is_not_closed_is_told(text: str) -> None:
    reply = parse(text)
    assert reply.closed is False
    assert (reply.code or "").startswith("x = 1\n"[: len(text) - 8])


def test_fence_without_a_newline_at_the_end_closes() -> None:
    assert parse("```repl\nx\n```") == Reply("", "x\n")


@pytest.mark.parametrize(
    ("text", "prose", "code"),
    [
        ('FINAL("the answer")', "", 'FINAL("the answer")\n'),
        ("Done.\n\nFINAL(x + f(1))\n", "Done.", "FINAL(x + f(1))\n"),
        ("FINAL_VAR('report')", "", "FINAL_VAR('report')\n"),
        ("`FINAL(1)`", "", "FINAL(1)\n"),
        ("**FINAL(1)**", "", "FINAL(1)\n"),
        ('FINAL("""a\n(b)\nc""")', "", 'FINAL("""a\n(b)\nc""")\n'),
        ("FINAL(')')", "", "FINAL(')')\n"),
        ("FINAL(not python\nFINAL(2)", "FINAL(not python", "FINAL(2)\n"),
    ],
)
def test_bare_final_is_a_cell(text: str, prose: str, code: str) -> None:
    assert parse(text) == Reply(prose, code)


@pytest.mark.parametrize(
    "text",
    ["I will call FINAL(x) later.", "FINAL(The answer is 42)", "FINAL (", "FINALLY(1)", "use FINAL", ""],
)
def test_what_only_looks_like_a_final_is_prose(text: str) -> None:
    assert parse(text) == Reply(text, None)


def test_final_in_prose_does_not_count_when_there_is_a_block() -> None:
    assert parse("FINAL(1)\n```repl\nx\n```") == Reply("FINAL(1)", "x\n")


def test_prose_is_shown_as_it_comes_and_a_possible_fence_is_held_back() -> None:
    cutter = ReplyCutter()
    assert cutter.feed("I ") == "I "
    assert cutter.feed("look.\n") == "look.\n"
    assert cutter.feed("``") == ""
    assert cutter.feed("`repl\nx\n") == ""
    assert cutter.feed("```\nnever") == ""
    assert cutter.done


@pytest.mark.parametrize("count", [1000])
def test_many_fences_take_no_more_than_their_length(count: int) -> None:
    """A model that loops: the work done on a reply must not grow with its square, let alone worse."""
    reply = parse("```repl\ns = '''\n" + "```\n" * count)
    assert reply.code == "s = '''\n"
