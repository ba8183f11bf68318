"""Chunks cover the text, keep their size, and are the same for a `str` and a `Document`."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.chunks import Chunk, Chunks, chunk_indices, chunks
from sandbox.documents import Document
from tests.guest import LIMIT, document, write

texts = st.text(st.sampled_from("ab é日\n\n\r"), max_size=60)
sizes = st.integers(1, 20).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))

MINUTES = "Preface\nMeeting 1\nhello\nMeeting 2\nbye, Meeting 3\nMeeting 10\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chunks") / "text"


def spans(cut: Chunks) -> list[tuple[int, int]]:
    return [(chunk.start, chunk.end) for chunk in cut]


@given(texts, sizes)
def test_by_chars(path: Path, text: str, size_and_overlap: tuple[int, int]) -> None:
    size, overlap = size_and_overlap
    cut = chunks(text, size, overlap=overlap)
    assert spans(cut) == chunk_indices(text, size, overlap=overlap)
    assert spans(cut) == chunk_indices(len(text), size, overlap=overlap)
    assert spans(chunks(document(path, text), size, overlap=overlap)) == spans(cut)
    assert "".join([*map(str, cut[:1]), *(str(chunk)[overlap:] for chunk in cut[1:])]) == text
    assert all(len(chunk) == size for chunk in cut[:-1])
    assert all(len(chunk) > overlap for chunk in cut[1:])


@given(texts, sizes)
def test_by_lines(path: Path, text: str, size_and_overlap: tuple[int, int]) -> None:
    size, overlap = size_and_overlap
    cut = chunks(text, size, overlap=overlap, by="lines")
    assert spans(chunks(document(path, text), size, overlap=overlap, by="lines")) == spans(cut)
    end = 0
    for chunk in cut:
        assert chunk.start <= end < chunk.end
        assert text[chunk.start : end].count("\n") <= overlap
        assert chunk.start == 0 or text[chunk.start - 1] == "\n"
        assert chunk.end == len(text) or text[chunk.end - 1] == "\n"
        assert len(chunk) <= size or chunk.text.count("\n", 0, -1) == 0
        end = chunk.end
    assert end == len(text)


def test_by_lines_fills_and_overlaps() -> None:
    text = "one\ntwo\nthree\na line that is long\nx\n"
    assert list(map(str, chunks(text, 8, by="lines"))) == [
        "one\ntwo\n",
        "three\n",
        "a line that is long\n",
        "x\n",
    ]
    assert list(map(str, chunks(text, 14, by="lines", overlap=1))) == [
        "one\ntwo\nthree\n",
        "a line that is long\n",
        "x\n",
    ]
    assert list(map(str, chunks("a\nb\nc\nd\n", 6, by="lines", overlap=1))) == ["a\nb\nc\n", "c\nd\n"]


@pytest.mark.parametrize("stored", [False, True])
def test_by_regex(path: Path, stored: bool) -> None:
    text = document(path, MINUTES) if stored else MINUTES
    cut = chunks(text, by="regex", pattern=r"^Meeting \d+", name="text")
    assert [str(chunk) for chunk in cut] == [
        "Preface\n",
        "Meeting 1\nhello\n",
        "Meeting 2\nbye, Meeting 3\n",
        "Meeting 10\n",
    ]
    assert [chunk.id for chunk in cut] == ["text#0000", "text#0001", "text#0002", "text#0003"]
    smaller = chunks(text, 10, by="regex", pattern=r"^Meeting \d+", overlap=2)
    assert [str(chunk) for chunk in smaller][:4] == ["Preface\n", "Meeting 1\n", "1\nhello\n", "Meeting 2\n"]
    assert [str(chunk) for chunk in chunks(text, by="regex", pattern="nothing")] == [MINUTES]
    assert spans(chunks("", by="regex", pattern="a")) == []
    assert "".join(map(str, chunks(text, by="regex", pattern="$"))) == MINUTES


PAGES = "made from a PDF\n[page 1 of 2]\nalpha\n[page 2 of 2]\nbeta [page 3 of 3]\n"


@pytest.mark.parametrize("stored", [False, True])
def test_by_marks(path: Path, stored: bool) -> None:
    spec = replace(write(path, PAGES.encode()), mark="page")
    text = Document(spec, str_limit_bytes=LIMIT, block_bytes=8) if stored else PAGES
    cut = chunks(text, by="marks", name="text", mark="page")
    assert [(chunk.id, chunk.mark, chunk.text) for chunk in cut] == [
        ("text#0000", "", "made from a PDF\n"),
        ("text#0001", "page 1 of 2", "[page 1 of 2]\nalpha\n"),
        ("text#0002", "page 2 of 2", "[page 2 of 2]\nbeta [page 3 of 3]\n"),
    ]
    assert repr(cut[1]) == "Chunk(id='text#0001', start=16, end=36, mark='page 1 of 2')"
    smaller = chunks(text, 20, overlap=5, by="marks", mark="page")
    assert [(chunk.start, chunk.end, chunk.mark[5:6]) for chunk in smaller] == [
        (0, 16, ""), (16, 36, "1"), (36, 56, "2"), (51, 69, "2"),
    ]  # fmt: skip
    again = pickle.loads(pickle.dumps(cut))
    assert [chunk.mark for chunk in again] == ["", "page 1 of 2", "page 2 of 2"]
    assert len({again[1], again[2]}) == 2
    with pytest.raises(ValueError, match="no pages, sheets or other marks: use by='chars'"):
        chunks("text", by="marks", mark="page")


def test_looks_no_further_than_it_needs(path: Path) -> None:
    lazy = document(path, "é line\n" * 10_000)
    for cut in (chunks(lazy, 70), chunks(lazy, 75, by="lines"), chunks(lazy, by="regex", pattern="^é")):
        assert str(cut[0]).startswith("é line\n")
        assert len(cut[:3]) == 3
        assert next(iter(cut)) == cut[0]
        assert "characters" not in repr(lazy)  # its index has not got to the end
    assert len(chunks(lazy, 70)) == 1000
    assert chunks(lazy, 70)[-1].text == "é line\n" * 10


def test_a_chunk(path: Path) -> None:
    cut = chunks("abcdefgh", 3, name="notes")
    assert cut[1] == Chunk(id="notes#0001", start=3, end=6, source="abcdefgh")
    assert f"{cut[1]}|{cut[1].text}|{len(cut[1])}|{cut[-1]}" == "def|def|3|gh"
    assert repr(cut[1]) == "Chunk(id='notes#0001', start=3, end=6)"
    assert repr(cut) == "<3 chunks of 'notes'>"
    assert repr(chunks("a" * 5000, 1)) == "<1,000 or more chunks of 'context'>"
    with pytest.raises(IndexError):
        cut[3]
    for source in ("abcdefgh", document(path, "abcdefgh")):
        again = pickle.loads(pickle.dumps(chunks(source, 3)))
        assert [str(chunk) for chunk in again] == ["abc", "def", "gh"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be at least 1, not 0"),
        ({"size": 5, "overlap": 5}, r"less than size \(5\), not 5"),
        ({"overlap": -1}, "overlap must be at least 0"),
        ({"by": "words"}, "by is 'chars', 'lines', 'regex' or 'marks', not 'words'"),
        ({"by": "regex"}, "go together"),
        ({"pattern": "a"}, "go together"),
        ({"by": "regex", "pattern": "a", "overlap": 3}, "give size too"),
        ({"by": "marks", "pattern": "a"}, "go together"),
        ({"by": "marks", "overlap": 3}, "give size too"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chunks("text", **options)  # type: ignore[arg-type]
