"""`grep` finds what `re` finds line by line, whichever engine runs and however the text is stored."""

import os
import pickle
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.candidates import DENSE_LINES, Engine
from sandbox.documents import Document
from sandbox.search import Match, Matches, PatternError, count_matches, grep
from sandbox.textfile import DocumentTooLargeError
from tests.guest import LIMIT, document, write

ENGINES: tuple[Engine, ...] = ("python", "ripgrep", "auto")

PATTERNS = [
    "error", "a", "é", "日本", "x|y|né", r"\d+", r"\w+", r"\W", r"\s", r"\S+é", r"[a-c]+", r"[^a-c ]",
    r"\berror\b", r"\bé", r"b\b", r"\B\w", r"x\by", r"(\bé|e)r", r"^a", r"c$", r"\Aa.c\Z", r"^$", r"$", "",
    r"(a)(b)?", r"(?P<q>['\"]).*?(?P=q)", r"(\w)\1", r"(^a|b)x?\1", r"a(?=b)", r"a(?!b)", r"(?<=a)b",
    r"(?<!a)b", r"(?i)error", r"(?i:k)elvin", r"(?i)straße", r"(?i)[a-z]{3}", r"(?i)[^k]x",
    r"(?i)İ|\u0131|\u017f", r"(?a)\w\W", r"(?x) a b # c", r"a{2,}", r"a{,2}b", r"(?:ab)*c", r"(?>a+)b",
    r"a++b", r"a.c", r"a.{2}c", r"(?s)a.*c", r"[\s\n]b", r"a\nb", r"a\n?b", r"[\u4e00-\u9fff]+",
    r"[^\x00-\x7f]", r"\ufffd", r"[\ufff0-\uffff]", r"\r", r"a\r", r"\x00", r"[\d.]+é", r"[^\W\d]+ ",
    r"(a)?(?(1)b|c)", r"-e", r"--files", r"\.", r"\\", r"[]^-]", r"\t", r"½", r"²\b", r"[\w-]+@\w+",
    r"(a|b)+c\1", r"(a)(?i:\1)",
]  # fmt: skip

LINES = [
    "error", "an error, ERROR erroré né", "abc", "abc\r", "a\r\r", "aab 12 ３٣ ½ ² é", "éa bé e\u0301r",
    "日本語 x日y xy", "", "'quoted' \"it\" aa bb abba", "Kelvin K elvin \u212aelvin \u017f S İ I \u0131 i",
    "STRASSE straße STRAẞE", "ab ab ac bc c", "a\x00c a\ufffdc a😀c a日日c", "tab\tend", "x\u2028y\x85z\x1c",
    "-e --files [^]-] \\ .", "me@é.org b-c@d", "a b\xa0b\u3000b", "ax aax bx bbc abca", "\r",
    "٣.٣é \u200db", "a" * 50 + "b", "aA",
]  # fmt: skip

TEXT = "\n".join(LINES)

fragments = st.sampled_from(
    [*"abekxyéßK\u017fİ\u0131½²日😀_-. \n\r\t", "\ufffd", "\u0301", "error", "12", "\r\n", "\u2028", "\x00"]
)


def by_hand(text: str, pattern: re.Pattern[str]) -> list[tuple[int, int, str, tuple[str | None, ...]]]:
    """Line, offset, matched text and groups: what `grep` has to find, written down the obvious way."""
    found, offset = [], 0
    for number, line in enumerate(text.split("\n"), start=1):
        if offset < len(text):
            matches = pattern.finditer(line.removesuffix("\r"))
            found += [(number, offset + m.start(), m.group(), m.groups()) for m in matches]
        offset += len(line) + 1
    return found


def found(matches: Matches) -> list[tuple[int, int, str, tuple[str | None, ...]]]:
    return [(match.line, match.offset, match.match, match.groups) for match in matches]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search") / "notes.txt"


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("engine", ENGINES[:2])
def test_engines_and_stores_agree(path: Path, pattern: str, engine: Engine) -> None:
    for text in (TEXT, "".join(char for char in TEXT if char.isascii())):
        expected = by_hand(text, re.compile(pattern))
        stores: list[str | Document] = [text]
        stores += [
            document(path.with_suffix(f".{encoding}"), text, encoding=encoding, block_bytes=64)
            for encoding in ("utf-8", "utf-8-sig", "utf-16-le")
        ]
        for store in stores:
            assert found(grep(store, pattern, max_matches=10_000, engine=engine)) == expected
            assert len(store) == len(text)  # from here on, a document knows whether it is ASCII
            assert count_matches(store, pattern, engine=engine) == len(expected)


@given(st.lists(fragments, max_size=40).map("".join), st.sampled_from(PATTERNS), st.booleans())
@example("\r\na\r", r"\r?$", True)
def test_ripgrep_finds_what_python_finds(path: Path, text: str, pattern: str, ignore_case: bool) -> None:
    lazy = document(path, text, block_bytes=16)
    by_python = grep(lazy, pattern, ignore_case=ignore_case, max_matches=10_000, engine="python")
    assert found(by_python) == by_hand(text, re.compile(pattern, re.IGNORECASE if ignore_case else 0))
    assert grep(lazy, pattern, ignore_case=ignore_case, max_matches=10_000, engine="ripgrep") == by_python


@pytest.mark.parametrize("engine", ENGINES)
def test_invalid_utf8_counts_as_it_reads(path: Path, engine: Engine) -> None:
    data = b"ok\nna\xefve caf\xe9 \xe2\x82 end\n\xff\n\xc3\xa9 end\n" * 3
    lazy = document(path, data)
    text = data.decode("utf-8", "replace")
    for pattern in (r"na.ve", r"f\W ", r"\ufffd end", "[^a-z ]+ end", "end", r"^.$", r"caf[^x] . e"):
        expected = by_hand(text, re.compile(pattern))
        assert expected
        assert found(grep(lazy, pattern, engine=engine)) == expected


def test_lone_surrogates_in_a_str() -> None:
    text = "a\ud800b\nab\n" * 3
    for pattern in ("a.b", r"a\Wb", "ab", "[\ud800-\udfff]", "\ud800"):
        assert found(grep(text, pattern, engine="ripgrep")) == by_hand(text, re.compile(pattern))


@pytest.mark.parametrize("engine", ENGINES)
def test_context_lines_and_how_matches_read(path: Path, engine: Engine) -> None:
    text = "one\r\ntwo\nthree 3\nfour\n\nsix"
    for store in (text, document(path, text)):
        matches = grep(store, r"(\w+) (\d)|six", name="notes.txt", context_lines=2, engine=engine)
        assert list(matches) == [
            Match("notes.txt", 3, 9, "three 3", "three 3", ("three", "3"), ("one", "two"), ("four", "")),
            Match("notes.txt", 6, 23, "six", "six", (None, None), ("four", ""), ()),
        ]
        assert str(matches) == (
            "notes.txt-1- one\nnotes.txt-2- two\nnotes.txt:3: three 3\nnotes.txt-4- four\nnotes.txt-5- \n--\n"
            "notes.txt-4- four\nnotes.txt-5- \nnotes.txt:6: six\n(2 matches)"
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_stops_at_max_matches(path: Path, engine: Engine) -> None:
    text = "hit hit\n" * 20_000
    threads = set(threading.enumerate())
    for store in (text, document(path, text, block_bytes=4096)):
        some = grep(store, "hit", max_matches=3, engine=engine)
        assert [(match.line, match.offset) for match in some] == [(1, 0), (1, 4), (2, 8)]
        assert (some.truncated, some.total) == (True, 40_000)
        assert str(some).endswith("\n(first 3 of 40,000 matches)")
        assert count_matches(store, "hi[t]", engine=engine) == 40_000
    assert set(threading.enumerate()) <= threads


def test_how_many_there_are_in_all_is_told_when_that_is_quick(tmp_path: Path) -> None:
    lazy = document(tmp_path / "log", "hit\n" * 100_000, block_bytes=4096)
    assert grep(lazy, "hit", max_matches=2).total == 100_000
    assert grep(lazy, "hit", max_matches=100_000).truncated is False
    unknown = grep(lazy, "hi[st]", max_matches=2)
    assert (unknown.truncated, unknown.total) == (True, None)
    assert str(unknown).endswith("(first 2 matches; there may be more: count(pattern) counts them)")
    assert grep("hit\n" * 9, "hi[t]", max_matches=2).total == 9
    assert grep("hit\n" * 9, "hi[t]", max_matches=9).truncated is False


PAGES = "[page 1 of 2]\nalpha\nsee [page 2 of 2]\n[pages]\n[page 2 of 2]\r\nbeta\n"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_match_knows_its_page(path: Path, engine: Engine) -> None:
    spec = write(path, PAGES.encode())
    for word, marks in (("page", ["page 1 of 2", "page 1 of 2", "page 2 of 2"]), ("", ["", "", ""])):
        marked = Document(replace(spec, mark=word), str_limit_bytes=LIMIT, block_bytes=8)
        matches = grep(marked, "alpha|see|beta", engine=engine)
        assert [match.mark for match in matches] == marks
    assert repr(matches[2]) == "notes.txt:6: beta"
    marked = Document(replace(spec, mark="page"), str_limit_bytes=LIMIT)
    assert str(grep(marked, "beta", engine=engine)) == "notes.txt [page 2 of 2]:6: beta\n(1 match)"
    before = Document(replace(spec, mark="sheet"), str_limit_bytes=LIMIT)
    assert grep(before, "beta", engine=engine)[0].mark == ""


def test_first_matches_need_only_the_start_of_a_file(tmp_path: Path) -> None:
    lazy = document(tmp_path / "log", "first\n" + "é filler\n" * 30_000, block_bytes=64)
    assert grep(lazy, "fi[rs]+t", max_matches=1, engine="python")[0].offset == 0
    assert "characters" not in repr(lazy)  # its index has not got to the end


def test_results_are_a_sequence(path: Path) -> None:
    matches = grep(TEXT, "a")
    assert (len(matches), matches.total, matches.truncated) == (len(list(matches)), len(matches), False)
    assert matches[1:3] == [matches[1], matches[2]]
    assert pickle.loads(pickle.dumps(matches)) == matches
    assert not grep(TEXT, "nowhere")
    assert str(grep(TEXT, "nowhere")) == "(0 matches)"
    assert "one line at a time" in str(grep(TEXT, r"abc\nabc"))


@pytest.mark.parametrize("engine", ENGINES)
def test_fixed_text_is_no_pattern(path: Path, engine: Engine) -> None:
    lazy = document(path, "a.c [x] abc\n-e --help $(id) A.C")
    for literal, count in (("a.c", 1), ("[x", 1), ("-e", 1), ("--help", 1), ("$(id)", 1), ("^", 0)):
        assert len(grep(lazy, literal, fixed=True, engine=engine)) == count
        assert count_matches(lazy, literal, fixed=True, engine=engine) == count
    assert len(grep(lazy, "a.c", fixed=True, ignore_case=True, engine=engine)) == 2
    assert len(grep(lazy, re.compile("A.C", re.IGNORECASE), engine=engine)) == 3


@pytest.mark.parametrize(
    ("pattern", "position"), [("(a", 0), ("a)", 1), ("[a", 0), ("ab*{", None), (r"a\q", 1)]
)
def test_an_invalid_pattern_says_where(pattern: str, position: int | None) -> None:
    if position is None:
        assert not grep("x", pattern)
        return
    with pytest.raises(PatternError, match=rf"invalid pattern .* at position {position}; use fixed=True"):
        grep("x", pattern)


def test_long_lines_are_cut_around_the_match(path: Path) -> None:
    text = "x" * 50_000 + "needle" + "y" * 50_000 + "\n"
    for store in (text, document(path, text, block_bytes=4096)):
        (match,) = grep(store, "needle", engine="ripgrep")
        assert match.offset == 50_000
        assert match.text == "…" + "x" * 997 + "needle" + "y" * 997 + "…"
        assert len(repr(match)) < 450
        assert "xneedley" in repr(match)
        (match,) = grep(store, "x{4000}n", engine="python")
        assert len(match.match) == 4001
        assert len(match.text) == 2002


@pytest.mark.parametrize("engine", ENGINES)
def test_a_line_too_long_for_memory_is_an_error(path: Path, engine: Engine) -> None:
    lazy = document(path, "x" * (2 << 20), block_bytes=1 << 16)
    with pytest.raises(DocumentTooLargeError, match=r"the line at|a slice of"):
        grep(lazy, "x", engine=engine)


def test_python_goes_on_where_most_lines_may_match(tmp_path: Path) -> None:
    lines = DENSE_LINES + 10_000
    text = "é 12 ab\n" * lines + "é 11 ab\n"
    for store in (text, document(tmp_path / "log", text, block_bytes=4096)):
        (match,) = grep(store, r"é (\d)\1 ab")
        assert (match.line, match.offset) == (lines + 1, 8 * lines)
        assert count_matches(store, r"(\d)2|(\d)\2") == lines + 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_appended_and_truncated_files(tmp_path: Path, engine: Engine, encoding: str) -> None:
    lazy = document(tmp_path / "log", "one hit\nlast hi", encoding=encoding)
    with (tmp_path / "log").open("ab") as file:
        file.write("t\nhit\n".encode(encoding))
    assert [match.line for match in grep(lazy, "hit", engine=engine)] == [1]
    assert [match.line for match in grep(lazy, "hi$", engine=engine)] == [2]
    os.truncate(tmp_path / "log", 4)
    with pytest.raises(OSError, match="has become shorter"):
        grep(lazy, "hit", engine=engine)


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="max_matches must be at least 1"):
        grep("a", "a", max_matches=0)
    with pytest.raises(ValueError, match="context_lines must be at least 0"):
        grep("a", "a", context_lines=-1)


def test_a_long_line_is_shown_around_the_match_not_around_its_first_likeness() -> None:
    line = "id 15 " + "x" * 900 + " the answer is 5 indeed " + "y" * 300
    (match,) = grep(line, r"\b5\b")
    assert "the answer is 5 indeed" in repr(match)
    assert match.text[match.column : match.column + 1] == "5"


@pytest.mark.parametrize("marked", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
def test_of_a_file_that_has_grown_only_what_was_there_is_searched(path: Path, marked: bytes) -> None:
    data = marked + "\n".join(f"zeile {n} ü" for n in range(100_000)).encode() + b"\nneedle 1\n"
    text = Document(write(path, data, encoding="utf-8-sig" if marked else "utf-8"), str_limit_bytes=LIMIT)
    with path.open("ab") as file:
        file.write(b"needle 2\n" * 10)
    found = grep(text, "needle", engine="ripgrep")
    assert [(match.line, match.text) for match in found] == [(100_001, "needle 1")]
    assert text[found[0].offset :][:8] == "needle 1"
    assert grep(text, "needle", engine="ripgrep", max_matches=1)[0] == found[0]
