"""The state folder: whose it is, who holds it, and the files in it that are not lines of a log.

The engine writes through a `State` whose lock it holds; `status` and `trace` read without one. Answers and
snapshots appear whole under their names or not at all. Snapshots are opaque bytes: they come from the
container and go back to it, and nothing on this side ever looks inside one.
"""

import contextlib
import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from rlm.errors import StateError, StateLocked
from rlm.log import Log, NewFile, file_error, open_regular, sync_folder, write_all, writing
from rlm.records import MessageAdded, Record, SessionView, from_json, parse, to_json

FORMAT = 1
KEY_BYTES = 32
SNAPSHOT_MAGIC = b"rlm-snapshot 1\n"

_SMALL_BYTES = 4096
_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 1024 * 1024
_FOOTER = struct.Struct(">8sQ32s")
_FOOTER_MAGIC = b"\nrlm-end"
_CRC = struct.Struct(">I")
_FOOTER_BYTES = _FOOTER.size + _CRC.size
_OTHER_VERSION = re.compile(rb"rlm-snapshot \d+\n")
_GENERATION = re.compile(r"(\d{6,})\.snap(\.corrupt)?")

_OURS = ("session.jsonl", "events.jsonl", "history", "cache.sqlite3*", "*.tmp")
_OURS_IN = {
    "inputs": ("*.txt", "*.tmp"),
    "answers": ("*.txt", "*.tmp"),
    "snapshots": ("*.snap", "*.corrupt", "*.tmp"),
}
_FRAME = (".gitignore", "format", "owner", "lock")
"""The files that make a folder a state folder, in the order in which `reset` removes them."""


class _Damaged(StateError):
    pass


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
    """Takes a snapshot in chunks, in whatever size they come; begun by `State.new_snapshot`.

    The file: magic with the version, the header as a JSON line, the payload, and a footer with the
    payload's length and SHA-256 and a CRC-32 of all that is not payload.
    """

    def __init__(self, path: Path, header: SnapshotHeader, *, committed: Callable[[], None]) -> None:
        self._header = header
        self._committed = committed
        self._head = SNAPSHOT_MAGIC + json.dumps(asdict(header)).encode() + b"\n"
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


class State:
    """A state folder that was found to be ours. Begin with `State.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = Log(path / "session.jsonl")
        self.events = Log(path / "events.jsonl")
        self.history_path = path / "history"
        self.cache_path = path / "cache.sqlite3"
        self._lock_fd: int | None = None
        self._view: SessionView | None = None
        self._generation = 0

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool,
        ask: Callable[[str], bool] | None = None,
        key_path: Path | None = None,
    ) -> "State":
        """Open the folder, or make it when `create` is set. Raises `StateError`.

        A folder that another user owns or can write to, or that carries no mark made with this user's key
        (it came with a clone or a copy), is used only when `ask` says yes to the question it is given. The
        key is at `key_path`, in the user's configuration folder unless told otherwise.
        """
        path = path.absolute()
        key_path = key_path or Path(click.get_app_dir("rlm")) / "state.key"
        with writing(path):
            if create and not os.path.lexists(path):
                path.mkdir(0o700, parents=True, exist_ok=True)
                sync_folder(path.parent)
            fresh = _is_fresh(path, create=create)
            if not fresh:
                _check_format(path)
            doubts = _doubts(path) if fresh or _is_marked(path, key_path) else [*_doubts(path), _UNMARKED]
            if doubts and not (ask and ask(_question(path, doubts))):
                raise StateError(
                    f"The state folder {path} is not used.",
                    f"It {' and it '.join(doubts)}.",
                    hint="Delete it for a fresh start, or name another one with --state-dir.",
                )
            if doubts and path.stat().st_uid == os.getuid():
                path.chmod(0o700)
            if fresh or doubts:
                _write_small(path / "owner", _mark(path, _read_key(key_path) or _make_key(key_path)))
            if fresh:
                _write_small(path / ".gitignore", b"*\n")
                _write_small(path / "format", b"%d\n" % FORMAT)
        return cls(path)

    @contextlib.contextmanager
    def lock(self, *, command: str = "rlm") -> Iterator[None]:
        """Hold the folder for writing. Raises `StateLocked` at once when somebody else does.

        The kernel lets go when the process ends, however it ends. What a killed writer left is removed.
        """
        if self._lock_fd is not None:
            raise RuntimeError("the lock is held already")
        self._lock_fd = fd = self._take_lock()
        try:
            _check_format(self.path)
            # Who holds it is told for convenience: a full disk must not keep anyone from `reset`.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
                write_all(fd, json.dumps(asdict(_myself(command))).encode())
            self._sweep()
            yield
        finally:
            self._lock_fd = self._view = None
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(fd)

    def holder(self) -> Holder | None:
        """Who holds the lock, for display only: nothing is locked to find out."""
        holder = self._last_holder()
        return holder if holder and holder.alive else None

    def append(self, record: Record) -> None:
        """Add a record to the session, durably, but for messages: those go with the next other one."""
        self._require_lock()
        self.session.append(to_json(record), durable=not isinstance(record, MessageAdded))
        if self._view:
            self._view.add(record)

    def view(self) -> SessionView:
        """The session as it stands on disk."""
        records = (from_json(fields) for fields in self.session.read())
        return SessionView.fold(record for record in records if record is not None)

    def answer_path(self, turn: int) -> Path:
        return self.path / "answers" / f"{turn:04d}.txt"

    def new_answer(self, turn: int) -> NewFile:
        """The file for a turn's answer: `with state.new_answer(3) as file: file.write(…)`."""
        self._require_lock()
        self._make_folder("answers")
        return NewFile(self.answer_path(turn))

    def keep_input(self, name: str, data: bytes) -> Path:
        """Keep what came without a file of its own, to be a document; returns where.

        The container's user must be able to read it; the folder's mode keeps other users out.
        """
        self._require_lock()
        path = self._make_folder("inputs") / name
        with NewFile(path) as file:
            file.write(data)
        path.chmod(0o644)
        return path

    def new_snapshot(
        self, turn: int, *, python: str, image: str, protocol: int, dill: str, keep: int = 10
    ) -> SnapshotWriter:
        """Begin the next generation.

        Its commit leaves at most `keep`: the two newest whatever they are, and before them one of each turn
        of this session, so that neither a long turn nor undone ones push out what earlier turns left.
        """
        self._require_lock()
        folder = self._make_folder("snapshots")
        # The records too: a counter that began again could take another file for the one recorded.
        taken = [
            self._generation,
            self._current().last_generation,
            *(number for number, _ in self._generations()),
        ]
        self._generation = max(taken) + 1
        header = SnapshotHeader(
            generation=self._generation,
            created=_timestamp(),
            turn=turn,
            python=python,
            image=image,
            protocol=protocol,
            dill=dill,
        )
        path = folder / _snapshot_name(self._generation)
        return SnapshotWriter(path, header, committed=lambda: self._prune(keep))

    def snapshots(self, view: SessionView | None = None) -> list[SnapshotInfo]:
        """The snapshots on disk, newest first; given a view, only those of that session.

        Payloads are not read yet. What is damaged otherwise is left out, and with the lock held renamed
        to `*.corrupt`.
        """
        found = []
        for _, path in sorted(self._generations(), reverse=True):
            try:
                info = _inspect(path) if path.suffix == ".snap" else None
            except _Damaged:
                self._set_aside(path)
            except OSError:
                continue
            else:
                found += [info] if info else []
        return _belonging(found, view) if view else found

    def read_snapshot(self, info: SnapshotInfo) -> Iterator[bytes]:
        """The payload in chunks, once all of it was found to be intact.

        Raises `StateError` before the first chunk otherwise, with the file set aside: use the next of
        `snapshots`.
        """
        try:
            for _ in _payload(info):
                pass
        except _Damaged:
            self._set_aside(info.path)
            raise
        return _payload(info)

    def reset(self) -> tuple[str, ...]:
        """Delete the folder. Names of files that are not this program's are returned, and they stay.

        Raises `StateLocked`, or `StateError` when something cannot be removed.
        """
        with self.lock(command="rlm reset"), writing(self.path):
            for name, patterns in _OURS_IN.items():
                folder = self.path / name
                if folder.is_dir() and not folder.is_symlink():
                    _unlink(folder, patterns)
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            _unlink(self.path, _OURS)
            left = sorted({entry.name for entry in self.path.iterdir()} - set(_FRAME))
            if not left:
                for name in _FRAME:
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()
        return tuple(left)

    def _take_lock(self) -> int:
        path = self.path / "lock"
        while True:
            with writing(path):
                fd = open_regular(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise StateLocked(
                    f"The state folder {self.path} is in use.",
                    f"{self._last_holder() or 'Another command'} holds it.",
                    hint="Wait for it to end, or name another folder with --state-dir.",
                ) from None
            except OSError as error:
                os.close(fd)
                raise file_error("lock", path, error) from error
            if _is_at(fd, path):
                return fd
            os.close(fd)  # A `reset` removed the file between open and lock.

    def _last_holder(self) -> Holder | None:
        try:
            return parse(Holder, json.loads(_read_small(self.path / "lock") or b""))
        except (OSError, TypeError, ValueError, RecursionError):
            return None

    def _require_lock(self) -> None:
        if self._lock_fd is None:
            raise RuntimeError("writing to a state folder needs its lock")
        if not _is_at(self._lock_fd, self.path / "lock"):
            raise StateError(
                f"The state folder {self.path} was removed while it was in use.",
                hint="Run the command again: it starts afresh.",
            )

    def _make_folder(self, name: str) -> Path:
        folder = self.path / name
        with writing(folder):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(0o700)
                sync_folder(self.path)
            if not stat.S_ISDIR(folder.lstat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(folder))
        return folder

    def _generations(self) -> Iterator[tuple[int, Path]]:
        folder = self.path / "snapshots"
        if folder.is_dir() and not folder.is_symlink():
            for path in folder.iterdir():
                if match := _GENERATION.fullmatch(path.name):
                    yield int(match[1]), path

    def _set_aside(self, path: Path) -> None:
        if self._lock_fd is not None:
            with contextlib.suppress(OSError):
                path.rename(path.with_name(f"{path.name}.corrupt"))

    def _prune(self, keep: int) -> None:
        found = self.snapshots()
        kept = found[:2]
        for info in _belonging(found[2:], self._current()):
            if len(kept) < keep and info.header.turn != kept[-1].header.turn:
                kept.append(info)
        oldest = min((info.header.generation for info in kept), default=0)
        surplus = [info.path for info in found if info not in kept]
        surplus += [
            path for number, path in self._generations() if number < oldest and path.suffix == ".corrupt"
        ]
        for path in surplus:
            with contextlib.suppress(OSError):
                path.unlink()

    def _current(self) -> SessionView:
        """The session, kept up to date while the lock is held."""
        if self._view is None:
            self._view = self.view()
        return self._view

    def _sweep(self) -> None:
        # Not in the folder itself: there, a command that waits for no lock may be writing its mark.
        for name in _OURS_IN:
            folder = self.path / name
            if folder.is_dir() and not folder.is_symlink():
                with contextlib.suppress(OSError):
                    _unlink(folder, ("*.tmp",))


def _is_fresh(path: Path, *, create: bool) -> bool:
    """Whether the folder is still to be filled: empty, or left half made or half removed by a kill."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise StateError(f"There is no state folder at {path}.", hint="Start with: rlm init FILE") from None
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(
            f"{path} cannot be the state folder.",
            "It is a symbolic link." if stat.S_ISLNK(found.st_mode) else "It is not a folder.",
            hint="Remove it, or name another folder with --state-dir.",
        )
    if os.path.lexists(path / "format"):
        return False
    others = {entry.name for entry in path.iterdir() if entry.suffix != ".tmp"} - set(_FRAME)
    if others or not create:
        raise StateError(
            f"{path} is not a state folder.",
            "It holds other files." if others else "It is empty.",
            hint="Name another folder with --state-dir.",
        )
    return True


def _check_format(path: Path) -> None:
    text = (_read_small(path / "format") or b"").strip()
    if not text.isdigit():
        raise StateError(
            f"The state folder {path} cannot be read.", "Its format is not given.", hint="Delete the folder."
        )
    if int(text) > FORMAT:
        raise StateError(
            f"The state folder {path} was made by a later version of this program.",
            f"It has format {int(text)}; this version knows formats up to {FORMAT}.",
            hint="Upgrade, or name another folder with --state-dir.",
        )


def _doubts(path: Path) -> list[str]:
    """Why the folder may hold what others wrote, as ends of a sentence that begins with "It"."""
    found = path.stat()
    doubts = []
    if found.st_uid != os.getuid():
        doubts.append(f"belongs to another user (uid {found.st_uid})")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        doubts.append(f"can be written to by others (mode {stat.S_IMODE(found.st_mode):o})")
    return doubts


_UNMARKED = "carries no mark of yours (it was copied, moved, or came with a repository)"


def _question(path: Path, doubts: list[str]) -> str:
    return (
        f"The state folder {path} {' and it '.join(doubts)}. What it holds would be continued, and the "
        "variables saved in it loaded inside the container. Use it?"
    )


def _mark(path: Path, key: bytes) -> bytes:
    """What only this user can have written, and only for this place."""
    return hmac.new(key, b"rlm state folder\0" + os.fsencode(path.resolve()), "sha256").hexdigest().encode()


def _is_marked(path: Path, key_path: Path) -> bool:
    key, mark = _read_key(key_path), _read_small(path / "owner")
    return key is not None and mark is not None and hmac.compare_digest(mark, _mark(path, key))


def _read_key(path: Path) -> bytes | None:
    key = _read_small(path)
    return key if key and len(key) == KEY_BYTES else None


def _make_key(path: Path) -> bytes:
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    _write_small(path, secrets.token_bytes(KEY_BYTES))
    # Another command may have made one at the same moment: the one that stands is the key.
    key = _read_key(path)
    if key is None:
        raise StateError(f"Could not keep a key in {path}.", hint="Remove the file, then try again.")
    return key


def _read_small(path: Path) -> bytes | None:
    try:
        fd = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise file_error("read", path, error) from error
    with os.fdopen(fd, "rb") as file:
        return file.read(_SMALL_BYTES)


def _write_small(path: Path, content: bytes) -> None:
    with NewFile(path) as file:
        file.write(content)


def _is_at(fd: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except OSError:
        return False


def _unlink(folder: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in list(folder.glob(pattern)):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)


def _belonging(found: list[SnapshotInfo], view: SessionView) -> list[SnapshotInfo]:
    recorded = {(saved.generation, saved.sha256) for saved in view.snapshots}
    return [info for info in found if (info.header.generation, info.sha256) in recorded]


def _footer(head: bytes, size_bytes: int, digest: bytes) -> bytes:
    footer = _FOOTER.pack(_FOOTER_MAGIC, size_bytes, digest)
    return footer + _CRC.pack(zlib.crc32(head + footer))


def _inspect(path: Path) -> SnapshotInfo | None:
    """Read all of a snapshot but its payload. None when a later version wrote it.

    Raises `_Damaged`, or `OSError` when the file cannot be read at present.
    """
    with _open_snapshot(path) as file:
        beginning = file.read(_HEAD_BYTES)
        size_bytes = os.fstat(file.fileno()).st_size
        footer = os.pread(file.fileno(), _FOOTER_BYTES, max(size_bytes - _FOOTER_BYTES, 0))
    if not beginning.startswith(SNAPSHOT_MAGIC):
        if _OTHER_VERSION.match(beginning):
            return None
        raise _damaged(path, "It does not begin like one.")
    offset = beginning.find(b"\n", len(SNAPSHOT_MAGIC)) + 1
    payload_bytes = size_bytes - offset - _FOOTER_BYTES
    head, digest = beginning[:offset], footer[16:48]
    if not offset or payload_bytes < 0 or footer != _footer(head, payload_bytes, digest):
        raise _damaged(path, "It is cut short, or its header is damaged.")
    try:
        header = parse(SnapshotHeader, json.loads(head[len(SNAPSHOT_MAGIC) :]))
    except (TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, "Its header makes no sense.") from error
    if path.name != _snapshot_name(header.generation):
        raise _damaged(path, f"It is generation {header.generation} under another name.")
    return SnapshotInfo(
        path=path, header=header, offset=offset, size_bytes=payload_bytes, sha256=digest.hex()
    )


def _payload(info: SnapshotInfo) -> Iterator[bytes]:
    """The payload in chunks; raises `_Damaged` at the end when it was not what the footer says."""
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


def _snapshot_name(generation: int) -> str:
    return f"{generation:06d}.snap"


def _damaged(path: Path, why: str) -> _Damaged:
    return _Damaged(f"The snapshot {path} cannot be used.", why, hint="The one before it is used instead.")


def _myself(command: str) -> Holder:
    pid = os.getpid()
    host = os.uname().nodename
    return Holder(pid=pid, started=_started(pid), command=command, host=host, since=_timestamp())


def _started(pid: int) -> str:
    """When a process started, in the kernel's own count; empty where there is no /proc to ask."""
    try:
        stat_line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    # The command's name is in parentheses and may hold anything: count from behind it.
    return stat_line.rpartition(")")[2].split()[19]


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:80]
