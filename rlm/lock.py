"""The lock of a state folder: one command at a time writes, and the others can tell which one it is.

It is the kernel's lock on a file, so it goes with the process however that ends. Readers need none.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rlm.errors import StateError, StateLocked
from rlm.log import file_error, open_regular, read_small, write_all, writing
from rlm.records import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The command that holds the lock. `started` tells its process from a later one of the same pid."""

    pid: int
    started: str
    command: str
    host: str
    since: str

    def __str__(self) -> str:
        where = "" if self.host == os.uname().nodename else f" on {_printable(self.host)}"
        return f'"{_printable(self.command)}" (pid {self.pid}{where}, since {_printable(self.since)})'

    @property
    def alive(self) -> bool:
        """Whether that process still runs, as far as can be told from here."""
        if self.host != os.uname().nodename:
            return True
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            pass
        except (OSError, OverflowError):
            return False
        return _started(self.pid) == self.started


class FolderLock:
    """The lock of one folder, to be held by one block of this process at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    @contextlib.contextmanager
    def hold(self, command: str) -> Iterator[None]:
        """Raises `StateLocked` at once when somebody else holds it."""
        if self._fd is not None:
            raise RuntimeError("the lock is held already")
        self._fd = fd = self._take()
        try:
            # Who holds it is told for convenience: a full disk must not keep anyone from `reset`.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
                write_all(fd, json.dumps(asdict(_myself(command))).encode())
            yield
        finally:
            self._fd = None
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(fd)

    def holder(self) -> Holder | None:
        """Who holds it, for display only: nothing is locked to find out."""
        holder = self._last()
        return holder if holder and holder.alive else None

    def require(self) -> None:
        """See that it is held. Raises `StateError` when the folder was removed meanwhile."""
        if self._fd is None:
            raise RuntimeError("writing to a state folder needs its lock")
        if not _is_at(self._fd, self._folder / "lock"):
            raise StateError(
                f"The state folder {self._folder} was removed while it was in use.",
                hint="Run the command again: it starts afresh.",
            )

    def _take(self) -> int:
        path = self._folder / "lock"
        while True:
            with writing(path):
                fd = open_regular(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise StateLocked(
                    f"The state folder {self._folder} is in use.",
                    f"{self._last() or 'Another command'} holds it.",
                    hint="Wait for it to end, or name another folder with --state-dir.",
                ) from None
            except OSError as error:
                os.close(fd)
                raise file_error("lock", path, error) from error
            if _is_at(fd, path):
                return fd
            os.close(fd)  # A `reset` removed the file between open and lock.

    def _last(self) -> Holder | None:
        try:
            return parse(Holder, json.loads(read_small(self._folder / "lock") or b""))
        except (OSError, TypeError, ValueError, RecursionError):
            return None


def _is_at(fd: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except OSError:
        return False


def _myself(command: str) -> Holder:
    pid = os.getpid()
    host = os.uname().nodename
    return Holder(pid=pid, started=_started(pid), command=command, host=host, since=timestamp())


def _started(pid: int) -> str:
    """When a process started, in the kernel's own count; empty where there is no /proc to ask."""
    try:
        stat_line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    # The command's name is in parentheses and may hold anything: count from behind it.
    return stat_line.rpartition(")")[2].split()[19]


def timestamp() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:80]
