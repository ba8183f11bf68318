"""Sub-calls that were paid for once: after a kill, in the next question, without the cache, and damaged."""

import signal
import time
from collections.abc import Callable, Container

import pytest

from tests.e2e import PATIENCE_S, Project, cell, wait
from tests.model_server import Answer, Fault, Json, ModelServer, Reply, Tokens

BATCH = cell("FINAL([str(x) for x in llm_query_batched([f'Look at {n}' for n in range(20)])])")
REPLIES = [f"reply {n}" for n in range(20)]


def number(asked: Json) -> int:
    return int(asked["messages"][-1]["content"].split()[-1])


def sub(special: Answer | None = None, *, numbers: Container[int] = ()) -> Callable[[Json], Answer]:
    """A sub model that replies by number, but to some with `special`."""

    def answer(asked: Json) -> Answer:
        n = number(asked)
        if special and n in numbers:
            return special
        return Reply(f"reply {n}", usage=Tokens(input=1000, output=1))

    return answer


def sent(server: ModelServer) -> list[int]:
    return sorted(number(request.json) for request in server.requests_for("sub"))


@pytest.fixture
def priced(project: Project) -> Project:
    """A cent for each sub-call, nothing for the root model."""
    project.configure(
        root_llm={"model": "openai/root", "price": {"input_per_mtok": 0, "output_per_mtok": 0}},
        sub_llm={"model": "openai/sub", "price": {"input_per_mtok": 10, "output_per_mtok": 0}},
    )
    return project


def test_after_a_kill_only_what_is_missing_is_sent_and_paid(priced: Project, server: ModelServer) -> None:
    server.default("root", BATCH)
    server.default("sub", sub(Fault(how="hang"), numbers=range(12, 20)))
    with priced.popen("run", "Look.", env={"RLM_PARALLEL": "20"}) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while len(server.requests_for("sub")) < 20 or len(finished(priced)) < 12:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            while '"sub_calls":12' not in (priced.folder / ".rlm_state/session.jsonl").read_text():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            wait(process)
    spent = priced.run("status", "--json").json["spend"]
    assert spent["sub_calls"] == 12 and spent["cost_usd"] == pytest.approx(0.12)
    server.requests.clear()

    server.default("sub", sub())
    again = priced.ask("Look again.", "--json", "-v")
    status = priced.run("status")

    assert again.code == 0, again.err
    assert again.json["answer"] == REPLIES
    assert sent(server) == [*range(12, 20)]
    assert again.json["usage"]["sub_calls"] == 8
    assert again.json["usage"]["cost_usd"] == pytest.approx(0.08)
    assert "20 calls to openai/sub · 12 cached · 8k tok · $0.08" in again.err
    assert "12 of 32 answered from the cache (38%), $0.12 saved" in status.answer


def finished(project: Project) -> list[Json]:
    """The sub-calls that have ended, as the trace tells."""
    if not (project.folder / ".rlm_state/events.jsonl").exists():
        return []
    return [row for row in project.events() if row["event"] == "SubCallFinished"]


def test_the_next_question_pays_for_what_failed_and_no_cache_for_all(
    project: Project, server: ModelServer
) -> None:
    server.default("root", BATCH)
    server.default("sub", sub(Fault(status=400, message="not to my taste"), numbers=[7]))
    first = project.ask("Look.", "--json").json
    assert "not to my taste" in first["answer"][7]

    server.requests.clear()
    server.default("sub", sub())
    second = project.run("chat", piped="Look again.\nAnd again.\n")
    assert second.answer.count("reply 19") == 2
    assert sent(server) == [7]
    assert [row["cached"] for row in finished(project)].count(True) == 39

    server.requests.clear()
    assert project.ask("Look again.", "--no-cache").json == REPLIES
    assert sent(server) == [*range(20)]
    counted = project.run("status", "--json").json["sub_calls"]
    assert (counted["hits"], counted["sent"], counted["replies"]) == (39, 20, 20), "as before"


def test_a_damaged_file_is_replaced_with_a_note_and_reset_removes_it(
    project: Project, server: ModelServer
) -> None:
    server.default("root", BATCH)
    server.default("sub", sub())
    state = project.folder / ".rlm_state"
    assert project.ask("Look.").json == REPLIES
    (state / "cache.sqlite3").write_bytes(b"not a database\n" * 1000)

    ended = project.run("chat", piped="Look again.\nAnd again.\n")

    assert ended.answer.count("reply 19") == 2
    assert sent(server) == sorted([*range(20)] * 2)
    assert "note: The kept replies of sub-calls were damaged" in " ".join(ended.err.split())
    assert (state / "cache.sqlite3.corrupt").exists()
    assert project.run("reset", "--yes").code == 0
    assert not state.exists()
