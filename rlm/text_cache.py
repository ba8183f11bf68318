"""The texts that were made of files, kept by content in a folder of bounded size.

It makes no text and looks into none: what converters send is written down as it comes. All of it can be made
again, so that what is damaged, foreign or half written is dropped. The caller holds the lock of the state
folder; only `usage` needs none.
"""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from rlm.errors import DocumentError, RlmError, StateError
from rlm.formats import FORMATS
from rlm.log import NewFile, open_regular, write_all, writing
from rlm.text_probe import PREVIEW_CHARS, one_line, printable

CONVERTER = 1
"""The version of what makes the texts, part of every key: those of another version are not found."""
DATABASE = "texts.sqlite3"
MAX_SKIPPED = 1000
"""So many of the names that an entry left out are kept."""
MAX_TEXTS = 100_000
"""So many texts one entry may have."""
FREE_BYTES = 1024**3
"""So much of the disk stays free, or a twentieth of it where that is less."""

_MAX_FILES = 200_000
"""Of so many files, the newest ones, digests and line counts are remembered."""
_READINGS = 3
_SETTLED_NS = 2_000_000_000
"""Changes this close together may leave a file with one and the same time."""
_COPY_BYTES = 1024 * 1024
_PREVIEW_BYTES = 8 * PREVIEW_CHARS

_KEY = re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8}\.tmp)?")
_SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE entries (key TEXT PRIMARY KEY, size_bytes INTEGER, used INTEGER, manifest TEXT)",
    "CREATE TABLE files (identity TEXT PRIMARY KEY, digest TEXT, lines INTEGER)",
)
_PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
)
_TEXT_FIELDS = [str, str, str, int, int, str]


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
    def _name(self) -> str:
        # Text, because inode numbers may be larger than SQLite's integers.
        return ":".join(map(str, self))

    @property
    def _settled(self) -> bool:
        return time.time_ns() - self.mtime_ns > _SETTLED_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredText:
    """One text, UTF-8 at `path` in the cache. Its strings hold nothing that a terminal would obey.

    `name` is its path in an archive, empty for a file that is one text; `kind` a key of
    `rlm.formats.FORMATS`; `encoding` what it was decoded from, empty where that means nothing.
    """

    name: str
    kind: str
    encoding: str
    size_bytes: int
    lines: int
    preview: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """All texts of one file. `skipped` has name and reason of the first `MAX_SKIPPED` that were left out."""

    key: str
    texts: tuple[StoredText, ...]
    skipped: tuple[tuple[str, str], ...]
    skipped_total: int
    note: str
    size_bytes: int


class TextSink:
    """Takes one text in pieces, from any thread. `write` raises nothing: `EntryWriter.commit` does."""

    def __init__(self, writer: "EntryWriter", path: Path, *, name: str, kind: str, encoding: str) -> None:
        self.name, self.kind, self.encoding = name, kind, encoding
        self.size_bytes = 0
        self._writer = writer
        self._path = path
        self._newlines = 0
        self._last = b"\n"
        self._head = b""
        self._fd: int | None = None
        if writer.taking:
            try:
                with writing(path):
                    self._fd = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                    os.fchmod(self._fd, 0o644)  # for the container's user
            except StateError as error:
                writer.fail(error)

    @property
    def lines(self) -> int:
        return self._newlines + (self._last != b"\n")

    @property
    def preview(self) -> str:
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(self._head)
        return _printable(text[: PREVIEW_CHARS * 2])[:PREVIEW_CHARS]

    def write(self, data: bytes) -> None:
        with self._writer.lock:
            if self._fd is None or not data:
                return
            try:
                self._writer.take(len(data))
                with writing(self._path):
                    write_all(self._fd, data)
            except RlmError as error:
                self._writer.fail(error)
            else:
                self._note(data)

    def _note(self, data: bytes) -> None:
        self.size_bytes += len(data)
        self._newlines += data.count(b"\n")
        self._last = data[-1:]
        if len(self._head) < _PREVIEW_BYTES:
            self._head += data[: _PREVIEW_BYTES - len(self._head)]

    def end(self) -> None:
        """Take nothing more. Does nothing a second time."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class EntryWriter:
    """An entry that appears whole at `commit`, or not at all; begun by `TextCache.writer`.

    As a context manager it aborts at the end of the block what was not committed. Any thread may use it.
    `error` is the first thing that went wrong; from then on it takes everything and keeps nothing.
    """

    def __init__(self, cache: "TextCache", key: str, *, limit_bytes: int) -> None:
        self.key = key
        self.error: RlmError | None = None
        self.lock = threading.RLock()
        """Held while a descriptor is in use, so that no other thread closes it under a write."""
        self._cache = cache
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._texts: list[TextSink] = []
        self._skipped: list[tuple[str, str]] = []
        self._skipped_total = 0
        self._open = True
        self._folder = cache.folder / f"{key}.{secrets.token_hex(4)}.tmp"
        try:
            with writing(self._folder):
                _make_folder(self._folder, 0o755)
        except StateError as error:
            self.fail(error)

    @property
    def taking(self) -> bool:
        return self._open

    def begin(self, name: str, *, kind: str, encoding: str) -> TextSink:
        """The place for the next text; the one before it ends. Raises nothing, like its `write`."""
        with self.lock:
            self._end_last()
            if len(self._texts) == MAX_TEXTS:
                what = f"The file holds more than {MAX_TEXTS:,} texts."
                self.fail(DocumentError(what, hint="Unpack it, and give a part of it."))
            path = self._folder / f"{len(self._texts)}.txt"
            sink = TextSink(self, path, name=_shown(name), kind=kind, encoding=_shown(encoding))
            if self._open:
                self._texts.append(sink)
            return sink

    def skip(self, name: str, reason: str) -> None:
        with self.lock:
            self._skipped_total += 1
            if len(self._skipped) < MAX_SKIPPED:
                self._skipped.append((_shown(name), _shown(reason)))

    def commit(self, note: str = "") -> Entry:
        """Return once all texts are on the disk. Raises what went wrong before, with nothing left behind.

        That is a `StateError` for the disk, or a `DocumentError` for texts that are too large or too many.
        """
        with self.lock:
            if self.error is not None:
                raise self.error
            if not self._open:
                raise ValueError("the entry was committed or aborted")
            try:
                self._end_last()
                self._sync()
                entry = self._entry(_shown(note))
                self._cache.store(entry, self._folder)
            except StateError as error:
                self.fail(error)
                raise
            self._open = False
            return entry

    def abort(self) -> None:
        """Leave nothing behind. Does nothing after `commit`, or a second time."""
        with self.lock:
            if self._open:
                self._open = False
                self._end_last()
                _remove(self._folder)

    def take(self, size_bytes: int) -> None:
        """Count bytes that are to be written. Raises `DocumentError` when they are too many."""
        self._size_bytes += size_bytes
        if self._size_bytes > self._limit_bytes:
            raise DocumentError(
                f"The text of the file takes more than {self._limit_bytes / 1024**2:,.1f} MiB.",
                "There is no room for more in the cache of texts.",
                hint="Free some space on the disk, or give a part of the file.",
            )

    def fail(self, error: RlmError) -> None:
        """Keep the first error for `commit`, and free at once what was written."""
        self.error = self.error or error
        self.abort()

    def _end_last(self) -> None:
        if self._texts:
            self._texts[-1].end()

    def _sync(self) -> None:
        # The folder is not synced: were its names lost with the power, the entry is found not to be whole.
        for number in range(len(self._texts)):
            path = self._folder / f"{number}.txt"
            with writing(path):
                fd = open_regular(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def _entry(self, note: str) -> Entry:
        folder = self._cache.folder / self.key
        texts = tuple(
            StoredText(
                name=text.name,
                kind=text.kind,
                encoding=text.encoding,
                size_bytes=text.size_bytes,
                lines=text.lines,
                preview=text.preview,
                path=folder / f"{number}.txt",
            )
            for number, text in enumerate(self._texts)
        )
        return Entry(
            key=self.key,
            texts=texts,
            skipped=tuple(self._skipped),
            skipped_total=self._skipped_total,
            note=note,
            size_bytes=sum(text.size_bytes for text in texts),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


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
            _make_folder(folder, 0o700)
        self._db, lasting = _open_database(folder / DATABASE)
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
                    found[key] = _entry(self.folder, key, manifest, size_bytes=self._sizes[key])
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
        return EntryWriter(self, key, limit_bytes=limit_bytes)

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

    def store(self, entry: Entry, written: Path) -> None:
        """Put the texts in the folder `written` in their place and record them; what `commit` is made of.

        Raises `StateError`; the entry is then not there.
        """
        place = self.folder / entry.key
        with self._lock:
            self._drop([entry.key])
            with writing(place):
                written.rename(place)
            row = (entry.key, entry.size_bytes, time.time_ns(), _manifest(entry))
            try:
                with self._db:
                    self._db.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
            except sqlite3.Error as error:
                _remove(place)
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
            _make_folder(folder, 0o755)
            there = _in_place(folder, wanted)
            for name, source in wanted.items():
                if name not in there:
                    _link(source, folder / name)
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
            [(identity._name, lines) for identity, lines in counts.items() if identity._settled],
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
                [(identity._name, digest)],
            )

    def _files(self, identities: Collection[FileIdentity]) -> dict[FileIdentity, tuple[Any, Any]]:
        by_name = {identity._name: identity for identity in identities}
        sql = "SELECT * FROM files WHERE identity IN (SELECT value FROM json_each(?))"
        with self._lock, contextlib.suppress(sqlite3.Error):
            rows = self._db.execute(sql, [json.dumps([*by_name])]).fetchall()
            return {by_name[name]: (digest, lines) for name, digest, lines in rows}
        return {}

    # -- inside

    def _drop(self, keys: Sequence[str]) -> None:
        self._try("DELETE FROM entries WHERE key = ?", [(key,) for key in keys])
        for key in keys:
            self._sizes.pop(key, None)
            _remove(self.folder / key)

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
                _remove(self.folder / name)


def usage(folder: Path) -> tuple[int, int]:
    """How many entries the cache in `folder` has, and their bytes; zeros when that cannot be told."""
    try:
        with closing(sqlite3.connect(f"{(folder / DATABASE).absolute().as_uri()}?mode=ro", uri=True)) as db:
            count, size_bytes = db.execute("SELECT count(*), total(size_bytes) FROM entries").fetchone()
        return count, int(size_bytes)
    except (sqlite3.Error, OverflowError):
        return 0, 0


def remove_cache(folder: Path) -> None:
    """Remove the cache in `folder`, and the folder when it holds nothing else. Raises `StateError`."""
    if not folder.is_dir() or folder.is_symlink():
        return
    with writing(folder):
        for path in list(folder.iterdir()):
            if _OURS.fullmatch(path.name) or path.name.startswith(DATABASE):
                _remove(path)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _key(digest: str, options: str) -> str:
    return hashlib.sha256(f"{digest}\0{CONVERTER}\0{options}".encode()).hexdigest()


def _manifest(entry: Entry) -> str:
    """What is recorded of an entry; its key, its size and the paths of its texts follow from elsewhere."""
    texts = [
        (text.name, text.kind, text.encoding, text.size_bytes, text.lines, text.preview)
        for text in entry.texts
    ]
    return json.dumps(
        {
            "texts": texts,
            "skipped": entry.skipped,
            "skipped_total": entry.skipped_total,
            "note": entry.note,
        }
    )


def _entry(folder: Path, key: str, manifest: Any, *, size_bytes: int) -> Entry:
    """Undo `_manifest`, and see that all texts are there.

    Raises `TypeError`, `ValueError`, `KeyError`, `RecursionError` or `OSError`.
    """
    fields = json.loads(manifest)
    texts = tuple(_text(folder, f"{key}/{number}.txt", row) for number, row in enumerate(fields["texts"]))
    total, note = fields["skipped_total"], fields["note"]
    if type(total) is not int or sum(text.size_bytes for text in texts) != size_bytes:
        raise ValueError("the manifest contradicts itself")
    return Entry(
        key=key,
        texts=texts,
        skipped=tuple((_shown(name), _shown(reason)) for name, reason in fields["skipped"][:MAX_SKIPPED]),
        skipped_total=total,
        note=_shown(note),
        size_bytes=size_bytes,
    )


def _text(folder: Path, place: str, row: Any) -> StoredText:
    if [*map(type, row)] != _TEXT_FIELDS:
        raise TypeError("the fields of a text have other types")
    name, kind, encoding, size_bytes, lines, preview = row
    path = folder / place
    status = os.lstat(path)
    if kind not in FORMATS or lines < 0 or not stat.S_ISREG(status.st_mode) or status.st_size != size_bytes:
        raise ValueError("the text is not what was recorded")
    return StoredText(
        name=_shown(name),
        kind=kind,
        encoding=_shown(encoding),
        size_bytes=size_bytes,
        lines=lines,
        preview=_printable(preview[:PREVIEW_CHARS]),
        path=path,
    )


def _shown(text: str) -> str:
    """The text on one line, without what a terminal would obey. Raises `TypeError` for what is no text."""
    return text if str.isprintable(text) else one_line(text)


def _printable(text: str) -> str:
    """The same with its lines; most texts need not be looked at character by character."""
    return text if text.replace("\n", "").isprintable() else printable(text)


class _Foreign(Exception):
    """A database that is not ours, or not intact."""


def _open_database(path: Path) -> tuple[sqlite3.Connection, bool]:
    """A database with our tables, and whether it is the one at `path`, not one in memory."""
    for _ in range(2):
        try:
            os.close(open_regular(path, os.O_RDWR | os.O_CREAT))
            return _prepared(str(path)), True
        except (_Foreign, sqlite3.Error, OSError) as error:
            if _will_pass(error):
                break
        with contextlib.suppress(OSError):
            _set_aside(path)
    return _prepared(":memory:"), False


def _will_pass(error: Exception) -> bool:
    """Whether it says nothing about the database itself, such as a disk that is full."""
    if isinstance(error, OSError):
        return error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO)
    return isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF in _PASSING


def _prepared(name: str) -> sqlite3.Connection:
    """A connection to a database that has our tables. Raises `_Foreign` and `sqlite3.Error`."""
    db = sqlite3.connect(name, check_same_thread=False)
    try:
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        # The log lets `usage` read at any time, and what it loses with the power can be made again. Some
        # shared folders cannot have one.
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        _make_tables(db)
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _Foreign
    except (_Foreign, sqlite3.Error):
        db.close()
        raise
    return db


def _make_tables(db: sqlite3.Connection) -> None:
    with db:
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        found = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        if found != {*_SCHEMA} or db.execute("PRAGMA user_version").fetchone()[0] != _SCHEMA_VERSION:
            raise _Foreign


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.corrupt")
    _remove(aside)
    path.rename(aside)
    for end in ("-wal", "-shm", "-journal"):
        _remove(path.with_name(path.name + end))


def _make_folder(path: Path, mode: int) -> None:
    """A real folder at `path` with this mode. Anything else of that name is removed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        path.mkdir()
    path.chmod(mode)


def _remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _in_place(folder: Path, wanted: Mapping[str, Path]) -> set[str]:
    """The names of what `folder` holds already; what it should not hold is removed."""
    there = set()
    with os.scandir(folder) as listing:
        for found in listing:
            source = wanted.get(found.name)
            if source and _looks_like(found.stat(follow_symlinks=False), os.lstat(source)):
                there.add(found.name)
            else:
                _remove(Path(found.path))
    return there


def _looks_like(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether one file is a link to the other, or a copy that `_link` made of it."""
    return (one.st_mode, one.st_size, one.st_mtime_ns) == (other.st_mode, other.st_size, other.st_mtime_ns)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, too many links, or none on this file system
        with NewFile(target) as file, source.open("rb") as original:
            while data := original.read(_COPY_BYTES):
                file.write(data)
        status = source.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        target.chmod(stat.S_IMODE(status.st_mode))
