"""`rlm chat`, as a plain pipe and on a real terminal; its slash commands. Keys are in `test_keys`."""

import json
import signal

from tests.e2e import Project, cell, prompts
from tests.e2e.terminal import Terminal
from tests.model_server import ModelServer

PROMPT = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"

TABLE = """\
class Table:
    def __repr__(self):
        return chr(10).join(f'row {n}' for n in range(100))
table = Table()"""
"""Its value has a hundred lines."""


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
        terminal.type("/reset\r")
        terminal.wait_for("(1 turn, 1 document registered)? [y/N]")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("/reset was stopped.")
        terminal.wait_for(PROMPT, after="/reset was stopped.")
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


def test_slash_commands(project: Project, server: ModelServer) -> None:
    project.write("a.txt", "one\ntwo\n")
    long = "\n".join(f"x{number} = {number}" for number in range(30))
    server.reply(
        "root", cell(f"words = context.split()\n{long}\n{TABLE}\nprint('THE END')"), cell("FINAL(len(words))")
    )
    server.reply("second", cell("FINAL({'twice': 2 * len(words)})"))
    server.reply("second", cell("FINAL('/usr')"))
    project.configure(aliases={"other": {"model": "openai/second"}})
    lines = [
        "/helf",
        "/steps",
        "How many words?",
        "/steps",
        "/steps 1",
        "/steps 9",
        "/vars words",
        "/vars table",
        "/vars nothing",
        "/files a.txt",
        "/trace 1",
        "/trace x",
        "/model nobody",
        "/model anthropic/claude-x",
        "/model other",
        "And twice that?",
        "/memory",
        "/compact",
        "//usr is a path, is it not?",
        "/undo",
        "/export talk.md",
        "/export talk.md",
        "/cost",
        "/status",
        "/new",
        "/vars",
        "/export",
        "/reset",
        "/sub-model",
        "/quit",
    ]

    # The address of the test's server would serve any name: without it a name needs a provider and a key.
    env = {"RLM_API_BASE": None, "OPENAI_API_BASE": server.url, "ANTHROPIC_API_KEY": None}
    ended = project.run("chat", "-f", "a.txt", piped="\n".join(lines), env=env)

    first, *second, third = ended.answer.splitlines()
    assert (first, json.loads("".join(second)), third) == ("2", {"twice": 4}, "/usr")
    assert [request.model for request in server.requests] == ["root", "root", "second", "second"]
    assert prompts(server, "second")[1].endswith("/usr is a path, is it not?")
    told = " ".join(ended.err.split())
    for text in (
        "There is no /helf; did you mean /help?",
        "no step was taken yet",
        "1 \N{MIDDLE DOT} In [1] ok",
        "\N{BOX DRAWINGS LIGHT VERTICAL} x29 = 29",
        "THE END Out [1] ok",
        "There is no step 9. The last turn has steps 1 to 2.",
        "words: list, 2 items ['one', 'two']",
        "row 39 … +60 lines (in a cell: print(table))",
        "There is no variable 'nothing'.",
        "a.txt 8 B",
        "turn 1 \N{MIDDLE DOT} ",
        "'x' is not the number of a turn.",
        "Nobody is known to serve 'nobody'.",
        "There is no API key for anthropic/claude-x. ANTHROPIC_API_KEY is not set.",
        "root model openai/second, sub model openai/sub",
        "sent with the next question: 2 messages",
        "earlier turns: ",
        "taken back: /usr is a path, is it not?",
        "written to ",
        "talk.md exists. Nothing is overwritten.",
        "openai/second: 2 calls",
        "models openai/second, sub openai/sub",
        "a new session; the documents stay",
        "no variables",
        "There is nothing to export.",
        "nothing was deleted",
    ):
        assert text in told, f"{text!r} is not in:\n{ended.err}"
    exported = (project.folder / "talk.md").read_text()
    assert "## Question 1\n\nHow many words?\n\n### Answer\n\n" in exported
    assert json.loads(exported.partition("And twice that?")[2].split("```")[1].removeprefix("json")) == {
        "twice": 4
    }
    assert "/usr" not in exported, "it was taken back"


def test_reset_deletes_the_state_and_the_chat_goes_on(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("kept = 1\nFINAL(kept)"), cell("FINAL('kept' in globals())"))

    ended = project.run("chat", "--yes", piped="One?\n/reset\n/status\nStill there?\n")

    assert ended.answer == "1\nfalse\n"
    assert "this is a new beginning" in ended.err
    assert "0 turns" in ended.err.partition("a new beginning")[2]
    assert len(server.requests[1].json["messages"]) == 2, "the system prompt and the question"
