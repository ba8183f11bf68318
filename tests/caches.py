"""A cache of texts for tests: filled, looked into, and tampered with behind its back."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from rlm.text_cache import DATABASE, FileIdentity, TextCache
from rlm.text_entries import Entry

MiB = 1024 * 1024
OLD = 1_000_000_000
KEY = "a" * 64


def put(cache: TextCache, key: str, *texts: bytes, limit_bytes: int = MiB) -> Entry:
    with cache.writer(key, limit_bytes=limit_bytes) as writer:
        for number, text in enumerate(texts):
            writer.begin(f"{number}.md", kind="text", encoding="utf-8").write(text)
        return writer.commit()


def keys(count: int) -> list[str]:
    return [f"{number:04x}" * 16 for number in range(count)]


def make(path: Path, content: bytes, *, mtime_s: float = OLD) -> Path:
    """A file; unless told otherwise it has not changed for long."""
    path.write_bytes(content)
    os.utime(path, (mtime_s, mtime_s))
    return path


def identity(path: Path) -> FileIdentity:
    return FileIdentity.of(path.stat())


def names(folder: Path) -> set[str]:
    """What the cache holds, its database apart."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(DATABASE)}


def child(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def change(folder: Path, sql: str, *values: object) -> None:
    """Write into the database behind the back of the cache."""
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        db.execute(sql, values)
