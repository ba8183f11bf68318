"""The Python API, in this process: a real container, litellm over HTTP to a scripted server."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm import RLM, AsyncRLM, RlmError, errors
from rlm.api import Settings
from rlm.events import CellFinished, ReplyFinished, StepStarted, TurnFinished
from rlm.settings import SHORT_NAMES
from tests.e2e import cell
from tests.litellm_warnings import AT_CALLS, AT_IMPORT
from tests.model_server import Fault, ModelServer, Reply

pytestmark = [
    AT_IMPORT,
    AT_CALLS,
]
HANG = "import time\nkept = 7\nllm_query('Started.')\ntime.sleep(600)"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with ModelServer() as running:
        running.default("sub", "yes")
        yield running


def settings(server: ModelServer) -> dict[str, Any]:
    return {
        "model": "openai/root",
        "sub_model": "openai/sub",
        "api_base": server.url,
        "sub_api_base": server.url,
        "environ": {"OPENAI_API_KEY": "sk-not-a-real-key"},
    }


def test_questions_of_one_session_share_documents_and_variables(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / ".env").write_text("RLM_MAX_STEPS=1")
    (tmp_path / "config.json").write_text('{"limits": {"max_steps": 1}}')
    server.reply("root", cell("found = context.split()"), cell("FINAL({'lines': found})"))
    server.reply("root", cell("FINAL(f'{len(found)} and {sorted(files)} ' + llm_query('?'))"))
    with RLM(**settings(server)) as rlm:
        first = rlm.run("Which lines?", files="a.txt")
        second = rlm.run("How many?", files={"b.csv": "x,y\n1,2\n", "c.txt": b"three"})
        state_dir = first.path.parent.parent if first.path else Path()
        assert state_dir.is_dir()

    assert (first.ok, first.status, first.error, first.steps) == (True, "ok", None, 2)
    assert first.value == {"lines": ["one", "two"]} == json.loads(first.text)
    assert second.value == second.text == str(second) == "2 and ['a.txt', 'b.csv', 'c.txt'] yes"
    assert (second.usage.calls, second.usage.sub_calls, second.session_usage.calls) == (2, 1, 4)
    assert second.usage.cost_usd is None  # nobody knows the price of these models
    assert second.raise_for_status() is second is rlm.last
    assert not state_dir.exists()
    # What is told of a turn outlives the session.
    assert [row["event"] for row in second.trace.rows if row["event"] == "SubCallFinished"]
    assert "How many?" in second.trace.text(columns=60)
    second.trace.write_html(tmp_path / "trace.html")
    assert "How many?" in (tmp_path / "trace.html").read_text(encoding="utf-8")


def test_a_state_folder_keeps_the_session_and_is_held(server: ModelServer, tmp_path: Path) -> None:
    server.reply("root", cell("kept = context.upper()\nFINAL(1)"), cell("FINAL([kept, context])"))
    with RLM(**settings(server), state_dir="mine") as rlm:
        rlm.run("Keep it.", files={"note": "first"})
        with pytest.raises(errors.StateLocked), RLM(**settings(server), state_dir=tmp_path / "mine"):
            pass
    with RLM(**settings(server), state_dir="mine") as rlm:
        assert rlm.run("Still there?", files={"note": "second"}).value == ["FIRST", "second"]
    assert (tmp_path / "mine/session.jsonl").is_file()
    with pytest.raises(errors.UsageError, match="closed"):
        rlm.run("And now?")
    rlm.close()


def test_events_come_one_by_one_and_leaving_early_abandons_the_question(server: ModelServer) -> None:
    server.reply("root", cell("found = 1\nFINAL('done')"))
    server.reply("root", cell("found = 2"), Fault(how="hang"), cell("FINAL(found)"))
    with RLM(**settings(server)) as rlm:
        events = list(rlm.events("Find it."))
        kinds = [type(event) for event in events]
        assert kinds.index(StepStarted) < kinds.index(ReplyFinished) < kinds.index(TurnFinished)
        assert rlm.last and rlm.last.text == "done"

        for event in rlm.events("Find more."):
            if isinstance(event, CellFinished):
                server.wait_for_requests(3)
                break
        assert rlm.run("What was found?").value == 1


def test_what_stands_in_the_way_is_raised_unless_there_is_a_part_of_an_answer(server: ModelServer) -> None:
    server.reply("root", Fault(status=401, message="wrong key"))
    server.reply("root", cell("part = 1"), Reply("It is about 41.", finish_reason="stop"))
    with RLM(**settings(server), max_steps=1) as rlm:
        with pytest.raises(errors.ConfigError, match="root"):
            rlm.run("First?")
        assert rlm.last and (rlm.last.status, rlm.last.text) == ("error", "")
        with pytest.raises(errors.DocumentError, match=r"missing\.txt"):
            rlm.run("Second?", files=["missing.txt"])
        with pytest.raises(errors.UsageError, match="empty"):
            rlm.run(" ")
        answer = rlm.run("Third?")
    assert (answer.ok, answer.status, answer.text) == (False, "no_answer", "It is about 41.")
    with pytest.raises(errors.NoAnswer):
        answer.raise_for_status()


def test_an_answer_fits_its_schema_or_what_the_caller_accepts(server: ModelServer) -> None:
    server.reply("root", cell("FINAL('about forty')"), cell("FINAL('40')"))
    server.reply("root", cell("FINAL(41)"), cell("FINAL(42)"))
    with RLM(**settings(server)) as rlm:
        assert rlm.run("How many?", schema={"type": "integer"}).value == 40
        answer = rlm.run("And even?", accept=lambda n: None if n == 42 else f"{n} is not even.")
        assert answer.value == 42
        assert "41 is not even." in server.requests[-1].prompt
        server.reply("root", cell("FINAL('long ' * 500_000)"))
        long = rlm.run("How long is long?")
        assert (len(long.text), long.complete) == (2_500_000, True)
        for wrong in ({"type": "number?"}, "missing.json"):
            with pytest.raises(errors.UsageError, match="schema"):
                rlm.run("How many?", schema=wrong)
        with pytest.raises(errors.UsageError, match="exclude"):
            rlm.run("How many?", schema={}, accept=lambda _: None)


def test_a_path_in_a_question_opens_no_file(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "open.txt").write_text("open")
    read = "def read(path):\n    try:\n        return load_file(path)\n    except Exception:\n        "
    code = f"{read}return 'refused'\nFINAL([read('{tmp_path}/secret.txt'), len(files)])"
    server.default("root", cell(code))
    with RLM(**settings(server), allow=["open.txt"]) as rlm:
        assert rlm.run(f"What is in {tmp_path}/secret.txt?").value == ["refused", 0]
        load = cell(f"load_file('{tmp_path}/open.txt')\nFINAL(context)")
        server.reply("root", load, load)  # the document is there from the next step on
        assert rlm.run("And in the other?").text == "open"


def test_interrupt_stops_the_question_and_keeps_its_variables(server: ModelServer) -> None:
    server.reply("root", cell(HANG), cell("FINAL(kept)"))
    with RLM(**settings(server)) as rlm:

        def stop() -> None:
            server.wait_for_requests(2, wait_s=60)
            assert server.requests[1].done.wait(60)
            rlm.interrupt()

        stopper = threading.Thread(target=stop)
        stopper.start()
        with contextlib.suppress(errors.Interrupted):
            rlm.run("Hang.")
        stopper.join()
        assert rlm.last and rlm.last.status == "interrupted"
        assert rlm.run("What was kept?").text == "7"


async def test_async_sessions_run_side_by_side_and_can_be_cancelled(server: ModelServer) -> None:
    server.default("root", Reply(cell("FINAL(context)"), together=2))
    async with AsyncRLM(**settings(server)) as one, AsyncRLM(**settings(server)) as two:
        answers = await asyncio.gather(
            one.run("Which?", files={"a": "first"}), two.run("Which?", files={"a": "second"})
        )
        assert [answer.text for answer in answers] == ["first", "second"]
        kinds = [type(event).__name__ async for event in one.stream("Again.")]
        assert kinds[0] == "TurnStarted" and "TurnFinished" in kinds

        server.reply("root", cell(HANG))
        hanging = asyncio.create_task(two.run("Hang."))
        await asyncio.to_thread(server.wait_for_requests, 5, wait_s=60)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        server.reply("root", cell("FINAL('kept' in globals())"))
        assert (await two.run("Was it kept?")).value is False

        rlm = RLM(**settings(server))
        for use in (lambda: rlm.run("?"), lambda: rlm.events("?"), rlm.__enter__):
            with pytest.raises(errors.UsageError, match="event loop") as raised:
                use()
            assert "AsyncRLM" in raised.value.hint


SCRIPT = """
import sys
from rlm import RLM
with RLM(model="openai/root", sub_model="openai/sub", state_dir="state") as rlm:
    try:
        rlm.run("Hang.")
    except KeyboardInterrupt:
        print(rlm.last.status, flush=True)
        raise
"""


def test_ctrl_c_stops_a_script_and_what_it_found_is_kept(server: ModelServer, tmp_path: Path) -> None:
    server.reply("root", cell(HANG))
    environ = {"OPENAI_API_KEY": "x", "RLM_API_BASE": server.url, "RLM_SUB_API_BASE": server.url}
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with script:
        server.wait_for_requests(2, wait_s=60)
        assert server.requests[1].done.wait(60)
        script.send_signal(signal.SIGINT)
        out, err = script.communicate(timeout=60)
    assert (script.returncode, out) == (-signal.SIGINT, "interrupted\n")
    assert err.splitlines()[-1] == "KeyboardInterrupt" and "ERROR" not in err
    server.reply("root", cell("FINAL(kept)"))
    with RLM(**settings(server), state_dir="state") as rlm:
        assert rlm.run("What was kept?").text == "7"


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"max_cots": 1}, TypeError, "Did you mean 'max_cost'"),
        ({"api_key": "sk-1"}, TypeError, "api_key_env"),
        ({"max_cost": -1}, errors.ConfigError, "--max-cost must be a number"),
        ({"memory": "1 lot"}, errors.ConfigError, "--memory must be a size"),
        ({"environ": {}}, errors.ConfigError, "OPENAI_API_KEY"),
        ({"environ": {}, "env_file": "missing.env"}, errors.ConfigError, r"missing\.env is not a file"),
        ({"config_file": "missing.json"}, errors.ConfigError, r"missing\.json cannot be read"),
        ({"environ": {"RLM_MAX_COST": "much"}}, errors.ConfigError, "RLM_MAX_COST"),
    ],
)
def test_settings_are_checked_at_once(given: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        RLM(**given)


def test_settings_come_from_keywords_then_the_environment_then_the_named_files(tmp_path: Path) -> None:
    from rlm.api_settings import read_settings

    (tmp_path / "my.json").write_text('{"limits": {"max_steps": 3, "max_depth": 2, "parallel": 4}}')
    (tmp_path / "my.env").write_text("RLM_MAX_STEPS=5\nRLM_MAX_DEPTH=3\nOPENAI_API_KEY=from-file")
    config = read_settings(
        {"max_steps": 7, "memory": "1g", "allow": [tmp_path]},
        config_file=tmp_path / "my.json",
        env_file=tmp_path / "my.env",
        environ={"RLM_MAX_STEPS": "6", "RLM_ALLOW": "/"},
    )
    assert (config.limits.max_steps, config.limits.max_depth, config.limits.parallel) == (7, 3, 4)
    assert config.sandbox.memory_bytes == 1024**3
    assert config.allow == (tmp_path.resolve(),)
    assert config.environ["OPENAI_API_KEY"] == "from-file"


def test_every_setting_is_a_keyword_and_the_page_names_all_there_is() -> None:
    assert set(Settings.__annotations__) == SHORT_NAMES.keys() - {"data_source"}
    page = (Path(__file__).parent.parent / "docs/api.md").read_text(encoding="utf-8")
    public = [name for kind in (RLM, AsyncRLM) for name in dir(kind) if not name.startswith("_")]
    for name in {*public, *Settings.__annotations__, *RLM.__init__.__annotations__} - {"return", "settings"}:
        assert f"`{name}" in page, name
    assert issubclass(errors.RlmError, RlmError)


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import rlm, sys; print([name for name in sys.modules if name.startswith('rlm.')])"
    code += "\nimport rlm.api; print([name for name in ('litellm', 'docker', 'rich') if name in sys.modules])"
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "[]\n[]\n"
