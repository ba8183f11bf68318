"""When the time of a turn is up: a moment that may be moved while others wait for it.

It stops nothing: whoever waits decides what happens then.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

SETTLE_S = 15.0
"""Once the time is up, calls under way have so long to come back."""
ASKED_TICK_S = 1.0
TICK_S = 0.5
"""How late a deadline that was moved closer may be noticed."""


T = TypeVar("T")


async def answered(question: "asyncio.Future[T]", extend: Callable[[float], None]) -> T:
    """What the user answers; the time that takes is given back through `extend`, as it passes.

    A question that nobody waits for any more is taken back: it is cancelled.
    """
    asked_s = time.monotonic()
    try:
        while not question.done():
            await asyncio.wait([question], timeout=ASKED_TICK_S)
            now_s = time.monotonic()
            extend(now_s - asked_s)
            asked_s = now_s
        return question.result()
    finally:
        question.cancel()


@dataclass(slots=True)
class Deadline:
    """`at_s` is a reading of `time.monotonic`."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        return max(0.0, self.at_s - time.monotonic())

    def extend(self, seconds: float) -> None:
        self.at_s += seconds

    async def wait(self, *work: "asyncio.Future[Any]") -> None:
        """Return once one of `work` is done, or the time is up."""
        while not any(each.done() for each in work) and (left_s := self.left_s):
            await asyncio.wait(work, timeout=min(left_s, TICK_S), return_when="FIRST_COMPLETED")
