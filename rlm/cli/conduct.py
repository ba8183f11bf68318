"""Conducts a turn on a terminal or off one: shows its events, asks what they ask, minds Ctrl-C.

Ctrl-C once withdraws an open question, stops the cell and its sub-calls and ends the turn, keeping variables
and paid results; twice abandons the turn, and the namespace is that of before it.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from rlm.cli.ask import Asker
from rlm.errors import Interrupted
from rlm.events import AskBatch, AskConsent, BatchChoice, TurnFinished
from rlm.session import Session
from rlm.ui.console import Console
from rlm.ui.render import Screen
from rlm.ui.sanitise import visible_line

T = TypeVar("T")

TICK_S = 0.1


async def conduct(session: Session, question: str, *, console: Console, asker: Asker) -> TurnFinished:
    """Run one turn; returns its end. Raises `Interrupted` when the user abandoned it."""
    turn = _Turn(session, console, Screen(console), asker)
    ticking = asyncio.create_task(turn.tick())
    finished: TurnFinished | None = None
    try:
        with turn.interrupts():
            async for event in session.ask(question):
                if isinstance(event, AskConsent | AskBatch):
                    await turn.ask(event)
                    continue
                turn.screen.show(event)
                if isinstance(event, TurnFinished):
                    finished = event
    except asyncio.CancelledError:
        if finished is None:
            raise Interrupted("The turn was abandoned.", "Variables are those of before it.") from None
        console.note("the answer stands, but its variables may not all be saved", level="warning")
    finally:
        ticking.cancel()
        console.status("")
    assert finished is not None
    return finished


@dataclass(slots=True)
class _Turn:
    session: Session
    console: Console
    screen: Screen
    asker: Asker
    open: "asyncio.Task[Any] | None" = None
    """The question that waits for the user."""
    interrupted: bool = False

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self.open is None:
                self.screen.tick()

    async def ask(self, event: AskConsent | AskBatch) -> None:
        """Show the question and hand its answer back, unless nobody waits for it any more."""
        if event.answer.done():
            return
        if isinstance(event, AskConsent):
            question = f"May the code read {visible_line(event.real_path)}?"
            await self._ask(event, event.answer, lambda: self.asker.yes_no(question), withdrawn=False)
        else:
            cancel = BatchChoice(kind="cancel")
            await self._ask(event, event.answer, lambda: self.asker.batch(event), withdrawn=cancel)

    async def _ask(
        self,
        event: AskConsent | AskBatch,
        answer: "asyncio.Future[T]",
        ask: Callable[[], Coroutine[Any, Any, T]],
        *,
        withdrawn: T,
    ) -> None:
        if self.interrupted:
            answer.set_result(withdrawn)
            return
        self.screen.show(event)
        task = self.open = asyncio.create_task(ask())
        try:
            await asyncio.wait([task, answer], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.set_result(withdrawn if task.cancelled() else task.result())
        finally:
            self._withdraw()
            self.screen.answered(event)

    def _withdraw(self) -> None:
        """Take the open question back, if there is one; what is shown next begins a line."""
        if self.open and not self.open.done():
            self.open.cancel()
            click.echo(err=True)
        self.open = None

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """For the length of a turn, SIGINT stops it; a second one cancels the task that runs it."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def on_sigint() -> None:
            if self.interrupted:
                task.cancel()
                return
            self.interrupted = True
            self._withdraw()
            text = "stopping; what was found is kept (Ctrl-C again abandons the turn)"
            self.console.note(text, level="warning")
            self.session.interrupt()

        loop.add_signal_handler(signal.SIGINT, on_sigint)
        # A terminal that goes away, or a polite kill, is a Ctrl-C whose second one comes at once.
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)
