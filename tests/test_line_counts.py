"""Line counts are right in every encoding that is read in place, made once, and stopped when told."""

import os
import time
from pathlib import Path

import pytest

from rlm.documents import look
from rlm.line_counts import BLOCK_BYTES, LineCounts, count_lines
from rlm.text_cache import TextCache
from rlm.texts import known_texts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize(
    ("text", "lines"), [("", 0), ("one", 0), ("one\n", 1), ("a\r\nb\n\nc", 3), ("é\n" * 5000, 5000)]
)
def test_newlines_are_counted_in_every_encoding(tmp_path: Path, text: str, lines: int, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert count_lines(path, encoding) == lines


def test_a_byte_pair_across_two_characters_is_no_line_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(("\u0a41\u4100" * 100).encode("utf-16-le") + "\n".encode("utf-16-le"))
    assert count_lines(path, "utf-16-le") == 1


def test_it_stops_when_told_and_reports_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"line\n" * (BLOCK_BYTES // 2))
    seen: list[int] = []
    assert count_lines(path, "utf-8", progress=seen.append) == BLOCK_BYTES // 2
    assert seen[-1] == path.stat().st_size
    assert len(seen) == 3
    assert count_lines(path, "utf-8", stopped=lambda: True) is None


def test_a_file_that_is_gone_has_no_count(tmp_path: Path) -> None:
    assert count_lines(tmp_path / "gone.txt", "utf-8") is None


def old(path: Path, *, seconds: int) -> None:
    """Make it look as if it had been written that long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


async def test_a_count_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n")
    old(path, seconds=60)
    with TextCache(tmp_path / "texts", limit_bytes=10**6) as cache:
        counts = LineCounts(cache)
        (text,) = known_texts([look(path)], cache=cache)
        assert text.lines == -1
        assert await counts.count_small([text]) == {"a.txt": 2}
        (text,) = known_texts([look(path)], cache=cache)
        assert text.lines == 2
        path.write_text("a\nb\nc\n")
        old(path, seconds=30)
        (text,) = known_texts([look(path)], cache=cache)
        assert text.lines == -1
