"""Tests of what a person sees, on real terminals; `Terminal` is one, `HOSTILE` what must not reach it."""

import os
import re
import struct
from collections.abc import Mapping
from fcntl import ioctl
from io import BytesIO, TextIOWrapper
from pathlib import Path
from pty import openpty
from termios import TIOCSWINSZ
from threading import Thread
from types import TracebackType

import pyte

from rlm.ui.console import Color, Console

HOSTILE = {
    "osc 52": "\x1b]52;c;ZXZpbA==\x07",
    "osc 8": "\x1b]8;;http://evil.test/\x1b\\click\x1b]8;;\x1b\\",
    "osc 0": "\x1b]0;title\x07",
    "unterminated osc": "\x1b]52;c;ZXZpbA==",
    "clear": "\x1b[2J\x1b[H",
    "sgr": "\x1b[31;5m",
    "cursor report": "\x1b[6n",
    "alternate screen": "\x1b[?1049h",
    "dcs": "\x1bP+q544e\x1b\\",
    "split csi": "\x1b\x1b[[2J",
    "c1 csi": "\x9b2J",
    "c1 osc": "\x9d52;c;ZXZpbA==\x9c",
    "nel": "a\x85b",
    "bell": "\x07\x08\x7f\x00",
    "charset": "\x0e\x0f\x1b(0",
    "form feed": "\x0b\x0c",
    "overwrite": "safe\rEVIL",
    "bidi": "\u202eevil\u202c \u2066x\u2069 \u200f",
    "zero width": "a\u200bb\u200dc\u2060d\ufeff",
    "tags": "\U000e0001\U000e0065\U000e007f",
    "separators": "a\u2028b\u2029c",
    "surrogate": "\udc1b[2J \ud800",
    "entities": "&#13; &#12; &rlm; &#x202e; &ZeroWidthSpace; &#x9b;2J &#27;[2J",
    "link": "[text](http://evil.test/?q=secret) <http://evil.test> ![i](http://evil.test/?q=secret)",
}
ALL_HOSTILE = " ".join(HOSTILE.values())

OURS = re.compile(r"\x1b\[[0-9;]*m|\r\x1b\[2K|\x1b\[\?2004[hl]")
"""All that may be in a terminal's byte stream: colours, erasing the status line, asking for marked pastes."""
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def leaks(stream: bytes) -> list[str]:
    """What is in a terminal's byte stream that must not be; the terminal's own CRLF is fine."""
    text = stream.decode("utf-8").replace("\r\n", "\n")
    return FORBIDDEN.findall(OURS.sub("", text))


_END = b"\x00end of test stream\x00"


class Clock:
    """A monotonic clock that only moves when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Terminal:
    """A pseudo-terminal with a console on it; `shown` is its screen, `stream` every byte it was sent."""

    def __init__(
        self,
        *,
        columns: int = 80,
        rows: int = 60,
        environ: Mapping[str, str] | None = None,
        color: Color = "auto",
        quiet: bool = False,
        verbose: bool = False,
        encoding: str = "utf-8",
    ) -> None:
        self._columns, self._rows = columns, rows
        self._master, slave = openpty()
        ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._streams = [
            os.fdopen(slave, "w", encoding=encoding),
            os.fdopen(os.dup(slave), "w", encoding=encoding),
        ]
        self._received = bytearray()
        self._start()
        self.clock = Clock()
        self.console = Console(
            stdout=self._streams[0],
            stderr=self._streams[1],
            environ={"TERM": "xterm-256color"} if environ is None else environ,
            color=color,
            quiet=quiet,
            verbose=verbose,
            clock=self.clock,
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()
        for stream in self._streams:
            stream.close()
        os.close(self._master)

    def _start(self) -> None:
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._received.endswith(_END):
            self._received += os.read(self._master, 65536)
        del self._received[-len(_END) :]

    def _finish(self) -> None:
        """Wait until all that was written has come through: the kernel passes it on in its own time."""
        os.write(self._streams[0].fileno(), _END)
        self._reader.join()

    @property
    def stream(self) -> bytes:
        self._finish()
        self._start()
        return bytes(self._received)

    @property
    def shown(self) -> list[str]:
        """The lines of the screen, without the empty ones at the end."""
        screen = pyte.Screen(self._columns, self._rows)
        pyte.ByteStream(screen).feed(self.stream)
        lines = [line.rstrip() for line in screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines


class Pipes:
    """A console whose stdout and stderr are no terminals; `out` and `err` are the bytes written so far."""

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        color: Color = "auto",
        quiet: bool = False,
        verbose: bool = False,
        encoding: str = "utf-8",
    ) -> None:
        self._out, self._err = BytesIO(), BytesIO()
        self.clock = Clock()
        self.console = Console(
            stdout=TextIOWrapper(self._out, encoding=encoding),
            stderr=TextIOWrapper(self._err, encoding=encoding),
            environ=environ or {},
            color=color,
            quiet=quiet,
            verbose=verbose,
            clock=self.clock,
        )

    @property
    def out(self) -> bytes:
        return self._out.getvalue()

    @property
    def err(self) -> str:
        return self._err.getvalue().decode("utf-8")


def written(folder: Path, data: bytes) -> Path:
    path = folder / "answer"
    path.write_bytes(data)
    return path
