"""Conducts a turn on a terminal or off one: shows its events, asks what they ask, minds Ctrl-C.

Ctrl-C once withdraws an open question and stops the reply, or the cell and its sub-calls, keeping variables
and paid results. In a chat the user then chooses how to go on; elsewhere the turn ends. Twice abandons the
turn, and the namespace is that of before it.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rlm.cli.ask import Asker
from rlm.errors import Interrupted
from rlm.events import Answer, AskBatch, AskConsent, AskInterrupted, BatchChoice, Resume, TurnFinished
from rlm.requests import agree_to_folder
from rlm.session import Session
from rlm.ui.console import Console
from rlm.ui.render import Screen

if TYPE_CHECKING:
    from rlm.accept import Accept
    from rlm.cli.chat_typing import Typing

T = TypeVar("T")

TICK_S = 0.1
SHORT_BYTES = 16 * 1024


class Terminated(Interrupted):
    """The terminal has gone, or the program was told to end."""


def shown_before_saving(answer: Answer, console: Console) -> bool:
    """Whether an answer is shown before its namespace is saved: a short one, on a terminal.

    A longer one would hold the saving up. Off a terminal, where nobody sees that it is being saved, an answer
    means that its variables are.
    """
    return console.is_terminal and answer.size_bytes <= SHORT_BYTES


async def conduct(
    session: Session,
    question: str,
    *,
    console: Console,
    asker: Asker,
    accept: "Accept | None" = None,
    chat: bool = False,
    typing: "Typing | None" = None,
    at_once: Callable[[TurnFinished], None] = lambda finished: None,
    more: str = "",
) -> TurnFinished:
    """Run one turn; returns its end. Raises `Interrupted` when the user abandoned it.

    In a `chat` a turn that was interrupted can go on, and with `typing` what the user types meanwhile is
    said to the model. `more` is what shows a step in full, as `Screen` has it.
    """
    screen = Screen(console, more=more)
    turn = _Turn(session, console, screen, asker, chat=chat, typing=typing)
    ticking = asyncio.create_task(turn.tick())
    finished: TurnFinished | None = None
    try:
        with turn.listening():
            async for event in session.ask(question, accept):
                if isinstance(event, AskConsent | AskBatch | AskInterrupted):
                    await turn.ask(event)
                    continue
                turn.screen.show(event)
                if isinstance(event, TurnFinished):
                    finished = event
                    turn.answered = True
                    with typing.paused() if typing else contextlib.nullcontext():
                        at_once(event)  # before the namespace is saved, which may take a while
    except asyncio.CancelledError:
        if finished is None:
            kind = Terminated if turn.terminated else Interrupted
            raise kind("The turn was abandoned.", "Variables are those of before it.") from None
        if chat and turn.terminated:
            raise Terminated("The chat was told to end.", "Variables may not all be saved.") from None
        console.note("the answer stands, but its variables may not all be saved", level="warning")
    finally:
        ticking.cancel()
        console.status("")
    assert finished is not None
    return finished


@contextlib.contextmanager
def signals(*, interrupt: Callable[[], None] | None, terminate: Callable[[], None]) -> Iterator[None]:
    """SIGINT, and SIGTERM or SIGHUP, are these calls on the event loop. Not to be nested.

    Without `interrupt`, SIGINT stays what it is.
    """
    loop = asyncio.get_running_loop()
    calls = {signal.SIGTERM: terminate, signal.SIGHUP: terminate}
    calls |= {signal.SIGINT: interrupt} if interrupt else {}
    for number, call in calls.items():
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number in calls:
            loop.remove_signal_handler(number)


@dataclass(slots=True)
class _Turn:
    session: Session
    console: Console
    screen: Screen
    asker: Asker
    chat: bool
    typing: "Typing | None"
    open: "asyncio.Task[Any] | None" = None
    """The question that waits for the user."""
    answered: bool = False
    """Only the namespace is still to be saved."""
    interrupted: bool = False
    abandoned: bool = False
    terminated: bool = False

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self.open is None:
                self.screen.tick()

    async def ask(self, event: AskConsent | AskBatch | AskInterrupted) -> None:
        """Show the question and hand its answer back, unless nobody waits for it any more."""
        if event.answer.done():
            return
        match event:
            case AskConsent():
                await self._ask(event, event.answer, lambda: self._consent(event), withdrawn=False)
            case AskBatch():
                cancel = BatchChoice(kind="cancel")
                await self._ask(event, event.answer, lambda: self.asker.batch(event), withdrawn=cancel)
            case AskInterrupted() if self.chat:
                stop = Resume(kind="stop")
                await self._ask(event, event.answer, self.asker.resume, withdrawn=stop)
                # From here on a Ctrl-C is a first one again.
                self.interrupted = self.abandoned or event.answer.result().kind == "stop"
            case AskInterrupted():
                event.answer.set_result(Resume(kind="stop"))

    async def _consent(self, event: AskConsent) -> bool:
        consent = self.session.consent
        folder = consent.folder_of(Path(event.real_path))
        agreement = await self.asker.consent(str(folder or ""))
        if agreement == "folder" and folder:
            agree_to_folder(folder, consent, self.session.state)
        return agreement != "no"

    async def _ask(
        self,
        event: AskConsent | AskBatch | AskInterrupted,
        answer: "asyncio.Future[T]",
        ask: Callable[[], Coroutine[Any, Any, T]],
        *,
        withdrawn: T,
    ) -> None:
        if self.interrupted and not isinstance(event, AskInterrupted):
            answer.set_result(withdrawn)
            return
        self.screen.show(event)
        with self.typing.paused() if self.typing else contextlib.nullcontext():
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
    def listening(self) -> Iterator[None]:
        """During a turn, Ctrl-C stops it, a second one abandons it, and other keys are for the model."""
        task = asyncio.current_task()
        assert task is not None

        def abandon() -> None:
            if self.abandoned:  # what puts things in order must not be cancelled by a key that repeats
                return
            self.abandoned = True
            self._withdraw()
            self.console.note("abandoning the turn; its variables are given up", level="warning")
            task.cancel()

        def terminate() -> None:
            # A terminal that goes away, or a polite kill, is a Ctrl-C whose second one comes at once.
            self.terminated = True
            abandon()

        def interrupt() -> None:
            if self.interrupted:
                abandon()
                return
            self.interrupted = True
            self._withdraw()
            text = "stopping; what was found is kept (Ctrl-C again abandons the turn)"
            self.console.note(text, level="warning")
            self.session.interrupt()

        with contextlib.ExitStack() as entered:
            entered.enter_context(signals(interrupt=interrupt, terminate=terminate))
            if self.typing:
                entered.enter_context(self.typing.listening(send=self._say, interrupt=interrupt))
            yield

    def _say(self, text: str) -> None:
        if self.answered and self.typing:
            self.console.note("the turn is over; this stands in the next prompt")
            self.typing.line.text = text
            return
        if text.startswith("/") and not text.startswith("//"):
            self.console.note("commands are for the prompt; Ctrl-C stops the turn")
            return
        text = text.removeprefix("/")
        self.console.line(f"you: {text}", style="cyan")
        self.session.say(text)
