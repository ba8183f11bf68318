"""Retrying, on a clock that only moves when everyone sleeps."""

import asyncio
import heapq
import itertools
from collections.abc import Coroutine, Iterable
from typing import Any

import pytest

from rlm.errors import ModelError, RateLimited
from rlm.retry import Retry, SharedPause


class FakeTime:
    """A clock and its sleep. `run` moves the clock to the next sleeper whenever all tasks wait."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, wait_s: float) -> None:
        wake = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now_s + wait_s, next(self._order), wake))
        await wake.wait()

    async def run(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        """Results in order, exceptions among them."""
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        while True:
            for _ in range(20):
                await asyncio.sleep(0)
            if all(task.done() for task in tasks):
                return await asyncio.gather(*tasks, return_exceptions=True)
            self.now_s, _, wake = heapq.heappop(self._sleepers)
            wake.set()


class Attempts:
    """A call that fails with each given error in turn, then succeeds. Remembers when it was made."""

    def __init__(self, time: FakeTime, errors: Iterable[ModelError]) -> None:
        self.at_s: list[float] = []
        self._time = time
        self._errors = iter(errors)

    async def __call__(self) -> str:
        self.at_s.append(self._time.now_s - 1000.0)
        if error := next(self._errors, None):
            raise error
        return "answer"


def busy(**details: Any) -> ModelError:
    return ModelError("busy", retryable=True, **details)


def patient(time: FakeTime, *, chance: float = 0.5, spacing_s: float = 0.0, **limits: Any) -> Retry:
    """Base 1 s; with chance 0.5 the waits are 0.5, 1, 2, 4 …"""
    return Retry(spacing_s=spacing_s, clock=time.clock, sleep=time.sleep, chance=lambda: chance, **limits)


async def test_waits_grow_and_are_reported() -> None:
    time = FakeTime()
    calls = Attempts(time, [busy(), busy(), busy()])
    told: list[tuple[int, float, str]] = []

    def tell(attempt: int, wait_s: float, error: ModelError) -> None:
        told.append((attempt, wait_s, error.what))

    assert await time.run(patient(time).run(calls, on_retry=tell)) == ["answer"]
    assert calls.at_s == [0.0, 0.5, 1.5, 3.5]
    assert told == [(1, 0.5, "busy"), (2, 1.0, "busy"), (3, 2.0, "busy")]


async def test_waits_are_bounded() -> None:
    time = FakeTime()
    calls = Attempts(time, [busy()] * 5)
    await time.run(patient(time, max_wait_s=3.0).run(calls))
    assert calls.at_s == [0.0, 0.5, 1.5, 3.0, 4.5, 6.0]


async def test_jitter_spreads_over_the_whole_range() -> None:
    for chance, second_attempt_s in ((0.0, 0.0), (0.25, 0.25), (0.75, 0.75)):
        time = FakeTime()
        calls = Attempts(time, [busy()])
        await time.run(patient(time, chance=chance).run(calls))
        assert calls.at_s == [0.0, second_attempt_s]


async def test_retry_after_is_honoured_even_beyond_the_longest_wait() -> None:
    time = FakeTime()
    calls = Attempts(time, [busy(retry_after_s=45.0)])
    await time.run(patient(time, max_wait_s=3.0).run(calls))
    assert calls.at_s == [0.0, 45.0]


async def test_gives_up_after_the_last_attempt_with_its_error() -> None:
    time = FakeTime()
    last = busy()
    calls = Attempts(time, [busy(), busy(), last, busy()])
    assert await time.run(patient(time, max_attempts=3).run(calls)) == [last]
    assert len(calls.at_s) == 3


async def test_what_is_not_retryable_is_raised_at_once() -> None:
    time = FakeTime()
    refused = ModelError("no")
    calls = Attempts(time, [refused])
    assert await time.run(patient(time).run(calls)) == [refused]
    assert calls.at_s == [0.0]


async def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    time = FakeTime()
    late = busy(retry_after_s=61.0)
    calls = Attempts(time, [late])
    assert await time.run(patient(time, deadline_s=60.0).run(calls)) == [late]
    assert time.now_s == 1000.0


async def test_calls_do_not_start_together() -> None:
    time = FakeTime()
    retry = patient(time, spacing_s=2.0)
    calls = [Attempts(time, []) for _ in range(3)]
    await time.run(*[retry.run(call) for call in calls])
    assert [call.at_s for call in calls] == [[0.0], [2.0], [4.0]]


async def test_no_more_than_its_places_are_under_way_and_who_waits_has_none() -> None:
    time = FakeTime()
    retry = patient(time, parallel=1)
    first, second = Attempts(time, [busy(retry_after_s=5.0)]), Attempts(time, [])
    await time.run(retry.run(first), retry.run(second))
    assert (first.at_s, second.at_s) == ([0.0, 5.0], [0.0])


class Bucket:
    """A provider that takes one call each `every_s`, and says of others when to come again."""

    def __init__(self, time: FakeTime, every_s: float) -> None:
        self._time = time
        self._every_s = every_s
        self._free_at_s = time.now_s

    async def __call__(self) -> str:
        await self._time.sleep(0.2)
        left_s = self._free_at_s - self._time.now_s
        if left_s > 0:
            raise RateLimited("slow down", retry_after_s=left_s)
        self._free_at_s = self._time.now_s + self._every_s
        return "answer"


@pytest.mark.parametrize(("every_s", "parallel"), [(0.5, 64), (1.0, 16), (0.2, 64)])
async def test_a_batch_loses_nothing_to_a_rate_limit_that_lets_others_through(
    every_s: float, parallel: int
) -> None:
    time = FakeTime()
    retry = patient(time, parallel=parallel, spacing_s=0.004)
    bucket = Bucket(time, every_s)
    assert await time.run(*[retry.run(bucket) for _ in range(150)]) == ["answer"] * 150


async def test_a_rate_limit_that_lets_nobody_through_is_given_up_on() -> None:
    time = FakeTime()
    retry = patient(time, max_attempts=3)
    limited = Attempts(time, [RateLimited("slow down", retry_after_s=1.0)] * 9)
    (error,) = await time.run(retry.run(limited))
    assert isinstance(error, RateLimited) and len(limited.at_s) == 3


async def test_one_rate_limit_holds_back_everyone() -> None:
    time = FakeTime()
    retry = patient(time)
    limited = Attempts(time, [RateLimited("slow down", retry_after_s=10.0)])
    failing = Attempts(time, [busy()])
    late = Attempts(time, [])

    async def begin_late() -> str:
        await time.sleep(3.0)
        return await retry.run(late)

    assert await time.run(retry.run(failing), retry.run(limited), begin_late()) == ["answer"] * 3
    assert failing.at_s == [0.0, pytest.approx(10.3)]
    assert limited.at_s == [0.0, 10.25]
    assert late.at_s == [pytest.approx(10.25 + 0.05 + 0.05 * 0.85)], "starts are apart after a rate limit"


async def test_after_a_pause_not_everyone_starts_at_once() -> None:
    time = FakeTime()
    chances = itertools.cycle([0.0, 0.25, 0.5, 0.75])
    pause = SharedPause(spread_s=4.0, clock=time.clock, sleep=time.sleep, chance=lambda: next(chances))
    pause.hold(10.0)
    woke: list[float] = []

    async def wait() -> None:
        await pause.wait()
        woke.append(time.now_s - 1000.0)

    await time.run(*(wait() for _ in range(4)))
    assert woke == [10.0, 11.0, 12.0, 13.0]


async def test_pause_is_prolonged_and_never_cut_short() -> None:
    time = FakeTime()
    pause = SharedPause(clock=time.clock, sleep=time.sleep)
    pause.hold(10.0)
    pause.hold(3.0)
    assert pause.left_s == 10.0
    pause.hold(20.0)
    assert pause.left_s == 20.0


async def test_pause_longer_than_the_deadline_fails_without_a_call() -> None:
    time = FakeTime()
    retry = patient(time, deadline_s=60.0)
    retry.pause.hold(120.0)
    calls = Attempts(time, [])
    (error,) = await time.run(retry.run(calls))
    assert isinstance(error, RateLimited)
    assert "120 s" in error.why
    assert calls.at_s == []


async def test_other_errors_pass_through() -> None:
    async def broken() -> str:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await patient(FakeTime()).run(broken)
