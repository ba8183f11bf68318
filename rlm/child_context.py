"""The context of a child RLM as the host knows it: a text, or the reference to a piece of a document.

A reference comes from a cell and goes to the child's worker as it is. Here its shape is checked and what it
says is put in words; it is no path of the host, and nothing is opened by it.
"""

from dataclasses import dataclass
from typing import Any

from rlm.errors import DocumentError
from rlm.formats import FORMATS
from rlm.protocol import MAX_CONTROL_BYTES, ProtocolError, json_body

NAME_CHARS = 300
_DOCUMENT = {"name": str, "size_bytes": int, "kind": str, "encoding": str}
_PIECE = {"document": dict, "start": int, "end": int, "total": int, "mark": str}


@dataclass(frozen=True, slots=True)
class ChildContext:
    """`chars` is the length, of a large document its size in bytes as long as it is not known.

    `sentence` tells the child what its `context` is.
    """

    chars: int
    sentence: str


def of_text(text: str, *, documents: int = 0) -> ChildContext:
    """What a child is told of a text that is no document's. `documents` is how many the session has."""
    others = f" The session's documents ({documents:,}) are there too: list_files()." if documents else ""
    return ChildContext(len(text), f"`context` holds {len(text):,} characters.{others}")


def of_piece(reference: str) -> ChildContext:
    """What a child is told of a piece, see `sandbox.pieces.Piece`.

    Raises `DocumentError` for anything of another shape.
    """
    try:
        piece = json_body(reference.encode(), most_bytes=MAX_CONTROL_BYTES)
        _require(piece, _PIECE)
        document = piece["document"]
        _require(document, _DOCUMENT)
        if document["kind"] not in FORMATS:
            raise ValueError("there is no such kind of document")
    except (ProtocolError, ValueError) as error:
        raise DocumentError(
            "The context of a child RLM is no piece of a document.", f"What names it is wrong: {error}."
        ) from None
    return _described(document, piece)


def _described(document: dict[str, Any], piece: dict[str, Any]) -> ChildContext:
    name, start, end, total = document["name"][:NAME_CHARS], piece["start"], piece["end"], piece["total"]
    known = FORMATS[document["kind"]]
    size = f"{known.label}, {document['size_bytes']:,} bytes"
    if start == 0 and end == total:
        length = f", {total:,} characters" if total >= 0 else ""
        sentence = f"`context` is the document {name!r} ({size}{length})."
        chars = total if total >= 0 else document["size_bytes"]
    else:
        of = f" of {total:,}" if total >= 0 else ""
        mark = f", in [{piece['mark'][:NAME_CHARS]}]" if piece["mark"] else ""
        chars = end - start
        sentence = (
            f"`context` is a piece of the document {name!r} ({size}): its characters {start:,} to {end:,}{of}"
            f"{mark}. It holds {chars:,} characters; offsets and line numbers count from its start. "
            f"files[{name!r}] is the whole document."
        )
    return ChildContext(chars, sentence + (" sql() can ask the document, as doc." if known.table else ""))


def _require(obj: object, shape: dict[str, type]) -> None:
    if not isinstance(obj, dict):
        raise ValueError("not an object")  # noqa: TRY004 - what arrives is wrong, not what was called
    for name, kind in shape.items():
        if type(obj.get(name)) is not kind:
            raise ValueError(f"{name} is not of type {kind.__name__}")
