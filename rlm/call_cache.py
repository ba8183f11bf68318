"""Replies of sub-calls, kept in the state folder: what was paid for once is not paid for again.

Only complete replies are kept. Of prompts there is nothing but a hash. It sends nothing and bounds no money
(`rlm.subcalls` does), and what goes wrong with it costs the kept replies, never a question.
"""

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rlm.database import Schema, open_database, set_aside, will_pass
from rlm.events import Event, Notice, Usage
from rlm.models import ChatMessage, ModelReply
from rlm.records import parse
from rlm.settings import ModelConfig

T = TypeVar("T")

_SCHEMA = Schema(
    version=1,
    statements=(
        "CREATE TABLE replies (key TEXT PRIMARY KEY, used INTEGER, reply BLOB, usage TEXT, crc INTEGER)",
        "CREATE INDEX by_use ON replies (used)",
        "CREATE TABLE counts (name TEXT PRIMARY KEY, number REAL)",
    ),
    checked=False,  # it would take a second or so; each reply has a checksum, and is looked at by itself
)
# Uses are numbered: a clock may step back.
_INSERT = "INSERT OR REPLACE INTO replies SELECT ?, coalesce(max(used), 0) + 1, ?, ?, ? FROM replies"
_USE = "UPDATE replies SET used = (SELECT max(used) + 1 FROM replies) WHERE key = ?"
_DROP_OLDEST = "DELETE FROM replies WHERE rowid = (SELECT rowid FROM replies ORDER BY used LIMIT 1)"


@dataclass(frozen=True, slots=True)
class Kept:
    """A reply, and what the call took when it was made."""

    text: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUsage:
    """`sent` calls were made and `hits` answered without one, which saved `saved_usd` as far as is known.

    Of the calls that were made, `replies` are still there, in a file of `size_bytes`.
    """

    hits: int = 0
    sent: int = 0
    saved_usd: float = 0.0
    replies: int = 0
    size_bytes: int = 0


def call_key(model: ModelConfig, messages: Sequence[ChatMessage]) -> str:
    """64 hexadecimal digits, the same for calls that are the same for the provider.

    The limit on the reply's length is no part of it: a complete reply is what it is under any limit.
    """
    call = {
        "model": model.model,
        "api_base": model.api_base,
        "params": dict(model.params),
        "messages": list(messages),
    }
    canonical = json.dumps(call, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(canonical.encode()).hexdigest()


class CallCache:
    """The cache at `path`, opened when it is first used; the caller holds the lock of the state folder.

    What it holds takes up to `limit_bytes`, and SQLite's log a few megabytes; what was used longest ago goes
    first. (A file that was larger before keeps its size, with room in it.) A `Notice` is emitted when the
    file was set aside or cannot be written.
    """

    def __init__(self, path: Path, *, limit_bytes: int, emit: Callable[[Event], None]) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self._emit = emit
        self._warned = False
        self._open: sqlite3.Connection | None = None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def find(self, key: str) -> Kept | None:
        """The reply, or None. It counts as used once `count_hit` was told."""
        sql = "SELECT reply, usage, crc FROM replies WHERE key = ?"
        row = self._attempt(lambda db: db.execute(sql, (key,)).fetchone())
        return _read(key, *row) if row else None

    def missing(self, keys: Collection[str]) -> set[str]:
        """Those of `keys` that no reply is kept of."""
        sql = "SELECT key FROM replies WHERE key IN (SELECT value FROM json_each(?))"
        rows = self._attempt(lambda db: db.execute(sql, (json.dumps([*keys]),)).fetchall())
        return {*keys} - {key for (key,) in rows or ()}

    def count_hit(self, key: str, usage: Usage) -> None:
        """Count a call that was not made, since an equal one, which took `usage`, had been."""

        def count(db: sqlite3.Connection) -> None:
            db.execute(_USE, (key,))
            _count(db, "hits", 1)
            _count(db, "saved_usd", usage.cost_usd or 0.0)

        self._attempt(count)

    def keep(self, key: str, reply: ModelReply) -> None:
        """Count a call that was made, and keep its reply when it is complete.

        When this returns, the end of the process does not take it away.
        """
        data = reply.text.encode("utf-8", "surrogatepass")
        usage = json.dumps(dataclasses.asdict(reply.usage))
        complete = reply.finish_reason == "stop" and bool(reply.text.strip())

        def write(db: sqlite3.Connection) -> None:
            _count(db, "sent", 1)
            if complete and len(data) < self.limit_bytes:
                db.execute(_INSERT, (key, data, usage, _checksum(key, data)))
                self._make_room(db)

        self._attempt(write)

    # -- inside

    def _database(self) -> sqlite3.Connection:
        if self._open is None:
            opened = open_database(self.path, _SCHEMA)
            self._open = opened.db
            if opened.replaced:
                self._tell_replaced()
            if not opened.lasting:
                self._warn("They are forgotten when this command ends")
            with opened.db:
                self._make_room(opened.db)
        return self._open

    def _make_room(self, db: sqlite3.Connection) -> None:
        """Drop what was used longest ago until the file fits its bound."""
        while _used_bytes(db) > self.limit_bytes and db.execute(_DROP_OLDEST).rowcount:
            continue

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do it as one transaction; None when that fails. What is damaged is replaced first."""
        for _ in range(2):
            try:
                with self._database() as db:
                    return work(db)
            except sqlite3.Error as error:
                if will_pass(error):
                    self._warn(f"{error}".capitalize())
                    return None
                self.close()
                with contextlib.suppress(OSError):
                    set_aside(self.path)
                    self._tell_replaced()
        return None

    def _tell_replaced(self) -> None:
        text = (
            "The kept replies of sub-calls were damaged, or those of another version. They are in "
            f"{self.path.name}.corrupt now, and new ones are kept."
        )
        self._emit(Notice(text=text, level="info"))

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            self._emit(Notice(text=f"Replies of sub-calls cannot be kept in {self.path}. {why}."))


def cache_usage(path: Path) -> CacheUsage:
    """What the cache at `path` holds and saved; zeros when that cannot be told. Needs no lock."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            counts = dict(db.execute("SELECT name, number FROM counts"))
            (replies,) = db.execute("SELECT count(*) FROM replies").fetchone()
        return CacheUsage(
            hits=int(counts.get("hits", 0)),
            sent=int(counts.get("sent", 0)),
            saved_usd=float(counts.get("saved_usd", 0.0)),
            replies=replies,
            size_bytes=path.stat().st_size,
        )
    except (sqlite3.Error, OSError, TypeError, ValueError, OverflowError):
        return CacheUsage()


def _read(key: str, data: object, usage: object, crc: object) -> Kept | None:
    """What a row says, or None if it is not as it was written."""
    if not isinstance(data, bytes) or not isinstance(usage, str) or crc != _checksum(key, data):
        return None
    try:
        return Kept(data.decode("utf-8", "surrogatepass"), parse(Usage, json.loads(usage)))
    except (TypeError, ValueError, RecursionError):
        return None


def _checksum(key: str, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(key.encode()))


def _used_bytes(db: sqlite3.Connection) -> int:
    """The size of the file without its free pages."""
    pages, free, page_bytes = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * page_bytes


def _count(db: sqlite3.Connection, name: str, number: float) -> None:
    db.execute(
        "INSERT INTO counts VALUES (?, ?) ON CONFLICT DO UPDATE SET number = number + excluded.number",
        (name, number),
    )
