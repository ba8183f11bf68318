"""The texts that were made of files, kept by content in a folder of bounded size.

It makes no text and looks into none: what converters send is written down as it comes. All of it can be made
again, so that what is damaged, foreign or half written is dropped. The caller holds the lock of the state
folder; only `usage` needs none.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from rlm.errors import DocumentError, StateError
from rlm.log import open_regular, writing
from rlm.text_database import open_database
from rlm.text_entries import Entry, EntryWriter, from_manifest, to_manifest
from rlm.text_files import make_folder, mirror, remove

CONVERTER = 1
"""The version of what makes the texts, part of every key: those of another version are not found."""
DATABASE = "texts.sqlite3"
FREE_BYTES = 1024**3
"""So much of the disk stays free, or a twentieth of it where that is less."""

_MAX_FILES = 200_000
"""Of so many files, the newest ones, digests and line counts are remembered."""
_READINGS = 3
_SETTLED_NS = 2_000_000_000
"""Changes this close together may leave a file with one and the same time."""

_KEY = re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8}\.tmp)?")
_FILES = "SELECT * FROM files WHERE identity IN (SELECT value FROM json_each(?))"


class FileIdentity(NamedTuple):
    """A file as it was at one moment: what is the same as long as nobody writes to it."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def name(self) -> str:
        # Text, because inode numbers may be larger than SQLite's integers.
        return ":".join(map(str, self))

    @property
    def _settled(self) -> bool:
        return time.time_ns() - self.mtime_ns > _SETTLED_NS


class TextCache:
    """The cache in `folder`, which is made where it is not there. Its methods may be called from any thread.

    Entries hold up to `limit_bytes` together once `make_room` was called. A database that cannot be used is
    set aside; where none can be written, entries are found again by this object only. Raises `StateError`
    when there can be no such folder.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._sizes: dict[str, int] = {}
        """Of each entry, in bytes; the least recently used one first."""
        with writing(folder):
            make_folder(folder, 0o700)
        self._db, lasting = open_database(folder / DATABASE)
        if lasting:
            self._sweep()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- by what texts are found

    def key_of(self, path: Path, *, options: str) -> str:
        """The key of what a converter makes of the file when told `options`; 64 hexadecimal digits.

        A file that has not changed since is not read again. `path` must not be a link. Raises `DocumentError`
        when the file cannot be read, or is written to meanwhile.
        """
        try:
            with os.fdopen(open_regular(path, os.O_RDONLY), "rb", buffering=0) as file:
                identity = FileIdentity.of(os.fstat(file.fileno()))
                digest = self._digests([identity]).get(identity)
                for _ in range(0 if digest else _READINGS):
                    file.seek(0)
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    before, identity = identity, FileIdentity.of(os.fstat(file.fileno()))
                    if identity == before:
                        self._remember_digest(identity, digest)
                        break
                    digest = None
        except OSError as error:
            raise DocumentError(f"{path} cannot be read.", f"{os.strerror(error.errno or 0)}.") from error
        if digest is None:
            raise DocumentError(
                f"{path} is being written to.",
                f"It changed each of the {_READINGS} times it was read.",
                hint="Wait until it is complete, then load it again.",
            )
        return _key(digest, options)

    def find(self, key: str) -> Entry | None:
        """The entry, now the most recently used one. None when there is none, or it is not whole any more."""
        return self.find_all([key]).get(key)

    def find_many(self, files: Sequence[tuple[FileIdentity, str]]) -> list[Entry | None]:
        """For each file and its `options` the entry, without reading the file.

        None also when the content of the file is not known: `key_of` and `find` tell then.
        """
        digests = self._digests([identity for identity, _ in files])
        keys = [
            _key(digests[identity], options) if identity in digests else "" for identity, options in files
        ]
        found = self.find_all(keys)
        return [found.get(key) for key in keys]

    def find_all(self, keys: Iterable[str]) -> dict[str, Entry]:
        """`find` for many keys in one go; those without an entry are left out."""
        sql = "SELECT key, manifest FROM entries WHERE key IN (SELECT value FROM json_each(?))"
        with self._lock:
            known = [key for key in dict.fromkeys(keys) if key in self._sizes]
            try:
                rows = self._db.execute(sql, [json.dumps(known)]).fetchall()
            except sqlite3.Error:
                return {}
            found: dict[str, Entry] = {}
            for key, manifest in rows:
                with contextlib.suppress(KeyError, TypeError, ValueError, RecursionError, OSError):
                    found[key] = from_manifest(self.folder, key, manifest, size_bytes=self._sizes[key])
            self._drop([key for key in known if key not in found])
            for key in found:
                self._sizes[key] = self._sizes.pop(key)
            now = time.time_ns()
            self._try("UPDATE entries SET used = ? WHERE key = ?", [(now, key) for key in found])
        return found

    # -- entries

    def writer(self, key: str, *, limit_bytes: int) -> EntryWriter:
        """Begin an entry of at most `limit_bytes`, as `room_for` gives them."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not a key")
        return EntryWriter(self.folder, key, limit_bytes=limit_bytes, store=self._store)

    def room_for(self, *, keep: Collection[str] = ()) -> int:
        """How many bytes a new entry may take at most while the entries `keep` stay.

        What others take counts as room within the limit, but not on the disk: see `make_room`.
        """
        with self._lock:
            kept = sum(self._sizes.get(key, 0) for key in {*keep})
        return max(0, min(self.limit_bytes - kept, self._disk_bytes()))

    def make_room(self, size_bytes: int, *, keep: Collection[str]) -> None:
        """Drop the least recently used entries until `size_bytes` more fit the limit and the disk.

        Those in `keep` stay even if it does not come to fit.
        """
        kept = frozenset(keep)
        with self._lock:
            over = sum(self._sizes.values()) + size_bytes - self.limit_bytes
            over = max(over, size_bytes - self._disk_bytes())
            dropped = []
            for key, taken in self._sizes.items():
                if over > 0 and key not in kept:
                    dropped.append(key)
                    over -= taken
            self._drop(dropped)

    def _store(self, entry: Entry, written: Path) -> None:
        """Put the texts in the folder `written` in their place and record them; what `commit` is made of.

        Raises `StateError`; the entry is then not there.
        """
        place = self.folder / entry.key
        with self._lock:
            self._drop([entry.key])
            with writing(place):
                written.rename(place)
            row = (entry.key, entry.size_bytes, time.time_ns(), to_manifest(entry))
            try:
                with self._db:
                    self._db.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
            except sqlite3.Error as error:
                remove(place)
                raise StateError(
                    f"Could not write {self.folder / DATABASE}.",
                    f"{error}.".capitalize(),
                    hint="Free some space, then run the command again.",
                ) from error
            self._sizes[entry.key] = entry.size_bytes

    def expose(self, folder: Path, entries: Iterable[Entry]) -> dict[Path, Path]:
        """Make `folder` hold the texts of these entries, as hard links, and nothing else.

        Copies where links cannot be made. Gives for each path in the cache the one in `folder`; that stays
        the same from call to call. Raises `StateError`.
        """
        wanted = {
            f"{entry.key[:32]}-{number}.txt": text.path
            for entry in entries
            for number, text in enumerate(entry.texts)
        }
        with writing(folder):
            mirror(folder, wanted)
        return {source: folder / name for name, source in wanted.items()}

    # -- files by identity

    def lines_of(self, identities: Collection[FileIdentity]) -> dict[FileIdentity, int]:
        """The line counts that are remembered of these files."""
        rows = self._files(identities)
        return {
            identity: lines for identity, (_, lines) in rows.items() if isinstance(lines, int) and lines >= 0
        }

    def remember_lines(self, counts: Mapping[FileIdentity, int]) -> None:
        """Remember line counts; not of files that changed within the last seconds, which may not be over."""
        self._try(
            "INSERT INTO files VALUES (?, NULL, ?) ON CONFLICT DO UPDATE SET lines = excluded.lines",
            [(identity.name, lines) for identity, lines in counts.items() if identity._settled],
        )

    def _digests(self, identities: Collection[FileIdentity]) -> dict[FileIdentity, str]:
        rows = self._files(identities)
        return {
            identity: digest
            for identity, (digest, _) in rows.items()
            if isinstance(digest, str) and _KEY.fullmatch(digest)
        }

    def _remember_digest(self, identity: FileIdentity, digest: str) -> None:
        if identity._settled:
            self._try(
                "INSERT INTO files VALUES (?, ?, NULL) ON CONFLICT DO UPDATE SET digest = excluded.digest",
                [(identity.name, digest)],
            )

    def _files(self, identities: Collection[FileIdentity]) -> dict[FileIdentity, tuple[Any, Any]]:
        by_name = {identity.name: identity for identity in identities}
        with self._lock, contextlib.suppress(sqlite3.Error):
            rows = self._db.execute(_FILES, [json.dumps([*by_name])]).fetchall()
            return {by_name[name]: (digest, lines) for name, digest, lines in rows}
        return {}

    # -- inside

    def _drop(self, keys: Sequence[str]) -> None:
        self._try("DELETE FROM entries WHERE key = ?", [(key,) for key in keys])
        for key in keys:
            self._sizes.pop(key, None)
            remove(self.folder / key)

    def _try(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Note what may as well not be noted."""
        with self._lock, contextlib.suppress(sqlite3.Error), self._db:
            self._db.executemany(sql, rows)

    def _disk_bytes(self) -> int:
        """What may be written to the disk, below zero when less is free than should be."""
        with writing(self.folder):
            disk = shutil.disk_usage(self.folder)
        return disk.free - min(FREE_BYTES, disk.total // 20)

    def _sweep(self) -> None:
        """Let database and folder agree, whatever a killed writer or a stranger left."""
        try:
            rows = self._db.execute("SELECT rowid, key, size_bytes FROM entries ORDER BY used").fetchall()
        except sqlite3.Error:
            return
        with writing(self.folder), os.scandir(self.folder) as listing:
            ours = {found.name: found.is_dir(follow_symlinks=False) for found in listing}
        lost = []
        for row, key, size_bytes in rows:
            if type(key) is str and type(size_bytes) is int and size_bytes >= 0 and ours.get(key):
                self._sizes[key] = size_bytes
            else:
                lost.append((row,))
        self._try("DELETE FROM entries WHERE rowid = ?", lost)
        self._try("DELETE FROM files WHERE rowid <= (SELECT max(rowid) FROM files) - ?", [(_MAX_FILES,)])
        for name in ours:
            if _OURS.fullmatch(name) and name not in self._sizes:
                remove(self.folder / name)


def usage(folder: Path) -> tuple[int, int]:
    """How many entries the cache in `folder` has, and their bytes; zeros when that cannot be told."""
    try:
        with closing(sqlite3.connect(f"{(folder / DATABASE).absolute().as_uri()}?mode=ro", uri=True)) as db:
            count, size_bytes = db.execute("SELECT count(*), total(size_bytes) FROM entries").fetchone()
        return count, int(size_bytes)
    except (sqlite3.Error, OverflowError):
        return 0, 0


def lines_known(folder: Path, identities: Collection[FileIdentity]) -> dict[FileIdentity, int]:
    """The line counts that the cache in `folder` remembers; none when that cannot be told."""
    by_name = {identity.name: identity for identity in identities}
    try:
        with closing(sqlite3.connect(f"{(folder / DATABASE).absolute().as_uri()}?mode=ro", uri=True)) as db:
            rows = db.execute(_FILES, [json.dumps([*by_name])]).fetchall()
    except sqlite3.Error:
        return {}
    return {by_name[name]: lines for name, _, lines in rows if isinstance(lines, int) and lines >= 0}


def remove_cache(folder: Path) -> None:
    """Remove the cache in `folder`, and the folder when it holds nothing else. Raises `StateError`."""
    if not folder.is_dir() or folder.is_symlink():
        return
    with writing(folder):
        for path in list(folder.iterdir()):
            if _OURS.fullmatch(path.name) or path.name.startswith(DATABASE):
                remove(path)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _key(digest: str, options: str) -> str:
    return hashlib.sha256(f"{digest}\0{CONVERTER}\0{options}".encode()).hexdigest()
