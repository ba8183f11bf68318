"""A `Document` is its text: whatever `str` and `re` say of the one, they say of the other."""

import copy
import csv
import io
import json
import os
import pickle
import re
import resource
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "latin-1", "shift_jis"])
def test_encodings(path: Path, encoding: str) -> None:
    text = "".join(f"{i} über\r\n" if encoding == "latin-1" else f"{i} テスト\r\n" for i in range(30_000))
    data = ("\ufeff" * encoding.startswith("utf-16") + text).encode(encoding)
    spec = write(path, data, encoding=encoding)
    assert open_document(spec, str_limit_bytes=4 * len(text)) == text
    lazy = open_document(spec, str_limit_bytes=len(text) // 2)
    assert isinstance(lazy, Document)
    assert len(lazy) == len(text)
    assert lazy[200_000:200_100] == text[200_000:200_100]
    assert list(lazy.lines(25_000, 25_001)) == text.splitlines()[24_999:25_001]
    assert (lazy.line_count, lazy.count("r") + lazy.count("ト")) == (30_000, 30_000)
    assert lazy == text


def test_text_that_fits_nowhere_says_what_to_do(path: Path) -> None:
    spec = write(path, "テスト\n".encode("shift_jis") * 100_000, encoding="shift_jis")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(
            DocumentTooLargeError, match=r"fits neither memory nor .*: let the user load it again"
        ):
            open_document(spec, str_limit_bytes=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


TEXT = "id,name\n" + "".join(f"{i},näme {i % 7}\n" for i in range(20_000))

SAME_AS_STR: list[Callable[[Any], object]] = [
    lambda text: text[:100] + "x",
    lambda text: "näme 6" in text,
    lambda text: ("absent" in text, bool(text), len(text)),
    lambda text: len(text.split()),
    lambda text: text.split("\n")[10],
    lambda text: text.split("\n")[-1],
    lambda text: text.split(",", 2)[:2],
    lambda text: text.splitlines()[-5:],
    lambda text: text.splitlines()[-1],
    lambda text: text.splitlines()[::-5000],
    lambda text: text.splitlines()[3:-19_990],
    lambda text: text.splitlines(True)[-2:],
    lambda text: text.splitlines().index("7,näme 0"),
    lambda text: "7,näme 0" in text.splitlines(),
    lambda text: sorted(text.split())[:3],
    lambda text: Counter(text.split()).most_common(3),
    lambda text: list(csv.DictReader(text.splitlines()))[-1],
    lambda text: [row for number, row in enumerate(text.splitlines()) if number % 5000 == 1],
    lambda text: (max(text), min(text)),
    lambda text: set(text),
    lambda text: "".join(char for char in text if char.isalpha())[:20],
    lambda text: (text == TEXT, text != TEXT[:-1], text == 5),
    lambda text: text.count("\n"),
    lambda text: (text.find("6,n"), text.rfind("6,n"), text.index("ä"), text.rindex("ä")),
    lambda text: text.startswith("id,") and text.endswith("\n"),
    lambda text: copy.deepcopy(text)[-3:],
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(SAME_AS_STR)))
def test_what_one_writes_for_a_str_gives_the_same(path: Path, number: int) -> None:
    lazy = document(path, TEXT, block_bytes=512)
    assert SAME_AS_STR[number](lazy) == SAME_AS_STR[number](TEXT)


REFUSED: list[Callable[[Any], object]] = [
    str, "{}".format, print,
    lambda text: f"{text}",
    lambda text: "%s" % text,  # noqa: UP031
    lambda text: text + "x",
    lambda text: "x" + text,
    lambda text: text * 2,
    lambda text: text.lower(),
    lambda text: text.strip(),
    lambda text: text.encode(),
    lambda text: text.replace("a", "b"),
    lambda text: text.partition("\n"),
    lambda text: ",".join([text[:5], str(text)]),
    textwrap.wrap,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_needs_a_str_says_what_to_use(path: Path, number: int) -> None:
    lazy = document(path, TEXT, block_bytes=4096)
    with pytest.raises(
        TypeError, match=r"'text' is a Document of .*, too big for one str: use peek, grep, lines"
    ):
        REFUSED[number](lazy)


OTHERS: list[tuple[Callable[[Any], object], type[Exception], str]] = [
    (lambda text: re.findall("a", text), TypeError, "Document"),
    (lambda text: json.loads(text), TypeError, "Document"),
    (lambda text: open(text), TypeError, "Document"),  # noqa: SIM115
    (io.StringIO, TypeError, "Document"),
    (int, TypeError, "Document"),
    (hash, TypeError, "cannot be a key or in a set: use its name"),
    (lambda text: {text: 1}, TypeError, "use its name"),
    (lambda text: text.split(""), ValueError, "empty separator"),
    (lambda text: text.index("absent"), ValueError, "substring not found"),
    (lambda text: text.splitlines().index("absent"), ValueError, "'absent' is not among the parts"),
    (lambda text: text.splitlines()[10**6], IndexError, "part index out of range"),
    (lambda text: text.splitlines()[-(10**6)], IndexError, "part index out of range"),
    (lambda text: reversed(text.splitlines()), TypeError, r"take the last ones with \[-1000:\]"),
]


@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_what_is_wrong_is_told(path: Path, number: int) -> None:
    use, error, message = OTHERS[number]
    with pytest.raises(error, match=message):
        use(document(path, TEXT, block_bytes=4096))


def test_what_outgrows_memory_is_refused(path: Path) -> None:
    lazy = document(path, "some text " * 200_000, block_bytes=4096)
    assert repr(lazy) == "<Document 'text': 2.0 MB; use peek, grep, lines, chunks>"
    assert len(lazy) == 2_000_000
    assert "2.0 MB, 2,000,000 characters" in repr(lazy)
    with pytest.raises(DocumentTooLargeError, match=r"2,000,000 characters of 'text' .*use chunks"):
        lazy[:]
    with pytest.raises(DocumentTooLargeError, match="the line at offset 0"):
        next(lazy.lines())
    for parts in (lazy.split("\n"), lazy.splitlines()):
        with pytest.raises(DocumentTooLargeError, match="the part that begins about offset 0 of 'text'"):
            len(parts)
    with pytest.raises(DocumentTooLargeError, match="more than fits one str"):
        lazy.split(" ", 1)[1]
    assert lazy[: 2 * LIMIT : 4] == ("some text " * 200_000)[::4]


def test_the_last_parts_are_read_from_the_end(path: Path) -> None:
    lazy = document(path, "a line\n" * 100_000, block_bytes=4096)
    assert len(lazy) == 700_000
    with path.open("r+b") as file:  # what is behind the index is not read again
        file.write(b"\0" * 100_000)
    assert lazy.splitlines()[-2:] == ["a line", "a line"]
    assert lazy.split()[-3] == "line"
    assert lazy.split("\n")[-1:] == [""]
    assert lazy.splitlines()[-60_000:] == ["a line"] * 60_000


def test_a_document_is_equal_to_its_text(path: Path, tmp_path: Path) -> None:
    lazy = document(path, TEXT, block_bytes=512)
    assert lazy == document(tmp_path / "copy", TEXT, encoding="utf-16-le", block_bytes=300)
    assert lazy != document(tmp_path / "copy", TEXT[:-1] + "x")
    assert lazy != TEXT + "x"
    assert document(tmp_path / "empty", "") == ""


@given(texts, st.sampled_from(["\n", "a", "aa", " ", "\r\n", "\né", None]), st.integers(1, 30))
def test_last_parts_like_str(path: Path, text: str, sep: str | None, count: int) -> None:
    text = text.encode("utf-8", "replace").decode() * 9
    lazy = document(path, text)
    assert lazy.split(sep)[-count:] == text.split(sep)[-count:]
    assert lazy.splitlines()[-count:] == text.splitlines()[-count:]
    assert lazy.splitlines(True)[-count:] == text.splitlines(True)[-count:]
    assert list(lazy.splitlines(True)) == text.splitlines(True)
    for sub in ("aa", "é日", "\n\n"):
        assert lazy.count(sub) == text.count(sub)


def test_a_spec_from_the_host() -> None:
    fields = {"name": "a", "path": "/d/0", "source": "/home/a", "size_bytes": 1, "mtime_ns": 2}
    fields |= {"encoding": "latin-1", "kind": "csv", "mark": "page"}
    spec = DocumentSpec.from_json(fields)
    assert (spec.name, spec.size_bytes, spec.encoding, spec.kind, spec.mark) == (
        "a",
        1,
        "latin-1",
        "csv",
        "page",
    )
    for wrong in ({"size_bytes": "1"}, {"size_bytes": True}, {"colour": "red"}):
        with pytest.raises(ValueError, match="document spec"):
            DocumentSpec.from_json(fields | wrong)
    del fields["path"]
    with pytest.raises(ValueError, match="path"):
        DocumentSpec.from_json(fields)
