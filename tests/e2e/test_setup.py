"""What a newcomer meets: the demo, doctor, and a question that leaves no trace."""

from tests.e2e import PATIENCE_S, Project, cell
from tests.e2e.terminal import Terminal
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
    project.configure(allow=["/"])
    with Terminal(project, "doctor", columns=40, env={"DOCKER_HOST": "unix:///nowhere.sock"}) as terminal:
        shown = terminal.wait_for("ok   disk: ").splitlines()
        assert terminal.process.wait(PATIENCE_S) == 4
    text = " ".join(" ".join(shown).split())
    assert "lets any file below / be read without asking. fix: The next chat or run asks" in text
    assert "FAIL Docker: Docker is not " in text and "/nowhere.sock. " in text
    marked = [line.partition(":")[0] for line in shown if line.startswith(("ok  ", "FAIL"))]
    assert marked == ["ok   rlm", "FAIL configuration", "FAIL Docker", "ok   disk"]
    (project.folder / "config.json").unlink()

    ended = project.run("doctor", "--json", env=NO_KEY)
    assert ended.code == 4
    assert ended.json["ok"] is False
    assert ended.json["versions"].keys() == {"rlm", "python", "litellm", "system", "docker", "docker_api"}
    checks = {check["name"]: check for check in ended.json["checks"]}
    assert checks["Docker"]["status"] == "ok"
    root = checks["root model openai/root"]
    assert root["status"] == "failed" and "OPENAI_API_KEY is not set" in root["detail"]
    assert root["fix"].startswith("Set OPENAI_API_KEY")


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
