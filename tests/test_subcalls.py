"""Sub-calls against the scripted server: what is sent, what is answered without, and what each costs."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rlm.box.namespace import RequestRefused
from rlm.call_cache import CallCache, cache_usage
from rlm.calls import CallReply
from rlm.events import (
    AskBatch,
    BatchChoice,
    Event,
    SubCallFinished,
    SubCallsFinished,
    SubCallsProgress,
    SubCallsStarted,
    Usage,
)
from rlm.ledger import Caps, Ledger, Price
from rlm.models import LiteLLMModel, Model
from rlm.protocol import SubCalls, pack_strings, unpack_strings
from rlm.providers import ModelSettings
from rlm.retry import Retry
from rlm.settings import Config, ModelConfig
from rlm.single_flight import SingleFlight
from rlm.subcalls import ChildTask, SubCallServer
from tests.litellm_warnings import AT_CALLS, AT_IMPORT
from tests.model_server import Answer, Fault, Json, ModelServer, Reply, Tokens

pytestmark = [
    AT_IMPORT,
    AT_CALLS,
    pytest.mark.usefixtures("closed_connections"),
]

TOKENS = Tokens(input=1000, output=100)
PRICE = Price(input_per_mtok=1.0, output_per_mtok=10.0)
COST_USD = 0.002
"""Of one call that takes `TOKENS`."""


class ANY_ERROR(str):  # noqa: N801
    """Equal to every result that is an error of this name."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.startswith(f"{self}: ")

    __hash__ = str.__hash__


class Windowed(LiteLLMModel):
    """A model whose window is known."""

    def __init__(self, settings: ModelSettings, window: int | None, *, timeout_s: float) -> None:
        super().__init__(settings, timeout_s=timeout_s)
        self._window = window

    @property
    def context_window(self) -> int | None:
        return self._window


@dataclass
class Question:
    """What one question has for its sub-calls; the cache, if any, is in `folder`."""

    server: ModelServer
    folder: Path
    cached: bool = True
    parallel: int = 16
    caps: Caps = field(default_factory=Caps)
    confirm_above_usd: float = 100.0
    choices: list[BatchChoice] = field(default_factory=list)
    window: int | None = None
    timeout_s: float = 300.0
    price: Price = PRICE
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
        self.ledger = Ledger(self.caps)
        cache = CallCache(self.path, limit_bytes=1 << 20, emit=self.events.append)
        self.calls = SubCallServer(
            sub=self._model(sub),
            choose=lambda name: self._model(self.config.named(name)),
            settings=self.config.named,
            ledger=self.ledger,
            retry=Retry(parallel=self.parallel, base_s=0.01),
            confirm_above_usd=self.confirm_above_usd,
            asks=bool(self.choices),
            emit=self._heed,
            max_depth=2,
            child=Children(),
            cache=cache if self.cached else None,
        )

    def _model(self, model: ModelConfig) -> Model:
        settings = ModelSettings(
            model=model.model, api_base=model.api_base, api_key="k", params=model.params, price=self.price
        )
        return Windowed(settings, self.window, timeout_s=self.timeout_s)

    def _heed(self, event: Event) -> None:
        """Keep it, and choose as a user would."""
        self.events.append(event)
        if isinstance(event, AskBatch):
            event.answer.set_result(self.choices.pop(0))

    @property
    def path(self) -> Path:
        return self.folder / "cache.sqlite3"

    async def ask(self, *prompts: str, model: str | None = None, system: str = "") -> list[str]:
        """The replies to one batch, each failure as `Name: text`."""
        request = SubCalls(request=1, kind="llm", count=len(prompts), model=model)
        answer = await self.calls.serve(request, pack_strings([system, *prompts]), depth=0)
        strings = unpack_strings(answer, 2 * len(prompts))
        return [
            text if status == "ok" else f"{status}: {text}"
            for status, text in zip(strings[::2], strings[1::2], strict=True)
        ]

    async def delegate(self, *queries: str) -> list[str]:
        """The answers of child RLMs, each failure as `Name: text`."""
        request = SubCalls(request=1, kind="rlm", count=len(queries), model=None)
        body = pack_strings([part for query in queries for part in (query, "", "the context")])
        strings = unpack_strings(await self.calls.serve(request, body, depth=0), 2 * len(queries))
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
    first, second = question(), question(caps=Caps(sub_calls=1))
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
    asked = question(caps=Caps(sub_calls=1))
    assert await asked.ask("a") == ["A"]
    (reply,) = await asked.ask("b")
    assert reply.startswith("BudgetReached")
    assert sent(server) == ["a"]


async def test_when_the_one_that_is_sent_is_cancelled_another_takes_over(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.reply("sub", Fault(how="hang"), Reply("at last", delay_s=0.05))
    asked = question()
    first = asyncio.create_task(asked.ask("a"))
    await asyncio.to_thread(server.wait_for_requests, 1)
    others = [asyncio.create_task(asked.ask("a")) for _ in range(3)]
    while len(asked.calls._active) < 4:  # noqa: ASYNC110 - nothing tells of one that waits for another
        await asyncio.sleep(0.01)
    first.cancel()
    assert await asyncio.gather(*others) == [["at last"]] * 3
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(server.requests) == 2
    assert asked.ledger.usage.calls == 2, "the one that was cancelled too, as an estimate"
    assert asked.ledger.reserved_usd == 0


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


# ---- what fits, and what it costs


async def test_a_prompt_beyond_the_window_is_not_sent(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", echo)
    asked = question(window=1000)
    long = "long " * 2000
    assert await asked.ask("a", long, "b") == ["A", ANY_ERROR("PromptTooLarge"), "B"]
    assert sent(server) == ["a", "b"]
    (error,) = [event.error for event in asked.finished() if event.error]
    assert "2,504 tokens (10,000 characters)" in error and "takes 1,000" in error
    assert "chunks(size=2_995)" in error


async def test_a_batch_that_does_not_fit_is_refused_with_what_is_left(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", echo)
    asked = question(caps=Caps(cost_usd=0.10))
    with pytest.raises(RequestRefused, match=r"100 calls .* cost about \$0.40, and \$0.0900 is left.* 22 of"):
        await asked.ask(*[f"{number}" for number in range(100)])
    few = question(caps=Caps(sub_calls=3))
    with pytest.raises(RequestRefused, match=r"4 calls to openai/sub .* too long\. 3 sub-calls are left"):
        await few.ask("a", "b", "c", "d")
    assert await few.ask("a", "b", "c") == ["A", "B", "C"]
    assert not sent(server)[3:]


@pytest.mark.parametrize(
    ("choices", "replies"),
    [
        ([BatchChoice(kind="run")], ["A", "B", "C", "D"]),
        ([BatchChoice(kind="sample", calls=1), BatchChoice(kind="run")], ["A", "B", "C", "D"]),
        (
            [
                BatchChoice(kind="sample", calls=1),
                BatchChoice(kind="sample", calls=2),
                BatchChoice(kind="cancel"),
            ],
            ["A", "B", "C", "NotSent: The user stopped the batch here."],
        ),
    ],
)
async def test_a_dear_batch_is_asked_about(
    server: ModelServer, question: Callable[..., Question], choices: list[BatchChoice], replies: list[str]
) -> None:
    server.default("sub", echo)
    asked = question(confirm_above_usd=0.001, choices=[*choices])
    assert await asked.ask("a", "b", "c", "d") == replies
    questions = [event for event in asked.events if isinstance(event, AskBatch)]
    assert len(questions) == len(choices)
    price = questions[0].price
    assert (price.calls, price.cached, price.measured) == (4, 0, False)
    assert price.cost_usd == pytest.approx(4 * (5 * 1.0 + 400 * 10.0) / 1e6)
    done = [event for event in asked.events if isinstance(event, SubCallsFinished)]
    assert (done[0].total, done[0].failed) == (4, len([reply for reply in replies if ":" in reply]))


async def test_a_sample_measures_the_rest(server: ModelServer, question: Callable[..., Question]) -> None:
    server.default("sub", echo)
    choices = [BatchChoice(kind="sample", calls=3), BatchChoice(kind="run")]
    asked = question(confirm_above_usd=0.001, choices=choices)
    await asked.ask(*"abcdef")
    _, again = [event for event in asked.events if isinstance(event, AskBatch)]
    assert (again.sampled, again.price.calls, again.price.measured) == (3, 3, True)
    assert again.price.output_tokens == 3 * TOKENS.output


async def test_a_no_reaches_the_cell_and_nothing_is_sent(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    asked = question(confirm_above_usd=0.001, choices=[BatchChoice(kind="cancel")])
    with pytest.raises(RequestRefused, match="said no to this batch of 2 calls"):
        await asked.ask("a", "b")
    assert not server.requests


async def test_what_others_reserved_is_waited_for(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    """Each call reserves the longest reply, 8 cents here; the cap has room for one at a time."""
    server.default("sub", echo)
    asked = question(caps=Caps(cost_usd=0.12))
    assert await asked.ask(*"abcdefgh") == [*"ABCDEFGH"]
    assert asked.ledger.usage.cost_usd == pytest.approx(8 * COST_USD)


# ---- trouble, and the end


async def test_a_call_that_waits_to_be_repeated_leaves_its_place(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.reply("sub", Fault(status=500), Reply("first"), Reply("second"))
    asked = question(parallel=1)
    assert sorted(await asked.ask("a", "b")) == ["first", "second"]
    assert [request.prompt for request in server.requests] == ["a", "b", "a"]
    assert [event.retries for event in asked.finished()] == [1, 0]


async def test_it_tells_how_many_are_under_way(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", Reply("reply", delay_s=0.5))
    asked = question(parallel=3)
    await asked.ask(*"abcd")
    seen = [event.running for event in asked.events if isinstance(event, SubCallsProgress)]
    assert max(seen) == 3 and server.peak_parallel == 3


async def test_a_cut_reply_says_so_and_is_not_kept(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.reply("sub", Reply("begun and", finish_reason="length"), Reply("whole"))
    asked = question()
    assert await asked.ask("a") == ["cut: begun and"]
    assert await asked.ask("a") == ["whole"]
    assert [event.cut for event in asked.finished()] == [True, False]


async def test_once_closed_nothing_is_sent_and_what_is_under_way_comes_back(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", Reply("in time", delay_s=0.3))
    asked = question(parallel=2)
    asking = asyncio.create_task(asked.ask(*"abcd"))
    await asyncio.to_thread(server.wait_for_requests, 2)
    asked.calls.close("Out of time.")
    late = "NoAnswer: Out of time."
    assert await asking == ["in time", "in time", late, late]
    assert await asked.ask("e") == [late]
    assert len(server.requests) == 2 and asked.ledger.usage.sub_calls == 2


async def test_a_call_that_was_cancelled_is_counted_as_far_as_is_known(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", Fault(how="hang"))
    asked = question()
    asking = asyncio.create_task(asked.ask("twelve chars"))
    await asyncio.to_thread(server.wait_for_requests, 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await asyncio.to_thread(server.requests[0].client_hung_up)
    usage = asked.ledger.usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (7, 0, True)
    assert asked.ledger.reserved_usd == 0


async def test_a_call_that_did_not_answer_in_time_is_counted_as_far_as_is_known(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.reply("sub", Fault(how="hang"), Reply("late but good", usage=TOKENS))
    asked = question(timeout_s=0.3)
    assert await asked.ask("twelve chars") == ["late but good"]
    usage = asked.ledger.usage
    assert (usage.calls, usage.input_tokens, usage.estimated) == (2, 7 + TOKENS.input, True)
    assert [event.usage.calls for event in asked.finished()] == [2]


async def test_many_small_calls_are_not_priced_as_one_large_one(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    server.default("sub", echo)
    beyond = (1000, Price(input_per_mtok=100.0, output_per_mtok=100.0))
    asked = question(price=replace(PRICE, beyond=beyond))
    await asked.ask(*[f"{number:0400}" for number in range(20)])
    assert asked.estimates() == [pytest.approx(20 * (104 * 1.0 + 400 * 10.0) / 1e6)]


# ---- child RLMs


class Children:
    """Stands for child RLMs: each answers its question in capitals, and took `usage`."""

    def __init__(self) -> None:
        self.usage = Usage(calls=5, sub_calls=5, input_tokens=9_000, output_tokens=900, cost_usd=0.02)

    async def __call__(self, task: ChildTask) -> CallReply:
        return CallReply(task.query.upper(), self.usage)


@pytest.mark.parametrize(
    ("choices", "answers"),
    [
        ([BatchChoice(kind="run")], ["A", "B", "C"]),
        (
            [BatchChoice(kind="sample", calls=1), BatchChoice(kind="cancel")],
            ["A", ANY_ERROR("NotSent"), ANY_ERROR("NotSent")],
        ),
    ],
)
async def test_children_are_priced_and_asked_about_too(
    server: ModelServer, question: Callable[..., Question], choices: list[BatchChoice], answers: list[str]
) -> None:
    asked = question(confirm_above_usd=0.001, choices=[*choices])
    assert await asked.delegate("a", "b", "c") == answers
    first, *more = [event.price for event in asked.events if isinstance(event, AskBatch)]
    assert (first.calls, first.measured) == (3, False)
    assert first.cost_usd == pytest.approx(3 * (16_000 * 1.0 + 2_000 * 10.0) / 1e6)
    for price in more:
        assert (price.calls, price.measured) == (2, True)
        assert price.cost_usd == pytest.approx(0.04)


async def test_more_children_than_there_is_room_for_are_refused(
    server: ModelServer, question: Callable[..., Question]
) -> None:
    asked = question(caps=Caps(sub_calls=8))
    with pytest.raises(
        RequestRefused, match=r"3 child RLMs by openai/sub .* room for 8 is left.* about 2 of them"
    ):
        await asked.delegate("a", "b", "c")
    assert await asked.delegate("a", "b") == ["A", "B"]
