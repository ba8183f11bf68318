"""Text in blocks: a file read on demand, each block decoded on its own, with offsets in characters.

A sparse index (where each block starts, in bytes, characters and lines) grows only as far as it is needed and
makes every offset exact. Memory is constant; a file that shrinks under it is an `OSError`, since it is read
and never mapped. The functions at the end go through a `str` in the same way. It does not search, cut out
slices, or hold more than one block.
"""

import errno
import os
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import AnyStr

from sandbox.textfile import DocumentSpec, DocumentTooLargeError, byte_order_mark, decoder_of, open_file

ASCII = bytes(range(128))
LINE_WINDOW_BYTES = 64 * 1024
"""What is read around a line: the next one that is asked for is often near."""


class BlockText:
    """The text of a document as blocks, and the index that leads to them.

    Offsets and lengths are in characters of the decoded text; invalid bytes count as U+FFFD; line ends
    stay as they are. What the file held when it was described is what is seen, appended text is not.
    """

    def __init__(self, spec: DocumentSpec, *, str_limit_bytes: int, block_bytes: int) -> None:
        self.spec = spec
        self.str_limit_bytes = str_limit_bytes
        self._block_bytes = max(block_bytes, 8)  # a block holds at least one whole character
        self._file, self._size, encoding = open_file(spec)
        weakref.finalize(self, os.close, self._file)
        self._decode = decoder_of(encoding)
        self._ascii_is_ascii = ASCII.decode(encoding, "replace").encode("ascii", "replace") == ASCII
        self._all_ascii = self._ascii_is_ascii
        self.is_utf8 = encoding in ("utf-8", "utf-8-sig")
        bom = byte_order_mark(encoding)
        self.first_byte = len(bom) if bom and self._read(0, min(len(bom), self._size)) == bom else 0
        self._bytes = array("q", [self.first_byte])
        self._chars = array("q", [0])
        self._newlines = array("q", [0])
        self._cached = (-1, "")
        self._byte_memo = (self.first_byte, 0)
        self._line_window = (0, b"")
        self._all_newlines = -1

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def size_bytes(self) -> int:
        """Size of the text as it is read, with its byte order mark."""
        return self._size

    def __len__(self) -> int:
        while self.index_more():
            pass
        return self._chars[-1]

    def __bool__(self) -> bool:
        return self._size > self.first_byte

    def _read(self, start: int, end: int) -> bytes:
        """Bytes `start` to `end`; reading moves no file position, so threads and forks may share it."""
        parts: list[bytes] = []
        while start < end:
            part = os.pread(self._file, end - start, start)
            if not part:
                raise OSError(
                    errno.EIO, f"{self.name!r} has become shorter since it was loaded; load it again"
                )
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _decode_all(self, data: bytes) -> str:
        return self._decode(data, "replace", True)[0]  # noqa: FBT003 - codecs take it by position

    def index_more(self) -> bool:
        """Index one more block; False at the end. Repeating a step is harmless, so threads need no lock."""
        number = len(self._bytes)
        start = self._bytes[number - 1]
        end = min(start + self._block_bytes, self._size)
        if start == end:
            return False
        data = self._read(start, end)
        if self._ascii_is_ascii and data.isascii():
            used = count = len(data)
        else:
            text, used = self._decode(data, "replace", end == self._size)
            count = len(text)
            self._all_ascii = False
            self._cached = (number - 1, text)
        self._chars[number : number + 1] = array("q", [self._chars[number - 1] + count])
        self._bytes[number : number + 1] = array("q", [start + used])
        return True

    def _block(self, number: int) -> str:
        cached, text = self._cached
        if cached != number:
            data = self._read(self._bytes[number], self._bytes[number + 1])
            text = self._decode_all(data)
            self._cached = (number, text)
        return text

    def _block_at(self, offset: int) -> int:
        """Number of the block that holds the character, or of the one after the last."""
        while self._chars[-1] <= offset and self.index_more():
            pass
        return bisect_right(self._chars, offset) - 1

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str]]:
        """Consecutive pieces of the text from `start` to `stop`, each with its offset."""
        for base, text, first, last in self._spans(start, stop):
            yield base + first, text[first:last]

    def _spans(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str, int, int]]:
        """As `pieces`, uncut: where each block starts, its text, and which part of that is meant."""
        number = self._block_at(start)
        while number + 1 < len(self._bytes) or self.index_more():
            base = self._chars[number]
            if stop is not None and base >= stop:
                return
            text = self._block(number)
            last = len(text) if stop is None else min(stop - base, len(text))
            yield base, text, min(max(start - base, 0), last), last
            number += 1

    def _pieces_backwards(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        for number in range(self._block_at(max(stop - 1, 0)), -1, -1):
            base = self._chars[number]
            if number + 1 < len(self._bytes) and base < stop:
                first = max(start - base, 0)
                yield base + first, self._block(number)[first : stop - base]
            if base <= start:
                return

    def clip(self, offset: int) -> int:
        """The offset, or the length where that is less; reads no further than it has to."""
        while self._chars[-1] < offset and self.index_more():
            pass
        return min(offset, self._chars[-1])

    def offset_of_byte(self, position: int) -> int:
        """Character offset of a byte position at which a character starts, as at the start of a line."""
        while self._bytes[-1] <= position and self.index_more():
            pass
        number = min(bisect_right(self._bytes, position), max(len(self._bytes) - 1, 1)) - 1
        byte, char = self._bytes[number], self._chars[number]
        if number + 1 < len(self._bytes) and self._bytes[number + 1] - byte == self._chars[number + 1] - char:
            return char + position - byte
        known, offset = self._byte_memo  # callers mostly go forward: count on from where the last one was
        if byte <= known <= position:
            byte, char = known, offset
        char += len(self._decode_all(self._read(byte, position)))
        self._byte_memo = (position, char)
        return char

    def line_at_byte(self, position: int) -> str:
        """The line of a UTF-8 text that starts at a byte position, without its newline.

        Characters are not counted up to there, as long as the line is no longer than a block.
        """
        start, data = self._line_window
        end = data.find(b"\n", position - start) if start <= position < start + len(data) else -1
        if end < 0:
            start = position
            data = self._read(start, min(start + min(LINE_WINDOW_BYTES, self._block_bytes), self._size))
            self._line_window = (start, data)
            end = data.find(b"\n")
        if end >= 0:
            return self._decode_all(data[position - start : end])
        return next((line for _, line in iter_lines(self, start=self.offset_of_byte(position))), "")

    def is_known_ascii(self) -> bool:
        """Whether all of the text has been seen and is ASCII. Reads nothing."""
        return self._all_ascii and self._bytes[-1] == self._size

    def reopen(self) -> int | None:
        """A descriptor of its own at the first character, for the caller to close, if it can be had."""
        try:
            descriptor = os.open(f"/proc/self/fd/{self._file}", os.O_RDONLY)
        except OSError:
            return None
        os.lseek(descriptor, self.first_byte, os.SEEK_SET)
        return descriptor

    def has_grown(self) -> bool:
        """Whether the file holds more by now than this document does."""
        return os.fstat(self._file).st_size > self._size

    def check_size(self) -> None:
        """Raises `OSError` when the file has become shorter than this document."""
        if self._size:
            self._read(self._size - 1, self._size)

    def line_start(self, line: int) -> int:
        """Offset at which a line (from 1) starts; the length when there are fewer."""
        before = max(line - 1, 0)
        while self._newlines[-1] < before and self._count_newlines():
            pass
        if before == 0 or self._newlines[-1] < before:
            return 0 if before == 0 else len(self)
        # The block before the first one that starts with this many newlines behind it.
        number = bisect_right(self._newlines, before - 1) - 1
        text, at = self._block(number), -1
        for _ in range(before - self._newlines[number]):
            at = text.index("\n", at + 1)
        return self._chars[number] + at + 1

    def newline_count(self) -> int:
        if self._all_newlines < 0:
            if self._ascii_is_ascii:
                self._all_newlines = sum(data.count(b"\n") for data in self._raw_blocks())
            else:
                self._all_newlines = sum(text.count("\n") for _, text in self.pieces())
        return self._all_newlines

    def _raw_blocks(self) -> Iterator[bytes]:
        for start in range(self.first_byte, self._size, self._block_bytes):
            yield self._read(start, min(start + self._block_bytes, self._size))

    def ends_with_newline(self) -> bool:
        if self._ascii_is_ascii:
            return self._size > self.first_byte and self._read(self._size - 1, self._size) == b"\n"
        return len(self) > 0 and self._block(len(self._bytes) - 2).endswith("\n")

    def count_all(self, sub: str) -> int:
        """How often a text that is not empty occurs, as `str.count` says; where it can, without decoding."""
        data = self._bytes_of(sub)
        if data is not None:
            return count_in(self._raw_blocks(), data)
        return count_in((text for _, text in self.pieces()), sub)

    def holds(self, sub: str) -> bool:
        """Whether a text occurs; where it can, without decoding."""
        data = self._bytes_of(sub)
        if data is not None:
            return is_in(self._raw_blocks(), data)
        return is_in((text for _, text in self.pieces()), sub)

    def _bytes_of(self, sub: str) -> bytes | None:
        """What stands for a text in the file, None where other bytes could too.

        What is valid in a UTF-8 file is decoded as itself whatever surrounds it.
        """
        if self._ascii_is_ascii and sub.isascii():
            return sub.encode()
        if self.is_utf8 and not any(char == "\ufffd" or "\ud800" <= char <= "\udfff" for char in sub):
            return sub.encode()
        return None

    def _count_newlines(self) -> bool:
        """As `index_more`, for the index of lines."""
        number = len(self._newlines) - 1
        if number + 1 >= len(self._bytes) and not self.index_more():
            return False
        if self._ascii_is_ascii:
            count = self._read(self._bytes[number], self._bytes[number + 1]).count(b"\n")
        else:
            count = self._block(number).count("\n")
        self._newlines[number + 1 : number + 2] = array("q", [self._newlines[number] + count])
        return True


def count_in(pieces: Iterator[AnyStr], sub: AnyStr) -> int:
    """How often `sub` occurs in what the pieces make together, as `str.count` has it."""
    total = 0
    rest = sub[:0]
    overlaps = any(sub.startswith(sub[start:]) for start in range(1, len(sub)))
    for piece in pieces:
        window = rest + piece
        if found := window.count(sub):
            total += found
            if overlaps:  # what overlaps an occurrence that has been counted does not count
                window = window.split(sub)[-1]
        rest = window[max(len(window) - len(sub) + 1, 0) :]
    return total


def is_in(pieces: Iterator[AnyStr], sub: AnyStr) -> bool:
    """Whether `sub` occurs in what the pieces make together."""
    rest = sub[:0]
    for piece in pieces:
        window = rest + piece
        if sub in window:
            return True
        rest = window[max(len(window) - len(sub) + 1, 0) :]
    return not sub


def text_pieces(
    text: str | BlockText, *, start: int = 0, piece_chars: int = 65_536
) -> Iterator[tuple[int, str]]:
    """The text from `start` in pieces with their offsets; those of a `BlockText` are its blocks."""
    if isinstance(text, BlockText):
        yield from text.pieces(start)
    else:
        for at in range(start, len(text), piece_chars):
            yield at, text[at : at + piece_chars]


def iter_lines(text: str | BlockText, *, start: int = 0) -> Iterator[tuple[int, str]]:
    """Offset and text of each line from offset `start`, cut at newlines only and without them.

    Raises `DocumentTooLargeError` for a line of a `BlockText` that does not fit one `str`.
    """
    parts: list[str] = []
    line_at, length = start, 0
    for _, piece in text_pieces(text, start=start):
        head, *rest = piece.split("\n")
        parts.append(head)
        length += len(head)
        if isinstance(text, BlockText) and length > text.str_limit_bytes:
            raise DocumentTooLargeError(
                f"the line at offset {line_at:,} of {text.name!r} does not fit one str: "
                "use chunks(by='chars') or document.finditer"
            )
        if not rest:
            continue
        yield line_at, "".join(parts)
        line_at += length + 1
        for line in rest[:-1]:
            yield line_at, line
            line_at += len(line) + 1
        parts, length = [rest[-1]], len(rest[-1])
    if length:
        yield line_at, "".join(parts)


def clip(text: str | BlockText, offset: int) -> int:
    """The offset, or the length of the text where that is less."""
    return text.clip(offset) if isinstance(text, BlockText) else min(offset, len(text))
