"""The state folder: what is in it, what is written to it under its lock, and what of it is kept.

The engine writes through a `State` whose lock it holds; `status` and `trace` read without one. Answers,
snapshots and blobs appear whole under their names or not at all. Snapshots and blobs are opaque bytes: they
come from the container and go back to it, and nothing on this side ever looks inside one. Whose the folder
is, `rlm.ownership` tells; who holds it, `rlm.lock`.
"""

import contextlib
import errno
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from rlm.blobs import DIGEST, Arriving, Blobs
from rlm.lock import FolderLock, Holder, timestamp
from rlm.log import Log, NewFile, sync_folder, writing
from rlm.ownership import FRAME, check_format, claim, raise_format
from rlm.records import MessageAdded, Record, SessionView, TurnSpent, from_json, to_json
from rlm.snapshots import (
    LIMIT_BYTES,
    Damaged,
    SnapshotHeader,
    SnapshotInfo,
    SnapshotWriter,
    file_name,
    inspect,
    payload,
)
from rlm.text_cache import TextCache, remove_cache

_GENERATION = re.compile(r"(\d{6,})\.snap(\.corrupt)?")

_OURS = ("session.jsonl", "events.jsonl", "history", "cache.sqlite3*", "*.tmp")
_OURS_IN = {
    "nothing": (),
    "inputs": ("*.txt", "*.tmp"),
    "shown": ("*.txt", "*.tmp"),
    "answers": ("*.txt", "*.tmp"),
    "snapshots": ("*.snap", "*.corrupt", "*.tmp"),
    "blobs": (DIGEST, f"{DIGEST}.corrupt", "*.tmp"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSizes:
    """What the snapshots take on the disk. `blobs_bytes` is the total of all blobs, each counted once."""

    snapshots: int
    snapshots_bytes: int
    blobs: int
    blobs_bytes: int


class State:
    """A state folder that was found to be ours. Begin with `State.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = Log(path / "session.jsonl")
        self.events = Log(path / "events.jsonl")
        self.history_path = path / "history"
        self.cache_path = path / "cache.sqlite3"
        self.blobs = Blobs(path / "blobs")
        self._lock = FolderLock(path)
        self._view: SessionView | None = None
        self._generation = 0
        self._texts: TextCache | None = None

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
        claim(path, create=create, ask=ask, key_path=key_path or Path(click.get_app_dir("rlm")) / "state.key")
        return cls(path)

    @contextlib.contextmanager
    def lock(self, *, command: str = "rlm") -> Iterator[None]:
        """Hold the folder for writing. Raises `StateLocked` at once when somebody else does.

        The kernel lets go when the process ends, however it ends. What a killed writer left is removed.
        """
        with self._lock.hold(command):
            try:
                check_format(self.path)
                self._sweep()
                yield
            finally:
                self._view = None
                if self._texts is not None:
                    self._texts.close()
                    self._texts = None

    def holder(self) -> Holder | None:
        """Who holds the lock, for display only: nothing is locked to find out."""
        return self._lock.holder()

    def append(self, record: Record) -> None:
        """Add a record to the session, durably, but for messages and what was spent on the way.

        Those go with the next other one.
        """
        self._lock.require()
        self.session.append(to_json(record), durable=not isinstance(record, MessageAdded | TurnSpent))
        if self._view:
            self._view.add(record)

    def view(self) -> SessionView:
        """The session as it stands on disk; the caller's own, which later records do not change.

        With the lock held nobody else writes, so that the file is read once.
        """
        return self._current().copy() if self._lock.held else self._read_view()

    def _read_view(self) -> SessionView:
        records = (from_json(fields) for fields in self.session.read())
        return SessionView.fold(record for record in records if record is not None)

    def answer_path(self, turn: int) -> Path:
        return self.path / "answers" / f"{turn:04d}.txt"

    def new_answer(self, turn: int) -> NewFile:
        """The file for a turn's answer: `with state.new_answer(3) as file: file.write(…)`."""
        self._lock.require()
        self._make_folder("answers")
        return NewFile(self.answer_path(turn))

    def keep_input(self, name: str, data: bytes) -> Path:
        """Keep what came without a file of its own, to be a document; returns where.

        The container's user must be able to read it; the folder's mode keeps other users out.
        """
        self._lock.require()
        path = self._make_folder("inputs") / name
        with NewFile(path) as file:
            file.write(data)
        path.chmod(0o644)
        return path

    def nothing(self) -> tuple[Path, Path]:
        """An empty file and an empty folder that anybody may read, made where they are not there."""
        self._lock.require()
        folder = self._make_folder("nothing")
        folder.chmod(0o755)
        return self.keep_input("nothing.txt", b""), folder

    def downloads(self) -> Path:
        """The folder for what is fetched from an address."""
        self._lock.require()
        return self._make_folder("downloads")

    def texts(self, *, limit_bytes: int) -> TextCache:
        """The texts that were made of documents, and what else is known of files that were looked at."""
        self._lock.require()
        if self._texts is None:
            self._texts = TextCache(self._make_folder("texts"), limit_bytes=limit_bytes)
        return self._texts

    def shown_texts(self) -> Path:
        """The folder of those texts that the session's container sees."""
        self._lock.require()
        folder = self._make_folder("shown")
        folder.chmod(0o755)
        return folder

    def blobs_folder(self) -> Path:
        """The folder of the blobs, for the session's container to see."""
        self._lock.require()
        folder = self._make_folder("blobs")
        with writing(folder):
            folder.chmod(0o755)
        return folder

    def new_blobs(self, *, limit_bytes: int) -> Arriving:
        """Begin to take in what a snapshot needs beside its payload, of at most `limit_bytes`."""
        self.blobs_folder()
        return self.blobs.begin(limit_bytes=limit_bytes)

    def new_snapshot(
        self,
        turn: int,
        *,
        python: str,
        image: str,
        protocol: int,
        dill: str,
        keep: int = 10,
        limit_bytes: int = LIMIT_BYTES,
    ) -> SnapshotWriter:
        """Begin the next generation.

        Its commit leaves at most `keep`: the two newest whatever they are, and before them one of each turn
        of this session, so that neither a long turn nor undone ones push out what earlier turns left; and of
        the blobs those that they need. `limit_bytes` is for the payload.
        """
        self._lock.require()
        raise_format(self.path)
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
            created=timestamp(),
            turn=turn,
            python=python,
            image=image,
            protocol=protocol,
            dill=dill,
        )
        path = folder / file_name(self._generation)
        return SnapshotWriter(path, header, committed=lambda: self._prune(keep), limit_bytes=limit_bytes)

    def snapshots(self, view: SessionView | None = None) -> list[SnapshotInfo]:
        """The snapshots on disk, newest first; given a view, only those of that session.

        Payloads and blobs are not read yet. What is damaged otherwise is left out, and with the lock held
        renamed to `*.corrupt`. What lacks a blob is left out for as long as it does.
        """
        found = self._whole(self._inspected())
        return _belonging(found, view) if view else found

    def snapshot_sizes(self) -> SnapshotSizes:
        """What the snapshots take on the disk; needs no lock."""
        sizes = []
        for _, path in self._generations():
            with contextlib.suppress(OSError):
                sizes.append(path.lstat().st_size)
        blobs = self.blobs.sizes()
        return SnapshotSizes(
            snapshots=len(sizes),
            snapshots_bytes=sum(sizes),
            blobs=len(blobs),
            blobs_bytes=sum(blobs.values()),
        )

    def set_aside_damaged_blobs(self, info: SnapshotInfo) -> int:
        """Read the blobs of a snapshot, and set the damaged ones aside; returns how many there were."""
        self._lock.require()
        return len(self.blobs.set_aside_damaged(digest for digest, _ in info.blobs))

    def _inspected(self) -> list[SnapshotInfo]:
        """The snapshots on disk, newest first, whether their blobs are there or not."""
        found = []
        for _, path in sorted(self._generations(), reverse=True):
            try:
                info = inspect(path) if path.suffix == ".snap" else None
            except Damaged:
                self._set_aside(path)
            except OSError:
                continue
            else:
                found += [info] if info else []
        return found

    def _whole(self, found: list[SnapshotInfo]) -> list[SnapshotInfo]:
        """Those of which all blobs are there, each of its size."""
        sizes = self.blobs.sizes()
        return [info for info in found if all(sizes.get(digest) == size for digest, size in info.blobs)]

    def read_snapshot(self, info: SnapshotInfo) -> Iterator[bytes]:
        """The payload in chunks, once all of it was found to be intact.

        Raises `StateError` before the first chunk otherwise, with the file set aside: use the next of
        `snapshots`.
        """
        try:
            for _ in payload(info):
                pass
        except Damaged:
            self._set_aside(info.path)
            raise
        return payload(info)

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
            remove_cache(self.path / "texts")
            shutil.rmtree(self.path / "downloads", ignore_errors=True)
            _unlink(self.path, _OURS)
            left = sorted({entry.name for entry in self.path.iterdir()} - set(FRAME))
            if not left:
                for name in FRAME:
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()
        return tuple(left)

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
        if self._lock.held:
            with contextlib.suppress(OSError):
                path.rename(path.with_name(f"{path.name}.corrupt"))

    def _prune(self, keep: int) -> None:
        found = self._inspected()
        whole = self._whole(found)
        kept = whole[:2]
        for info in _belonging(whole[2:], self._current()):
            if len(kept) < keep and info.header.turn != kept[-1].header.turn:
                kept.append(info)
        oldest = min((info.header.generation for info in kept), default=0)
        # What lacks a blob may have it again with a later save.
        lacking = _belonging([info for info in found if info not in whole], self._current())
        kept += lacking[: max(0, keep - len(kept))]
        surplus = [info.path for info in found if info not in kept]
        surplus += [
            path for number, path in self._generations() if number < oldest and path.suffix == ".corrupt"
        ]
        for path in surplus:
            with contextlib.suppress(OSError):
                path.unlink()
        known = {info.path for info in found}
        if all(path in known for _, path in self._generations() if path.suffix == ".snap"):
            self.blobs.collect({digest for info in kept for digest, _ in info.blobs})

    def _current(self) -> SessionView:
        """The session, kept up to date while the lock is held."""
        if self._view is None:
            self._view = self._read_view()
        return self._view

    def _sweep(self) -> None:
        # Not in the folder itself: there, a command that waits for no lock may be writing its mark.
        for name in _OURS_IN:
            folder = self.path / name
            if folder.is_dir() and not folder.is_symlink():
                with contextlib.suppress(OSError):
                    _unlink(folder, ("*.tmp",))


def _unlink(folder: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in list(folder.glob(pattern)):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)


def _belonging(found: list[SnapshotInfo], view: SessionView) -> list[SnapshotInfo]:
    recorded = {(saved.generation, saved.sha256) for saved in view.snapshots}
    return [info for info in found if (info.header.generation, info.sha256) in recorded]
