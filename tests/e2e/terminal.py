"""A command on a real terminal: what is typed goes in, and `screen` is what a person would see.

It answers the questions that programs ask of terminals (where is the cursor?), as a terminal does.
"""

import os
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from fcntl import ioctl
from pty import openpty
from types import TracebackType
from typing import Any, Self

import pyte

from tests.e2e import PATIENCE_S, Project

COLUMNS, ROWS = 200, 60


class _Screen(pyte.HistoryScreen):
    """A screen whose reports go back to the program."""

    def __init__(self, descriptor: int, columns: int) -> None:
        super().__init__(columns, ROWS, history=10_000)
        self._descriptor = descriptor

    def write_process_input(self, data: str) -> None:
        os.write(self._descriptor, data.encode())


class Terminal:
    """`with Terminal(project, "chat") as terminal:` starts the command; leaving kills it if it still runs.

    `env` adds variables to those of the project.
    """

    def __init__(
        self, project: Project, *args: str, columns: int = COLUMNS, env: Mapping[str, str] | None = None
    ) -> None:
        self._columns = columns
        self._master, slave = openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        self._screen = _Screen(self._master, columns)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition()
        self.process = project.popen(
            *args, env={"TERM": "xterm-256color", **(env or {})}, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._master)

    def _read(self) -> None:
        with suppress(OSError):  # EIO: the last process on the other side has gone
            while data := os.read(self._master, 65536):
                with self._changed:
                    self._stream.feed(data)
                    self._changed.notify_all()

    @property
    def screen(self) -> str:
        """All lines so far, also those that have scrolled away."""
        with self._changed:
            return "\n".join([*map(self._scrolled, self._screen.history.top), *self._lines()])

    def _lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    def _scrolled(self, line: Any) -> str:
        return "".join(line[column].data for column in range(self._columns)).rstrip()

    def is_cooked(self) -> bool:
        """Whether the terminal echoes and edits lines, as a shell expects to find it."""
        flags = termios.tcgetattr(self._master)[3]
        wanted = termios.ECHO | termios.ICANON | termios.ISIG
        return bool(flags & wanted == wanted)

    def wait_for(self, text: str, *, after: str = "") -> str:
        """Block until `text` is on the screen, below the last `after`; returns what is below that."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in (shown := self.screen.rpartition(after)[2] if after else self.screen):
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} did not appear:\n{self.screen.rstrip()}")
            with self._changed:
                self._changed.wait(0.1)
        return shown

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def ended(self) -> int:
        """Wait for the end of the command; its exit code."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.screen.rstrip()}") from None
