"""The text of a file as the host describes it: opened, decoded, in pieces.

`open_file` gives a file that can be read from anywhere: the document's own, or for text in a code without
fixed borders an unlinked temporary copy as UTF-8. Nothing else is ever written. It does not detect encodings
(the host sends them in the `DocumentSpec`), reads no format but text, and keeps no text.
"""

import codecs
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from rlm.text_probe import reads_in_place

BLOCK_BYTES = 64 * 1024
"""Small enough for the allocator to use the same memory again: twice as fast as blocks of 256 KiB."""

Decode = Callable[[bytes, str, bool], tuple[str, int]]
"""Data, error handler and whether this is the end, to text and bytes used: a cut character is not used."""


class DocumentTooLargeError(MemoryError):
    """A piece of text was asked for that is larger than the sandbox holds as one `str`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSpec:
    """A document as the host describes it: its text is mounted at `path`; `source` is its path on the host.

    `encoding` is a Python codec name, `kind` a key of `rlm.formats.FORMATS`: that of the file, not of the
    text made of it. `original` is where that file itself is mounted when `path` is not it, else empty. `mark`
    is what lines such as `[page 3 of 12]` divide the text into (`page`), empty when nothing does. `lines` is
    how many lines the text has, -1 while that is not known.
    """

    name: str
    path: str
    source: str
    size_bytes: int
    mtime_ns: int
    encoding: str = "utf-8"
    kind: str = "text"
    original: str = ""
    mark: str = ""
    lines: int = -1

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "DocumentSpec":
        """Raises `ValueError` for a missing, unknown or mistyped field."""
        for field in fields(cls):
            if field.name in obj and type(obj[field.name]) is not field.type:
                raise ValueError(f"document spec: {field.name} is not of type {field.type}")
        try:
            return cls(**obj)
        except TypeError as error:
            raise ValueError(f"document spec: {error}") from None


def byte_order_mark(encoding: str) -> bytes:
    """The byte order mark that is no part of the text."""
    name = codecs.lookup(encoding).name
    if name == "utf-8-sig":
        return codecs.BOM_UTF8
    return "\ufeff".encode(name) if name.startswith(("utf-16-", "utf-32-")) else b""


def decoder_of(encoding: str) -> Decode:
    """How to decode a block on its own, for codecs that `reads_in_place` allows."""
    match codecs.lookup(encoding).name:
        case "utf-8" | "utf-8-sig":
            return codecs.utf_8_decode
        case "utf-16-le":
            return codecs.utf_16_le_decode
        case "utf-16-be":
            return codecs.utf_16_be_decode
    decode = codecs.getdecoder(encoding)
    return lambda data, errors, _final: decode(data, errors)


def must_be_copied(spec: DocumentSpec) -> bool:
    """Whether text cannot be read from the middle of the file."""
    codecs.lookup(spec.encoding)
    return not reads_in_place(spec.encoding)


def open_file(spec: DocumentSpec) -> tuple[int, int, str]:
    """Descriptor, size in bytes and encoding of a file that can be read from anywhere."""
    if must_be_copied(spec):
        return _copy(spec)
    descriptor = os.open(spec.path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    if size < spec.size_bytes:
        os.close(descriptor)
        raise OSError(errno.EIO, f"{spec.name!r} has become shorter since it was registered; load it again")
    return descriptor, spec.size_bytes, codecs.lookup(spec.encoding).name


def _copy(spec: DocumentSpec) -> tuple[int, int, str]:
    """Decode a document into an unlinked temporary file, as UTF-8."""
    try:
        with tempfile.TemporaryFile(prefix="document-") as file:
            for text in decode_pieces(spec):
                file.write(text.encode())
            file.flush()
            return os.dup(file.fileno()), os.fstat(file.fileno()).st_size, "utf-8"
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DocumentTooLargeError(
            f"the text of {spec.name!r} fits neither memory nor {tempfile.gettempdir()}: "
            "let the user load it again with its encoding named (--encoding), which makes UTF-8 of it once"
        ) from None


def decode_pieces(spec: DocumentSpec) -> Iterator[str]:
    """The text of any document, from its start, in pieces."""
    decoder = codecs.getincrementaldecoder(spec.encoding)("replace")
    skip = "\ufeff" if byte_order_mark(spec.encoding) else ""
    with open(spec.path, "rb") as file:
        while data := file.read(BLOCK_BYTES):
            text = decoder.decode(data)
            yield text.removeprefix(skip)
            skip = "" if text else skip
        yield decoder.decode(b"", final=True)


def join_within(pieces: Iterator[str], limit_bytes: int) -> str | None:
    """The pieces as one `str`, or None as soon as it would take more than the limit."""
    kept: list[str] = []
    chars, width = 0, 1
    for piece in pieces:
        kept.append(piece)
        chars += len(piece)
        width = max(width, _char_width(piece))
        if chars * width > limit_bytes:
            return None
    return "".join(kept)


def _char_width(text: str) -> int:
    """Bytes that CPython keeps for each character of this text."""
    if text.isascii():
        return 1
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return 2 if len(text.encode("utf-16-le")) == 2 * len(text) else 4
    return 1
