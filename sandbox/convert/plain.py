"""Plain text in any encoding, from a file or a stream, decoded in pieces. It changes no line ends.

Which encoding a text is in `rlm.text_probe` tells from samples; they are taken here.
"""

import codecs
import os
import re
from typing import Protocol

from rlm.text_probe import SAMPLE_BYTES, probe
from sandbox.convert.output import ConvertError, Item, Output, Write

BLOCK_BYTES = 256 * 1024
AHEAD_BYTES = 4 * 1024 * 1024
"""How far into a stream that begins in ASCII the first other character is looked for."""

_NO_FILES = ("idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined")
"""What stands for text inside other text; punycode takes as long as its length squared."""
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_ILLEGIBLE = re.compile(r"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffd]")


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Peekable:
    """A stream whose beginning can be looked at before it is read."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._held = b""

    def peek(self, size: int = SAMPLE_BYTES) -> bytes:
        """The next `size` bytes, or as many as there are; they stay to be read."""
        pieces, count = [self._held], len(self._held)
        while count < size and (piece := self._stream.read(size - count)):
            pieces.append(piece)
            count += len(piece)
        self._held = b"".join(pieces)
        return self._held[:size]

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none only at the end."""
        if not self._held:
            return self._stream.read(size)
        data, self._held = self._held[:size], self._held[size:]
        return data


def require_codec(encoding: str) -> None:
    """Raises `ConvertError` for a name that stands for no encoding of text."""
    try:
        if codecs.lookup(encoding).name in _NO_FILES:
            raise LookupError
        b" ".decode(encoding, "replace")
        codecs.getincrementaldecoder(encoding)("replace").decode(b" ", final=True)
    except (LookupError, ValueError):  # unknown, not of text, or one that cannot go on after invalid bytes
        raise ConvertError(
            f"cannot be decoded: {encoding!r} is no text encoding of Python's, such as cp1252 or shift_jis"
        ) from None


def encoding_of(stream: Peekable, *, named: str = "", later: tuple[bytes, ...] = ()) -> str:
    """The encoding of the text in a stream: the one that was named if it makes sense, else what is found.

    `later` are samples from further on, where those can be had. Raises `NotText`.
    """
    head = stream.peek(SAMPLE_BYTES)
    if named and _is_legible(head, named):
        return named
    whole = len(head) < SAMPLE_BYTES
    if not whole and not later and head.isascii():
        ahead = stream.peek(AHEAD_BYTES)
        found = _BEYOND_ASCII.search(ahead)
        later = (ahead[found.start() : found.start() + SAMPLE_BYTES],) if found else ()
    return probe(head, later=later, whole=whole).encoding


def _is_legible(head: bytes, encoding: str) -> bool:
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    return len(_ILLEGIBLE.findall(text)) * 50 <= len(text)


def write_decoded(stream: Readable, encoding: str, write: Write) -> int:
    """Write the text of a stream without its byte order mark; bytes that are not valid become U+FFFD.

    Returns how many U+FFFD it has.
    """
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    mark, replaced = "\ufeff", 0
    while data := stream.read(BLOCK_BYTES):
        if text := decoder.decode(data):
            write(text.removeprefix(mark))
            replaced += text.count("\ufffd")
            mark = ""
    write(rest := decoder.decode(b"", final=True))
    return replaced + rest.count("\ufffd")


def note_replaced(output: Output, count: int, encoding: str, *, name: str = "") -> None:
    """Tell the user of characters that could not be decoded, if there are any."""
    if count:
        where = f"{name} has" if name else "it has"
        output.note(f"{where} {count:,} characters U+FFFD, which stand for what is not valid {encoding}")


def convert_plain(item: Item, output: Output) -> None:
    """One part of a file that is plain text. Raises `NotText` when it is not, and no encoding was named."""
    with open(item.path, "rb") as file:
        stream = Peekable(file)
        encoding = item.encoding or encoding_of(stream, later=_samples(file.fileno()))
        with output.part(kind=item.kind, encoding=encoding) as part:
            replaced = write_decoded(stream, encoding, part.write)
        note_replaced(output, replaced, encoding)


def _samples(descriptor: int) -> tuple[bytes, ...]:
    """From the middle and the end of a file, at offsets where UTF-16 and UTF-32 begin a character."""
    size = os.fstat(descriptor).st_size
    if size <= SAMPLE_BYTES:
        return ()
    return tuple(
        os.pread(descriptor, SAMPLE_BYTES, offset & ~3) for offset in (size // 2, max(0, size - SAMPLE_BYTES))
    )
