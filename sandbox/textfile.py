"""The text of a file as the host describes it: opened, decompressed, decoded, in pieces.

`open_file` gives a file that can be read from anywhere: the document's own, or for text that is compressed
or in a code without fixed borders an unlinked temporary copy as UTF-8. Nothing else is ever written. It does
not detect encodings or compression (the host sends both in the `DocumentSpec`), nor does it keep any text.
"""

import bz2
import codecs
import errno
import gzip
import importlib
import lzma
import os
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

BLOCK_BYTES = 256 * 1024

Decode = Callable[[bytes, str, bool], tuple[str, int]]
"""Data, error handler and whether this is the end, to text and bytes used: a cut character is not used."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class DocumentTooLargeError(MemoryError):
    """A piece of text was asked for that is larger than the sandbox holds as one `str`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSpec:
    """A document as the host describes it. `path` is where it is mounted, `source` the path on the host.

    `encoding` is a Python codec name, `compression` one of "", "gz", "bz2", "xz", "zst".
    """

    name: str
    path: str
    source: str
    size_bytes: int
    mtime_ns: int
    encoding: str = "utf-8"
    compression: str = ""

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
    """How to decode a block on its own. Raises `LookupError` for codecs that need all that came before."""
    match codecs.lookup(encoding).name:
        case "utf-8" | "utf-8-sig":
            return codecs.utf_8_decode
        case "utf-16-le":
            return codecs.utf_16_le_decode
        case "utf-16-be":
            return codecs.utf_16_be_decode
    decode = codecs.getdecoder(encoding)
    if len(decode(bytes(range(256)), "replace")[0]) != 256:
        raise LookupError(f"{encoding} is not a code of one byte a character")
    return lambda data, errors, _final: decode(data, errors)


def must_be_copied(spec: DocumentSpec) -> bool:
    """Whether text cannot be read from the middle of the file."""
    codecs.lookup(spec.encoding)
    try:
        decoder_of(spec.encoding)
    except LookupError:
        return True
    return bool(spec.compression)


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
            "decompress it on the host (as UTF-8) and load that file"
        ) from None


def decode_pieces(spec: DocumentSpec) -> Iterator[str]:
    """The text of any document, from its start, in pieces."""
    decoder = codecs.getincrementaldecoder(spec.encoding)("replace")
    skip = "\ufeff" if byte_order_mark(spec.encoding) else ""
    try:
        with _decompressed(spec) as file:
            while data := file.read(BLOCK_BYTES):
                text = decoder.decode(data)
                yield text.removeprefix(skip)
                skip = "" if text else skip
            yield decoder.decode(b"", final=True)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file could not be read; a damaged one has no errno
        raise OSError(errno.EIO, f"{spec.name!r} cannot be decompressed: {error}") from error


def _decompressed(spec: DocumentSpec) -> AbstractContextManager[Readable]:
    match spec.compression:
        case "":
            return open(spec.path, "rb")
        case "gz":
            return gzip.open(spec.path)
        case "bz2":
            return bz2.open(spec.path)
        case "xz":
            return lzma.open(spec.path)
        case "zst":
            return _zstd(spec)
        case other:
            raise OSError(errno.EINVAL, f"{spec.name!r}: unknown compression {other!r}")


@contextmanager
def _zstd(spec: DocumentSpec) -> Iterator[Readable]:
    """Through the standard library where it can (Python 3.14), else through the program `zstd`."""
    try:
        module = importlib.import_module("compression.zstd")
    except ImportError:
        command = ["zstd", "-dcq", "--", spec.path]
    else:
        with module.open(spec.path) as file:
            yield file
        return
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        message = f"{spec.name!r}: reading .zst needs the program zstd; decompress it on the host"
        raise OSError(errno.ENOSYS, message) from None
    with process:
        assert process.stdout is not None
        yield process.stdout
    if process.returncode:
        raise OSError(errno.EIO, f"{spec.name!r} cannot be decompressed: it is damaged or not zstd")


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
