"""Asks the user at the terminal what a turn has to ask; `--yes` answers by itself what a yes can answer.

Lines are read by the event loop as the terminal gives them, so that a question can be withdrawn at any
moment and Ctrl-C stays what it is elsewhere. What to draw before a question is the screen's business.
"""

import asyncio
import contextlib
import os
import sys
import termios
from dataclasses import dataclass
from typing import Protocol

import click

from rlm.cli.options import Options
from rlm.events import AskBatch, BatchChoice, Resume
from rlm.ui import ask


class Asker(Protocol):
    """Somebody to ask. A cancelled question is withdrawn: nothing waits for its answer."""

    async def consent(self, folder: str) -> ask.Agreement: ...

    async def batch(self, event: AskBatch) -> BatchChoice: ...

    async def resume(self) -> Resume: ...


@dataclass(frozen=True, slots=True)
class Keyboard:
    """The user at the terminal. The end of the input (Ctrl-D) is a no, cancels a batch, and stops a turn."""

    options: Options

    async def yes_no(self, question: str) -> bool:
        if self.options.yes:
            return True
        while (line := await self._line(f"{question} [y/N] ")) is not None:
            word = line.strip().lower()
            if word in ("y", "yes", "n", "no", ""):
                return word.startswith("y")
            click.echo("Type y or n.", err=True)
        return False

    async def consent(self, folder: str) -> ask.Agreement:
        """The path is on the screen. `folder` is what else a yes can be given to, empty for nothing."""
        if self.options.yes:
            return "once"
        while (line := await self._line(ask.consent_prompt(folder))) is not None:
            if agreement := ask.agreement(line, folder):
                return agreement
            click.echo(ask.consent_choices_text(folder), err=True)
        return "no"

    async def resume(self) -> Resume:
        while (line := await self._line(ask.RESUME_PROMPT)) is not None:
            if choice := ask.resume(line):
                return choice
        return Resume(kind="stop")

    async def batch(self, event: AskBatch) -> BatchChoice:
        if self.options.yes:
            return BatchChoice(kind="run")
        while (line := await self._line(ask.prompt(event.price))) is not None:
            if choice := ask.choice(line, event.price):
                return choice
            click.echo(ask.choices_text(event.price), err=True)
        return BatchChoice(kind="cancel")

    async def _line(self, prompt: str) -> str | None:
        return await read_line(prompt) if self.options.interactive else None


async def read_line(prompt: str, *, forget: bool = True) -> str | None:
    """The line typed at the terminal that stdin is; None at the end of the input.

    With `forget`, what was typed before the question came up does not answer it, and half an answer to a
    question that is withdrawn does not begin what is typed next.
    """
    descriptor = sys.stdin.fileno()
    typed = bytearray()
    whole = asyncio.Event()

    def on_input() -> None:
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # the terminal has gone
            data = b""
        typed.extend(data)
        if not data or b"\n" in data:
            whole.set()

    if forget:
        _forget_typed(descriptor)
    click.echo(prompt, nl=False, err=True)
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, on_input)
    try:
        await whole.wait()
    finally:
        loop.remove_reader(descriptor)
        if forget and not whole.is_set():
            _forget_typed(descriptor)
    if b"\n" not in typed:
        click.echo(err=True)
        return None
    return typed.decode("utf-8", "replace").partition("\n")[0]


def _forget_typed(descriptor: int) -> None:
    with contextlib.suppress(termios.error):  # the terminal has gone
        termios.tcflush(descriptor, termios.TCIFLUSH)
