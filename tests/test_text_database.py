"""The database of the cache of texts: damaged or foreign, it is never a reason not to start."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm.text_cache import DATABASE, TextCache, remove_cache, usage
from tests.caches import KEY, MiB, change, child, identity, keys, make, names, put


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "texts"


@pytest.fixture
def cache(folder: Path) -> Iterator[TextCache]:
    with TextCache(folder, limit_bytes=MiB) as cache:
        yield cache


def _garbage(database: Path) -> None:
    database.write_bytes(b"not a database\n" * 1000)


def _torn(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:5000] + bytes(3000))


def _damaged_inside(database: Path) -> None:
    content = database.read_bytes()
    database.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def _later(database: Path) -> None:
    change(database.parent, "PRAGMA user_version = 2")


def _foreign(database: Path) -> None:
    database.unlink()
    change(database.parent, "CREATE TABLE shopping (item TEXT)")


def _trigger(database: Path) -> None:
    change(
        database.parent,
        "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
    )


def _replaced_by_folder(database: Path) -> None:
    database.unlink()
    (database / "inside").mkdir(parents=True)


def _replaced_by_link(database: Path) -> None:
    database.rename(database.parent.parent / "elsewhere")
    database.symlink_to(database.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    "spoil",
    [
        _garbage,
        _torn,
        _damaged_inside,
        _later,
        _foreign,
        _trigger,
        _replaced_by_folder,
        _replaced_by_link,
    ],
)
def test_a_database_that_is_not_ours_is_set_aside(folder: Path, spoil: Callable[[Path], None]) -> None:
    with TextCache(folder, limit_bytes=MiB) as cache:
        put(cache, KEY, b"before")
    for _ in range(2):  # what was set aside the first time is no obstacle
        spoil(folder / DATABASE)
        with TextCache(folder, limit_bytes=MiB) as cache:
            assert cache.find(KEY) is None
            assert names(folder) == set()
            put(cache, KEY, b"after")
        with TextCache(folder, limit_bytes=MiB) as cache:
            assert cache.find(KEY)
    assert os.path.lexists(folder / f"{DATABASE}.corrupt")


def test_an_empty_database_is_a_new_one(folder: Path) -> None:
    folder.mkdir()
    (folder / DATABASE).touch()
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert put(cache, KEY, b"x") == cache.find(KEY)
    assert not (folder / f"{DATABASE}.corrupt").exists()


def test_without_a_database_texts_are_found_by_the_process_that_made_them(folder: Path) -> None:
    with TextCache(folder, limit_bytes=MiB) as cache:
        entry = put(cache, KEY, b"x")
    obstacle = folder / f"{DATABASE}-wal"
    obstacle.mkdir()  # SQLite cannot open its log, for a reason that may pass
    with TextCache(folder, limit_bytes=MiB) as cache:
        other = put(cache, "b" * 64, b"y")
        assert cache.find("b" * 64) == other
    obstacle.rmdir()
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert cache.find(KEY) == entry
        assert names(folder) == {KEY}


@pytest.mark.parametrize("there", ["file", "link"])
def test_something_else_in_the_place_of_the_folder_gives_way(folder: Path, there: str) -> None:
    outside = folder.with_name("outside")
    outside.mkdir()
    (outside / KEY).mkdir()
    if there == "file":
        folder.touch()
    else:
        folder.symlink_to(outside)
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert put(cache, KEY, b"x") == cache.find(KEY)
    assert [path.name for path in outside.iterdir()] == [KEY]


def text_row(**changes: object) -> dict[str, object]:
    row = {"name": "", "kind": "text", "encoding": "", "size": 3, "lines": 1, "preview": "x"}
    return {"texts": [[*(row | changes).values()]], "skipped": [], "skipped_total": 0, "note": ""}


WHOLE = text_row()
HOSTILE: dict[str, object] = {
    "no JSON": "{",
    "deep": "[" * 100_000,
    "a number": 5,
    "nothing": None,
    "bytes": b"\xff\xfe",
    "a list": [],
    "no texts": WHOLE | {"texts": None},
    "a text that is none": WHOLE | {"texts": ["abcdef"]},
    "too few fields": WHOLE | {"texts": [["", "text"]]},
    "a name that is a number": text_row(name=5),
    "a size that is true": text_row(size=True),
    "another size": text_row(size=4),
    "a size below zero": text_row(size=-3),
    "lines below zero": text_row(lines=-1),
    "a kind nobody knows": text_row(kind="../x"),
    "more texts than there are": WHOLE | {"texts": text_row()["texts"] * 2},  # type: ignore[operator]
    "skipped of other shape": WHOLE | {"skipped": [[1, 2]]},
    "a total that is text": WHOLE | {"skipped_total": "many"},
    "a note that is a list": WHOLE | {"note": []},
}


@pytest.mark.parametrize("manifest", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_record_that_makes_no_sense_is_dropped(folder: Path, manifest: object) -> None:
    text = json.dumps(manifest) if isinstance(manifest, dict | list) else manifest
    with TextCache(folder, limit_bytes=MiB) as cache:
        put(cache, KEY, b"abc")
    change(folder, "UPDATE entries SET manifest = ?", text)
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert cache.find(KEY) is None
        assert put(cache, KEY, b"abc") == cache.find(KEY)


def test_a_record_that_cannot_be_decoded_hides_no_other(folder: Path) -> None:
    bad, good = keys(2)
    with TextCache(folder, limit_bytes=MiB) as cache:
        put(cache, bad, b"abc")
        entry = put(cache, good, b"abc")
    change(folder, "UPDATE entries SET manifest = CAST(? AS TEXT) WHERE key = ?", b"\xff\xfe", bad)
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert cache.find_all([bad, good]) == {good: entry}


def test_a_record_cannot_act_on_a_terminal(folder: Path) -> None:
    with TextCache(folder, limit_bytes=MiB) as cache:
        put(cache, KEY, b"abc")
    hostile = text_row(name="\x1b", encoding="\x1b", preview="\x1b" * 500)
    hostile |= {"skipped": [["\x1b", "\x1b"]], "note": "\x1b"}
    change(folder, "UPDATE entries SET manifest = ?", json.dumps(hostile))
    with TextCache(folder, limit_bytes=MiB) as cache:
        found = cache.find(KEY)
    assert found
    assert "\x1b" not in repr(found).encode().decode("unicode_escape")
    assert found.texts[0].preview == "·" * 300


@pytest.mark.parametrize(
    "change_to",
    [
        "key = '../outside'",
        "key = 5",
        "key = NULL",
        "size_bytes = 'many'",
        "size_bytes = -5",
        "size_bytes = 9e300",
        "size_bytes = 5",
    ],
)
def test_a_row_that_makes_no_sense_is_dropped(folder: Path, change_to: str) -> None:
    with TextCache(folder, limit_bytes=MiB) as cache:
        put(cache, KEY, b"abc")
    outside = folder.with_name("outside")
    outside.mkdir()
    change(folder, f"UPDATE entries SET {change_to}")
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert cache.find(KEY) is None
        assert names(folder) == set()
        assert cache.room_for(keep=["../outside", KEY]) == MiB
        cache.make_room(MiB, keep=[])
    assert outside.is_dir()
    assert usage(folder) == (0, 0)


@pytest.mark.parametrize("digest", ["../x", 5, None, b"\xff"])
def test_a_digest_that_makes_no_sense_is_not_used(folder: Path, tmp_path: Path, digest: object) -> None:
    path = make(tmp_path / "a", b"content")
    with TextCache(folder, limit_bytes=MiB) as cache:
        key = cache.key_of(path, options="")
    change(folder, "UPDATE files SET digest = ?, lines = 'x'", digest)
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert cache.find_many([(identity(path), "")]) == [None]
        assert cache.lines_of([identity(path)]) == {}
        assert cache.key_of(path, options="") == key


READER = """
import sys
from pathlib import Path
from rlm.text_cache import usage
seen = [usage(Path(sys.argv[1]))]
print("reading", flush=True)
while seen[-1][0] < 100:
    if (now := usage(Path(sys.argv[1]))) != seen[-1]:
        seen.append(now)
print(seen == sorted(seen), all(size == 2 * count for count, size in seen))
"""


def test_the_cache_can_be_looked_at_while_it_is_written(cache: TextCache) -> None:
    first, *rest = keys(100)
    put(cache, first, b"xy")
    with child(READER, cache.folder) as process:
        assert process.stdout
        assert process.stdout.readline() == "reading\n"
        for key in rest:
            put(cache, key, b"xy")
        assert process.stdout.readline() == "True True\n"


@pytest.mark.parametrize("spoil", [_garbage, _foreign, _replaced_by_folder, Path.unlink])
def test_looking_at_what_cannot_be_read_shows_nothing(folder: Path, spoil: Callable[[Path], None]) -> None:
    assert usage(folder) == (0, 0)
    with TextCache(folder, limit_bytes=MiB) as cache:
        put(cache, KEY, b"abc")
    spoil(folder / DATABASE)
    before = {*folder.rglob("*")}
    assert usage(folder) == (0, 0)
    assert {*folder.rglob("*")} == before


def test_removing_the_cache_leaves_what_is_not_its_own(folder: Path) -> None:
    remove_cache(folder)
    with TextCache(folder, limit_bytes=MiB) as cache:
        put(cache, KEY, b"abc")
        cache.writer("b" * 64, limit_bytes=MiB)
    _garbage(folder / DATABASE)
    TextCache(folder, limit_bytes=MiB).close()
    (folder / "notes.txt").touch()
    remove_cache(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    remove_cache(folder)
    assert not folder.exists()
