"""Pieces of documents by reference: a child RLM reads exactly the text that was meant, and can cut it up."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox import search
from sandbox.candidates import Engine
from sandbox.chunks import chunks
from sandbox.documents import Document
from sandbox.library import Library
from sandbox.pieces import OpenPiece, Piece, PieceText, open_piece, reference_of
from sandbox.textfile import DocumentSpec
from tests.guest import LIMIT, document, write

LINES = "".join(f"line {number} naïve ☃ 😀\n" for number in range(2_000))
SMALL = 1000
"""A limit that makes a `Document` of `LINES`."""

# Bytes of which many are no UTF-8: cut characters, stray ones, and those that two errors share.
ODD = [b"a", b"\n", b"\xe2", b"\x82", b"\xac", b"\xf0\x9f\x98\x80", b"\xff"]
broken = st.lists(st.sampled_from(ODD)).map(b"".join)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pieces") / "text"


def library_of(*specs: DocumentSpec, limit: int = LIMIT) -> Library:
    library = Library(str_limit_bytes=limit)
    for spec in specs:
        library.put(spec)
    return library


def opened(reference: str, *, limit: int = LIMIT) -> OpenPiece:
    assert reference
    return open_piece(Piece.from_json(reference), str_limit_bytes=limit)


@given(broken, st.integers(0, 60))
@example(b"\xe2\x82(\xe2\x82", 1)
@example(b"", 0)
def test_bytes_are_told_of_offsets_whatever_the_bytes_are(path: Path, data: bytes, offset: int) -> None:
    """A cut there, and both sides decode as the whole does."""
    whole = document(path, data, block_bytes=16)
    offset = min(offset, len(whole))
    at = whole.byte_of(offset)
    assert data[:at].decode("utf-8", "replace") == whole[:offset]
    assert data[at:].decode("utf-8", "replace") == whole[offset:]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "cp1252", "gb18030"])
@pytest.mark.parametrize(("limit", "kind"), [(LIMIT, str), (SMALL, PieceText)])
def test_chunk_is_read_as_it_was_cut(path: Path, encoding: str, limit: int, kind: type) -> None:
    text = LINES if encoding != "cp1252" else LINES.replace(" ☃ 😀", "")
    library = library_of(write(path, text.encode(encoding), encoding=encoding))
    for chunk in chunks(library["text"], 9_999, overlap=7)[1:3]:
        reference = reference_of(chunk, library)
        given = opened(reference, limit=limit).text
        assert isinstance(given, kind) and given == chunk.text
        facts = json.loads(reference)
        assert (facts["start"], facts["end"]) == (chunk.start, chunk.end)


@pytest.mark.parametrize("limit", [LIMIT, SMALL])
def test_chunk_of_a_childs_own_context_is_a_piece_of_the_same_document(path: Path, limit: int) -> None:
    library = library_of(write(path, LINES.encode()), limit=limit)
    outer = chunks(library["text"], 20_000)[1]
    mine = opened(reference_of(outer, library), limit=limit)
    library_of_child = library_of(mine.piece.document)
    inner = chunks(mine.text, 3_000)[2]
    reference = reference_of(inner, library_of_child, mine)
    assert opened(reference).text == LINES[26_000:29_000]
    assert json.loads(reference)["start"] == 26_000
    assert reference_of(mine.text, library_of_child, mine) == mine.piece.to_json()


def test_whole_documents_go_by_name_and_other_texts_have_no_reference(path: Path) -> None:
    library = library_of(write(path, LINES.encode()))
    text = library["text"]
    whole = Piece.from_json(reference_of(text, library))
    assert whole.is_whole and (whole.end, whole.total) == (len(LINES), len(LINES))
    large = library_of(write(path, LINES.encode()), limit=SMALL)["text"]
    assert isinstance(large, Document)
    assert Piece.from_json(reference_of(large, library_of())).is_whole, "its length is not known yet"
    for value in (LINES, text[5:500], "", None, 7, ["a"], chunks("a" * 500, 100)[1]):
        assert reference_of(value, library) == ""
    too_long = dataclasses.replace(write(path, b"some text"), name="n" * 70_000)
    library.put(too_long)
    assert reference_of(library[too_long.name], library) == ""


def test_page_of_a_chunk_is_told_and_kept_for_what_is_cut_from_it(path: Path) -> None:
    text = "".join(f"[page {page} of 3]\n{'word ' * 50}\n" for page in (1, 2, 3))
    library = library_of(dataclasses.replace(write(path, text.encode()), mark="page"))
    (_, second, _) = chunks(library["text"], by="marks", mark="page")
    mine = opened(reference_of(second, library))
    assert mine.piece.mark == "page 2 of 3"
    part = chunks(mine.text, 100)[1]
    assert Piece.from_json(reference_of(part, library_of(), mine)).mark == "page 2 of 3"


def test_search_and_lines_of_a_large_piece_count_from_its_start(path: Path) -> None:
    text = LINES * 30
    library = library_of(write(path, text.encode()))
    (chunk,) = (chunk for chunk in chunks(library["text"], 500_000) if chunk.start == 500_000)
    view = opened(reference_of(chunk, library), limit=SMALL).text
    assert isinstance(view, Document)
    expected = [(match.line, match.offset) for match in search.grep(chunk.text, r"line 19\d7 naïve")]
    assert expected
    engines: tuple[Engine, ...] = ("auto", "ripgrep", "python")
    for engine in engines:
        found = search.grep(view, r"line 19\d7 naïve", engine=engine)
        assert [(match.line, match.offset) for match in found] == expected
    assert view.count("naïve") == chunk.text.count("naïve")
    assert list(view.lines(3, 4)) == chunk.text.splitlines()[2:4]
    assert (len(view), view[-5:], view.line_count) == (
        len(chunk),
        chunk.text[-5:],
        len(chunk.text.splitlines()),
    )
    assert pickle.loads(pickle.dumps(view)) == chunk.text


@pytest.mark.parametrize(
    "changes",
    [
        {"first_byte": 5, "last_byte": 4},
        {"last_byte": 10**9},
        {"start": "1"},
        {"document": {}},
        {"document": None},
        {"more": 1},
    ],
)
def test_piece_that_cannot_be_is_refused(path: Path, changes: dict[str, object]) -> None:
    library = library_of(write(path, LINES.encode()))
    piece = json.loads(reference_of(chunks(library["text"], 100)[1], library))
    with pytest.raises(ValueError, match=r"piece|bytes|spec"):
        opened(json.dumps(piece | changes))
