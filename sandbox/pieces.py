"""Pieces of documents by reference: what a child RLM is given in place of a copy of the text.

A piece says which document it is of, from where to where; `reference_of` makes one of a chunk, a document or
the text of one, and `open_piece` reads it in the child's own worker. A `str` that was cut out by other means
has no origin, and travels as text.
"""

import functools
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sandbox.chunks import Chunk
from sandbox.documents import Document
from sandbox.library import Library
from sandbox.textfile import DocumentSpec, decode_pieces, join_within, must_be_copied

MAX_REFERENCE_BYTES = 60_000
CONTEXT = "context"
"""What matches and messages call a piece, whose offsets count from its own start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The characters `start` to `end` of a document that has `total`; -1 for an end or total not yet known.

    `first_byte` and `last_byte` are where that is in the file; -1 for text that cannot be read from its
    middle. `mark` is the page, sheet or other part it lies in, as `page 3 of 12`, empty for none.
    """

    document: DocumentSpec
    start: int = 0
    end: int = -1
    total: int = -1
    first_byte: int = -1
    last_byte: int = -1
    mark: str = ""

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.end == self.total

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Piece":
        """Raises `ValueError` for a missing, unknown or mistyped field."""
        obj = json.loads(text)
        if not isinstance(obj, dict) or not isinstance(obj.get("document"), dict):
            raise ValueError("a piece without its document")  # noqa: TRY004 - what arrived is wrong
        values: dict[str, Any] = {**obj, "document": DocumentSpec.from_json(obj["document"])}
        for field in fields(cls):
            if type(values.get(field.name)) is not field.type:
                raise ValueError(f"piece: {field.name} is not of type {field.type}")
        if len(values) != len(fields(cls)):
            raise ValueError("piece: unknown fields")
        return cls(**values)


class PieceText(Document):
    """The text of a piece behind the interface of a `Document`; offsets and lines count from its start."""

    def __init__(self, piece: Piece, *, str_limit_bytes: int) -> None:
        super().__init__(replace(piece.document, name=CONTEXT), str_limit_bytes=str_limit_bytes)
        self.piece = piece
        first, last = piece.first_byte, piece.last_byte
        if must_be_copied(piece.document):  # then the file that is read is a copy in UTF-8
            first = self.byte_of(piece.start)
            last = self._size if piece.end < 0 else self.byte_of(piece.end)
        if not self.first_byte <= first <= last <= self._size:
            raise ValueError(f"there are no bytes {first:,} to {last:,} in {piece.document.name!r}")
        self.first_byte, self._size = first, last
        self._bytes, self._chars = array("q", [first]), array("q", [0])
        self._newlines = array("q", [0])
        self._byte_memo, self._line_window = (first, 0), (0, b"")
        self._cached = (-1, "")
        self._all_ascii = self._ascii_is_ascii

    def __reduce__(self) -> tuple[Callable[..., Document], tuple[object, ...]]:
        return _reopen, (self.piece, self.str_limit_bytes)


def _reopen(piece: Piece, str_limit_bytes: int) -> PieceText:
    return PieceText(piece, str_limit_bytes=str_limit_bytes)


@dataclass(frozen=True, slots=True)
class OpenPiece:
    """An opened piece: its text, and the view of its file that a search reads, if there is one."""

    piece: Piece
    text: str | Document
    view: PieceText | None


def open_piece(piece: Piece, *, str_limit_bytes: int) -> OpenPiece:
    """The text of a piece: a `str` if its characters take at most `str_limit_bytes`, else a `PieceText`.

    Raises as `open_document` does, and `ValueError` for a piece that the document does not have.
    """
    if must_be_copied(piece.document):
        text = join_within(_between(decode_pieces(piece.document), piece.start, piece.end), str_limit_bytes)
        if text is not None:
            return OpenPiece(piece, text, None)
    view = PieceText(piece, str_limit_bytes=str_limit_bytes)
    if view.size_bytes - view.first_byte > 2 * str_limit_bytes:
        return OpenPiece(piece, view, view)
    text = join_within((text for _, text in view.pieces()), str_limit_bytes)
    return OpenPiece(piece, view if text is None else text, view)


def _between(pieces: Iterator[str], start: int, end: int) -> Iterator[str]:
    """What lies between two offsets; an end of -1 is that of the text."""
    at = 0
    for text in pieces:
        if 0 <= end <= at:
            return
        yield text[max(start - at, 0) : None if end < 0 else end - at]
        at += len(text)


def reference_of(value: Any, library: Library, own: OpenPiece | None = None) -> str:
    """The JSON of the `Piece` that a chunk, a document or its text is; empty for any other text.

    A text counts as a document's when it is the very object that the library has. `own` is the piece that
    is this namespace's own context, if it has one. Raises `OSError` when the file cannot be read any more.
    """
    source = value.source if isinstance(value, Chunk) else value
    found = _whole(source, library, own) if isinstance(source, str | Document) else None
    if found is None:
        return ""
    piece, document = found
    if isinstance(value, Chunk):
        piece = replace(
            piece,
            start=piece.start + value.start,
            end=piece.start + value.end,
            first_byte=document.byte_of(value.start) if document else -1,
            last_byte=document.byte_of(value.end) if document else -1,
            mark=value.mark or piece.mark,
        )
    reference = piece.to_json()
    return reference if len(reference.encode("utf-8", "replace")) <= MAX_REFERENCE_BYTES else ""


def _whole(
    source: str | Document, library: Library, own: OpenPiece | None
) -> tuple[Piece, Document | None] | None:
    """The piece that all of a source is, and what tells where in the file it lies, if that can be told."""
    if own and source is own.text:
        return own.piece, own.view
    if isinstance(source, PieceText):
        return source.piece, source
    if isinstance(source, Document):
        document: str | Document = source
        spec, length = source.spec, source.known_length
    else:
        name = next((name for name, text in library.opened().items() if text is source), None)
        if name is None:
            return None
        spec, length = library.spec(name), len(source)
        document = library.view(name)
    if must_be_copied(spec):
        return Piece(document=spec, end=length, total=length), None
    if isinstance(document, str):
        document = _measured(spec)
    return Piece(
        document=spec,
        end=length,
        total=length,
        first_byte=document.first_byte,
        last_byte=document.size_bytes,
    ), document


@functools.lru_cache(maxsize=4)
def _measured(spec: DocumentSpec) -> Document:
    """The file of a text, to tell bytes of offsets: kept, since a batch asks it for each of many chunks."""
    return Document(spec, str_limit_bytes=0)
