"""An append-only file of JSON lines that survives a crash, and the careful file calls it is made of.

Each line carries the CRC-32 of its content, so that a torn or damaged one is noticed and left out. There
is one writer at a time (`rlm.state` holds the lock); readers need nothing. Records go in and come out as
plain JSON objects: what they mean is `rlm.records`' business.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlm.errors import StateError

_HEAD = b'{"crc":"'
_UNSAFE = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON lets through and a terminal, a line splitter or UTF-8 does not."""
_SMALL_BYTES = 4096


class Log:
    """The file at `path`; it comes into being with its first line.

    `damaged` counts the lines that the latest `read` left out. A torn last line is not among them: it may
    be one that is being written at this moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0

    def append(self, record: Mapping[str, object], *, durable: bool = False) -> None:
        """Write one line; with `durable`, return only once it is on the disk.

        Raises `StateError`, and the file is then as it was before.
        """
        line = _encode(record)
        with writing(self.path):
            fd = open_regular(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                self._append(fd, line, durable=durable)
            finally:
                os.close(fd)

    def read(self) -> Iterator[dict[str, Any]]:
        """The records, oldest first, one line in memory at a time; none when there is no file."""
        self.damaged = 0
        try:
            with os.fdopen(open_regular(self.path, os.O_RDONLY), "rb") as file:
                for line in file:
                    ended = line.endswith(b"\n")
                    if (record := _decode(line.rstrip(b"\n"))) is not None:
                        yield record
                    elif ended:
                        self.damaged += 1
                    if not ended:
                        return
        except FileNotFoundError:
            return
        except OSError as error:
            raise file_error("read", self.path, error) from error

    def _append(self, fd: int, line: bytes, *, durable: bool) -> None:
        size_bytes = os.fstat(fd).st_size
        torn = size_bytes > 0 and os.pread(fd, 1, size_bytes - 1) != b"\n"
        try:
            write_all(fd, b"\n" + line if torn else line)
            if durable:
                os.fsync(fd)
                if not size_bytes:
                    sync_folder(self.path.parent)
        except OSError:
            # Should this fail too, the next append finds the torn end and starts on a fresh line.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size_bytes)
            raise


def _encode(record: Mapping[str, object]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()
    return b'%s%08x"%s%s\n' % (_HEAD, zlib.crc32(body), b"," if record else b"", body[1:])


def _decode(line: bytes) -> dict[str, Any] | None:
    crc, rest = line[len(_HEAD) : len(_HEAD) + 8], line[len(_HEAD) + 9 :]
    body = b"{" + rest.removeprefix(b",")
    if line != b'%s%s"%s' % (_HEAD, crc, rest) or crc != b"%08x" % zlib.crc32(body):
        return None
    try:
        record: dict[str, Any] = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return record


class NewFile:
    """A file that appears whole under its name, durably, at `commit`, or not at all.

    As a context manager it commits at the end of the block and aborts when the block raises. A write that
    fails aborts, and raises `StateError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self._temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        with writing(path):
            self._fd: int | None = open_regular(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def write(self, data: bytes | memoryview) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path.name} was committed or aborted")
        try:
            with writing(self.path):
                write_all(self._fd, data)
        except StateError:
            self.abort()
            raise
        self.size_bytes += len(data)
        return len(data)

    def read(self) -> bytes:
        """What was written so far. Raises `StateError`."""
        try:
            return self._temporary.read_bytes()
        except OSError as error:
            raise file_error("read", self.path, error) from error

    def commit(self) -> None:
        if self._fd is None:
            raise ValueError(f"{self.path.name} was committed or aborted")
        try:
            with writing(self.path):
                os.fsync(self._fd)
                self._temporary.rename(self.path)
                sync_folder(self.path.parent)
        finally:
            self.abort()

    def abort(self) -> None:
        """Leave nothing behind. Does nothing after `commit`, or a second time."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._fd is not None:
            self.commit()
        self.abort()


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file, created with mode 0600 if `flags` say so.

    Never follows a symlink at the end of `path` and never waits for a FIFO: those, like folders and
    devices, are an `OSError` with `errno.ELOOP`.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ELOOP, "Not a regular file", str(path))
    return fd


def read_small(path: Path) -> bytes | None:
    """What a regular file of a few lines holds; None when there is none. Raises `StateError`."""
    try:
        fd = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise file_error("read", path, error) from error
    with os.fdopen(fd, "rb") as file:
        return file.read(_SMALL_BYTES)


def write_small(path: Path, content: bytes) -> None:
    """Put `content` in the place of what the file held, all of it or nothing."""
    with NewFile(path) as file:
        file.write(content)


def write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: what was created in it, renamed or removed."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and shared file systems have no such thing for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `StateError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise file_error("write", path, error) from error


def file_error(verb: str, path: Path, error: OSError) -> StateError:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            hint = "Free some space, then run the command again; what was saved before is intact."
        case errno.EROFS | errno.EACCES | errno.EPERM:
            hint = "Give yourself access to it, or name another folder with --state-dir."
        case errno.ENOENT:
            hint = "It was removed meanwhile: run the command again."
        case errno.ELOOP | errno.ENXIO | errno.EISDIR:
            return StateError(
                f"Could not {verb} {path}.", "It is not a regular file.", hint="Remove it, then try again."
            )
        case _:
            hint = "Check the disk, or name another folder with --state-dir."
    return StateError(f"Could not {verb} {path}.", f"{os.strerror(error.errno or 0)}.", hint=hint)
