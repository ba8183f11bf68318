"""The file of one snapshot: how it is written, what can be told of it, and whether it is intact.

The file: magic with the version, the header as a JSON line, the payload, the blobs it needs (digest and
size of each), and a footer with the payload's length and SHA-256, how many blobs there are, and a CRC-32 of
all that is not payload. Version 1 had no blobs. The payload is opaque: it comes from the container and goes
back to it. Which snapshots are kept or used is `rlm.state`'s business.
"""

import errno
import hashlib
import json
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from rlm.errors import StateError
from rlm.log import NewFile, file_error, open_regular
from rlm.protocol import MAX_BLOBS, ProtocolError
from rlm.records import parse

LIMIT_BYTES = 16 * 1024**3

_MAGIC = b"rlm-snapshot 2\n"
_MAGIC_1 = b"rlm-snapshot 1\n"
_VERSION = re.compile(rb"rlm-snapshot (\d{1,9})\n")
_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 1024 * 1024
_BLOB = struct.Struct(">32sQ")
_COUNT = struct.Struct(">I")
_FOOTER = struct.Struct(">8sQ32s")
"""A magic, the payload's length and its SHA-256."""
_FOOTER_MAGIC = b"\nrlm-end"
_CRC = struct.Struct(">I")


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
    """A snapshot on disk. Size and checksum are those of its payload, which begins at `offset`.

    `blobs` are digest and size of each blob that it needs beside that.
    """

    path: Path
    header: SnapshotHeader
    offset: int
    size_bytes: int
    sha256: str
    blobs: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return f"Snapshot {self.header.generation} (turn {self.header.turn})"


class SnapshotWriter:
    """Takes a snapshot in chunks, in whatever size they come; begun by `State.new_snapshot`.

    `write` may be called on another thread than the rest.
    """

    def __init__(
        self,
        path: Path,
        header: SnapshotHeader,
        *,
        committed: Callable[[], None],
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._header = header
        self._committed = committed
        self._limit_bytes = limit_bytes
        self._head = _MAGIC + json.dumps(asdict(header)).encode() + b"\n"
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._aborted = False
        self._file = NewFile(path)
        self._file.write(self._head)

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes - len(self._head)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, chunk: bytes | memoryview) -> None:
        """Does nothing once it was aborted. Raises `StateError`, and the snapshot is then aborted.

        Raises `ProtocolError` for more than `limit_bytes`.
        """
        with self._lock:
            if self._aborted:
                return
            if self.size_bytes + len(chunk) > self._limit_bytes:
                raise ProtocolError("snapshot: more than was asked for")
            self._file.write(chunk)
            self._digest.update(chunk)

    def commit(self, blobs: Sequence[tuple[str, int]] = ()) -> SnapshotInfo:
        """Return once it is safely on disk, and remove generations that nobody needs any more.

        `blobs` are digest and size of each blob that it needs: they must be there already.
        """
        info = SnapshotInfo(
            path=self._file.path,
            header=self._header,
            offset=len(self._head),
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            blobs=tuple(blobs),
        )
        listed = b"".join(_BLOB.pack(bytes.fromhex(digest), size_bytes) for digest, size_bytes in blobs)
        footer = _FOOTER.pack(_FOOTER_MAGIC, info.size_bytes, self._digest.digest())
        self._file.write(_sealed(self._head, listed + _COUNT.pack(len(blobs)) + footer))
        self._file.commit()
        self._committed()
        return info

    def abort(self) -> None:
        """Leave nothing behind. Does nothing after `commit`."""
        with self._lock:
            self._aborted = True
            self._file.abort()


def _sealed(head: bytes, tail: bytes) -> bytes:
    """What follows the payload, with the checksum of all around it."""
    return tail + _CRC.pack(zlib.crc32(head + tail))


def inspect(path: Path) -> SnapshotInfo | None:
    """Read all of a snapshot but its payload. None when a later version wrote it.

    Raises `Damaged`, or `OSError` when the file cannot be read at present.
    """
    with _open_snapshot(path) as file:
        beginning = file.read(_HEAD_BYTES)
        if not beginning.startswith((_MAGIC, _MAGIC_1)):
            if (other := _VERSION.match(beginning)) and int(other[1]) > 2:
                return None
            raise _damaged(path, "It does not begin like one.")
        offset = beginning.find(b"\n", len(_MAGIC)) + 1
        tail = _tail(file, os.fstat(file.fileno()).st_size - offset, old=beginning.startswith(_MAGIC_1))
    if not offset or tail is None or tail.sealed != _sealed(beginning[:offset], tail.sealed[: -_CRC.size]):
        raise _damaged(path, "It is cut short, or its header is damaged.")
    try:
        header = parse(SnapshotHeader, json.loads(beginning[len(_MAGIC) : offset]))
    except (TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, "Its header makes no sense.") from error
    if path.name != file_name(header.generation):
        raise _damaged(path, f"It is generation {header.generation} under another name.")
    return SnapshotInfo(
        path=path,
        header=header,
        offset=offset,
        size_bytes=tail.payload_bytes,
        sha256=tail.sha256,
        blobs=tail.blobs,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tail:
    """What follows the payload: as it stands in the file, and what it says."""

    sealed: bytes
    payload_bytes: int
    sha256: str
    blobs: tuple[tuple[str, int], ...]


def _tail(file: BinaryIO, after_head_bytes: int, *, old: bool) -> _Tail | None:
    """The tail of a file that has so many bytes after its head; None when it cannot be one.

    `old`: of version 1, where nothing stands before the magic.
    """
    count_bytes = 0 if old else _COUNT.size
    fixed_bytes = count_bytes + _FOOTER.size + _CRC.size
    if after_head_bytes < fixed_bytes:
        return None
    file.seek(-fixed_bytes, os.SEEK_END)
    fixed = file.read(fixed_bytes)
    (count,) = (0,) if old else _COUNT.unpack_from(fixed)
    magic, payload_bytes, digest = _FOOTER.unpack_from(fixed, count_bytes)
    listed_bytes = count * _BLOB.size
    if (
        magic != _FOOTER_MAGIC
        or count > MAX_BLOBS
        or payload_bytes + listed_bytes + fixed_bytes != after_head_bytes
    ):
        return None
    file.seek(-fixed_bytes - listed_bytes, os.SEEK_END)
    listed = file.read(listed_bytes)
    if len(listed) != listed_bytes:
        return None
    blobs = tuple((digest.hex(), size_bytes) for digest, size_bytes in _BLOB.iter_unpack(listed))
    return _Tail(sealed=listed + fixed, payload_bytes=payload_bytes, sha256=digest.hex(), blobs=blobs)


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
