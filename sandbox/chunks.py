"""Cut a text of any size into chunks, by characters, by whole lines, where a pattern matches, or by pages.

A chunk knows where it lies and reads its text when asked, so nothing is copied; where the next chunk ends
is found when it is needed. What it does not do: count tokens, or send chunks to a model.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, overload

from sandbox.blocks import clip
from sandbox.documents import Document
from sandbox.marks import Marks, marks_of
from sandbox.windows import DocumentMatch

DEFAULT_SIZE = 100_000

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The characters `start` to `end` of a text. `id` is the same whenever it is cut the same way.

    `mark` is what begins a chunk that was cut by marks, as `page 3 of 12`, else empty.
    """

    id: str
    start: int
    end: int
    source: str | Document = field(repr=False, hash=False)
    mark: str = ""

    @property
    def text(self) -> str:
        return self.source[self.start : self.end]

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        mark = f", mark={self.mark!r}" if self.mark else ""
        return f"Chunk(id={self.id!r}, start={self.start}, end={self.end}{mark})"


class Chunks(Sequence[Chunk]):
    """Chunks in order. Iteration and `[:n]` look no further into the text than they need; `len` does."""

    def __init__(
        self, source: str | Document, spans: Iterator[Span], *, name: str, marks: Marks | None = None
    ) -> None:
        self._source = source
        self._name = name
        self._marks = marks
        self._known: list[Span] = []
        self._rest = spans

    def _reach(self, count: int | None) -> None:
        """Find out where the first `count` chunks are, or all."""
        while count is None or len(self._known) < count:
            span = next(self._rest, None)
            if span is None:
                return
            self._known.append(span)

    def _chunk(self, number: int) -> Chunk:
        start, end = self._known[number]
        mark = self._marks.at(start) if self._marks else ""
        return Chunk(id=f"{self._name}#{number:04}", start=start, end=end, source=self._source, mark=mark)

    def __iter__(self) -> Iterator[Chunk]:
        number = 0
        while True:
            self._reach(number + 1)
            if number >= len(self._known):
                return
            yield self._chunk(number)
            number += 1

    def __len__(self) -> int:
        self._reach(None)
        return len(self._known)

    @overload
    def __getitem__(self, key: int) -> Chunk: ...
    @overload
    def __getitem__(self, key: slice) -> list[Chunk]: ...
    def __getitem__(self, key: int | slice) -> Chunk | list[Chunk]:
        if isinstance(key, slice):
            bounded = key.stop is not None and min(key.start or 0, key.stop, key.step or 1) >= 0
            self._reach(key.stop if bounded else None)
            return [self._chunk(number) for number in range(len(self._known))[key]]
        self._reach(key + 1 if key >= 0 else None)
        return self._chunk(range(len(self._known))[key])

    def __repr__(self) -> str:
        self._reach(1000)
        more = " or more" if len(self._known) == 1000 else ""
        return f"<{len(self._known):,}{more} chunks of {self._name!r}>"

    def __getstate__(self) -> dict[str, Any]:
        self._reach(None)
        return {**self.__dict__, "_rest": iter(())}


def chunk_indices(text: int | str | Document, size: int = DEFAULT_SIZE, *, overlap: int = 0) -> list[Span]:
    """Start and end of pieces of `size` characters, each starting `overlap` before the last one's end.

    Takes a text or its length. They cover it all; the last may be shorter. Raises `ValueError` unless
    size > 0 and 0 <= overlap < size.
    """
    _check(size, overlap)
    length = text if isinstance(text, int) else len(text)
    return list(_windows(0, length, size, overlap))


def chunks(
    text: str | Document,
    size: int | None = None,
    *,
    overlap: int = 0,
    by: Literal["chars", "lines", "regex", "marks"] = "chars",
    pattern: str | re.Pattern[str] | None = None,
    name: str = "context",
    mark: str = "",
) -> Chunks:
    """Chunks that cover the text; their ids are the document's name (or `name`) and a number from 0.

    by="chars": `size` characters each (100,000), overlapping by `overlap` characters.
    by="lines": as many whole lines as `size` characters hold, overlapping by at most `overlap` lines; a
    longer line is a chunk of its own.
    by="regex": every match of `pattern` (with MULTILINE) starts a chunk, as a heading does; what comes
    before the first is a chunk too. Only if `size` is given are larger ones cut, with `overlap`.
    by="marks": likewise, at each page, sheet, slide, chapter or message of a converted document. Of a `str`,
    `mark` tells what begins its marks: `page`, `sheet`, ….

    Raises `ValueError` for arguments that make no sense.
    """
    if (by == "regex") != (pattern is not None):
        raise ValueError("by='regex' and a pattern go together")
    if by in ("regex", "marks") and size is None and overlap:
        raise ValueError(f"by={by!r} overlaps only pieces that a size cuts: give size too")
    _check(DEFAULT_SIZE if size is None else size, overlap)
    name = text.name if isinstance(text, Document) else name
    marks = None
    match by:
        case "chars":
            spans = _by_chars(text, size or DEFAULT_SIZE, overlap)
        case "lines":
            spans = _by_lines(text, size or DEFAULT_SIZE, overlap)
        case "regex":
            assert pattern is not None
            starts = (found.start() for found in _finditer(text, _multiline(pattern)))
            spans = _by_starts(text, starts, size, overlap)
        case "marks":
            marks = marks_of(text, mark)
            if not marks.offsets:
                raise ValueError(
                    f"{name!r} has no pages, sheets or other marks: use by='chars', 'lines' or 'regex'"
                )
            spans = _by_starts(text, marks.offsets, size, overlap)
        case _:
            raise ValueError(f"by is 'chars', 'lines', 'regex' or 'marks', not {by!r}")
    return Chunks(text, spans, name=name, marks=marks)


def _check(size: int, overlap: int) -> None:
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be at least 0 and less than size ({size}), not {overlap}")


def _windows(start: int, end: int, size: int, overlap: int) -> Iterator[Span]:
    while start < end:
        yield start, min(start + size, end)
        if start + size >= end:
            return
        start += size - overlap


def _by_chars(text: str | Document, size: int, overlap: int) -> Iterator[Span]:
    start, end = 0, clip(text, size)
    while start < end:
        yield start, end
        following = clip(text, start + size - overlap + size)
        if following == end:
            return
        start, end = start + size - overlap, following


def _by_lines(text: str | Document, size: int, overlap: int) -> Iterator[Span]:
    start, end = 0, _line_cut(text, 0, size)
    while start < end:
        yield start, end
        start = _back(text, start, end, overlap)
        # A long line ahead may leave no room for the overlap: give up as much of it as it takes.
        while start < end and _line_cut(text, start, size) <= end:
            start = text.find("\n", start, end) + 1 or end
        end = _line_cut(text, start, size)


def _line_cut(text: str | Document, start: int, size: int) -> int:
    """Where a chunk of whole lines from `start` ends."""
    limit = start + size
    end = clip(text, limit + 1)
    if end <= limit:
        return end
    return text.rfind("\n", start, limit) + 1 or text.find("\n", limit) + 1 or len(text)


def _back(text: str | Document, start: int, end: int, lines: int) -> int:
    """The start of the last so many of the lines from `start` to `end`, but not `start` itself."""
    first = text.find("\n", start, end) + 1 or end
    at = end
    for _ in range(lines):
        before = text.rfind("\n", start, max(at - 1, start)) + 1
        if before < first:
            return min(first, at)
        at = before
    return at


def _multiline(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    if isinstance(pattern, str):
        return re.compile(pattern, re.MULTILINE)
    return re.compile(pattern.pattern, pattern.flags | re.MULTILINE)


def _finditer(
    text: str | Document, pattern: re.Pattern[str]
) -> Iterator[re.Match[str]] | Iterator[DocumentMatch]:
    return text.finditer(pattern) if isinstance(text, Document) else pattern.finditer(text)


def _by_starts(text: str | Document, starts: Iterable[int], size: int | None, overlap: int) -> Iterator[Span]:
    """From each start to the next; `starts` may leave out the beginning of the text."""
    for start, end in pairwise(_borders(text, starts)):
        if size is None:
            yield start, end
        else:
            yield from _windows(start, end, size, overlap)


def _borders(text: str | Document, starts: Iterable[int]) -> Iterator[int]:
    yield 0
    last = 0
    for start in starts:
        if start > last:
            last = start
            yield last
    if last < len(text):
        yield len(text)
