"""A SQLite database of the state folder: opened with its tables, or set aside when not ours or damaged.

What is in the tables their owners know.
"""

import contextlib
import errno
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rlm.log import open_regular
from rlm.text_files import remove

_PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a database of ours is made with. One that has other tables, or another version, is not ours.

    `checked`: all of it is read when it is opened, so that what is damaged is found then.
    """

    version: int
    statements: tuple[str, ...]
    checked: bool


class Opened(NamedTuple):
    """`lasting`: it is the file, not one in memory. `replaced`: something else was there and is set aside."""

    db: sqlite3.Connection
    lasting: bool
    replaced: bool


class _Foreign(Exception):
    """A database that is not ours, or not intact."""


def open_database(path: Path, schema: Schema) -> Opened:
    """A database with these tables; in memory when there can be none at `path`. Raises nothing."""
    replaced = False
    for _ in range(2):
        try:
            os.close(open_regular(path, os.O_RDWR | os.O_CREAT))
            return Opened(_prepared(str(path), schema), lasting=True, replaced=replaced)
        except (_Foreign, sqlite3.Error, OSError) as error:
            if will_pass(error):
                break
        with contextlib.suppress(OSError):
            set_aside(path)
            replaced = True
    return Opened(_prepared(":memory:", schema), lasting=False, replaced=replaced)


def will_pass(error: Exception) -> bool:
    """Whether it says nothing about the database itself, such as a disk that is full."""
    if isinstance(error, OSError):
        return error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO)
    # What the module itself raises has no code.
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING


def set_aside(path: Path) -> None:
    """Rename it to `*.corrupt`, in the place of the one before. Raises `OSError`."""
    aside = path.with_name(f"{path.name}.corrupt")
    remove(aside)
    path.rename(aside)
    for end in ("-wal", "-shm", "-journal"):
        remove(path.with_name(path.name + end))


def _prepared(name: str, schema: Schema) -> sqlite3.Connection:
    """A connection to a database that has our tables. Raises `_Foreign` and `sqlite3.Error`."""
    db = sqlite3.connect(name, check_same_thread=False)
    try:
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        # The log lets others read at any time, and what it loses with the power can be made again. Some
        # shared folders cannot have one.
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        _make_tables(db, schema)
        if schema.checked and db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _Foreign
    except (_Foreign, sqlite3.Error):
        db.close()
        raise
    return db


def _make_tables(db: sqlite3.Connection, schema: Schema) -> None:
    with db:
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in schema.statements:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {schema.version}")
        found = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if found != {*schema.statements} or version != schema.version:
            raise _Foreign
