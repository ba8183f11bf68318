"""Asking again: a model call that failed for a passing reason is repeated, later each time.

Waits grow exponentially with full jitter, so that calls which failed together do not come back together; a
provider's retry-after is honoured. A rate limit holds back everyone who shares the `SharedPause`, not only
the call that met it. What is worth repeating is the error's own word (`ModelError.retryable`). No more than
`parallel` attempts are under way at once; a call that waits to be repeated leaves its place to others.

It does not set a time limit on a single attempt: the model does. Clock, sleep and chance are parameters.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, Self, TypeVar

from rlm.errors import ModelError, RateLimited
from rlm.events import Usage
from rlm.ledger import Price
from rlm.models import ChatMessage, Model, ModelReply, ReplyStream

T = TypeVar("T")

START_SPACING_S = 0.004
"""Between two starts, about what a call takes of a processor. Calls that start together come back together,
and are then worked off together: with 64 at once that cost a sixth of the time."""

SLOWED_SPACING_S, SLOWEST_SPACING_S = 0.05, 1.0
FASTER = 0.85
"""After a rate limit starts are twice as far apart, between these; each success brings them closer."""

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
Chance = Callable[[], float]
"""Uniform in [0, 1)."""


class OnRetry(Protocol):
    def __call__(self, attempt: int, wait_s: float, error: ModelError) -> None:
        """Attempt number `attempt` (from 1) failed; the next one follows after `wait_s`."""


class SharedPause:
    """A time until which nobody sends. Afterwards everyone starts within `spread_s`, not all at once."""

    def __init__(
        self,
        *,
        spread_s: float = 0.5,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        chance: Chance = random.random,
    ) -> None:
        self._until_s = float("-inf")
        self._spread_s = spread_s
        self._clock = clock
        self._sleep = sleep
        self._chance = chance

    @property
    def left_s(self) -> float:
        return max(0.0, self._until_s - self._clock())

    def hold(self, wait_s: float) -> None:
        """Nobody sends for so long. A pause is prolonged, never cut short."""
        self._until_s = max(self._until_s, self._clock() + wait_s)

    async def wait(self) -> None:
        """Return once there is no pause: at once when there is none."""
        while left_s := self.left_s:
            await self._sleep(left_s + self._spread_s * self._chance())


class Retry:
    """How often and how patiently.

    Wait number n is drawn from [0, `base_s` · 2ⁿ⁻¹], at most `max_wait_s`; a retry-after comes first. No
    attempt begins later than `deadline_s` after the call did: a wait that would end beyond raises the
    error at once. Attempts start `spacing_s` apart.
    """

    def __init__(
        self,
        *,
        parallel: int = 16,
        max_attempts: int = 6,
        base_s: float = 1.0,
        max_wait_s: float = 30.0,
        deadline_s: float = 600.0,
        spacing_s: float = START_SPACING_S,
        pause: SharedPause | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        chance: Chance = random.random,
    ) -> None:
        self.pause = pause or SharedPause(clock=clock, sleep=sleep, chance=chance)
        self.places = asyncio.Semaphore(parallel)
        self._least_spacing_s = self._spacing_s = spacing_s
        self._next_start_s = self._slowed_at_s = float("-inf")
        self._answered = 0
        self._max_attempts = max_attempts
        self._base_s = base_s
        self._max_wait_s = max_wait_s
        self._deadline_s = deadline_s
        self._clock = clock
        self._sleep = sleep
        self._chance = chance

    async def run(self, attempt: Callable[[], Awaitable[T]], *, on_retry: OnRetry | None = None) -> T:
        """The result of the first attempt that succeeds; each has a place. Raises the last one's error."""
        return await self._run(attempt, self.places, on_retry)

    async def run_in_place(
        self, attempt: Callable[[], Awaitable[T]], *, on_retry: OnRetry | None = None
    ) -> T:
        """The same for one who holds a place already, and keeps it afterwards."""
        return await self._run(attempt, contextlib.nullcontext(), on_retry)

    async def _run(
        self,
        attempt: Callable[[], Awaitable[T]],
        place: AbstractAsyncContextManager[None],
        on_retry: OnRetry | None,
    ) -> T:
        deadline, failures, answered = float("inf"), 0, self._answered
        for number in itertools.count(1):
            try:
                async with place:
                    if number == 1:  # to wait for the first place is nobody's failure
                        deadline = self._clock() + self._deadline_s
                    await self._wait_out_pause(deadline)
                    await self._wait_for_turn()
                    return await self._paced(attempt)
            except ModelError as error:
                wait_s = self._wait_s(number, error)
                rate_limited = isinstance(error, RateLimited)
                if rate_limited:
                    self.pause.hold(wait_s)
                # A rate limit says nothing about the call, as long as others get through.
                failures += not rate_limited or answered == self._answered
                answered = self._answered
                if not error.retryable or failures >= self._max_attempts or self._clock() + wait_s > deadline:
                    raise
                if on_retry:
                    on_retry(number, wait_s, error)
            if not rate_limited:  # a rate limit is waited out in the pause, with everyone else
                await self._sleep(wait_s)
        raise AssertionError("unreachable")

    async def _paced(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The attempt; starts go further apart after a rate limit, once for all that began before it."""
        began_s = self._clock()
        try:
            result = await attempt()
        except RateLimited:
            if began_s >= self._slowed_at_s:
                self._slowed_at_s = self._clock()
                self._spacing_s = min(SLOWEST_SPACING_S, max(SLOWED_SPACING_S, 2 * self._spacing_s))
            raise
        self._answered += 1
        self._spacing_s = max(self._least_spacing_s, self._spacing_s * FASTER)
        return result

    async def _wait_for_turn(self) -> None:
        now_s = self._clock()
        start_s = max(now_s, self._next_start_s)
        self._next_start_s = start_s + self._spacing_s
        if start_s > now_s:
            await self._sleep(start_s - now_s)

    def _wait_s(self, number: int, error: ModelError) -> float:
        if error.retry_after_s is not None:
            return error.retry_after_s
        ceiling_s: float = min(self._max_wait_s, self._base_s * 2 ** min(number - 1, 16))
        return ceiling_s * self._chance()

    async def _wait_out_pause(self, deadline: float) -> None:
        left_s = self.pause.left_s
        if self._clock() + left_s > deadline:
            raise RateLimited(
                "The provider's rate limit is reached.",
                f"It asks to wait {left_s:.0f} s, longer than a call may take.",
                hint="Try again later, or lower limits.parallel.",
                retry_after_s=left_s,
            )
        await self.pause.wait()


def with_retry(model: Model, retry: Retry, *, on_retry: OnRetry | None = None) -> Model:
    """The same model, whose calls are repeated. A stream is repeated only before its first text."""
    return _RetryingModel(model, retry, on_retry)


class _RetryingModel:
    def __init__(self, model: Model, retry: Retry, on_retry: OnRetry | None) -> None:
        self._model = model
        self._retry = retry
        self._on_retry = on_retry

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def price(self) -> Price | None:
        return self._model.price

    @property
    def context_window(self) -> int | None:
        return self._model.context_window

    @property
    def max_output_tokens(self) -> int | None:
        return self._model.max_output_tokens

    def stream(self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None) -> ReplyStream:
        def open_stream() -> ReplyStream:
            return self._model.stream(messages, max_output_tokens=max_output_tokens)

        return _RetryingStream(open_stream, self._retry, self._on_retry)

    async def complete(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> ModelReply:
        async def attempt() -> ModelReply:
            return await self._model.complete(messages, max_output_tokens=max_output_tokens)

        return await self._retry.run(attempt, on_retry=self._on_retry)


class _RetryingStream:
    """Opens the stream and reads its first piece as one repeatable attempt. It has a place until closed."""

    def __init__(
        self, open_stream: Callable[[], ReplyStream], retry: Retry, on_retry: OnRetry | None
    ) -> None:
        self._open_stream = open_stream
        self._retry = retry
        self._on_retry = on_retry
        self._stream = open_stream()
        self._first: str | None = None

    async def __aenter__(self) -> Self:
        await self._retry.places.acquire()
        try:
            await self._retry.run_in_place(self._begin, on_retry=self._on_retry)
        except BaseException:
            self._retry.places.release()
            raise
        return self

    async def _begin(self) -> None:
        self._stream = self._open_stream()
        await self._stream.__aenter__()
        try:
            self._first = await anext(self._stream, None)
        except BaseException as error:
            await self._stream.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stream.__aexit__(kind, error, trace)
        finally:
            self._retry.places.release()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._stream)

    @property
    def text(self) -> str:
        return self._stream.text

    @property
    def reasoning(self) -> str:
        return self._stream.reasoning

    @property
    def finish_reason(self) -> str:
        return self._stream.finish_reason

    @property
    def usage(self) -> Usage:
        return self._stream.usage
