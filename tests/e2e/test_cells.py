"""Cells that go wrong: each costs itself only, the model is told, and the turn goes on."""

from tests.e2e import Project, cell, prompts
from tests.model_server import ModelServer


def test_a_loop_is_interrupted_and_one_that_ignores_it_is_rolled_back(
    project: Project, server: ModelServer
) -> None:
    deaf = "found = 0\nimport signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    server.reply("root", cell("found = 41\nwhile True:\n    found = 42"), cell(deaf), cell("FINAL(found)"))

    ended = project.ask("Count for ever.", env={"RLM_CELL_TIMEOUT": "1"})

    assert ended.answer == "42\n"
    _, interrupted, rolled_back = prompts(server)
    assert "interrupted: the cell used up its compute time; what it assigned is kept" in interrupted
    assert "the cell had no effect: it exceeded its time limit" in rolled_back


def test_a_crash_costs_its_cell_only(project: Project, server: ModelServer) -> None:
    often = 10  # a checkpoint must be there each time, however soon the next cell comes
    server.reply("root", cell("kept = 0"))
    server.reply("root", *[cell("kept += 1"), cell("kept = -1\nimport os\nos._exit(3)")] * often)
    server.reply(
        "root",
        cell("kept = -1\nimport ctypes\nctypes.string_at(0)"),
        cell("context = FINAL = None\nkept += 100\nbomb = bytearray(1 << 40)"),
        cell("FINAL(kept)"),
    )

    ended = project.ask("Crash.")

    told = prompts(server)[1:]
    exited, (crashed, bombed) = told[2::2][:often], told[-2:]
    for text in exited:
        assert "the cell had no effect: it ended its process (exit status 3)" in text
    assert "the cell had no effect: its process died of SIGSEGV" in crashed
    assert "variables are as they were before it" in crashed
    assert "MemoryError" in bombed
    assert "reserved, and put back as before: " in bombed
    assert ended.answer == f"{100 + often}\n"
