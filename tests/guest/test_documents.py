"""A `Document` is its text: whatever `str` and `re` say of the one, they say of the other."""

import bz2
import gzip
import lzma
import os
import pickle
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.blocks import iter_lines
from sandbox.documents import Document, open_document, text_lines
from sandbox.textfile import DocumentSpec, DocumentTooLargeError
from tests.guest import LIMIT, document, write

texts = st.text(st.sampled_from("aab \n\n\r\té日😀\u2028\x1c\x85")) | st.text()
bounds = st.none() | st.integers(-80, 80)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents") / "text"


@given(texts, bounds, bounds, st.none() | st.integers(-5, 5).filter(bool))
def test_slices_like_str(path: Path, text: str, start: int | None, end: int | None, step: int | None) -> None:
    text = text.encode("utf-8", "replace").decode()
    lazy = document(path, text)
    assert lazy[start:end:step] == text[start:end:step]
    assert len(lazy) == len(text)
    assert bool(lazy) == bool(text)
    assert "".join(lazy) == text


@given(texts, st.integers(-50, 50))
def test_index_like_str(path: Path, text: str, at: int) -> None:
    text = text.encode("utf-8", "replace").decode()
    if -len(text) <= at < len(text):
        assert document(path, text)[at] == text[at]
    else:
        with pytest.raises(IndexError):
            document(path, text)[at]


@given(st.data(), texts, bounds, bounds)
def test_looks_for_text_like_str(
    path: Path, data: st.DataObject, text: str, start: int | None, end: int | None
) -> None:
    text = text.encode("utf-8", "replace").decode()
    lazy = document(path, text)
    cut = data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, 20)))
    sub = data.draw(st.sampled_from([text[cut[0] : cut[0] + cut[1]], "aa", "a", "\n", "aba", ""]))
    assert (sub in lazy) == (sub in text)
    assert lazy.find(sub, start, end) == text.find(sub, start, end)
    assert lazy.rfind(sub, start, end) == text.rfind(sub, start, end)
    assert lazy.count(sub, start, end) == text.count(sub, start, end)
    assert lazy.startswith(sub, start, end) == text.startswith(sub, start, end)
    assert lazy.endswith((sub, "b"), start, end) == text.endswith((sub, "b"), start, end)


def test_occurrences_that_overlap_count_once_over_borders(path: Path) -> None:
    text = "aa" * 13 + "b" + "aba" * 20
    for block_bytes in range(8, 24):
        lazy = document(path, text, block_bytes=block_bytes)
        assert [lazy.count(sub) for sub in ("aa", "aaa", "aba", "abaab")] == [
            text.count(sub) for sub in ("aa", "aaa", "aba", "abaab")
        ]


@given(texts)
@example("a\r\nb\x1cc\u2028d\n\ne\r")
def test_lines_like_str(path: Path, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    lazy = document(path, text)
    assert list(lazy.splitlines()) == text.splitlines()
    assert list(lazy.splitlines(keepends=True)) == text.splitlines(keepends=True)
    ended = text.endswith("\n") or not text
    lines = text.split("\n")[: -1 if ended else None]
    assert lazy.line_count == len(lines)
    assert list(lazy.lines()) == [line.removesuffix("\r") for line in lines]
    assert list(iter_lines(lazy)) == list(iter_lines(text))
    kept = [line + "\n" for line in lines]
    kept[-1:] = [line if ended else line[:-1] for line in kept[-1:]]
    for first in range(len(lines) + 2):
        assert (
            list(lazy.lines(first, first + 1))
            == [line.removesuffix("\r") for line in lines[max(first - 1, 0) : first + 1]][
                : first + 2 - max(first, 1)
            ]
        )
        expected = "".join(kept[max(first - 1, 0) : first + 1])
        assert text_lines(lazy, first, first + 1) == text_lines(text, first, first + 1) == expected


@given(texts, st.sampled_from(["\n", "a", "aa", " ", "\r\n", None]), st.integers(-1, 4))
def test_splits_like_str(path: Path, text: str, sep: str | None, maxsplit: int) -> None:
    text = text.encode("utf-8", "replace").decode()
    parts, lazy = text.split(sep, maxsplit), document(path, text).split(sep, maxsplit)
    assert list(lazy) == parts
    assert len(lazy) == len(parts)
    assert lazy[:2] == parts[:2]
    assert lazy[-2:] == parts[-2:]
    assert lazy[::-2] == parts[::-2]
    assert all(lazy[i] == parts[i] == lazy[i - len(parts)] for i in range(len(parts)))


PATTERNS = [
    r"a+",
    r"\w+",
    r"^.*$",
    r"(?m)^.*$",
    r"(?<=a)b|\b",
    r"(a)|(?P<x>\s)",
    r"|a",
    r"\Z",
    r"\n\s*a",
    r"(?!a)",
]


@given(texts, st.sampled_from(PATTERNS))
def test_finds_like_re(path: Path, text: str, pattern: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    found = list(document(path, text).finditer(pattern))
    expected = list(re.finditer(pattern, text))
    assert [(m.span(), m.group(), m.groups(), m.groupdict()) for m in found] == [
        (m.span(), m.group(), m.groups(), m.groupdict()) for m in expected
    ]


@pytest.mark.parametrize(
    "pattern", [r"a+", r"b.{3}a", r"^ab|a$", r"(ab){5}$", r"(?m)^\w+$", r"\b", "", "|a+", "(a)b(?=a)"]
)
def test_finds_over_window_borders(path: Path, pattern: str) -> None:
    text = ("aab" * 7 + " \n" + "ab" * 5 + "\n\n") * 20 + "a" * 500 + "b"
    found = [match.span() for match in document(path, text).finditer(pattern)]
    assert found == [match.span() for match in re.finditer(pattern, text)]


def test_a_match_has_the_interface_of_re(path: Path) -> None:
    lazy = document(path, "x" * 200 + "key=value" + "y" * 200)
    match = lazy.search(r"(?P<k>KEY)=(?P<v>value)(z)?", re.IGNORECASE)
    assert match is not None
    assert (match.start(), match.end("k"), match.span(2)) == (200, 203, (204, 209))
    assert (match.span(3), match["v"], match.group(1, "v")) == ((-1, -1), "value", ("key", "value"))
    assert match.groups("none") == ("key", "value", "none")
    with pytest.raises(IndexError, match="no such group"):
        match.group(4)
    assert lazy.search("absent") is None


@given(st.binary(), st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "latin-1", "cp1252"]))
@example(b"\xff\xfea\x00\n\x00", "utf-16-le")
@example(b"ab\xe2\x82cd\xf0\x9f\x98ef\xff" * 3, "utf-8")
def test_any_bytes_read_as_the_codec_reads_them(path: Path, data: bytes, encoding: str) -> None:
    expected = data.decode(encoding, "replace")
    if encoding.startswith("utf-16"):
        expected = expected.removeprefix("\ufeff")
    lazy = document(path, data, encoding=encoding)
    assert lazy[:] == expected
    assert len(document(path, data, encoding=encoding)) == len(expected)


@given(texts)
def test_byte_positions_lead_to_characters(path: Path, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    lazy = document(path, text)
    for at in [*range(len(text) + 1), *range(0, len(text), 3)]:
        assert lazy.offset_of_byte(len(text[:at].encode())) == at


def test_reads_only_as_far_as_asked(tmp_path: Path) -> None:
    lazy = document(tmp_path / "log", "é line\n" * 1000)
    os.truncate(tmp_path / "log", 4000)
    assert lazy[:12] == "é line\né lin"
    assert lazy.find("line\n", 8) == 9
    assert next(iter(lazy.lines(3))) == "é line"
    assert lazy.split("\n")[:2] == ["é line", "é line"]
    assert [match.start() for match in islice(lazy.finditer("é"), 2)] == [0, 7]
    with pytest.raises(OSError, match="'log' has become shorter since it was loaded"):
        len(lazy)
    with pytest.raises(OSError, match="shorter"):
        lazy.check_size()
    with pytest.raises(OSError, match="since it was registered; load it again"):
        Document(lazy.spec, str_limit_bytes=LIMIT)


def test_appended_text_is_not_seen(tmp_path: Path) -> None:
    lazy = document(tmp_path / "log", "one\ntwo")
    with (tmp_path / "log").open("a") as file:
        file.write(" and more\n")
    assert (lazy[:], lazy.line_count, lazy.endswith("two")) == ("one\ntwo", 2, True)
    assert open_document(lazy.spec, str_limit_bytes=LIMIT) == "one\ntwo"


def test_what_needs_a_str_says_what_to_use(path: Path) -> None:
    lazy = document(path, "some text " * 200_000, block_bytes=4096)
    uses: list[Callable[[], object]] = [lambda: str(lazy), lazy.lower, lambda: f"{lazy}", lambda: lazy + "x"]
    uses += [lambda: lazy.replace("a", "b"), lambda: lazy.encode(), lambda: "x" + lazy]
    for use in uses:
        with pytest.raises(TypeError, match=r"Document of 2\.0 MB.* use peek, grep, lines or chunks"):
            use()
    assert repr(lazy) == "<Document 'text': 2.0 MB; use peek, grep, lines, chunks>"
    assert len(lazy) == 2_000_000
    assert "2.0 MB, 2,000,000 characters" in repr(lazy)
    with pytest.raises(DocumentTooLargeError, match=r"2,000,000 characters of 'text' .*use chunks"):
        lazy[:]
    with pytest.raises(DocumentTooLargeError, match="the line at offset 0"):
        next(lazy.lines())
    assert lazy[: 2 * LIMIT : 4] == ("some text " * 200_000)[::4]


def test_every_method_of_str_is_there_or_says_why_not() -> None:
    assert set(dir(str)) - set(dir(Document)) == {"maketrans", "__getnewargs__"}


def test_pickles_as_a_reference(path: Path) -> None:
    lazy = document(path, "é text " * 1000)
    data = pickle.dumps(lazy)
    assert len(data) < 1000
    assert pickle.loads(data)[-6:] == " text "


@pytest.mark.parametrize(
    ("text", "width"), [("a" * 999, 1), ("é" * 999, 1), ("aé日" * 333, 2), ("a" * 998 + "😀", 4)]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_str_as_long_as_it_fits(path: Path, text: str, width: int, encoding: str) -> None:
    spec = write(path, text.encode(encoding), encoding=encoding)
    assert sys.getsizeof(text) - 999 * width < 100
    assert open_document(spec, str_limit_bytes=999 * width) == text
    beyond = open_document(spec, str_limit_bytes=999 * width - 1)
    assert isinstance(beyond, Document)
    assert list(beyond) == list(text)


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "latin-1", "shift_jis"])
def test_encodings_and_compressions(path: Path, encoding: str, compression: str) -> None:
    text = "".join(f"{i} über\r\n" if encoding == "latin-1" else f"{i} テスト\r\n" for i in range(30_000))
    data = COMPRESS[compression](("\ufeff" * encoding.startswith("utf-16") + text).encode(encoding))
    spec = write(path, data, encoding=encoding, compression=compression)
    assert open_document(spec, str_limit_bytes=4 * len(text)) == text
    lazy = open_document(spec, str_limit_bytes=len(text) // 2)
    assert isinstance(lazy, Document)
    assert len(lazy) == len(text)
    assert lazy[200_000:200_100] == text[200_000:200_100]
    assert list(lazy.lines(25_000, 25_001)) == text.splitlines()[24_999:25_001]


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_damaged_archives_are_an_os_error(path: Path, compression: str) -> None:
    cut = COMPRESS[compression](os.urandom(5000).hex().encode())[:-2000]
    for data in (cut, b"not an archive at all"):
        with pytest.raises(OSError, match="'text' cannot be decompressed"):
            open_document(write(path, data, compression=compression), str_limit_bytes=LIMIT)


def test_text_that_fits_nowhere_says_what_to_do(path: Path) -> None:
    spec = write(path, gzip.compress(b"line\n" * 200_000), compression="gz")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(
            DocumentTooLargeError, match=r"fits neither memory nor .*: decompress it on the host"
        ):
            open_document(spec, str_limit_bytes=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_spec_from_the_host() -> None:
    fields = {"name": "a", "path": "/d/0", "source": "/home/a", "size_bytes": 1, "mtime_ns": 2}
    fields |= {"encoding": "latin-1", "compression": "gz"}
    spec = DocumentSpec.from_json(fields)
    assert (spec.name, spec.size_bytes, spec.encoding, spec.compression) == ("a", 1, "latin-1", "gz")
    for wrong in ({"size_bytes": "1"}, {"size_bytes": True}, {"colour": "red"}):
        with pytest.raises(ValueError, match="document spec"):
            DocumentSpec.from_json(fields | wrong)
    del fields["path"]
    with pytest.raises(ValueError, match="path"):
        DocumentSpec.from_json(fields)
