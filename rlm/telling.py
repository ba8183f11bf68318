"""Tells what happens in the turn of one RLM, as events with its place in the tree of RLMs.

It only words them; what happens is decided in `rlm.engine`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rlm.box.results import CellResult
from rlm.events import (
    CellFinished,
    CellOutput,
    Compacted,
    Event,
    Reminder,
    ReplyDelta,
    ReplyFinished,
    StepStarted,
)
from rlm.models import ReplyStream
from rlm.parse import Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """`turn` is 0 for an RLM that is not told which turn it works for."""

    emit: Callable[[Event], None]
    turn: int = 0
    depth: int = 0
    child: int = 0

    def step(self, step: int, max_steps: int) -> None:
        self.emit(StepStarted(step=step, max_steps=max_steps, depth=self.depth, child=self.child))

    def prose(self, text: str) -> None:
        self.emit(ReplyDelta(text=text, depth=self.depth, child=self.child))

    def output(self, text: str) -> None:
        self.emit(CellOutput(text=text, depth=self.depth, child=self.child))

    def reminder(self, step: int) -> None:
        self.emit(Reminder(step=step, depth=self.depth, child=self.child))

    def reply(self, step: int, reply: Reply, stream: ReplyStream, *, cell: int, model: str) -> None:
        """`cell` is the number that its block will run under."""
        self.emit(
            ReplyFinished(
                step=step,
                cell=cell if reply.code is not None else None,
                prose=reply.prose,
                code=reply.code,
                reasoning=stream.reasoning,
                usage=stream.usage,
                model=model,
                depth=self.depth,
                child=self.child,
            )
        )

    def cell(self, step: int, result: CellResult) -> None:
        self.emit(
            CellFinished(
                step=step,
                cell=result.number,
                status=result.status,
                shown=result.shown,
                total_chars=result.total_chars,
                error=result.error or result.reason,
                duration_s=result.duration_s,
                depth=self.depth,
                child=self.child,
            )
        )

    def shortened(self, before_chars: int, after_chars: int) -> None:
        """Earlier steps are sent as one message from now on."""
        self.emit(
            Compacted(
                turn=self.turn,
                before_chars=before_chars,
                after_chars=after_chars,
                what="steps",
                depth=self.depth,
                child=self.child,
            )
        )
