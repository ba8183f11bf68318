"""One sub-call: answered from what is kept, or paid for now.

A call gets a place among those under way, reserves its money just before it is sent and settles it after;
what failed for a passing reason is sent again. It knows nothing of batches, cells and screens.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlm.call_cache import CallCache
from rlm.errors import ModelError, NoAnswer, PromptTooLarge
from rlm.events import Usage
from rlm.ledger import Ledger, Reservation
from rlm.model_errors import no_reply
from rlm.models import ChatMessage, Model, ModelReply, estimate_tokens
from rlm.retry import Retry
from rlm.single_flight import SingleFlight

SUB_OUTPUT_TOKENS = 8_192
ENOUGH_OUTPUT_TOKENS = 2_048
"""A call waits for money that others have reserved, rather than be sent with less room for its reply."""
LEAST_OUTPUT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class CallReply:
    """A reply to a sub-call. `cut`: it ended at its length limit. `usage` is what it took when sent."""

    text: str
    usage: Usage
    cut: bool = False


@dataclass(slots=True, eq=False)
class Call:
    """A sub-call to be made: messages for a model, paid by a ledger. `key` is empty without a cache.

    `input_tokens` is an estimate. The other fields tell how it goes: `retry_at_s` is a reading of
    `time.monotonic`.
    """

    model: Model
    messages: Sequence[ChatMessage]
    ledger: Ledger
    key: str = ""
    input_tokens: int = field(init=False)
    state: Literal["waiting", "running", "retrying"] = "waiting"
    started_s: float = field(default_factory=time.monotonic)
    retry_at_s: float = 0.0
    retries: int = 0
    sent: bool = False
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self.input_tokens = estimate_tokens(self.messages)


def require_fits(call: Call) -> None:
    """Refuse a prompt that is larger than the model's window. Raises `PromptTooLarge` with both numbers."""
    model, tokens = call.model, call.input_tokens
    window = model.context_window
    if window is None or tokens <= window:
        return
    chars = sum(len(message["content"]) for message in call.messages)
    size = chars * window * 3 // (tokens * 4)
    raise PromptTooLarge(
        f"The prompt has about {tokens:,} tokens ({chars:,} characters), and {model.name} takes {window:,}.",
        f"It was not sent. Split it, as with chunks(size={size:_}), and ask about each.",
    )


class Caller:
    """Makes the sub-calls of one question. With a cache, equal calls are sent once.

    `closed` says why nothing is sent again, and is empty as long as that is not so.
    """

    def __init__(self, retry: Retry, cache: CallCache | None, *, closed: Callable[[], str]) -> None:
        self.cache = cache
        self._closed = closed
        self._retry = retry
        self._flights: SingleFlight[CallReply] = SingleFlight()
        self._in_flight = 0
        self._landed = asyncio.Event()

    async def answer(self, call: Call) -> CallReply:
        """The reply: kept, from an equal call that is under way, or paid for now. Raises `RlmError`."""
        cache = self.cache
        if cache is None:
            return await self._send(call)
        reply = await self._flights.run(call.key, functools.partial(self._find_or_send, call, cache))
        if not call.sent:
            cache.count_hit(call.key, reply.usage)
        return reply

    async def _find_or_send(self, call: Call, cache: CallCache) -> CallReply:
        if kept := cache.find(call.key):
            return CallReply(kept.text, kept.usage)
        return await self._send(call)

    async def _send(self, call: Call) -> CallReply:
        def on_retry(attempt: int, wait_s: float, error: ModelError) -> None:
            if reason := self._closed():
                raise NoAnswer(reason) from None
            call.retries, call.state = attempt, "retrying"
            call.retry_at_s = time.monotonic() + wait_s

        reply = await self._retry.run(functools.partial(self._attempt, call), on_retry=on_retry)
        if not reply.text.strip():
            raise no_reply(
                call.model.name, output_tokens=reply.usage.output_tokens, finish_reason=reply.finish_reason
            )
        return CallReply(reply.text, reply.usage, reply.finish_reason == "length")

    async def _attempt(self, call: Call) -> ModelReply:
        reservation, limit = await self._reserve(call)
        if not call.retries:
            call.started_s = time.monotonic()
        call.state = "running"
        with self._flying():
            try:
                reply = await call.model.complete(call.messages, max_output_tokens=limit)
            except BaseException as error:
                # What we gave up waiting for was sent, and may well be charged for.
                if isinstance(error, asyncio.CancelledError) or getattr(error, "given_up", False):
                    call.usage += _given_up(call)
                    call.ledger.settle(reservation, _given_up(call))
                else:
                    call.ledger.release(reservation)
                raise
            call.ledger.settle(reservation, reply.usage)
        call.sent, call.usage = True, call.usage + reply.usage
        # Nothing is awaited once the reply is there: what was paid for is kept before anybody gets it.
        if self.cache:
            self.cache.keep(call.key, reply)
        return reply

    async def _reserve(self, call: Call) -> tuple[Reservation, int]:
        """Money for the call, and how long its reply may be. Raises `BudgetReached`.

        Calls seldom take all that was reserved for them: what is short now may be there when they land.
        """
        model, ledger = call.model, call.ledger
        input_tokens = call.input_tokens
        wanted = min(SUB_OUTPUT_TOKENS, model.max_output_tokens or SUB_OUTPUT_TOKENS)
        while True:
            limit = ledger.affordable_output_tokens(wanted, input_tokens=input_tokens, price=model.price)
            if limit >= min(wanted, ENOUGH_OUTPUT_TOKENS) or not self._in_flight:
                break
            await self._landed.wait()
        limit = max(limit, LEAST_OUTPUT_TOKENS)
        reservation = ledger.reserve(
            model.name, input_tokens=input_tokens, output_tokens=limit, price=model.price, sub_call=True
        )
        return reservation, limit

    @contextlib.contextmanager
    def _flying(self) -> Iterator[None]:
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._landed.set()
            self._landed = asyncio.Event()


def _given_up(call: Call) -> Usage:
    price, tokens = call.model.price, call.input_tokens
    cost_usd = None if price is None else price.cost_usd(input_tokens=tokens, output_tokens=0)
    return Usage(calls=1, input_tokens=tokens, cost_usd=cost_usd, estimated=True)
