"""Large values of the namespace, each in a file of its own that is named by the SHA-256 of its bytes.

A value that several snapshots hold is here once. What the bytes mean is for the container to know, and
which blobs are still needed for `rlm.state`.
"""

import contextlib
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Collection, Iterable
from pathlib import Path

from rlm.errors import StateError
from rlm.log import file_error, open_regular, sync_folder, write_all, writing
from rlm.protocol import MAX_BLOBS, ProtocolError

DIGEST = "[0-9a-f]" * 64
"""The name of a blob, as a pattern for `glob`."""
_OURS = re.compile(r"([0-9a-f]{64})(\.corrupt)?")
_READ_BYTES = 1024 * 1024


class Blobs:
    """The blobs in `folder`, which need not be there to be asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sizes(self) -> dict[str, int]:
        """The blobs that are there: size in bytes by digest. Raises `StateError`."""
        return {name: size_bytes for name, size_bytes in self._files() if len(name) == 64}

    def begin(self, *, limit_bytes: int) -> "Arriving":
        """Take in the blobs of one snapshot, of at most `limit_bytes` together. The folder must be there."""
        return Arriving(self.folder, limit_bytes=limit_bytes)

    def require(self, blobs: Iterable[tuple[str, int]]) -> None:
        """Raise `StateError` unless all of these (digest, size) are there, each of its size."""
        there = self.sizes()
        missing = sum(there.get(digest) != size_bytes for digest, size_bytes in blobs)
        if missing:
            raise StateError(f"{missing:,} values are missing from {self.folder}.")

    def set_aside_damaged(self, digests: Iterable[str]) -> list[str]:
        """Read these blobs, and rename to `*.corrupt` those whose bytes are not what their names say.

        Returns their digests: they are not there any more, so that the next snapshot brings them again.
        """
        there = self.sizes()
        damaged = [
            digest for digest in digests if digest in there and _digest(self.folder / digest) != digest
        ]
        for digest in damaged:
            path = self.folder / digest
            with contextlib.suppress(OSError):
                path.rename(path.with_name(f"{digest}.corrupt"))
        return damaged

    def collect(self, keep: Collection[str]) -> None:
        """Remove all blobs but these, and what was set aside. What cannot be removed stays."""
        with contextlib.suppress(StateError):
            for name, _ in list(self._files()):
                if name not in keep:
                    with contextlib.suppress(OSError):
                        (self.folder / name).unlink()

    def _files(self) -> list[tuple[str, int]]:
        """Name and size of each regular file that is ours, those set aside too; none behind a link."""
        if self.folder.is_symlink():
            return []
        try:
            with os.scandir(self.folder) as listing:
                return [
                    (found.name, found.stat(follow_symlinks=False).st_size)
                    for found in listing
                    if _OURS.fullmatch(found.name) and found.is_file(follow_symlinks=False)
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise file_error("read", self.folder, error) from error


class Arriving:
    """The blobs that come with one snapshot, one after the other; none of them is there before `commit`.

    `sink` and what it gives are called on the thread that reads the stream, the rest on any other. A disk
    that is full is no fault of the sender's: what comes is dropped then, and `commit` raises the error.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder = folder
        self._left_bytes = limit_bytes
        self._lock = threading.Lock()
        self._open: _BlobFile | None = None
        self._whole: dict[str, _BlobFile] = {}
        self._error: StateError | None = None
        self._over = False

    def sink(self, digest: str) -> "BlobSink":
        """A place for the bytes of a blob. Raises `ProtocolError` for one that cannot be.

        One that was begun before and is not whole is dropped: the sender failed at it.
        """
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ProtocolError("blob: not a digest")
        with self._lock:
            self._drop_open()
            if len(self._whole) >= MAX_BLOBS:
                raise ProtocolError("blob: too many")
            if not self._over and digest not in self._whole:
                try:
                    self._open = _BlobFile(self._folder, digest)
                except StateError as error:
                    self._give_up(error)
            return BlobSink(self, self._open)

    def commit(self, needed: Collection[str]) -> int:
        """Put what came of `needed` in its place, durably; returns the bytes that were written.

        The rest is dropped. Raises `StateError`; what is in its place by then stays, for it is whole.
        """
        with self._lock:
            self._over = True
            if self._error:
                raise self._error
            arrived = [file for digest, file in self._whole.items() if digest in needed]
        written_bytes = 0
        try:
            for file in arrived:
                written_bytes += file.put_in_place()
            if arrived:
                with writing(self._folder):
                    sync_folder(self._folder)
        finally:
            self.abort()
        return written_bytes

    def abort(self) -> None:
        """Leave nothing behind that has not been put in its place. What still comes is dropped."""
        with self._lock:
            self._over = True
            self._remove()

    def _write(self, file: "_BlobFile | None", data: bytes) -> None:
        with self._lock:
            self._left_bytes -= len(data)
            if self._left_bytes < 0:
                raise ProtocolError("blob: more than was asked for")
            if file and file is self._open:
                try:
                    file.write(data)
                except StateError as error:
                    self._give_up(error)

    def _end(self, file: "_BlobFile | None") -> None:
        with self._lock:
            if file is None or file is not self._open:
                return
            if not file.is_as_named:
                self._drop_open()
                raise ProtocolError("blob: its bytes are not those of its digest")
            file.close()
            self._open = None
            self._whole[file.digest] = file

    def _give_up(self, error: StateError) -> None:
        """Make room at once: a full disk may be needed for something better."""
        self._over, self._error = True, error
        self._remove()

    def _remove(self) -> None:
        self._drop_open()
        for file in self._whole.values():
            file.remove()
        self._whole.clear()

    def _drop_open(self) -> None:
        if self._open:
            self._open.close()
            self._open.remove()
            self._open = None


class BlobSink:
    """A place for one blob on its way in."""

    def __init__(self, arriving: Arriving, file: "_BlobFile | None") -> None:
        self._arriving = arriving
        self._file = file

    def write(self, data: bytes) -> None:
        self._arriving._write(self._file, data)

    def check(self) -> None:
        """All has come. Raises `ProtocolError` when it is not what the digest says."""
        self._arriving._end(self._file)


class _BlobFile:
    """A blob that is written under another name first. Raises `StateError`."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.digest = digest
        self._place = folder / digest
        self._path = folder / f"{digest}.{secrets.token_hex(4)}.tmp"
        self._hash = hashlib.sha256()
        with writing(self._place):
            self._fd = open_regular(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            # The container's user must be able to read it; the state folder's mode keeps others out.
            os.fchmod(self._fd, 0o644)

    @property
    def is_as_named(self) -> bool:
        return self._hash.hexdigest() == self.digest

    def write(self, data: bytes) -> None:
        with writing(self._place):
            write_all(self._fd, data)
        self._hash.update(data)

    def close(self) -> None:
        os.close(self._fd)

    def put_in_place(self) -> int:
        """Returns its size in bytes, once these are on the disk."""
        with writing(self._place):
            fd = open_regular(self._path, os.O_WRONLY)
            try:
                os.fsync(fd)
                size_bytes = os.fstat(fd).st_size
            finally:
                os.close(fd)
            self._path.rename(self._place)
        return size_bytes

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    """The digest of the bytes of a file; empty when it cannot be read."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            found = hashlib.sha256()
            while data := file.read(_READ_BYTES):
                found.update(data)
            return found.hexdigest()
    except OSError:
        return ""
