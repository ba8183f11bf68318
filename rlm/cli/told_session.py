"""A session that also tells its events, line by line, to whoever reads stdout."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm.cli.event_lines import EventLines
from rlm.events import AskBatch, AskConsent, AskInterrupted, Event, to_json
from rlm.register import now
from rlm.session import Session

if TYPE_CHECKING:
    from rlm.accept import Accept

QUESTIONS = (AskConsent, AskBatch, AskInterrupted)
"""Answered at the terminal, so nobody who reads lines is told of them."""


@dataclass(slots=True)
class ToldSession(Session):
    lines: EventLines | None = None

    async def ask(self, question: str, accept: "Accept | None" = None) -> AsyncIterator[Event]:
        async for event in Session.ask(self, question, accept):
            if self.lines and not isinstance(event, QUESTIONS):
                about = {"ts": now(), "session": self.sandbox.session, "turn": self.sandbox.turn}
                self.lines.write({**about, **to_json(event)})
            yield event
