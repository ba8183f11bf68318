"""What a newcomer meets: the demo, doctor, and a question that leaves no trace."""

import json

from tests.e2e import Project, cell
from tests.model_server import ModelServer

NO_KEY = {"OPENAI_API_KEY": None, "RLM_API_BASE": None, "RLM_SUB_API_BASE": None}


def test_the_demo_answers_over_real_files_and_says_that_no_model_was_called(
    project: Project, server: ModelServer
) -> None:
    ended = project.run("demo", env=NO_KEY)

    assert "| `pydoc_data/topics.py` |" in ended.answer
    assert ended.answer.count("\n| `") == 24
    assert "no model is called" in ended.err and "No model was called" in ended.err
    assert "rlm chat" in ended.err
    assert server.requests == []
    assert not (project.folder / ".rlm_state").exists()


def test_doctor_names_what_is_missing_and_the_fix(project: Project) -> None:
    ended = project.run("doctor", env=NO_KEY)
    assert ended.code == 4
    said = ended.out.decode()
    assert "ok   Docker: " in said and "FAIL root model openai/root" in said
    assert "fix: Set OPENAI_API_KEY" in said

    down = project.run("doctor", "--json", env={"DOCKER_HOST": "unix:///nowhere.sock"})
    assert down.code == 5
    report = json.loads(down.out)
    assert report["ok"] is False
    failed = [check for check in report["checks"] if check["status"] == "failed"]
    assert [check["name"] for check in failed] == ["Docker"]
    assert "rlm doctor" in failed[0]["fix"]


def test_what_is_mistyped_gets_a_suggestion_and_leaves_nothing_behind(project: Project) -> None:
    project.write("meetings.txt", "one\n")
    mistyped = project.run("staus")
    assert (mistyped.code, mistyped.out) == (2, b"")
    assert "There is no command 'staus'. Did you mean status?" in mistyped.err

    missing = project.run("init", "meeting.txt")
    assert missing.code == 2
    assert "Did you mean meetings.txt?" in missing.err
    assert not (project.folder / ".rlm_state").exists()


def test_a_fresh_question_neither_uses_nor_changes_the_session(project: Project, server: ModelServer) -> None:
    project.write("a.txt", "one\n")
    assert project.run("init", "a.txt").code == 0
    server.reply("root", cell("kept = 1\nFINAL('saved')"))
    server.reply("root", cell("FINAL([context, 'kept' in globals()])"))
    project.ask("One?")
    records = (project.folder / ".rlm_state/session.jsonl").read_bytes()

    assert project.ask("Two?", "--fresh", "--json").json["answer"] == ["one\n", False]
    assert (project.folder / ".rlm_state/session.jsonl").read_bytes() == records
