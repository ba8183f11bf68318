"""What the cache of texts has of one file: an entry, how it is written, and how it is recorded.

Where entries are kept, found and dropped is the business of `rlm.text_cache`.
"""

import codecs
import json
import os
import secrets
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlm.errors import DocumentError, RlmError, StateError
from rlm.formats import FORMATS
from rlm.log import open_regular, write_all, writing
from rlm.text_files import make_folder, remove
from rlm.text_probe import PREVIEW_CHARS, one_line, printable

MAX_SKIPPED = 1000
"""So many of the names that an entry left out are kept."""
MAX_TEXTS = 100_000
"""So many texts one entry may have."""

_PREVIEW_BYTES = 8 * PREVIEW_CHARS
_TEXT_FIELDS = [str, str, str, int, int, str]


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


Store = Callable[[Entry, Path], None]
"""Puts the texts in a folder in the place of an entry. Raises `StateError`."""


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

    def __init__(self, folder: Path, key: str, *, limit_bytes: int, store: Store) -> None:
        self.key = key
        self.error: RlmError | None = None
        self.lock = threading.RLock()
        """Held while a descriptor is in use, so that no other thread closes it under a write."""
        self._place = folder / key
        self._store = store
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._texts: list[TextSink] = []
        self._skipped: list[tuple[str, str]] = []
        self._skipped_total = 0
        self._open = True
        self._folder = folder / f"{key}.{secrets.token_hex(4)}.tmp"
        try:
            with writing(self._folder):
                make_folder(self._folder, 0o755)
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
            else:
                sink.end()
            return sink

    def end(self) -> None:
        """Close the file of the text that was begun last, which takes nothing more."""
        with self.lock:
            self._end_last()

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
                self._store(entry, self._folder)
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
                remove(self._folder)

    def take(self, size_bytes: int) -> None:
        """Count bytes that are to be written. Raises `DocumentError` when they are too many."""
        self._size_bytes += size_bytes
        if self._size_bytes > self._limit_bytes:
            raise DocumentError(
                f"The text of the file takes more than {self._limit_bytes / 1024**2:,.1f} MiB.",
                "There is no room for more in the cache of texts.",
                hint="Free some space on the disk, raise sandbox.cache in config.json, or give a part of it.",
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
        texts = tuple(
            StoredText(
                name=text.name,
                kind=text.kind,
                encoding=text.encoding,
                size_bytes=text.size_bytes,
                lines=text.lines,
                preview=text.preview,
                path=self._place / f"{number}.txt",
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


def to_manifest(entry: Entry) -> str:
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


def from_manifest(folder: Path, key: str, manifest: Any, *, size_bytes: int) -> Entry:
    """Undo `to_manifest`, and see that all texts are there.

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
