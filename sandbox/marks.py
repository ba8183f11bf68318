"""The marks of a converted document: lines such as `[page 3 of 12]`, each of which begins a part of it.

They are found in one pass and kept with the document. It makes no marks: converters do.
"""

import re
from array import array
from bisect import bisect_right
from contextlib import closing
from dataclasses import dataclass

from sandbox.candidates import candidates
from sandbox.documents import Document

MARK_CHARS = 300


@dataclass(frozen=True, slots=True)
class Marks:
    """`offsets` are where the mark lines of a text begin, in characters, ascending."""

    text: str | Document
    offsets: "array[int]"

    def at(self, offset: int) -> str:
        """The nearest mark at or before an offset, without its brackets; empty when there is none."""
        number = bisect_right(self.offsets, offset) - 1
        if number < 0:
            return ""
        start = self.offsets[number] + 1
        line = self.text[start : start + MARK_CHARS].split("\n", 1)[0]
        return line.removesuffix("\r").removesuffix("]")


def marks_of(text: str | Document, word: str = "") -> Marks:
    """The marks of a text. `word` is what begins them (`page`, `sheet`, …); a `Document` knows its own.

    Raises `OSError` when the file cannot be read.
    """
    if not isinstance(text, Document):
        return Marks(text, _find(text, word))
    if text.mark_offsets is None:
        text.mark_offsets = _find(text, text.spec.mark)
    return Marks(text, text.mark_offsets)


def _find(text: str | Document, word: str) -> "array[int]":
    offsets = array("q")
    if word:
        pattern = re.compile(rf"^\[{re.escape(word)}[ :].*\]$")
        with closing(candidates(text, pattern, at_once=False)) as lines:
            offsets.extend(offset() for _, line, offset in lines if pattern.match(line))
    return offsets
