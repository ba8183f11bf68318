"""What a user is told when it does not work: one sentence, what to do, and an exit code to rely on."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.e2e import Ended, Project, cell, prompts
from tests.model_server import Fault, ModelServer, Reply, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How to bring it about, and what then comes of it."""

    arrange: Callable[[Project], object] = lambda project: None
    options: tuple[str, ...] = ()
    env: tuple[tuple[str, str | None], ...] = ()
    code: int
    says: tuple[str, ...]
    kind: str


FAILURES = {
    "missing file": Failure(
        options=("-f", "gone.txt"), code=2, says=("gone.txt does not exist",), kind="DocumentError"
    ),
    "binary file": Failure(
        arrange=lambda project: project.write("photo.bin", bytes(range(256)) * 64),
        options=("-f", "photo.bin"),
        code=2,
        says=("photo.bin is binary, not text.",),
        kind="DocumentError",
    ),
    "unknown setting": Failure(
        arrange=lambda project: project.configure(limits={"max_step": 3}),
        code=4,
        says=("config.json: limits.max_step is not a setting", "Did you mean limits.max_steps?"),
        kind="ConfigError",
    ),
    "no key": Failure(
        env=(("OPENAI_API_KEY", None), ("RLM_API_BASE", None), ("RLM_SUB_API_BASE", None)),
        code=4,
        says=("There is no API key for openai/root", "OPENAI_API_KEY is not set", "rlm demo"),
        kind="ConfigError",
    ),
    "no docker": Failure(
        env=(("DOCKER_HOST", "unix:///nowhere/docker.sock"),),
        code=5,
        says=("Docker is not answering", "rlm doctor"),
        kind="SandboxError",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_cannot_begin_is_said_in_a_sentence(project: Project, server: ModelServer, name: str) -> None:
    failure = FAILURES[name]
    failure.arrange(project)

    plain = project.ask("Why?", *failure.options, env=dict(failure.env))
    as_json = project.ask("Why?", *failure.options, "--json", env=dict(failure.env))

    assert (plain.code, plain.out) == (failure.code, b""), plain.err
    assert_is_said(failure.says, plain)
    assert as_json.code == failure.code
    assert_is_one_object(as_json, status="error", kind=failure.kind)
    assert as_json.json["answer"] is None
    assert server.requests == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What the model server answers, each time, and what then comes of it."""

    fault: Fault
    code: int
    says: tuple[str, ...]
    kind: str
    requests: int


REFUSALS = {
    "401": Refusal(
        fault=Fault(status=401, message="this key is not known"),
        code=4,
        says=("The key for openai/root was refused.", "this key is not known", "OPENAI_API_KEY"),
        kind="ConfigError",
        requests=1,
    ),
    "500": Refusal(
        fault=Fault(status=500, message="the disk is full", retry_after_s=0.01),
        code=1,
        says=("The provider of openai/root failed.", "the disk is full", "Try again"),
        kind="ModelError",
        requests=6,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_model_that_refuses_is_quoted(project: Project, server: ModelServer, name: str) -> None:
    refusal = REFUSALS[name]
    server.default("root", refusal.fault)

    ended = project.ask("Why?", "--json")

    assert ended.code == refusal.code
    assert_is_said(refusal.says, ended)
    assert_is_one_object(ended, status="error", kind=refusal.kind)
    assert ended.json["answer"] is None
    assert len(server.requests) == refusal.requests


def test_a_rate_limit_is_waited_out(project: Project, server: ModelServer) -> None:
    server.reply("root", Fault(status=429, message="slow down", retry_after_s=0.2), cell("FINAL('done')"))

    ended = project.ask("Why?")

    assert ended.answer == "done\n"
    first, second = server.requests
    assert second.time_s - first.time_s >= 0.2


def test_the_step_limit_gives_the_best_there_is(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("print('a trace of it')"), "Perhaps in May; I saw only half of it.")
    server.reply("root", cell("1"), cell("FINAL('certainly in May')"))

    plain = project.ask("When?", "--max-steps", "1")
    as_json = project.ask("When, then?", "--max-steps", "1", "--json")

    assert (plain.code, plain.out) == (3, b"Perhaps in May; I saw only half of it.\n")
    assert_is_said(("No answer within 1 step.", "--max-steps"), plain)
    assert "This is your last reply" in prompts(server)[1]
    assert as_json.code == 3
    assert_is_one_object(as_json, status="no_answer", kind="NoAnswer")
    assert as_json.json["answer"] == "certainly in May"


def test_the_budget_gives_the_best_there_is(project: Project, server: ModelServer) -> None:
    price = {"input_per_mtok": 10.0, "output_per_mtok": 10.0}
    project.configure(root_llm={"model": "openai/root", "price": price})
    dear = Reply(cell("print('a trace of it')"), usage=Tokens(input=1_000, output=9_000))
    server.reply("root", dear, Reply("Perhaps in May.", usage=Tokens(input=1_000, output=100)))

    ended = project.ask("When?", "--max-cost", "0.13", "--json")

    assert ended.code == 6
    assert_is_said(("The budget of this question does not allow this call.", "--max-cost"), ended)
    assert_is_one_object(ended, status="budget", kind="BudgetReached")
    assert ended.json["answer"] == "Perhaps in May."
    assert ended.json["usage"]["cost_usd"] == pytest.approx(0.111)


def assert_is_said(sentences: tuple[str, ...], ended: Ended) -> None:
    said = " ".join(ended.err.split())
    assert {sentence: said.count(sentence) for sentence in sentences} == dict.fromkeys(sentences, 1), said
    assert "Traceback" not in said


def assert_is_one_object(ended: Ended, *, status: str, kind: str) -> None:
    assert ended.out.count(b"\n") == 1, "one line, so one object"
    found = ended.json
    assert found["status"] == status
    assert found["error"]["type"] == kind
    assert found["error"]["message"]
    assert set(found) >= {"session", "turn", "steps", "usage", "limits", "duration_s"}
    assert "Traceback" not in ended.err
