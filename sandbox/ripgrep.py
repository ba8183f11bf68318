"""Run ripgrep: which lines of a `str` or a `Document`, or which of many files, does its pattern match?

One text goes in through stdin, a UTF-8 file as it is and anything else piece by piece from a thread; many
files go by name. The pattern goes after `-e`; there is no shell, and memory is bounded. It does not know
Python's patterns (`sandbox.widen` does), and it may give up half-way, which it tells.
"""

import os
import resource
import select
import subprocess
import sys
import threading
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from sandbox.blocks import text_pieces
from sandbox.documents import Document

DATA_BYTES = 512 * 1024 * 1024
"""Ripgrep holds whole lines: this stops it before a gigabyte without a newline fills the sandbox."""
COMMAND = ("rg", "--no-config", "--text", "--encoding=none", "--color=never", "--no-messages")


def files_with(pattern: str, paths: Sequence[str]) -> set[str] | None:
    """Those of the files in which ripgrep finds a line; None when it could not search all of them."""
    command = [*COMMAND, "--no-ignore", "--files-with-matches", "--null", "-e", pattern, "--", *paths]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    with process:
        _limit_memory(process.pid)
        try:
            assert process.stdout is not None
            found = process.stdout.read()
            process.wait()
        finally:
            process.kill()
    return {os.fsdecode(path) for path in found.split(b"\0")} if process.returncode in (0, 1) else None


@contextmanager
def _source(text: str | Document) -> Iterator[int | IO[bytes]]:
    """What ripgrep reads on stdin: a UTF-8 file itself, else a pipe. Of one that has grown, what is known."""
    file = text.reopen() if isinstance(text, Document) and text.is_utf8 else None
    if file is None or not isinstance(text, Document):
        yield subprocess.PIPE
        return
    try:
        if not text.has_grown():
            yield file
            return
        command = ["head", "-c", str(text.size_bytes - text.first_byte)]
        with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE) as head:
            assert head.stdout is not None
            try:
                yield head.stdout
            finally:
                head.kill()
    finally:
        os.close(file)


class Ripgrep:
    """One run of ripgrep over a text."""

    def __init__(self, text: str | Document, pattern: str, *, at_once: bool) -> None:
        self._text = text
        self._at_once = at_once
        self._feed: _Feed | None = None
        self._command = [*COMMAND, "--threads=1", "--line-buffered" if at_once else "--block-buffered"]
        # One short row for each line: its number and byte offset, and never the line, however long it is.
        self._command += [
            "--no-heading",
            "--no-filename",
            "--line-number",
            "--byte-offset",
            "--max-columns=1",
        ]
        self._command += ["-e", pattern, "-"]
        self.complete = False

    def lines(self) -> Generator[tuple[int, int], None, None]:
        """Number and position of each line found. `complete` is set when ripgrep saw it all."""
        text = self._text
        with _source(text) as source:
            try:
                process = subprocess.Popen(
                    self._command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except FileNotFoundError:
                return
            with process:
                yield from self._found(process)
        self.complete = process.returncode in (0, 1)
        if isinstance(text, Document):
            text.check_size()

    def _found(self, process: "subprocess.Popen[bytes]") -> Generator[tuple[int, int], None, None]:
        text = self._text
        _limit_memory(process.pid)
        self._feed = _Feed(text, process.stdin) if process.stdin else None
        try:
            assert process.stdout is not None
            for row in self._rows(process.stdout.fileno()):
                number, position, _ = row.split(b":", 2)
                if isinstance(text, Document) and not self._feed:
                    at = int(position) + text.first_byte
                    if at < text.size_bytes:
                        yield int(number), at
                else:
                    yield int(number), int(position)
            process.wait()
        finally:
            process.kill()
            if self._feed:
                self._feed.join()

    def offset(self, position: int) -> int:
        """Offset in characters of the line found last."""
        if self._feed:
            return self._feed.offset(position)
        assert isinstance(self._text, Document)
        return self._text.offset_of_byte(position)

    def line(self, position: int) -> str:
        """The line found last, without its newline."""
        if isinstance(self._text, Document) and not self._feed:
            return self._text.line_at_byte(position)
        start = self.offset(position)
        end = self._text.find("\n", start)
        return self._text[start : end if end >= 0 else len(self._text)]

    def _rows(self, pipe: int) -> Iterator[bytes]:
        """The rows that ripgrep writes. While there is none, a document gets on with its index: the offset
        of a line that comes late needs all of the index before it, and would wait for it then.
        """
        poll = select.poll()
        poll.register(pipe)
        rest = b""
        ahead = self._text if self._at_once and isinstance(self._text, Document) and not self._feed else None
        while True:
            while ahead and not poll.poll(0) and ahead.index_more():
                pass
            data = os.read(pipe, 65_536)
            if not data:
                return
            *rows, rest = (rest + data).split(b"\n")
            yield from rows


class _Feed(threading.Thread):
    """Writes a text as UTF-8 to ripgrep's stdin, and leads from offsets in that stream to characters."""

    def __init__(self, text: str | Document, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._text = text
        self._pipe = pipe
        self._error: Exception | None = None
        self._positions: list[int] = []
        self._offsets: list[int] = []
        self.start()

    def run(self) -> None:
        position = 0
        try:
            with suppress(BrokenPipeError), self._pipe as pipe:
                for offset, piece in text_pieces(self._text):
                    data = piece.encode("utf-8", "surrogatepass")
                    self._offsets.append(offset)
                    self._positions.append(position)
                    position += len(data)
                    pipe.write(data)
        except Exception as error:
            self._error = error

    def join(self, timeout: float | None = None) -> None:
        """Raises what went wrong with reading the text."""
        super().join(timeout)
        if self._error:
            raise self._error

    def offset(self, position: int) -> int:
        """Character offset of a position that has been found, later than all before."""
        number = bisect_right(self._positions, position) - 1
        start, offset = self._positions[number], self._offsets[number]
        # A character is at least one byte, so no more characters than bytes are needed.
        between = self._text[offset : offset + position - start].encode("utf-8", "surrogatepass")
        offset += len(between[: position - start].decode("utf-8", "surrogatepass"))
        self._positions[number], self._offsets[number] = position, offset
        return offset


def _limit_memory(pid: int) -> None:
    if sys.platform == "linux":
        with suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
