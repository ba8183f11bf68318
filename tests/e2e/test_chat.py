"""`rlm chat`, as a plain pipe and on a real terminal."""

import signal

from tests.e2e import Project, cell, prompts
from tests.e2e.terminal import Terminal
from tests.model_server import ModelServer

PROMPT = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"


def test_a_pipe_is_a_conversation(project: Project, server: ModelServer) -> None:
    project.write("a.txt", "one\ntwo\n")
    project.write("photo.bin", bytes(range(256)) * 64)
    server.reply("root", cell("n = len(context.split())\nFINAL(n)"), cell("FINAL(n * 10)"))
    lines = [
        "How many words?",
        "",
        "/files",
        "What is on @photo.bin?",
        "And ten times that?",
        "/quit",
        "What?",
    ]

    ended = project.run("chat", "-f", "a.txt", piped="\n".join(lines))

    assert ended.answer == "2\n20\n"
    assert len(server.requests) == 2
    assert "* a.txt" in ended.err
    assert "photo.bin is binary, not text." in ended.err, "said, and the conversation went on"
    assert not set(ended.err) & {"\x1b", "\r"}
    assert "Variables in the namespace:\n- n: int, 2" in prompts(server)[1]


def test_a_conversation_on_a_terminal(project: Project, server: ModelServer) -> None:
    project.write("a.txt", "one\ntwo\n")
    server.reply(
        "root",
        cell("words = context.split()\nprint(words)", plan="I shall count the words."),
        cell("FINAL(f'There are **{len(words)}** words.')", plan="That was all."),
    )

    with Terminal(project, "chat", "-f", "a.txt") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("How many words?\r")
        step = terminal.wait_for("There are 2 words.", after="How many words?")
        assert "I shall count the words." in step
        assert "In [1]" in step and "print(words)" in step
        assert "['one', 'two']" in step
        terminal.wait_for(PROMPT, after="There are 2 words.")

        terminal.type("/help\r")
        listed = terminal.wait_for("/quit", after="/help\n")
        assert all(name in listed for name in ("/status", "/files", "/vars", "/cost"))
        terminal.type("/hepl\r")
        terminal.wait_for("did you mean /help?", after="/hepl\n")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for(PROMPT, after="did you mean /help?")
        terminal.type("/quit\r")
        assert terminal.ended() == 0

    with Terminal(project, "chat") as terminal:
        terminal.wait_for("resuming session")
        terminal.wait_for("1 turn")
        terminal.wait_for(PROMPT)
        terminal.type("/vars\r")
        terminal.wait_for("words: list", after="/vars\n")
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_output_shows_while_a_cell_runs_and_ctrl_c_leads_back_to_the_prompt(
    project: Project, server: ModelServer
) -> None:
    server.reply("root", cell("found = 41\nprint('asleep')\nimport time\ntime.sleep(600)"))
    server.reply("root", cell("FINAL(f'It was {found}.')"))

    with Terminal(project, "chat") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("Sleep.\r")
        terminal.wait_for("asleep", after="time.sleep(600)")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for(PROMPT, after="Interrupted.")
        terminal.type("What was it?\r")
        terminal.wait_for("It was 41.", after="What was it?")
        terminal.wait_for(PROMPT, after="It was 41.")
        terminal.type("/quit\r")
        assert terminal.ended() == 0


def test_a_path_that_code_asks_for_is_agreed_to_on_the_terminal(
    project: Project, server: ModelServer
) -> None:
    diary = project.home / "diary.txt"
    diary.write_text("Dear diary\n")
    load = cell(f"load_file({str(diary)!r})\nprint('it reads:', context)")
    server.reply("root", load, load, cell("FINAL(context)"))

    with Terminal(project, "chat") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("What is in my diary?\r")
        terminal.wait_for(f"May the code read {diary}? [y/N]")
        terminal.type("y\r")
        terminal.wait_for("Dear diary", after="[y/N]")
        terminal.wait_for(PROMPT, after="Dear diary")
        terminal.type("\x04")
        assert terminal.ended() == 0

    _, refused, read = prompts(server)
    assert "agreed, and there from the next step on" in refused
    assert "it reads: Dear diary" in read
