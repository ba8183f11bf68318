"""The database of the cache of texts: opened with its tables, or set aside when it is not ours or damaged.

What is in the tables `rlm.text_cache` knows.
"""

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

from rlm.log import open_regular
from rlm.text_files import remove

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


class _Foreign(Exception):
    """A database that is not ours, or not intact."""


def open_database(path: Path) -> tuple[sqlite3.Connection, bool]:
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
    remove(aside)
    path.rename(aside)
    for end in ("-wal", "-shm", "-journal"):
        remove(path.with_name(path.name + end))
