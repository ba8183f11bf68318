"""The tables of the cache of texts. What is in them `rlm.text_cache` knows."""

import sqlite3
from pathlib import Path

from rlm import database

_SCHEMA = database.Schema(
    version=1,
    statements=(
        "CREATE TABLE entries (key TEXT PRIMARY KEY, size_bytes INTEGER, used INTEGER, manifest TEXT)",
        "CREATE TABLE files (identity TEXT PRIMARY KEY, digest TEXT, lines INTEGER)",
    ),
    checked=True,
)


def open_database(path: Path) -> tuple[sqlite3.Connection, bool]:
    """A database with our tables, and whether it is the one at `path`, not one in memory."""
    opened = database.open_database(path, _SCHEMA)
    return opened.db, opened.lasting
