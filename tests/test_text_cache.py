"""The cache of texts: found by content, bounded, and shown to the container."""

import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm.errors import DocumentError, StateError
from rlm.text_cache import FileIdentity, TextCache, usage
from tests.caches import KEY, OLD, MiB, identity, keys, make, names, put


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "texts"


@pytest.fixture
def cache(folder: Path) -> Iterator[TextCache]:
    with TextCache(folder, limit_bytes=MiB) as cache:
        yield cache


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
