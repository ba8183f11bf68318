"""Questions over files: what is found, what reaches stdout, and what the models were shown on the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import Project, cell, prompts
from tests.model_server import Answer, Fault, Json, ModelServer, Reply


@pytest.fixture
def haystack(project: Project) -> Iterator[Path]:
    """100 MB in lines of 100 bytes, with one that is different."""
    block = b"".join(b"%06d %s\n" % (number, b"hay " * 23) for number in range(10_000))
    path = project.folder / "haystack.log"
    with path.open("wb") as file:
        for part in range(100):
            file.write(block if part != 61 else block[:500_000] + b"the NEEDLE is 7481\n" + block[500_000:])
    yield path
    path.unlink()


def test_a_needle_in_100_mb_is_found_and_the_data_stays_out_of_the_prompts(
    project: Project, server: ModelServer, haystack: Path
) -> None:
    server.reply(
        "root",
        cell('hit = grep(r"NEEDLE is (\\d+)")[0]\nprint(f"{hit.line:,}: {hit.text}")'),
        cell("FINAL(hit.groups[0])"),
    )

    ended = project.ask("What is the needle?", "-f", "haystack.log")

    assert ended.answer == "7481\n"
    first, second = prompts(server)
    assert "'haystack.log': utf-8, 100,000,019 bytes" in first
    assert "615,001: the NEEDLE is 7481" in second
    assert all(len(request.prompt) < 2_000 for request in server.requests)


def test_two_files_are_searched_and_switched_between(project: Project, server: ModelServer) -> None:
    project.write("spring.txt", "March: 10\nApril: 20\n")
    project.write("autumn.txt", "October: 3\nNovember: 4\n")
    server.reply(
        "root",
        cell('months = [m.text for m in grep(r"^\\w*b", files="all")]\nmonths, context.split(":")[0]'),
        cell('switch_to("autumn.txt")\nautumn = context\nload_file("spring.txt")\nprint(autumn + context)'),
        cell("FINAL({'b': months, 'last': context.splitlines()[-1]})"),
    )

    ended = project.ask("Which months?", "-f", "spring.txt", "-f", "autumn.txt")

    assert ended.code == 0
    assert ended.json == {"b": ["October: 3", "November: 4"], "last": "April: 20"}
    assert "(['October: 3', 'November: 4'], 'March')" in prompts(server)[1]
    assert "October: 3\nNovember: 4\nMarch: 10\nApril: 20\n" in prompts(server)[2]


def test_a_5_mb_answer_arrives_byte_for_byte(project: Project, server: ModelServer) -> None:
    make = r'"".join(f"{n:06} \u00e9\u2026 \x1b[31m\t\r\n" for n in range(250_000))'
    expected = str(eval(make)).encode()
    server.reply("root", cell(f"report = {make}\nFINAL_VAR('report')"), cell("FINAL_VAR('report')"))

    shown = project.ask("Write the report.")
    kept = project.ask("Write it again, to a file.", "-o", "report.txt")

    assert len(expected) > 5_000_000
    assert shown.code == kept.code == 0, shown.err + kept.err
    assert shown.out == expected
    assert kept.out == b""
    assert (project.folder / "report.txt").read_bytes() == expected


def test_a_cell_that_raises_keeps_what_it_assigned(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("rows = [3, 4]\ntotal = sum(rows)\nrows[9]"), cell("FINAL(total)"))

    ended = project.ask("What is the total?")

    assert ended.answer == "7\n"
    assert "IndexError: list index out of range" in prompts(server)[1]
    assert "the cell raised; what it assigned before is kept" in prompts(server)[1]


def test_a_batch_keeps_its_order_and_survives_a_failed_item(project: Project, server: ModelServer) -> None:
    def sub(asked: Json) -> Answer:
        number = int(asked["messages"][-1]["content"].split()[-1])
        if number == 7:
            return Fault(status=400, message="seven is not to my taste")
        return Reply(f"reply {number}", delay_s=1.0 if number == 0 else 0.0)

    server.default("sub", sub)
    server.reply(
        "root",
        cell("found = llm_query_batched([f'Look at {n}' for n in range(20)])\nprint(repr(found[7]))"),
        cell("FINAL([str(f) if f else type(f).__name__ for f in found])"),
    )

    ended = project.ask("What do they say?")

    assert ended.code == 0, ended.err
    assert ended.json == [f"reply {n}" if n != 7 else "SubCallError" for n in range(20)]
    assert "seven is not to my taste" in prompts(server)[1]
    trace = [row for row in project.events() if row["event"] == "SubCallFinished"]
    assert trace[-1]["index"] == 0, "the first reply came last, or this test shows nothing"


def test_a_child_has_a_namespace_of_its_own(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("mine = 'parent'\nFINAL(rlm_query('How long?', 'x' * 70_000) + ' ' + mine)"))
    server.reply("sub", cell("mine = str(len(context))\nFINAL(mine)"))

    ended = project.ask("Ask a child.", env={"RLM_MAX_DEPTH": "2"})

    assert ended.answer == "70000 parent\n"
    assert "`context` holds 70,000 characters" in prompts(server, "sub")[0]


def test_a_long_output_is_cut_for_the_model_and_whole_in_the_next_cell(
    project: Project, server: ModelServer
) -> None:
    server.reply(
        "root",
        cell("print('HEAD' + '.' * 30_000 + 'TAIL')"),
        cell("whole = outputs[1].strip()\nFINAL([len(whole), whole[:4], whole[-4:]])"),
    )

    ended = project.ask("Print it all.")

    assert ended.json == [30_008, "HEAD", "TAIL"]
    shown = prompts(server)[1].partition("\n\n")[2].strip()
    assert len(shown) <= 20_000
    assert shown.startswith("HEAD..") and shown.endswith("..TAIL")
    assert "characters left out; the whole output is in outputs[1]" in shown


def test_only_what_the_user_agreed_to_can_be_loaded(project: Project, server: ModelServer) -> None:
    secret = project.home / "diary.txt"
    secret.write_text("Dear diary")
    typed = f"@{secret}"
    server.reply("root", cell(f"load_file({str(secret)!r})"), cell("FINAL(context)"))
    server.reply("root", cell("FINAL(context)"))

    ended = project.run("chat", piped=f"What is in it?\nWhat is in {typed}?\n")

    assert ended.answer == "\nDear diary\n"
    refused = prompts(server)[1]
    assert "PermissionError" in refused
    assert "the user has not agreed to it" in refused
    assert f"rlm init {secret}" in refused and f"-f {secret}" in refused and typed in refused
