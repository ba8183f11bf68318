"""Find lines: `grep` over a `str` or a `Document`, at the speed of ripgrep and with the meaning of `re`.

Python's `re`, on one line at a time, decides what matches. Where it pays, ripgrep gets a *widened* pattern
first, one that finds every line Python could match and perhaps a few more; Python then looks at those lines
only. So results never depend on which engine ran. Lines end at a newline; a carriage return before it belongs
to the line end. A pattern cannot match across lines (`Document.finditer` can).
"""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import overload

from sandbox.blocks import clip
from sandbox.candidates import SMALL_BYTES, Engine, candidates
from sandbox.documents import Document
from sandbox.marks import marks_of
from sandbox.widen import literal_of

TEXT_CHARS = 2000
"""How much of a line a `Match` carries."""
SHOWN_CHARS = 400
"""How much of a line is printed."""
COUNTED_BYTES = 256 * 1024 * 1024
"""Up to here, a literal text that is found too often to list is counted."""


class PatternError(ValueError):
    """The pattern is not a valid regular expression; says where."""


@dataclass(frozen=True, slots=True)
class Match:
    """One match. `line` counts from 1, `offset` is where the match starts, in characters of the document.

    `text` is the line, cut to 2,000 characters around a match in a longer one; `match` what matched and
    `groups` its groups (None for one that took no part). `before` and `after` are neighbouring lines. `mark`
    is the page, sheet or other part of a converted document it is on, as `page 3 of 12`, empty for none.
    """

    document: str
    line: int
    offset: int
    text: str
    match: str
    groups: tuple[str | None, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    column: int = field(default=0, repr=False, compare=False)
    """Where the match starts in `text`."""
    mark: str = ""

    def __repr__(self) -> str:
        first = self.line - len(self.before)
        rows = [f"{self.document}-{first + i}- {_shown(row)}" for i, row in enumerate(self.before)]
        mark = f" [{self.mark}]" if self.mark else ""
        rows.append(f"{self.document}{mark}:{self.line}: {self._shown()}")
        rows += [
            f"{self.document}-{self.line + i}- {_shown(row)}" for i, row in enumerate(self.after, start=1)
        ]
        return "\n".join(rows)

    def _shown(self) -> str:
        return _cut(self.text, self.column, self.column + len(self.match), SHOWN_CHARS)[0]


@dataclass(frozen=True, slots=True, repr=False)
class Matches(Sequence[Match]):
    """The matches in order, as a list; prints as one match a line and what there is besides.

    `truncated` tells that there are, or may be, more than these. `total` is how many there are in all, None
    where finding out would take another search: then `count` does that.
    """

    items: tuple[Match, ...]
    total: int | None
    truncated: bool = False
    note: str = ""

    @overload
    def __getitem__(self, key: int) -> Match: ...
    @overload
    def __getitem__(self, key: slice) -> list[Match]: ...
    def __getitem__(self, key: int | slice) -> Match | list[Match]:
        return list(self.items[key]) if isinstance(key, slice) else self.items[key]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Match]:
        return iter(self.items)

    def __repr__(self) -> str:
        between = "\n--\n" if any(item.before or item.after for item in self.items) else "\n"
        count = f"{len(self.items):,} match{'' if len(self.items) == 1 else 'es'}"
        if self.truncated and self.total is not None:
            count = f"first {len(self.items):,} of {self.total:,} matches"
        elif self.truncated:
            count = f"first {count}; there may be more: count(pattern) counts them"
        footer = f"({count}{'; ' if self.note else ''}{self.note})"
        return between.join(map(repr, self.items)) + ("\n" if self.items else "") + footer


def grep(
    text: str | Document,
    pattern: str | re.Pattern[str],
    *,
    name: str = "context",
    max_matches: int = 100,
    context_lines: int = 0,
    ignore_case: bool = False,
    fixed: bool = False,
    engine: Engine = "auto",
) -> Matches:
    """Matches of a regular expression (or, `fixed`, of a literal text), in order; two on a line are two.

    `name` is what matches in a `str` call it; a `Document` has its own. Stops as soon as there are
    `max_matches`; a literal text is then counted, up to 256 MB. Raises `PatternError` for an invalid pattern,
    `OSError` when the file has become shorter, `DocumentTooLargeError` for a line that does not fit one
    `str`. `engine` is for tests and measurements: all give the same.
    """
    compiled = compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed)
    name = text.name if isinstance(text, Document) else name
    found = find_matches(text, compiled, name=name, context_lines=context_lines, engine=engine)
    size_bytes = text.size_bytes if isinstance(text, Document) else len(text)
    count = partial(count_matches, text, compiled, engine=engine)
    return gather(found, compiled, max_matches, count=count, size_bytes=size_bytes)


def gather(
    found: Generator[Match, None, None],
    pattern: re.Pattern[str],
    max_matches: int,
    *,
    count: Callable[[], int],
    size_bytes: int,
) -> Matches:
    """The first of the matches; how many there are in all where `count` is quick at `size_bytes` of text."""
    if max_matches < 1:
        raise ValueError("max_matches must be at least 1")
    with closing(found):
        items = tuple(islice(found, max_matches))
    if len(items) < max_matches:
        across = not items and re.search(r"\\n|\n", pattern.pattern)
        note = "grep looks at one line at a time; use finditer for matches across lines" if across else ""
        return Matches(items, total=len(items), note=note)
    quick = size_bytes <= (COUNTED_BYTES if literal_of(pattern) else SMALL_BYTES)
    total = count() if quick else None
    return Matches(items, total=total, truncated=total != len(items))


def find_matches(
    text: str | Document,
    pattern: re.Pattern[str],
    *,
    name: str,
    context_lines: int = 0,
    engine: Engine = "auto",
) -> Generator[Match, None, None]:
    """The matches in one text, as they are found; to be closed. See `grep`."""
    if context_lines < 0:
        raise ValueError("context_lines must be at least 0")
    marked = isinstance(text, Document) and bool(text.spec.mark)
    with closing(candidates(text, pattern, engine=engine, at_once=True)) as lines:
        for number, line, offset_of in lines:
            around: tuple[tuple[str, ...], tuple[str, ...]] | None = None
            for found in pattern.finditer(line):
                offset = offset_of()
                around = around or _neighbours(text, offset, offset + len(line), context_lines)
                shown, column = _cut(line, found.start(), found.end())
                yield Match(
                    document=name,
                    line=number,
                    offset=offset + found.start(),
                    text=shown,
                    column=column,
                    match=found.group(),
                    groups=found.groups(),
                    before=around[0],
                    after=around[1],
                    mark=marks_of(text).at(offset) if marked else "",
                )


def count_matches(
    text: str | Document,
    pattern: str | re.Pattern[str],
    *,
    ignore_case: bool = False,
    fixed: bool = False,
    engine: Engine = "auto",
) -> int:
    """How many matches `grep` would find with no limit. Raises as `grep` does."""
    compiled = compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed)
    literal = literal_of(compiled) if engine == "auto" else None
    if literal:
        return text.count(literal)
    with closing(candidates(text, compiled, engine=engine, at_once=False)) as lines:
        return sum(1 for _, line, _ in lines for _ in compiled.finditer(line))


def compile_pattern(
    pattern: str | re.Pattern[str], *, ignore_case: bool = False, fixed: bool = False
) -> re.Pattern[str]:
    """Raises `PatternError` with the position of what is wrong."""
    source, flags = (pattern, 0) if isinstance(pattern, str) else (pattern.pattern, pattern.flags)
    try:
        return re.compile(
            re.escape(source) if fixed else source, flags | (re.IGNORECASE if ignore_case else 0)
        )
    except re.error as error:
        at = f" at position {error.pos}" if error.pos is not None else ""
        raise PatternError(
            f"invalid pattern {source!r}: {error.msg}{at}; use fixed=True for literal text"
        ) from None


def _line_end(text: str | Document, start: int) -> int:
    end = text.find("\n", start)
    return end if end >= 0 else len(text)


def _neighbours(
    text: str | Document, start: int, end: int, count: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Up to `count` lines before and after the line from `start` to `end`, cut where they are long."""
    before: list[str] = []
    after: list[str] = []
    while start > 0 and len(before) < count:
        last, start = start - 1, text.rfind("\n", 0, start - 1) + 1
        before.insert(0, _head(text, start, last))
    end = _line_end(text, end) if count else end
    while len(after) < count and clip(text, end + 2) == end + 2:
        start, end = end + 1, _line_end(text, end + 1)
        after.append(_head(text, start, end))
    return tuple(before), tuple(after)


def _head(text: str | Document, start: int, end: int) -> str:
    if end - start > TEXT_CHARS:
        return text[start : start + TEXT_CHARS] + "…"
    return text[start:end].removesuffix("\r")


def _cut(line: str, start: int, end: int, most: int = TEXT_CHARS) -> tuple[str, int]:
    """At most so many characters of a line around start to end, and where start is among them.

    There is "…" where something is left out.
    """
    if len(line) <= most:
        return line, start
    first = max(min(start - max(most - (end - start), 0) // 2, len(line) - most), 0)
    last = first + most
    dots = "…" if first else ""
    return dots + line[first:last] + ("…" if last < len(line) else ""), start - first + len(dots)


def _shown(row: str) -> str:
    return _cut(row, 0, 0, SHOWN_CHARS)[0]
