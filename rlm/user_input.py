"""What the user does while a turn runs: stops it, adds words to it, and says how it goes on.

It holds that until the engine looks; it reads no keyboard.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rlm.events import Resume


@dataclass(slots=True)
class UserInput:
    """Of one turn. `ask` is called with the step when the turn was stopped; None when nobody is there.

    `waited_s` is how long the turn has waited for answers.
    """

    ask: Callable[[int], Awaitable[Resume]] | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    waited_s: float = 0.0
    _typed: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Keep what was typed until `take`. Text of nothing but space is left out."""
        if text.strip():
            self._typed.append(text.strip())

    def take(self) -> str:
        """What was typed since the last call, joined by line breaks; empty when nothing was."""
        text = "\n".join(self._typed)
        self._typed.clear()
        return text

    async def resume(self, step: int) -> tuple[Resume, float]:
        """How the stopped turn goes on, and how many seconds the user took to say so.

        A stop that comes before the answer means the same one.
        """
        if self.ask is None:
            return Resume(kind="stop"), 0.0
        began = time.monotonic()
        answer = await self.ask(step)
        self.stop.clear()
        waited_s = time.monotonic() - began
        self.waited_s += waited_s
        return answer, waited_s
