"""An entry of the cache of texts: kept as it came, and whole or not at all."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm.errors import DocumentError
from rlm.text_cache import DATABASE, TextCache, usage
from rlm.text_entries import MAX_SKIPPED
from tests.caches import KEY, MiB, child, names, put


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "texts"


@pytest.fixture
def cache(folder: Path) -> Iterator[TextCache]:
    with TextCache(folder, limit_bytes=MiB) as cache:
        yield cache


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
