"""Kept replies of sub-calls: which calls are the same, what stays, what goes, and what damage does."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlm.call_cache import CacheUsage, CallCache, Kept, cache_usage, call_key
from rlm.events import Event, Notice, Usage
from rlm.models import ChatMessage, ModelReply
from rlm.settings import ModelConfig

MiB = 1024 * 1024
USAGE = Usage(calls=1, input_tokens=900, output_tokens=20, cost_usd=0.25)
MODEL = ModelConfig(
    model="openai/sub", api_base="http://localhost:1", params={"temperature": 0.5, "seed": {"b": 1, "a": 2}}
)


def reply(text: str, *, finish_reason: str = "stop", usage: Usage = USAGE) -> ModelReply:
    return ModelReply(text=text, reasoning="", usage=usage, finish_reason=finish_reason, model="openai/sub")


def key(number: int) -> str:
    return f"{number:064x}"


def asked(prompt: str, *, system: str | None = None) -> list[ChatMessage]:
    messages: list[ChatMessage] = [{"role": "system", "content": system}] if system is not None else []
    return [*messages, {"role": "user", "content": prompt}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.sqlite3"


@contextmanager
def opened(path: Path, *, limit_bytes: int = MiB, told: list[Event] | None = None) -> Iterator[CallCache]:
    """A cache that has nothing to tell, unless there is a list for it."""
    events: list[Event] = [] if told is None else told
    cache = CallCache(path, limit_bytes=limit_bytes, emit=events.append)
    try:
        yield cache
    finally:
        cache.close()
    assert told is not None or events == []


def change(path: Path, sql: str, *values: object) -> None:
    """Write into the database behind the back of the cache."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql, values)


# ---- which calls are the same


def test_equal_calls_have_one_key_in_whatever_order_they_are_written() -> None:
    params = {"seed": {"a": 2, "b": 1}, "temperature": 0.5}
    other = ModelConfig(params=params, api_base="http://localhost:1", model="openai/sub")
    swapped: list[ChatMessage] = [{"content": "Hello?", "role": "user"}]
    assert call_key(MODEL, asked("Hello?")) == call_key(other, swapped)
    priced = dataclasses.replace(MODEL, api_key_env="OTHER_KEY")
    assert call_key(priced, asked("Hello?")) == call_key(MODEL, asked("Hello?"))


def test_whatever_shapes_the_reply_makes_another_key() -> None:
    def changed(**fields: Any) -> ModelConfig:
        return dataclasses.replace(MODEL, **fields)

    keys = [
        call_key(MODEL, asked("Hello?")),
        call_key(MODEL, asked("Hello")),
        call_key(MODEL, asked("Hello?", system="")),
        call_key(MODEL, asked("Hello?", system="Be brief.")),
        call_key(MODEL, [{"role": "system", "content": "Hello?"}]),
        call_key(MODEL, [*asked("Hello?"), *asked("Hello?")]),
        call_key(MODEL, asked("\ud800")),
        call_key(MODEL, asked("\\ud800")),
        call_key(changed(model="openai/other"), asked("Hello?")),
        call_key(changed(api_base=None), asked("Hello?")),
        call_key(changed(api_base="http://localhost:2"), asked("Hello?")),
        call_key(changed(params={}), asked("Hello?")),
        call_key(changed(params={"temperature": 0.5}), asked("Hello?")),
        call_key(changed(params={**MODEL.params, "seed": 7}), asked("Hello?")),
    ]
    assert len({*keys}) == len(keys)


# ---- what stays


@pytest.mark.parametrize("text", ["yes", " Ünï \x00\r\n", "half a pair: \ud83d", "x" * 300_000])
def test_a_reply_stays_with_what_it_took(path: Path, text: str) -> None:
    with opened(path) as cache:
        assert cache.find(key(1)) is None
        cache.keep(key(1), reply(text))
        assert cache.find(key(1)) == Kept(text, USAGE)
    with opened(path) as cache:
        assert cache.find(key(1)) == Kept(text, USAGE)
        assert cache.missing([key(1), key(2), key(2)]) == {key(2)}


@pytest.mark.parametrize(
    ("text", "finish_reason"),
    [("cut o", "length"), ("", "stop"), (" \n", "stop"), ("no", "content_filter"), ("perhaps", "")],
)
def test_a_reply_that_is_not_complete_is_counted_and_not_kept(
    path: Path, text: str, finish_reason: str
) -> None:
    with opened(path) as cache:
        cache.keep(key(1), reply(text, finish_reason=finish_reason))
        assert cache.find(key(1)) is None
    assert cache_usage(path).sent == 1


WRITER = """
import os, signal, sys
from pathlib import Path
from rlm.call_cache import CallCache
from rlm.events import Usage
from rlm.models import ModelReply
cache = CallCache(Path(sys.argv[1]), limit_bytes=1 << 20, emit=print)
for number in range(50):
    usage = Usage(calls=1, cost_usd=0.25)
    reply = ModelReply(text=f"reply {number}", reasoning="", usage=usage, finish_reason="stop", model="m")
    cache.keep(f"{number:064x}", reply)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_that_was_kept_is_lost_when_the_process_is_killed(path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", WRITER, str(path)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert cache_usage(path).replies == 50
    with opened(path) as cache:
        found = [cache.find(key(number)) for number in range(50)]
    assert [kept and kept.text for kept in found] == [f"reply {number}" for number in range(50)]


def test_no_file_is_made_before_the_first_use(path: Path) -> None:
    with opened(path):
        pass
    assert not path.exists()


def test_prompts_are_not_written_down(path: Path) -> None:
    with opened(path) as cache:
        cache.keep(call_key(MODEL, asked("my secret", system="top secret")), reply("the reply"))
    content = path.read_bytes()
    assert b"secret" not in content and b"the reply" in content
    assert path.stat().st_mode & 0o777 == 0o600


# ---- what goes


def test_the_file_keeps_to_its_bound_and_what_was_used_longest_ago_goes(path: Path) -> None:
    with opened(path, limit_bytes=200_000) as cache:
        for number in range(200):
            cache.keep(key(number), reply(f"{number:05}" * (1000 if number % 7 else 10)))
            if kept := cache.find(key(0)):
                cache.count_hit(key(0), kept.usage)
        there = [number for number in range(200) if cache.find(key(number))]
        log = path.with_name(f"{path.name}-wal").stat().st_size
    assert path.stat().st_size <= 200_000 + 3 * 4096
    assert log < 8 * MiB
    assert there[0] == 0, "it was used again and again"
    assert there[1:] == [*range(there[1], 200)], "the newest, all of them"
    assert len(there) > 25


def test_a_bound_that_was_lowered_holds_from_the_next_use_on(path: Path) -> None:
    with opened(path) as cache:
        for number in range(50):
            cache.keep(key(number), reply("x" * 5000))
    with opened(path, limit_bytes=100_000) as cache:
        gone = cache.missing([key(number) for number in range(50)])
        assert gone == {key(number) for number in range(len(gone))}, "the oldest"
        assert 30 < len(gone) < 50


def test_a_reply_over_the_bound_pushes_nothing_out(path: Path) -> None:
    with opened(path, limit_bytes=100_000) as cache:
        cache.keep(key(1), reply("small"))
        cache.keep(key(2), reply("x" * 100_000))
        assert cache.find(key(1)) and not cache.find(key(2))


# ---- what is told


def test_hits_are_counted_with_what_they_saved(path: Path) -> None:
    with opened(path) as cache:
        cache.keep(key(1), reply("one"))
        cache.keep(key(2), reply("two", usage=Usage(calls=1, cost_usd=None)))
        for number in (1, 1, 2):
            kept = cache.find(key(number))
            assert kept
            cache.count_hit(key(number), kept.usage)
        seen = cache_usage(path)  # by another command, meanwhile
    assert seen == CacheUsage(hits=3, sent=2, saved_usd=0.5, replies=2, size_bytes=seen.size_bytes)


# ---- what damage does


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a database\n" * 1000)


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6000])


def _damaged_inside(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def _later(path: Path) -> None:
    change(path, "PRAGMA user_version = 2")


def _foreign(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE shopping (item TEXT)")


def _folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("spoil", [_garbage, _torn, _damaged_inside, _later, _foreign, _folder, _link])
def test_what_cannot_be_used_is_set_aside_with_a_note(path: Path, spoil: Callable[[Path], None]) -> None:
    with opened(path) as cache:
        cache.keep(key(1), reply("before"))
    for _ in range(2):  # what was set aside the first time is no obstacle
        spoil(path)
        told: list[Event] = []
        with opened(path, told=told) as cache:
            assert cache.find(key(1)) is None
            cache.keep(key(1), reply("after"))
            assert cache.find(key(1)) == Kept("after", USAGE)
        (notice,) = told
        assert isinstance(notice, Notice) and notice.level == "info"
        assert "cache.sqlite3.corrupt" in notice.text
        assert os.path.lexists(path.with_name("cache.sqlite3.corrupt"))
    with opened(path) as cache:
        assert cache.find(key(1)) == Kept("after", USAGE)


def test_what_is_paid_for_is_kept_also_when_it_is_the_first_to_meet_the_damage(path: Path) -> None:
    with opened(path) as cache:
        cache.keep(key(1), reply("before"))
    _damaged_inside(path)
    told: list[Event] = []
    with opened(path, told=told) as cache:
        cache.keep(key(2), reply("paid for"))
    assert len(told) == 1
    with opened(path) as cache:
        assert cache.find(key(2)) == Kept("paid for", USAGE)


@pytest.mark.parametrize(
    "change_to",
    [
        "reply = CAST('another' AS BLOB)",
        "reply = 'text'",
        "reply = NULL",
        "crc = NULL",
        "crc = 'x'",
        "usage = '{'",
        "usage = '[]'",
        "usage = NULL",
        "usage = x'ff'",
        'usage = \'{"cost_usd": "free"}\'',
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_no_reply(path: Path, change_to: str) -> None:
    with opened(path) as cache:
        cache.keep(key(1), reply("before"))
    change(path, f"UPDATE replies SET {change_to}")
    with opened(path) as cache:
        assert cache.find(key(1)) is None
        cache.keep(key(1), reply("after"))
        assert cache.find(key(1)) == Kept("after", USAGE)


def test_a_reply_under_the_key_of_another_is_none(path: Path) -> None:
    with opened(path) as cache:
        cache.keep(key(1), reply("one"))
    change(path, "UPDATE replies SET key = ?", key(2))
    with opened(path) as cache:
        assert cache.find(key(2)) is None


@pytest.mark.parametrize("used", ["text", None, 2**63 - 1, -5, 1e300])
def test_a_use_that_makes_no_sense_does_no_harm(path: Path, used: object) -> None:
    with opened(path) as cache:
        cache.keep(key(1), reply("one"))
    change(path, "UPDATE replies SET used = ?", used)
    with opened(path) as cache:
        cache.keep(key(2), reply("two"))
        cache.count_hit(key(1), USAGE)
        assert cache.find(key(1)) and cache.find(key(2))


def test_without_a_file_replies_are_kept_until_the_end_and_that_is_told_once(path: Path) -> None:
    path.with_name(f"{path.name}-wal").mkdir()  # SQLite cannot open its log, for a reason that may pass
    told: list[Event] = []
    with opened(path, told=told) as cache:
        cache.keep(key(1), reply("one"))
        cache.keep(key(2), reply("two"))
        assert cache.find(key(1)) and cache.find(key(2))
    (notice,) = told
    assert isinstance(notice, Notice) and notice.level == "warning"
    assert str(path) in notice.text


FULL = """
import resource, signal, sys
from pathlib import Path
from rlm.call_cache import CallCache
from rlm.events import Usage
from rlm.models import ModelReply

def keep(number):
    reply = ModelReply(text="x" * 50_000, reasoning="", usage=Usage(), finish_reason="stop", model="m")
    cache.keep(f"{number:064x}", reply)

cache = CallCache(Path(sys.argv[1]), limit_bytes=1 << 20, emit=lambda event: print(event.level, event.text))
keep(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
keep(2)
keep(3)
cache.count_hit(f"{1:064x}", Usage())
print([cache.find(f"{number:064x}") is not None for number in (1, 2, 3)])
"""


def test_on_a_full_disk_replies_are_found_and_it_is_told_once(path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], check=True, timeout=60, capture_output=True, text=True
    )
    told, found = ended.stdout.splitlines()
    assert told.startswith(f"warning Replies of sub-calls cannot be kept in {path}.")
    assert found == "[True, False, False]"


@pytest.mark.parametrize("spoil", [_garbage, _foreign, _folder, Path.unlink])
def test_looking_at_what_cannot_be_read_shows_nothing(path: Path, spoil: Callable[[Path], None]) -> None:
    assert cache_usage(path) == CacheUsage()
    with opened(path) as cache:
        cache.keep(key(1), reply("one"))
    spoil(path)
    before = {*path.parent.rglob("*")}
    assert cache_usage(path) == CacheUsage()
    assert {*path.parent.rglob("*")} == before
