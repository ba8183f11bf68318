"""Somebody at a terminal, within the process of the test: types keys, and sees what a person would see."""

import asyncio
import os
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from fcntl import ioctl
from pty import openpty
from threading import Lock, Thread

import pyte
import pytest

from rlm.ui.console import Console

PATIENCE_S = 20.0
"""How long anything may take before a test gives up on it; no test passes or fails by being slower."""


class _Screen(pyte.Screen):
    """A screen whose reports go back to the program."""

    def __init__(self, columns: int, rows: int, descriptor: int) -> None:
        super().__init__(columns, rows)
        self._descriptor = descriptor

    def write_process_input(self, data: str) -> None:
        os.write(self._descriptor, data.encode())


class Typist:
    """Stands in for the process's terminal; `close` when it is done with."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        columns: int = 80,
        rows: int = 24,
        environ: Mapping[str, str] | None = None,
        encoding: str = "utf-8",
    ) -> None:
        environ = {"TERM": "xterm-256color", **(environ or {})}
        self._master, slave = openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen = _Screen(columns, rows, self._master)
        self._feed = pyte.ByteStream(self._screen)
        self._received = bytearray()
        self._lock = Lock()
        self._streams = [
            os.fdopen(slave, "r", encoding=encoding),
            os.fdopen(os.dup(slave), "w", encoding=encoding),
            os.fdopen(os.dup(slave), "w", encoding=encoding),
        ]
        for name, stream in zip(("stdin", "stdout", "stderr"), self._streams, strict=True):
            monkeypatch.setattr(sys, name, stream)
        monkeypatch.setenv("TERM", environ["TERM"])
        self.console = Console(stdout=sys.stdout, stderr=sys.stderr, environ=environ)
        self._reader = Thread(target=self._read)
        self._reader.start()

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        self._reader.join()
        os.close(self._master)

    def _read(self) -> None:
        with suppress(OSError):  # EIO: the other side is closed
            while data := os.read(self._master, 65536):
                with self._lock:
                    self._received += data
                    self._feed.feed(data)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def paste(self, text: str) -> None:
        """What a terminal sends when a program asked it to mark what is pasted."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    @property
    def stream(self) -> bytes:
        """Every byte that the terminal was sent."""
        with self._lock:
            return bytes(self._received)

    @property
    def shown(self) -> list[str]:
        """The lines of the screen, without the empty ones at the end."""
        with self._lock:
            lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def is_cooked(self) -> bool:
        """Whether the terminal echoes and edits lines, as a shell expects to find it."""
        flags = termios.tcgetattr(self._master)[3]
        wanted = termios.ECHO | termios.ICANON | termios.ISIG
        return bool(flags & wanted == wanted)

    async def sees(self, text: str) -> list[str]:
        """Wait until `text` is on the screen; returns its lines."""

        def told() -> str:
            return f"{text!r} did not appear:\n" + "\n".join(self.shown)

        await until(lambda: any(text in line for line in self.shown), told)
        return self.shown


async def until(holds: Callable[[], bool], told: Callable[[], str] = lambda: "it did not happen") -> None:
    """Wait until this holds; fails with what is `told` when it does not in good time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        if holds():
            return
        assert time.monotonic() < deadline_s, told()
        await asyncio.sleep(0.01)
