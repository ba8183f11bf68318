"""The cache of texts: found by content, whole or not at all, bounded, and never a reason not to start."""

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rlm.errors import DocumentError, StateError
from rlm.text_cache import DATABASE, MAX_SKIPPED, Entry, FileIdentity, TextCache, remove_cache, usage

MiB = 1024 * 1024
OLD = 1_000_000_000
KEY = "a" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "texts"


@pytest.fixture
def cache(folder: Path) -> Iterator[TextCache]:
    with TextCache(folder, limit_bytes=MiB) as cache:
        yield cache


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


# Keys


def test_a_key_follows_content_and_options_and_not_the_name(cache: TextCache, tmp_path: Path) -> None:
    one, copy = make(tmp_path / "one.pdf", b"same"), make(tmp_path / "copy.pdf", b"same")
    other = make(tmp_path / "other.pdf", b"else")
    key = cache.key_of(one, options="pdf")
    assert cache.key_of(copy, options="pdf") == key
    assert len({key, cache.key_of(one, options="html"), cache.key_of(other, options="pdf")}) == 3
    made = put(cache, key, b"text")
    assert cache.find(cache.key_of(copy, options="pdf")) == made


def test_changed_content_has_another_key(cache: TextCache, tmp_path: Path) -> None:
    path = make(tmp_path / "a", b"before")
    before = cache.key_of(path, options="")
    make(path, b"after!", mtime_s=OLD + 1)
    after = cache.key_of(path, options="")
    assert after != before
    assert after == cache.key_of(make(tmp_path / "b", b"after!"), options="")


def test_a_file_that_has_not_changed_is_not_read_again(folder: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "a", b"before")
    with TextCache(folder, limit_bytes=MiB) as cache:
        key = cache.key_of(path, options="")
    make(path, b"after!")  # size and time are those of before, so only reading could tell
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert cache.key_of(path, options="") == key


def test_a_file_written_a_moment_ago_is_read_again(cache: TextCache, tmp_path: Path) -> None:
    now = time.time()
    path = make(tmp_path / "a", b"before", mtime_s=now)
    key = cache.key_of(path, options="")
    make(path, b"after!", mtime_s=now)  # as two writes within one tick of the clock would leave it
    assert cache.key_of(path, options="") != key


def test_a_file_that_is_being_written_to_has_no_key(cache: TextCache, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.touch()
    os.truncate(path, 64 * MiB)
    done = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not done.wait(0.001):
                file.write(b"more")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(DocumentError, match="is being written to") as caught:
            cache.key_of(path, options="")
        assert "Wait" in caught.value.hint
    finally:
        done.set()
        writer.join()
    assert cache.key_of(path, options="")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: (path.unlink(), path.mkdir()), None])
def test_what_is_no_file_has_no_key(
    cache: TextCache, tmp_path: Path, spoil: Callable[[Path], object] | None
) -> None:
    path = make(tmp_path / "a", b"x")
    if spoil:
        spoil(path)
    else:
        path.unlink()
        os.mkfifo(path)  # opening it must not wait for a writer
    with pytest.raises(DocumentError, match="cannot be read"):
        cache.key_of(path, options="")


def test_many_known_files_are_found_at_once(cache: TextCache, tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{number}.html", b"%d" % number) for number in range(200)]
    made = [put(cache, cache.key_of(path, options="html"), path.read_bytes()) for path in paths[:-1]]
    new = make(tmp_path / "new.html", b"new")
    files = [(identity(path), "html") for path in [*paths, new]]
    assert cache.find_many(files) == [*made, None, None]
    assert cache.find_many([(identity(paths[0]), "text")]) == [None]
    assert cache.find_all([entry.key for entry in made]) == {entry.key: entry for entry in made}


# Entries


@pytest.mark.parametrize(
    ("pieces", "lines", "preview"),
    [
        ([], 0, ""),
        ([b""], 0, ""),
        ([b"one"], 1, "one"),
        ([b"one\n"], 1, "one\n"),
        ([b"one\n", b"", b"two"], 2, "one\ntwo"),
        ([b"\n\n"], 2, "\n\n"),
        (["é".encode()[:1], "é".encode()[1:], b"\r\n"], 1, "é\n"),
        ([b"red \x1b[31m\x07"], 1, "red ·[31m·"),
        ([b"\xff\n"], 1, "\ufffd\n"),
        (["猫".encode() * 1000, b"\n"], 1, "猫" * 300),
        ([b"x\n"] * 1000, 1000, "x\n" * 150),
    ],
)
def test_a_text_is_kept_as_it_came_with_lines_and_preview(
    cache: TextCache, pieces: list[bytes], lines: int, preview: str
) -> None:
    with cache.writer(KEY, limit_bytes=MiB) as writer:
        sink = writer.begin("", kind="pdf", encoding="")
        for piece in pieces:
            sink.write(piece)
        entry = writer.commit(note="two pages hold no text")
    (text,) = entry.texts
    assert text.path.read_bytes() == b"".join(pieces)
    assert (text.kind, text.lines, text.preview) == ("pdf", lines, preview)
    assert text.size_bytes == entry.size_bytes == len(b"".join(pieces))
    assert cache.find(KEY) == entry


def test_an_entry_is_found_again_after_a_restart(folder: Path) -> None:
    with TextCache(folder, limit_bytes=MiB) as cache, cache.writer(KEY, limit_bytes=MiB) as writer:
        writer.begin("a/b.csv", kind="csv", encoding="cp1252").write(b"1,2\n")
        writer.begin("猫.txt", kind="text", encoding="utf-8").write(b"meow")
        writer.skip("x.png", "it is a PNG image")
        entry = writer.commit("a note")
    assert [(text.name, text.kind, text.encoding) for text in entry.texts] == [
        ("a/b.csv", "csv", "cp1252"),
        ("猫.txt", "text", "utf-8"),
    ]
    assert (entry.skipped, entry.skipped_total) == ((("x.png", "it is a PNG image"),), 1)
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert cache.find(KEY) == entry
    assert usage(folder) == (1, 8)


def test_everybody_may_read_the_texts_but_not_look_into_the_cache(cache: TextCache) -> None:
    umask = os.umask(0o077)
    try:
        (text,) = put(cache, KEY, b"x").texts
    finally:
        os.umask(umask)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (text.path, text.path.parent, cache.folder)]
    assert modes == [0o644, 0o755, 0o700]
    assert stat.S_IMODE((cache.folder / DATABASE).stat().st_mode) == 0o600


def test_names_are_kept_as_names_only_and_cannot_act_on_a_terminal(cache: TextCache) -> None:
    with cache.writer(KEY, limit_bytes=MiB) as writer:
        for name in ("../../escape", "/etc/passwd", "a\x1b[2J\nb", "\ud800"):
            writer.begin(name, kind="text", encoding="\x1b").write(b"x")
        writer.skip("\x1b]0;", "\x07")
        entry = writer.commit("\x1b")
    assert [text.name for text in entry.texts] == ["../../escape", "/etc/passwd", "a·[2J·b", "·"]
    assert (entry.skipped, entry.note, entry.texts[0].encoding) == ((("·]0;", "·"),), "·", "·")
    assert [text.path for text in entry.texts] == [cache.folder / KEY / f"{n}.txt" for n in range(4)]
    assert cache.find(KEY) == entry


def test_of_what_was_left_out_the_first_are_named_and_all_counted(cache: TextCache) -> None:
    with cache.writer(KEY, limit_bytes=MiB) as writer:
        for number in range(MAX_SKIPPED + 5):
            writer.skip(f"{number}.png", "an image")
        entry = writer.commit()
    assert (len(entry.skipped), entry.skipped_total) == (MAX_SKIPPED, MAX_SKIPPED + 5)
    assert entry.skipped[-1] == (f"{MAX_SKIPPED - 1}.png", "an image")
    assert cache.find(KEY) == entry


def test_an_entry_made_again_takes_the_place_of_the_first(cache: TextCache) -> None:
    put(cache, KEY, b"one", b"two")
    again = put(cache, KEY, b"three")
    assert cache.find(KEY) == again
    assert [path.name for path in (cache.folder / KEY).iterdir()] == ["0.txt"]
    assert usage(cache.folder) == (1, 5)


def test_what_is_not_committed_leaves_nothing(cache: TextCache) -> None:
    with pytest.raises(RuntimeError), cache.writer(KEY, limit_bytes=MiB) as writer:
        sink = writer.begin("", kind="text", encoding="")
        sink.write(b"x")
        raise RuntimeError
    sink.write(b"late")
    writer.begin("", kind="text", encoding="").write(b"later")
    with pytest.raises(ValueError, match="aborted"):
        writer.commit()
    assert names(cache.folder) == set()
    assert cache.find(KEY) is None


def test_too_much_text_is_told_at_commit_and_leaves_nothing(cache: TextCache) -> None:
    writer = cache.writer(KEY, limit_bytes=MiB)
    for _ in range(3):
        writer.begin("", kind="text", encoding="").write(b"x" * (MiB // 2))
    assert names(cache.folder) == set()  # its space is free at once
    with pytest.raises(DocumentError, match=r"takes more than 1\.0 MiB"):
        writer.commit()
    assert cache.find(KEY) is None


def test_texts_may_be_written_and_given_up_by_different_threads(cache: TextCache) -> None:
    for _ in range(20):
        writer = cache.writer(KEY, limit_bytes=1024 * MiB)
        begun = threading.Event()

        def fill(writer: Any = writer, begun: threading.Event = begun) -> None:
            sink = writer.begin("", kind="text", encoding="")
            begun.set()
            for _ in range(200):
                sink.write(b"x" * 1000)

        thread = threading.Thread(target=fill)
        thread.start()
        begun.wait()
        writer.abort()
        thread.join()
        assert writer.error is None
    assert names(cache.folder) == set()


KILLED = """
import sys
from pathlib import Path
from rlm.text_cache import TextCache
cache = TextCache(Path(sys.argv[1]), limit_bytes=1 << 20)
with cache.writer("b" * 64, limit_bytes=1 << 20) as writer:
    writer.begin("", kind="text", encoding="").write(b"whole")
    writer.commit()
with cache.writer("c" * 64, limit_bytes=1 << 20) as writer:
    writer.begin("", kind="text", encoding="").write(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_whole_entries_and_no_half_ones(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "writing\n"
        assert len(names(folder)) == 2
        process.send_signal(signal.SIGKILL)
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert names(folder) == {"b" * 64}
        found = cache.find("b" * 64)
        assert found
        assert found.texts[0].path.read_bytes() == b"whole"


FULL = """
import resource, sys
from pathlib import Path
from rlm.errors import StateError
from rlm.text_cache import TextCache
folder = Path(sys.argv[1])
with TextCache(folder, limit_bytes=1 << 30) as cache:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    writer = cache.writer("b" * 64, limit_bytes=1 << 30)
    sink = writer.begin("", kind="text", encoding="")
    for _ in range(3):
        sink.write(b"x" * (1 << 19))
    left = [path.name for path in folder.iterdir() if path.is_dir()]
    try:
        writer.commit()
    except StateError as error:
        print(error, error.hint, left)
    with cache.writer("b" * 64, limit_bytes=1 << 30) as writer:
        writer.begin("", kind="text", encoding="").write(b"small")
        print(writer.commit().size_bytes)
"""


def test_a_full_disk_is_told_at_commit_and_leaves_nothing(folder: Path) -> None:
    with child(FULL, folder) as process:
        told, small = process.communicate()[0].splitlines()
    assert told.startswith("Could not write ")
    assert "Free some space" in told
    assert told.endswith("[]")
    assert small == "5"


def _cut(text: Path) -> None:
    os.truncate(text, 1)


def _link_away(text: Path) -> None:
    text.rename(text.with_name("abc"))
    text.symlink_to("abc")  # as long as the text, and not the text


@pytest.mark.parametrize("damage", [Path.unlink, _cut, _link_away, lambda text: shutil.rmtree(text.parent)])
def test_an_entry_that_is_not_whole_is_dropped(cache: TextCache, damage: Callable[[Path], object]) -> None:
    entry = put(cache, KEY, b"one", b"two")
    damage(entry.texts[1].path)
    assert cache.find(KEY) is None
    assert names(cache.folder) == set()
    assert usage(cache.folder) == (0, 0)


# The limit


def test_the_least_recently_used_entries_go_first(folder: Path) -> None:
    old, middle, new, kept = keys(4)
    with TextCache(folder, limit_bytes=40) as cache:
        for key in (kept, old, middle, new):
            put(cache, key, b"x" * 10)
        cache.find(old)
        cache.make_room(0, keep=[])
        assert usage(folder) == (4, 40)
    with TextCache(folder, limit_bytes=40) as cache:
        cache.make_room(5, keep=[kept])
        assert names(folder) == {kept, new, old}
        cache.find(new)
        cache.make_room(15, keep=[kept])
        assert names(folder) == {kept, new}
        cache.make_room(1000, keep=[kept])
        assert names(folder) == {kept}


def test_room_is_what_present_entries_leave_of_limit_and_disk(cache: TextCache) -> None:
    one, two = keys(2)
    put(cache, one, b"x" * 1000)
    put(cache, two, b"x" * 500)
    assert cache.room_for() == MiB
    assert cache.room_for(keep=[one]) == MiB - 1000
    assert cache.room_for(keep=[one, two, "unknown"]) == MiB - 1500
    with TextCache(cache.folder.with_name("large"), limit_bytes=2**60) as large:
        disk = shutil.disk_usage(large.folder)
        assert large.room_for() < disk.total - min(2**30, disk.total // 20)
        put(large, one, b"x")
        large.make_room(disk.total, keep=[])
        assert large.find(one) is None


# What the container sees


def test_only_the_texts_asked_for_are_exposed(cache: TextCache, tmp_path: Path) -> None:
    one, two = (put(cache, key, *texts) for key, texts in zip(keys(2), ([b"1", b"2"], [b"3"]), strict=True))
    shown = tmp_path / "shown"
    assert cache.expose(shown, []) == {}
    places = cache.expose(shown, [one, two])
    assert {source.read_bytes(): place.read_bytes() for source, place in places.items()} == {
        b"1": b"1",
        b"2": b"2",
        b"3": b"3",
    }
    assert all(source.samefile(place) for source, place in places.items())
    again = cache.expose(shown, [two])
    assert again.items() <= places.items()
    assert {*shown.iterdir()} == {*again.values()}


def test_what_does_not_belong_is_removed_and_links_are_not_followed(cache: TextCache, tmp_path: Path) -> None:
    entry = put(cache, KEY, b"text")
    outside = tmp_path / "outside"
    outside.mkdir()
    make(outside / "precious", b"x")
    shown = tmp_path / "shown"
    shown.symlink_to(outside)
    (place,) = cache.expose(shown, [entry]).values()
    assert not shown.is_symlink()
    place.unlink()
    place.symlink_to(outside / "precious")
    (shown / "linked").symlink_to(outside)
    (shown / "folder").mkdir()
    (shown / "folder" / "file").touch()
    cache.expose(shown, [entry])
    assert [path.name for path in shown.iterdir()] == [place.name]
    assert (place.read_bytes(), (outside / "precious").read_bytes()) == (b"text", b"x")


def test_an_entry_made_again_is_exposed_as_it_is_now(cache: TextCache, tmp_path: Path) -> None:
    cache.expose(tmp_path / "shown", [put(cache, KEY, b"before")])
    (place,) = cache.expose(tmp_path / "shown", [put(cache, KEY, b"after, and longer")]).values()
    assert place.read_bytes() == b"after, and longer"


def test_dropping_an_entry_takes_nothing_from_a_container_that_reads_it(
    cache: TextCache, tmp_path: Path
) -> None:
    (place,) = cache.expose(tmp_path / "shown", [put(cache, KEY, b"text")]).values()
    cache.make_room(MiB, keep=[])
    assert cache.find(KEY) is None
    assert place.read_bytes() == b"text"


def test_another_disk_gets_copies_that_stay(cache: TextCache) -> None:
    entry = put(cache, KEY, b"text")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (place,) = cache.expose(Path(elsewhere) / "shown", [entry]).values()
        assert place.read_bytes() == b"text"
        assert stat.S_IMODE(place.stat().st_mode) == 0o644
        first = place.stat()
        cache.expose(Path(elsewhere) / "shown", [entry])
        assert os.path.samestat(place.stat(), first)


def test_a_text_that_is_gone_cannot_be_exposed(cache: TextCache, tmp_path: Path) -> None:
    entry = put(cache, KEY, b"text")
    entry.texts[0].path.unlink()
    with pytest.raises(StateError, match="Could not write"):
        cache.expose(tmp_path / "shown", [entry])


# Line counts


def test_line_counts_hold_until_the_file_changes(folder: Path, tmp_path: Path) -> None:
    path, fresh = make(tmp_path / "a", b"1\n2\n"), make(tmp_path / "b", b"", mtime_s=time.time())
    huge = FileIdentity(2**64 - 1, 2**64 - 1, 2**62, OLD)
    before = identity(path)
    with TextCache(folder, limit_bytes=MiB) as cache:
        key = cache.key_of(path, options="")
        cache.remember_lines({before: 1, huge: 7, identity(fresh): 0})
        cache.remember_lines({before: 2})
    make(path, b"1\n2\n3\n", mtime_s=OLD + 1)
    with TextCache(folder, limit_bytes=MiB) as cache:
        assert cache.lines_of([before, identity(path), huge, identity(fresh)]) == {before: 2, huge: 7}
        assert cache.key_of(make(path, b"1\n2\n"), options="") == key


# The database


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
