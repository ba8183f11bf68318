"""SQL over documents that are tables (CSV, TSV, JSON, JSON Lines, Parquet), by DuckDB in this process.

A query names documents; those it mentions become views. It converts no other format and changes no document;
what a query creates lives in memory.
"""

import codecs
import contextlib
import difflib
import glob
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rlm.formats import FORMATS
from sandbox.documents import human_size
from sandbox.rows import Rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MiB = 1024 * 1024
MAX_ROWS = 100_000
BATCH_ROWS = 4096

ERROR_LINES, ERROR_CHARS = 12, 1000

STACK_BYTES = 8 * MiB
"""Deeply nested expressions crash DuckDB on a stack of 1 MiB."""
ALLOCATOR = "retain:false"
"""DuckDB's allocator keeps address space that was freed, and the limit of this process counts that."""

_LABELS = [known.label for known in FORMATS.values() if known.table]
_TABLE_FILES = f"{', '.join(_LABELS[:-1])} and {_LABELS[-1]} files"
_CSV_ENCODINGS = {"utf-8": "utf-8", "utf-8-sig": "utf-8", "ascii": "utf-8", "utf-16-le": "utf-16"}
"""Python's names of what DuckDB reads, and its own. It takes no byte order mark off JSON."""
_JSON_ENCODINGS = ("utf-8", "ascii")
_SINGLE_BYTE = ("iso8859-1", "cp1252")
"""DuckDB reads them as Latin-1, and says so when it meets a byte (0x80 to 0x9f) that differs."""

_MISSING = re.compile(
    r'Table with name "?(.+?)"? does not exist|No files found that match the pattern "(.+)"'
)
_FORGETS_VIEWS = {"rollback", "abort", "drop"}

T = TypeVar("T")
Failures = dict[str, Exception]


class SqlError(ValueError):
    """A query that cannot be answered; says why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A document as SQL sees it.

    `path` is the file in the container, `kind` a key of `rlm.formats.FORMATS` (also of those that are no
    tables), `encoding` a Python codec name.
    """

    path: str
    kind: str
    encoding: str = "utf-8"

    @property
    def is_table(self) -> bool:
        return FORMATS[self.kind].table


class Tables:
    """What `sql` asks. `documents` and `active` tell the documents and the name of the active one, each time.

    `memory_bytes` is the container's limit; queries get half of it.
    """

    def __init__(
        self,
        documents: Callable[[], Mapping[str, Table]],
        *,
        active: Callable[[], str | None],
        memory_bytes: int,
    ) -> None:
        self._documents = documents
        self._active = active
        self._memory_bytes = memory_bytes
        self._engine: _Engine | None = None
        os.environ.setdefault("DUCKDB_JE_MALLOC_CONF", ALLOCATOR)  # it is read when duckdb is imported

    def sql(
        self,
        query: str,
        *,
        max_rows: int = MAX_ROWS,
        parameters: list[Any] | dict[str, Any] | None = None,
    ) -> Rows:
        """Rows of a DuckDB query over documents: `from "sales/2024.csv"`, `from sales`, `from doc`.

        A document goes by its name in double quotes, or by its name without the suffix where only one has
        it; `doc` is the active document. `parameters` fill `?` or `$name`. Tables and views that a query
        creates stay until the sandbox starts anew or goes back to an earlier state. Raises `SqlError` (a
        ValueError), also for more than `max_rows` rows.
        """
        if max_rows < 1:
            raise SqlError(f"max_rows must be at least 1, not {max_rows}")
        names = _Names(self._documents(), self._active())
        engine = self._engine_of_this_process()
        return engine.run(lambda: _answer(engine, names, query, max_rows, parameters))

    def _engine_of_this_process(self) -> "_Engine":
        engine = self._engine
        if engine is None or not engine.usable:
            if engine is not None:
                _LOST.append(engine)
            engine = self._engine = _Engine(self._memory_bytes)
        return engine


_LOST: list["_Engine"] = []
"""Engines of a process that this one was forked from, or broken. To destroy one is to wait for its threads,
which may not exist here."""


class _Engine:
    """A database in memory, for the process that made it. It runs one query at a time."""

    def __init__(self, memory_bytes: int) -> None:
        import duckdb

        self.broken = False
        self._stuck = False
        self._pid = os.getpid()
        self.memory_bytes = memory_bytes // 2
        self.copy_bytes = memory_bytes // 32
        self.views: dict[str, tuple[object, ...]] = {}
        self.copies: dict[str, int] = {}
        self._lock = threading.Lock()
        self.connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{self.memory_bytes // MiB}MiB",
                "threads": min(2, os.cpu_count() or 1),
                "async_threads": 0,
                "temp_directory": os.path.join(tempfile.gettempdir(), "sql"),
                "max_temp_directory_size": f"{memory_bytes // 16 // MiB}MiB",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "enable_external_file_cache": False,
                "python_enable_replacements": False,
            },
        )
        # What the user creates goes into main, and is found before a document of that name.
        self.connection.execute(
            "set enable_progress_bar = false; set timezone = 'UTC'; "
            "create schema documents; set search_path = 'main,documents'"
        )

    @property
    def usable(self) -> bool:
        return not self.broken and not self._stuck and self._pid == os.getpid()

    def run(self, work: Callable[[], T]) -> T:
        """Call it in a thread. DuckDB looks for signals too rarely, but can be interrupted from outside."""
        result: Future[T] = Future()

        def call() -> None:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

        thread = threading.Thread(target=call, daemon=True)
        with self._lock:
            _start(thread)
            try:
                return result.result()
            finally:
                if not result.done():
                    self._stop(thread)
                thread.join()

    def give_back(self) -> None:
        """Let go of the memory that DuckDB's allocator holds, which it does when the limit is set."""
        import duckdb

        with contextlib.suppress(duckdb.Error):  # in a failed transaction it cannot be set
            self.connection.execute(f"set memory_limit = '{self.memory_bytes // MiB}MiB'")

    def _stop(self, thread: threading.Thread) -> None:
        self._stuck = True  # and remains so when another exception ends the wait
        while thread.is_alive():
            self.connection.interrupt()
            thread.join(0.05)
        self._stuck = False


def _start(thread: threading.Thread) -> None:
    previous = threading.stack_size(STACK_BYTES)
    try:
        thread.start()
    finally:
        threading.stack_size(previous)


def _answer(
    engine: _Engine,
    names: "_Names",
    query: str,
    max_rows: int,
    parameters: list[Any] | dict[str, Any] | None,
) -> Rows:
    import duckdb

    documents: dict[str, Table] = {}
    failures: Failures = {}
    try:
        words = list(_words(query))
        documents = names.mentioned(words)
        failures = _make_views(engine, documents)
        if _FORGETS_VIEWS.intersection(map(str.lower, words)):
            engine.views.clear()
        return _fetch(engine.connection, query, max_rows, parameters)
    except (duckdb.Error, MemoryError) as error:
        engine.broken = isinstance(error, duckdb.FatalException | duckdb.InternalException)
        raise _explained(error, engine, names, documents, failures) from None
    finally:
        engine.give_back()


def _fetch(
    connection: "DuckDBPyConnection",
    query: str,
    max_rows: int,
    parameters: list[Any] | dict[str, Any] | None,
) -> Rows:
    # Without a statement there is no result either, whatever the types of DuckDB say.
    result: DuckDBPyConnection | None = connection.execute(query, parameters)
    if result is None:
        return Rows()
    items: list[tuple[Any, ...]] = []
    while batch := result.fetchmany(min(BATCH_ROWS, max_rows + 1 - len(items))):
        items += batch
        if len(items) > max_rows:
            raise SqlError(
                f"the result has more than {max_rows:,} rows: aggregate, filter or LIMIT in SQL, "
                "or pass max_rows=…"
            )
    columns = _unique(column[0] for column in result.description)
    if not items and columns in (("Count",), ("Success",)):
        return Rows()  # how DuckDB says that the statement has no result
    return Rows(columns, tuple(str(column[1]) for column in result.description), tuple(items))


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    """`a, a` → `a, a_1`, as DuckDB names them in tables."""
    unique: list[str] = []
    for name in names:
        candidate, number = name, 0
        while candidate in unique:
            number += 1
            candidate = f"{name}_{number}"
        unique.append(candidate)
    return tuple(unique)


# -- which documents a query mentions


def _words(query: str) -> Iterator[str]:
    """All that may be the name of a table in a query: identifiers, keywords, and what is in quotes."""
    import duckdb

    data = query.encode()
    tokens = duckdb.tokenize(query)
    ends = [*(start for start, _ in tokens[1:]), len(data)]
    kinds = duckdb.token_type
    for (start, kind), end in zip(tokens, ends, strict=False):
        word = data[start:end].decode().strip()
        if kind in (kinds.identifier, kinds.keyword, kinds.string_const):
            quote = word[:1]
            yield word[1:-1].replace(quote * 2, quote) if quote in ('"', "'") else word


class _Names:
    """Which document a name in a query means. Case does not matter, as in SQL."""

    def __init__(self, documents: Mapping[str, Table], active: str | None) -> None:
        self._documents = documents
        self._active = active
        self._whole: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        for name in documents:
            self._whole.setdefault(name.lower(), []).append(name)
            self._stems.setdefault(os.path.splitext(name)[0].lower(), []).append(name)

    def _meant(self, word: str) -> list[str]:
        """The documents that a word may mean: tables, or else others."""
        if word in self._documents:
            return [word]
        key = word.lower()
        if key == "doc" and self._active is not None and self._active in self._documents:
            return [self._active]
        for found in (self._whole.get(key, []), self._stems.get(key, [])):
            if tables := [name for name in found if self._documents[name].is_table]:
                return tables
        return self._stems.get(key, [])

    def mentioned(self, words: Iterable[str]) -> dict[str, Table]:
        """The tables that words mean without doubt. Raises `SqlError` for two that SQL cannot tell apart."""
        by_key: dict[str, str] = {}
        found: dict[str, Table] = {}
        for word in words:
            meant = self._meant(word)
            if len(meant) != 1 or not self._documents[meant[0]].is_table:
                continue
            key, name = word.lower(), meant[0]
            if by_key.setdefault(key, name) != name:
                path = self._documents[name].path
                raise SqlError(
                    f"{by_key[key]!r} and {name!r} differ only in case, which SQL does not see: "
                    f"read one of them by its path, with from {_string(path)}"
                )
            found[key] = self._documents[name]
        return found

    def explain(self, word: str) -> str:
        """Why there is no such table, and what there is."""
        meant = self._meant(word)
        if len(meant) > 1:
            return f"{word!r} may be {_or(meant)}: write the whole name, in double quotes"
        if meant and self._documents[meant[0]].is_table:
            return f"{meant[0]!r} is a document: write its name in double quotes, as in {_from(meant[0])}"
        if meant:
            active = "the active document " if word.lower() == "doc" and meant[0] != word else ""
            label = FORMATS[self._documents[meant[0]].kind].label
            return f"{active}{meant[0]!r} is {label}, not a table: {_TABLE_FILES} are"
        if word.lower() == "doc":
            return 'no document is active: name one, as in from "name.csv"'
        return f"no table {word!r}; {self._others(word)}"

    def _others(self, word: str) -> str:
        tables = [name for name, table in self._documents.items() if table.is_table]
        if not tables:
            return f"no document here is a table: {_TABLE_FILES} are"
        near = [name for name in tables if word.lower() in name.lower()][:3]
        near = near or difflib.get_close_matches(word, tables, n=3)
        if near:
            return f"did you mean {_or(near)}? Names of documents go in double quotes, as in {_from(near[0])}"
        more = f" and {len(tables) - 10:,} more" if len(tables) > 10 else ""
        return f"these documents are: {', '.join(map(repr, tables[:10]))}{more}"


def _or(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names[:5])) + (f" or {len(names) - 5:,} others" if len(names) > 5 else "")


def _from(name: str) -> str:
    return f"from {_identifier(name)}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# -- documents as views


def _make_views(engine: _Engine, documents: Mapping[str, Table]) -> Failures:
    """Make those that are not there yet; returns what went wrong, by name.

    A word may be a column, or text, that only looks like a document: the query tells.
    """
    import duckdb

    failures: Failures = {}
    for key, table in documents.items():
        try:
            status = os.stat(table.path)
            stamp = (table, status.st_size, status.st_mtime_ns)
            if engine.views.get(key) != stamp:
                view = f"documents.{_identifier(key)}"
                source = _source(engine, table, status)
                engine.connection.execute(f"create or replace view {view} as from {source}")
                engine.views[key] = stamp
        except (duckdb.InterruptException, duckdb.FatalException):
            raise
        except (duckdb.Error, SqlError, OSError) as error:
            failures[key] = error
    return failures


def _source(engine: _Engine, table: Table, status: os.stat_result) -> str:
    """The call of a table function that reads a document. Its types are guessed from a sample of the file."""
    if table.kind == "parquet":
        return f"read_parquet({_string(glob.escape(table.path))})"
    path, encoding = _readable(engine, table, status)
    file = f"{_string(glob.escape(path))}, compression = 'none'"
    if table.kind in ("csv", "tsv"):
        delimiter = ", delim = '\t'" if table.kind == "tsv" else ""
        return f"read_csv({file}, encoding = '{encoding}'{delimiter})"
    # Each thread takes twice as much as the largest object (a whole JSON file can be one).
    object_bytes = min(max(status.st_size, 16 * MiB), max(engine.memory_bytes // 16, 16 * MiB))
    form = "newline_delimited" if table.kind == "jsonl" else "auto"
    return f"read_json({file}, format = '{form}', maximum_object_size = {object_bytes})"


def _readable(engine: _Engine, table: Table, status: os.stat_result) -> tuple[str, str]:
    """The file, or a copy in UTF-8 where DuckDB cannot read the encoding, and DuckDB's name of the encoding.

    Raises `SqlError` for a file that is too large to be copied.
    """
    encoding = codecs.lookup(table.encoding).name
    is_csv = table.kind in ("csv", "tsv")
    if is_csv and encoding in _CSV_ENCODINGS:
        return table.path, _CSV_ENCODINGS[encoding]
    if encoding in _JSON_ENCODINGS:
        return table.path, "utf-8"
    identity = f"{table.path}\0{encoding}\0{status.st_size}\0{status.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    copy = os.path.join(tempfile.gettempdir(), f"sql-{digest[:32]}")
    if copy in engine.copies:
        return copy, "utf-8"
    if sum(engine.copies.values()) + status.st_size <= engine.copy_bytes:
        _copy_as_utf8(table.path, encoding, copy)
        engine.copies[copy] = status.st_size
        return copy, "utf-8"
    if is_csv and encoding in _SINGLE_BYTE:
        return table.path, "latin-1"
    raise SqlError(
        f"{table.path!r} is in {encoding}, which SQL reads only of small files: "
        "work on its text instead, or let the user convert it to UTF-8"
    )


def _copy_as_utf8(path: str, encoding: str, copy: str) -> None:
    try:
        with (
            open(path, encoding=encoding, errors="replace", newline="") as source,
            open(copy, "w", encoding="utf-8", newline="") as target,
        ):
            target.write(source.read(MiB).removeprefix("\ufeff"))
            while text := source.read(MiB):
                target.write(text)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
        raise


# -- errors


def _explained(
    error: Exception,
    engine: _Engine,
    names: _Names,
    documents: Mapping[str, Table],
    failures: Failures,
) -> SqlError:
    """What DuckDB says, shortened, and what to do about it."""
    import duckdb

    text = str(error)
    if isinstance(error, duckdb.CatalogException | duckdb.IOException) and (missing := _MISSING.search(text)):
        word = missing[1] or missing[2]
        if failure := failures.get(word.lower()):
            text, error = str(failure).split("\n\nLINE ")[0], failure
        elif not word.startswith("/"):
            return SqlError(names.explain(word))
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        return SqlError(
            f"the query needs more memory than the sandbox gives it ({human_size(engine.memory_bytes)}): "
            "filter or aggregate first, select fewer columns, delete large variables, or raise "
            "sandbox.memory in config.json"
        )
    if "'pytz'" in text:
        return SqlError("times with a zone cannot be handed over here: cast them to timestamp or varchar")
    if "INSTALL " in text:
        return SqlError(f"{text.splitlines()[0]}; there is no network to install it from")
    if '"maximum_object_size"' in text:
        return SqlError(f"{text.splitlines()[0]} Take a value as large as that apart in Python, with json")
    if "CSV Error" in text or "sniffing file" in text or "not latin-1 encoded" in text:
        return SqlError(_shortened(text) + _csv_hint(text, documents))
    return SqlError(_shortened(text))


def _shortened(text: str) -> str:
    text = text.split("\n\n  file = ")[0].split("\nSee also ")[0]
    return "\n".join(text.splitlines()[:ERROR_LINES])[:ERROR_CHARS].strip()


def _csv_hint(text: str, documents: Mapping[str, Table]) -> str:
    paths = [table.path for table in documents.values() if table.kind in ("csv", "tsv")]
    path = next((path for path in paths if path in text), paths[0] if paths else "")
    if not path:
        return ""
    return (
        f"\nSay how to read the file: from read_csv({_string(path)}, all_varchar=true, ignore_errors=true), "
        "or with delim, quote, header, skip or types"
    )


# -- printing
