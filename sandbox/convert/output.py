"""What converters are asked for and where their texts go. It knows no format and sends nothing itself."""

import errno
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

from rlm.text_probe import NotText
from sandbox.documents import human_size

Write = Callable[[str], None]

PIECE_BYTES = 64 * 1024
"""How much of a text is gathered before it is passed on."""
SLICE_CHARS = 1024 * 1024
"""How much of what is written at once is encoded at once."""
MAX_REASON_CHARS = 300
MAX_NOTES = 5

_SURROGATES = re.compile("[\ud800-\udfff]")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ConvertError(Exception):
    """Why a file cannot be read, as what follows its name: "is encrypted: remove the password"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A file to make text of. `path` is where it is mounted, `name` the document's name.

    `kind` is a key of `rlm.formats.FORMATS`, `encoding` the codec that the user named, empty to detect it.
    `max_bytes` is how much text, as UTF-8, may come of it.
    """

    path: str
    name: str
    kind: str
    encoding: str
    max_bytes: int

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "Item":
        """Raises `ValueError` for a missing, unknown or mistyped field."""
        for field in fields(cls):
            if field.name in obj and type(obj[field.name]) is not field.type:
                raise ValueError(f"item: {field.name} is not of type {field.type}")
        try:
            return cls(**obj)
        except TypeError as error:
            raise ValueError(f"item: {error}") from None


class PartSink(Protocol):
    """Takes in the UTF-8 of one part."""

    def write(self, piece: bytes, /) -> None: ...

    def close(self) -> None: ...


class Sink(Protocol):
    """Takes in the parts of one item, one after the other."""

    def begin(self, name: str, kind: str, encoding: str, /) -> PartSink: ...

    def skipped(self, name: str, reason: str, /) -> None: ...


class Output:
    """The texts of one item, on their way to a sink."""

    def __init__(self, sink: Sink, *, max_bytes: int = sys.maxsize) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self._sent_bytes = 0
        self._notes: list[str] = []
        self.parts = 0
        """How many parts were begun."""
        self.full = False
        """Whether the item became more text than it may."""

    @contextmanager
    def part(
        self, name: str = "", *, kind: str, encoding: str = "", held_bytes: int = PIECE_BYTES
    ) -> Iterator["Part"]:
        """A part to write to. `name` is its path in an archive, empty for a file that is one text.

        It reaches the sink once `held_bytes` are written, or at the end. If an error ends the block before
        that, the sink never learns of it; after that `Part.begun` is true.
        """
        part = Part(self, name, kind=kind, encoding=encoding, held_bytes=held_bytes)
        try:
            yield part
            part.flush()
        finally:
            part.close()

    def skip(self, name: str, reason: str) -> None:
        """Something in an archive was left out, for a reason that follows its name: "is a PNG image"."""
        self._sink.skipped(name, reason[:MAX_REASON_CHARS])

    def note(self, text: str) -> None:
        """Something the user should know of a text that was made. All but the first five are dropped."""
        if len(self._notes) < MAX_NOTES:
            self._notes.append(text)

    @property
    def notes(self) -> str:
        return "; ".join(self._notes)

    def begin(self, name: str, kind: str, encoding: str) -> PartSink:
        """For `Part`: announce one to the sink."""
        self.parts += 1
        return self._sink.begin(name, kind, encoding)

    def count(self, held_bytes: int, *, sent: bool = False) -> None:
        """For `Part`: raise `ConvertError` if so many bytes more are too many; remember them once `sent`."""
        if self._sent_bytes + held_bytes > self._max_bytes:
            self.full = True
            raise ConvertError(
                f"unpacks to more than {human_size(self._max_bytes)}, "
                "which is the bound of the cache (sandbox.cache in config.json)"
            )
        self._sent_bytes += held_bytes if sent else 0


class Part:
    """A text as it is made. `blank` tells that nothing but white space was written to it."""

    def __init__(self, output: Output, name: str, *, kind: str, encoding: str, held_bytes: int) -> None:
        self._output = output
        self._announcement = (name, kind, encoding)
        self._held_bytes = held_bytes
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._sink: PartSink | None = None
        self.blank = True

    @property
    def begun(self) -> bool:
        return self._sink is not None

    def write(self, text: str) -> None:
        """Append to the text. Raises `ConvertError` when the item becomes more than it may."""
        self.blank = self.blank and (not text or text.isspace())
        for start in range(0, len(text), SLICE_CHARS):
            piece = _utf8(text[start : start + SLICE_CHARS])
            self._pieces.append(piece)
            self._size_bytes += len(piece)
            self._output.count(self._size_bytes)
            if self._size_bytes >= (PIECE_BYTES if self.begun else self._held_bytes):
                self.flush()

    def flush(self) -> None:
        """Pass on what is held, to begin with the announcement of the part."""
        self._output.count(self._size_bytes, sent=True)
        if self._sink is None:
            self._sink = self._output.begin(*self._announcement)
        pieces, self._pieces, self._size_bytes = self._pieces, [], 0
        if pieces:
            self._sink.write(b"".join(pieces))

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text).encode()


@contextmanager
def as_convert_error(label: str) -> Iterator[None]:
    """Turn whatever reading a file raises into a `ConvertError`. `label` is what it was read as."""
    try:
        yield
    except ConvertError:
        raise
    except Exception as error:
        raise ConvertError(_sentence(error, label)) from error


def _sentence(error: Exception, label: str) -> str:
    match error:
        case NotText():
            return f"is {error.kind}. {error.hint}" if error.hint else f"is {error.kind}"
        case MemoryError():
            return "needs more memory than the sandbox has: raise sandbox.memory in config.json, or split it"
        case RecursionError():
            return f"is nested too deeply to be read as {label}"
        case EOFError():
            return f"ends too early: as {label} it is incomplete or damaged"
        case OSError() if error.errno in _FULL:
            return "does not fit into the sandbox's /tmp when unpacked: unpack it and load it by itself"
        case OSError() if error.errno not in (None, errno.EINVAL):
            return f"cannot be read: {error.strerror}"
    detail = " ".join(str(error).split())[:MAX_REASON_CHARS] or type(error).__name__
    return f"cannot be read as {label}, it may be damaged or incomplete: {detail}"
