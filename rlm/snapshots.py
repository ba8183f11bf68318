"""The file of one snapshot: how it is written, what can be told of it, and whether it is intact.

The file: magic with the version, the header as a JSON line, the payload, and a footer with the payload's
length and SHA-256 and a CRC-32 of all that is not payload. The payload is opaque: it comes from the
container and goes back to it. Which snapshots are kept or used is `rlm.state`'s business.
"""

import errno
import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from rlm.errors import StateError
from rlm.log import NewFile, file_error, open_regular
from rlm.records import parse

_MAGIC = b"rlm-snapshot 1\n"
_OTHER_VERSION = re.compile(rb"rlm-snapshot \d+\n")
_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 1024 * 1024
_FOOTER = struct.Struct(">8sQ32s")
_FOOTER_MAGIC = b"\nrlm-end"
_CRC = struct.Struct(">I")
_FOOTER_BYTES = _FOOTER.size + _CRC.size


class Damaged(StateError):
    """A snapshot that cannot be used, now or later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotHeader:
    """What is known of a snapshot before its bytes. `created` is ISO 8601, `python` as in "3.11"."""

    generation: int
    created: str
    turn: int
    python: str
    image: str
    protocol: int
    dill: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """A snapshot on disk. Size and checksum are those of its payload, which begins at `offset`."""

    path: Path
    header: SnapshotHeader
    offset: int
    size_bytes: int
    sha256: str


class SnapshotWriter:
    """Takes a snapshot in chunks, in whatever size they come; begun by `State.new_snapshot`."""

    def __init__(self, path: Path, header: SnapshotHeader, *, committed: Callable[[], None]) -> None:
        self._header = header
        self._committed = committed
        self._head = _MAGIC + json.dumps(asdict(header)).encode() + b"\n"
        self._digest = hashlib.sha256()
        self._file = NewFile(path)
        self._file.write(self._head)

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes - len(self._head)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, chunk: bytes | memoryview) -> None:
        """Raises `StateError`; the snapshot is then aborted."""
        self._file.write(chunk)
        self._digest.update(chunk)

    def commit(self) -> SnapshotInfo:
        """Return once it is safely on disk, and remove generations that nobody needs any more."""
        info = SnapshotInfo(
            path=self._file.path,
            header=self._header,
            offset=len(self._head),
            size_bytes=self.size_bytes,
            sha256=self.sha256,
        )
        self._file.write(_footer(self._head, info.size_bytes, self._digest.digest()))
        self._file.commit()
        self._committed()
        return info

    def abort(self) -> None:
        """Leave nothing behind. Does nothing after `commit`."""
        self._file.abort()


def _footer(head: bytes, size_bytes: int, digest: bytes) -> bytes:
    footer = _FOOTER.pack(_FOOTER_MAGIC, size_bytes, digest)
    return footer + _CRC.pack(zlib.crc32(head + footer))


def inspect(path: Path) -> SnapshotInfo | None:
    """Read all of a snapshot but its payload. None when a later version wrote it.

    Raises `Damaged`, or `OSError` when the file cannot be read at present.
    """
    with _open_snapshot(path) as file:
        beginning = file.read(_HEAD_BYTES)
        size_bytes = os.fstat(file.fileno()).st_size
        footer = os.pread(file.fileno(), _FOOTER_BYTES, max(size_bytes - _FOOTER_BYTES, 0))
    if not beginning.startswith(_MAGIC):
        if _OTHER_VERSION.match(beginning):
            return None
        raise _damaged(path, "It does not begin like one.")
    offset = beginning.find(b"\n", len(_MAGIC)) + 1
    payload_bytes = size_bytes - offset - _FOOTER_BYTES
    head, digest = beginning[:offset], footer[16:48]
    if not offset or payload_bytes < 0 or footer != _footer(head, payload_bytes, digest):
        raise _damaged(path, "It is cut short, or its header is damaged.")
    try:
        header = parse(SnapshotHeader, json.loads(head[len(_MAGIC) :]))
    except (TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, "Its header makes no sense.") from error
    if path.name != file_name(header.generation):
        raise _damaged(path, f"It is generation {header.generation} under another name.")
    return SnapshotInfo(
        path=path, header=header, offset=offset, size_bytes=payload_bytes, sha256=digest.hex()
    )


def payload(info: SnapshotInfo) -> Iterator[bytes]:
    """The payload in chunks; raises `Damaged` at the end when it was not what the footer says."""
    digest, left = hashlib.sha256(), info.size_bytes
    try:
        with _open_snapshot(info.path) as file:
            file.seek(info.offset)
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise file_error("read", info.path, error) from error
    if left or digest.hexdigest() != info.sha256:
        raise _damaged(info.path, "Its content does not match its checksum.")


def _open_snapshot(path: Path) -> BinaryIO:
    try:
        return os.fdopen(open_regular(path, os.O_RDONLY), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _damaged(path, "It is not a regular file.") from error
        raise


def file_name(generation: int) -> str:
    return f"{generation:06d}.snap"


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(f"The snapshot {path} cannot be used.", why, hint="The one before it is used instead.")
