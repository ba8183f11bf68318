"""The examples run as they stand, against a scripted model, and print what they are for."""

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import cell
from tests.litellm_warnings import AT_CALLS, AT_IMPORT
from tests.model_server import ModelServer

pytestmark = [
    AT_IMPORT,
    AT_CALLS,
]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """The provider of all models, for a process in an empty folder of its own."""
    with ModelServer() as running:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key")
        monkeypatch.setenv("RLM_API_BASE", running.url)
        monkeypatch.setenv("RLM_SUB_API_BASE", running.url)
        yield running


def run(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return capsys.readouterr().out


def test_ask_a_file(server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply("gpt-5", cell("FINAL(grep(r'^# ')[0].text)"))
    out = run("01_ask_a_file.py", capsys)
    assert out.startswith((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[0])
    assert "1 steps, 1 calls, cost: $0.0" in out


def test_many_questions(server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply("gpt-5", cell("sections = {'A': 1, 'BB': 2}\nFINAL('made')"))
    server.reply("gpt-5", *[cell("FINAL(sorted(sections)[-1])")] * 2)
    out = run("02_many_questions.py", capsys)
    assert out.count("> ") == 3 and "made" in out
    assert out.count("\nBB\n") == 2


def test_a_structured_answer(server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply("gpt-5", cell("FINAL('one bug')"))
    rows = "[{'ticket': name, 'kind': 'bug', 'summary': files[name][:7]} for name in files]"
    server.reply("gpt-5", cell(f"FINAL({rows})"))
    out = run("03_structured_answer.py", capsys)
    assert out.splitlines()[0] == "ticket-17: bug: The app"
    assert "not JSON" in server.requests_for("gpt-5")[1].prompt


def test_watch_events(server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply("gpt-5", cell("FINAL('; '.join(llm_query_batched(['a', 'b'])))", plan="Ask of each."))
    server.default("gpt-5-mini", "A page.")
    out = run("04_watch_events.py", capsys).splitlines()
    assert out[0].startswith("step 1 ($0.0") and out[0].endswith(": Ask of each.")
    assert out[2].startswith("  sub-call 2 of 2 ($0.0")
    assert out[-1] == "A page.; A page."
    assert "Ask of each." in Path("trace.html").read_text(encoding="utf-8")


def test_side_by_side(server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.default("gpt-5", cell("FINAL(list(files)[0])"))
    out = run("05_side_by_side.py", capsys).splitlines()
    names = ["architecture.md", "configuration.md", "protocol.md"]
    assert out[:3] == [f"{name} (ok): {name}" for name in names]
    assert out[3].startswith("all together: $0.0")


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    names = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert len(names) == 5
    assert [name for name in names if f'run("{name}"' not in here] == []
