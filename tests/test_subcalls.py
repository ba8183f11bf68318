"""Sub-calls against the scripted server: what is sent, what is answered without, and what each costs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rlm.call_cache import CallCache, cache_usage
from rlm.events import Event, SubCallFinished, SubCallsStarted, Usage
from rlm.ledger import Ledger, Price
from rlm.models import LiteLLMModel, Model, close_models
from rlm.protocol import SubCalls, pack_strings, unpack_strings
from rlm.providers import ModelSettings
from rlm.retry import Retry, with_retry
from rlm.settings import Config, ModelConfig
from rlm.subcalls import SingleFlight, SubCallServer
from rlm.ui.batches import Batches
from tests.model_server import Answer, Fault, Json, ModelServer, Reply, Tokens

# litellm ignores these itself, when imported; pytest takes its filters back after each test.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier"),
    pytest.mark.filterwarnings("ignore:Accessing the .* attribute on the instance is deprecated"),
]

TOKENS = Tokens(input=1000, output=100)
PRICE = Price(input_per_mtok=1.0, output_per_mtok=10.0)
COST_USD = 0.002
"""Of one call that takes `TOKENS`."""


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture(autouse=True)
async def _closed_connections() -> AsyncIterator[None]:
    yield
    await close_models()


@dataclass
class Question:
    """What one question has for its sub-calls; the cache, if any, is in `folder`."""

    server: ModelServer
    folder: Path
    cached: bool = True
    parallel: int = 16
    max_sub_calls: int | None = None
    events: list[Event] = field(default_factory=list)
    config: Config = field(init=False)
    ledger: Ledger = field(init=False)
    calls: SubCallServer = field(init=False)

    def __post_init__(self) -> None:
        sub = ModelConfig(model="openai/sub", api_base=self.server.url)
        self.config = Config(
            root=ModelConfig(model="openai/root", api_base=self.server.url),
            sub=sub,
            aliases={"cold": replace(sub, params={"temperature": 0})},
        )
        self.ledger = Ledger(max_sub_calls=self.max_sub_calls)
        cache = CallCache(self.path, limit_bytes=1 << 20, emit=self.events.append)
        self.calls = SubCallServer(
            sub=self._model(sub),
            choose=lambda name: self._model(self.config.named(name)),
            settings=self.config.named,
            ledger=self.ledger,
            parallel=self.parallel,
            max_depth=1,
            emit=self.events.append,
            cache=cache if self.cached else None,
        )

    def _model(self, model: ModelConfig) -> Model:
        settings = ModelSettings(
            model=model.model, api_base=model.api_base, api_key="k", params=model.params, price=PRICE
        )
        return with_retry(LiteLLMModel(settings), Retry(base_s=0.01))

    @property
    def path(self) -> Path:
        return self.folder / "cache.sqlite3"

    async def ask(self, *prompts: str, model: str | None = None, system: str | None = None) -> list[str]:
        """The replies to one batch, each failure as `Name: text`."""
        request = SubCalls(request=1, kind="llm", count=len(prompts), model=model, system=system)
        answer = await self.calls.serve(request, pack_strings(prompts), depth=0)
        strings = unpack_strings(answer, 2 * len(prompts))
        return [
            text if status == "ok" else f"{status}: {text}"
            for status, text in zip(strings[::2], strings[1::2], strict=True)
        ]

    def finished(self) -> list[SubCallFinished]:
        found = [event for event in self.events if isinstance(event, SubCallFinished)]
        return sorted(found, key=lambda event: (event.batch, event.index))

    def estimates(self) -> list[float | None]:
        return [event.estimate_usd for event in self.events if isinstance(event, SubCallsStarted)]


@pytest.fixture
def question(server: ModelServer, tmp_path: Path) -> Iterator[Callable[..., Question]]:
    """Makes questions of one state folder."""
    made: list[Question] = []

    def make(**fields: Any) -> Question:
        made.append(Question(server, tmp_path, **fields))
        return made[-1]

    yield make
    for each in made:
        if each.calls.cache:
            each.calls.cache.close()


def echo(asked: Json) -> Answer:
    return Reply(asked["messages"][-1]["content"].upper(), usage=TOKENS)


def sent(server: ModelServer) -> list[str]:
    return sorted(request.prompt for request in server.requests)


# ---- what is sent


async def test_a_batch_that_was_answered_in_part_sends_the_rest(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", echo)
    await question().ask("a", "c")
    server.requests.clear()
    again = question()
    assert await again.ask("a", "b", "c", "d") == ["A", "B", "C", "D"]
    assert sent(server) == ["b", "d"]
    assert [event.cached for event in again.finished()] == [True, False, True, False]
    assert [event.done for event in again.events if isinstance(event, SubCallFinished)] == [1, 2, 3, 4]


async def test_what_was_kept_costs_nothing_and_is_no_sub_call(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", echo)
    first, second = question(), question(max_sub_calls=1)
    await first.ask("a", "b")
    assert await second.ask("a", "b", "c") == ["A", "B", "C"]
    assert first.ledger.usage.cost_usd == pytest.approx(2 * COST_USD)
    assert second.ledger.usage.cost_usd == pytest.approx(COST_USD)
    assert (second.ledger.usage.sub_calls, second.ledger.remaining_sub_calls()) == (1, 0)
    assert [event.usage == Usage() for event in second.finished()] == [True, True, False]
    one, two = first.estimates()[0], second.estimates()[0]
    assert one and two == pytest.approx(one / 2), "only what will be sent is estimated"
    found = cache_usage(first.path)
    assert (found.hits, found.sent, found.replies) == (2, 3, 3)
    assert found.saved_usd == pytest.approx(2 * COST_USD)


async def test_a_batch_tells_how_many_were_not_sent(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", echo)
    await question().ask("a", "b")
    again = question()
    await again.ask("a", "b", "c", "d")
    batches = Batches()
    for event in again.events:
        if isinstance(event, SubCallsStarted):
            batches.start(event, now_s=0.0)
        elif isinstance(event, SubCallFinished):
            batches.add(event)
            if event.done == 2:
                assert batches.progress(1.0) == "2/4 calls · 2 cached · 0 tok · $0.00", "no guess at an end"
            elif event.done == 3:
                assert batches.progress(10.0) == "3/4 calls · 2 cached · 1.1k tok · $0.0020 · ETA 10s"
    batch = batches.end(1)
    assert batch and batch.summary(12.0) == "4 calls to openai/sub · 2 cached · 2.2k tok · $0.0040 · 12s"


async def test_another_model_or_system_prompt_is_another_call(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", echo)
    server.default("root", echo)
    asked = question()
    for _ in range(2):
        await asked.ask("a")
        await asked.ask("a", system="Be brief.")
        await asked.ask("a", model="cold")
        await asked.ask("a", model="openai/root")
        await asked.ask("a", model="openai/sub")
    assert [request.model for request in server.requests] == ["sub", "sub", "sub", "root"]
    assert [request.json.get("temperature") for request in server.requests] == [None, None, 0, None]


async def test_without_a_cache_every_prompt_is_sent_and_nothing_written(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", echo)
    await question().ask("a")
    uncached = question(cached=False)
    assert await uncached.ask("a", "a", "b") == ["A", "A", "B"]
    assert sent(server) == ["a", "a", "a", "b"]
    assert cache_usage(uncached.path).sent == 1
    assert not any(event.cached for event in uncached.finished())


@pytest.mark.parametrize(
    "bad",
    [
        Fault(status=400, message="no"),
        Reply("cut o", finish_reason="length"),
        Reply("", reasoning="hm"),
    ],
)
async def test_what_failed_or_was_cut_is_sent_again(
    server: ModelServer, question: Callable[..., Question], bad: Answer
) -> None:
    server.reply("sub", bad, Reply("good"))
    asked = question()
    first = await asked.ask("a")
    assert first != ["good"]
    assert await asked.ask("a") == ["good"]
    assert await asked.ask("a") == ["good"]
    assert len(server.requests) == 2
    assert [event.cached for event in asked.finished()] == [False, False, True]


# ---- equal calls at once


async def test_equal_prompts_of_a_batch_are_sent_once(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.reply("sub", Reply("one", usage=TOKENS, delay_s=0.05))
    asked = question(parallel=2)
    assert await asked.ask(*["a"] * 20) == ["one"] * 20
    assert len(server.requests) == 1
    assert sum(event.cached for event in asked.finished()) == 19
    assert asked.ledger.usage.cost_usd == pytest.approx(COST_USD)
    assert cache_usage(asked.path).hits == 19


async def test_those_who_wait_take_no_place_of_those_that_are_sent(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", Reply("both at once", together=2))
    assert await question(parallel=2).ask("a", "a", "a", "b") == ["both at once"] * 4
    assert sent(server) == ["a", "b"]


async def test_a_failure_is_everybodys_and_is_met_once(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.reply("sub", Fault(status=400, message="not this", delay_s=0.05))
    asked = question()
    replies = await asked.ask("a", "a", "a")
    assert len(server.requests) == 1
    assert len({*replies}) == 1 and "not this" in replies[0]
    assert all(event.error and not event.cached for event in asked.finished())
    assert asked.ledger.usage == Usage() and asked.ledger.reserved_usd == 0


async def test_a_refused_budget_is_no_reply(server: ModelServer, question: Callable[..., Question]) -> None:
    server.default("sub", echo)
    asked = question(max_sub_calls=1)
    replies = await asked.ask("a", "b", "b")
    assert replies[0] == "A" and [reply.partition(":")[0] for reply in replies[1:]] == ["BudgetReached"] * 2
    assert sent(server) == ["a"]


async def test_when_the_one_that_is_sent_is_cancelled_another_takes_over(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.reply("sub", Fault(how="hang"), Reply("at last", delay_s=0.05))
    asked = question()
    first = asyncio.create_task(asked.ask("a"))
    await asyncio.to_thread(server.wait_for_requests, 1)
    others = [asyncio.create_task(asked.ask("a")) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == [["at last"]] * 3
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(server.requests) == 2
    assert asked.ledger.usage.calls == 1 and asked.ledger.reserved_usd == 0


async def test_one_that_waits_can_be_cancelled_alone() -> None:
    flights: SingleFlight[str] = SingleFlight()
    may_end = asyncio.Event()

    async def call() -> str:
        await may_end.wait()
        return "reply"

    sent, waits, gives_up = (asyncio.create_task(flights.run("key", call)) for _ in range(3))
    await asyncio.sleep(0)
    gives_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gives_up
    may_end.set()
    assert (await sent, await waits) == ("reply", "reply")
