"""`/undo` and `/retry` in a conversation: which question was taken back, and what is left."""

from tests.e2e import Project, cell, prompts
from tests.model_server import ModelServer

CONVERSATION = """\
/undo
One?
Two?
/undo
/retry
Three?
"""


def test_a_question_is_taken_back_and_perhaps_asked_again(project: Project, server: ModelServer) -> None:
    server.reply(
        "root",
        cell("first = 1\nFINAL('one')"),
        cell("second = 2\nFINAL('two')"),
        cell("first = 10\nFINAL('one again')"),
        cell("FINAL([first, 'second' in globals()])"),
    )

    ended = project.run("chat", piped=CONVERSATION)

    assert ended.answer == "one\ntwo\none again\n[\n  10,\n  false\n]\n"
    shown = [line for line in ended.err.splitlines() if line.startswith(("taken back", "variables"))]
    assert shown == [
        "taken back: Two?",
        "variables as turn 1 left them: first",
        "taken back: One?",
        "variables none",
    ]
    assert "there is no question to take back" in ended.err
    assert "Question: Two?" not in "".join(prompts(server)[2:])
    found = project.run("status", "--json").json
    assert found["session"]["turns"] == 2 and found["spend"]["calls"] == 4, "what it cost stays"
