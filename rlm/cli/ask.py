"""Asks the user at the terminal: yes or no, and what to do with a dear batch; `--yes` answers by itself.

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
from rlm.events import AskBatch, BatchChoice
from rlm.ui import ask


class Asker(Protocol):
    """Somebody to ask. A cancelled question is withdrawn: nothing waits for its answer."""

    async def yes_no(self, question: str) -> bool: ...

    async def batch(self, event: AskBatch) -> BatchChoice: ...


@dataclass(frozen=True, slots=True)
class Keyboard:
    """The user at the terminal. The end of the input (Ctrl-D) is a no, and cancels a batch."""

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


async def read_line(prompt: str) -> str | None:
    """The line typed at the terminal that stdin is; None at the end of the input.

    What was typed before the question came up does not answer it, and half an answer to a question that is
    withdrawn does not begin what is typed next.
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

    _forget_typed(descriptor)
    click.echo(prompt, nl=False, err=True)
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, on_input)
    try:
        await whole.wait()
    finally:
        loop.remove_reader(descriptor)
        if not whole.is_set():
            _forget_typed(descriptor)
    if b"\n" not in typed:
        click.echo(err=True)
        return None
    return typed.decode("utf-8", "replace").partition("\n")[0]


def _forget_typed(descriptor: int) -> None:
    with contextlib.suppress(termios.error):  # the terminal has gone
        termios.tcflush(descriptor, termios.TCIFLUSH)
