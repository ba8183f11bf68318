"""Conducts a turn on a terminal or off one: shows its events, asks what they ask, minds Ctrl-C.

Ctrl-C once stops the cell and its sub-calls and ends the turn, keeping variables and paid results; twice
abandons the turn, and the namespace is that of before it.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator

from rlm.errors import Interrupted
from rlm.events import AskConsent, TurnFinished
from rlm.session import Session
from rlm.ui.console import Console
from rlm.ui.render import Screen
from rlm.ui.sanitise import visible_line

TICK_S = 0.1

AskUser = Callable[[str], Awaitable[bool]]


async def conduct(session: Session, question: str, *, console: Console, ask_user: AskUser) -> TurnFinished:
    """Run one turn; returns its end. Raises `Interrupted` when the user abandoned it."""
    screen = Screen(console)
    ticking = asyncio.create_task(_tick(screen))
    finished: TurnFinished | None = None
    try:
        with _interrupts(session, console):
            async for event in session.ask(question):
                screen.show(event)
                if isinstance(event, AskConsent):
                    await _consent(event, console, ask_user)
                elif isinstance(event, TurnFinished):
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


async def _tick(screen: Screen) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        screen.tick()


async def _consent(event: AskConsent, console: Console, ask_user: AskUser) -> None:
    console.status("")
    agreed = await ask_user(f"May the code read {visible_line(event.real_path)}? [y/N] ")
    if not event.answer.done():
        event.answer.set_result(agreed)


@contextlib.contextmanager
def _interrupts(session: Session, console: Console) -> Iterator[None]:
    """For the length of a turn, SIGINT stops it; a second one cancels the task that runs it."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    count = 0

    def on_sigint() -> None:
        nonlocal count
        count += 1
        if count == 1:
            console.note("stopping; what was found is kept (Ctrl-C again abandons the turn)", level="warning")
            session.interrupt()
        else:
            task.cancel()

    loop.add_signal_handler(signal.SIGINT, on_sigint)
    # A terminal that goes away, or a polite kill, is a Ctrl-C whose second one comes at once.
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
