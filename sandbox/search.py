"""Find lines: `grep` over a `str` or a `Document`, at the speed of ripgrep and with the meaning of `re`.

Python's `re`, on one line at a time, decides what matches. Where it pays, ripgrep gets a *widened* pattern
first, one that finds every line Python could match and perhaps a few more; Python then looks at those lines
only. So results never depend on which engine ran. Lines end at a newline; a carriage return before it belongs
to the line end. A pattern cannot match across lines (`Document.finditer` can).
"""

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal, overload

from sandbox.blocks import clip, iter_lines
from sandbox.documents import Document
from sandbox.ripgrep import Ripgrep
from sandbox.widen import literal_of, widen

Engine = Literal["auto", "ripgrep", "python"]
Candidate = tuple[int, int, str]
"""Number of a line that may match, offset of its start, and the line without its end."""

TEXT_CHARS = 2000
"""How much of a line a `Match` carries."""
SHOWN_CHARS = 400
"""How much of a line is printed."""
SMALL_CHARS = 1024 * 1024
"""Below this, starting ripgrep takes longer than Python takes."""


class PatternError(ValueError):
    """The pattern is not a valid regular expression; says where."""


@dataclass(frozen=True, slots=True)
class Match:
    """One match. `line` counts from 1, `offset` is where the match starts, in characters of the document.

    `text` is the line, cut to 2,000 characters around a match in a longer one; `match` what matched and
    `groups` its groups (None for one that took no part). `before` and `after` are neighbouring lines.
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

    def __repr__(self) -> str:
        first = self.line - len(self.before)
        rows = [f"{self.document}-{first + i}- {_shown(row)}" for i, row in enumerate(self.before)]
        rows.append(f"{self.document}:{self.line}: {self._shown()}")
        rows += [
            f"{self.document}-{self.line + i}- {_shown(row)}" for i, row in enumerate(self.after, start=1)
        ]
        return "\n".join(rows)

    def _shown(self) -> str:
        return _cut(self.text, self.column, self.column + len(self.match), SHOWN_CHARS)[0]


@dataclass(frozen=True, slots=True, repr=False)
class Matches(Sequence[Match]):
    """The matches in order, as a list; prints as one match a line and what there is besides.

    `truncated` tells that the search stopped at `max_matches`; `total` is None then.
    """

    items: tuple[Match, ...]
    truncated: bool = False
    note: str = ""

    @property
    def total(self) -> int | None:
        return None if self.truncated else len(self.items)

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
        if self.truncated:
            count = f"first {count}; there may be more: raise max_matches, or use count"
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
    `max_matches`. Raises `PatternError` for an invalid pattern, `OSError` when the file has become
    shorter, `DocumentTooLargeError` for a line that does not fit one `str`. `engine` is for tests and
    measurements: all give the same.
    """
    if max_matches < 1 or context_lines < 0:
        raise ValueError("max_matches must be at least 1 and context_lines at least 0")
    compiled = compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed)
    name = text.name if isinstance(text, Document) else name
    items: list[Match] = []
    with closing(_candidates(text, compiled, engine, at_once=True)) as candidates:
        for number, offset, line in candidates:
            around: tuple[tuple[str, ...], tuple[str, ...]] | None = None
            for found in compiled.finditer(line):
                around = around or _neighbours(text, offset, offset + len(line), context_lines)
                shown, column = _cut(line, found.start(), found.end())
                items.append(
                    Match(
                        document=name,
                        line=number,
                        offset=offset + found.start(),
                        text=shown,
                        column=column,
                        match=found.group(),
                        groups=found.groups(),
                        before=around[0],
                        after=around[1],
                    )
                )
                if len(items) == max_matches:
                    return Matches(tuple(items), truncated=True)
    across = not items and re.search(r"\\n|\n", compiled.pattern)
    note = "grep looks at one line at a time; use finditer for matches across lines" if across else ""
    return Matches(tuple(items), note=note)


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
    with closing(_candidates(text, compiled, engine, at_once=False)) as candidates:
        return sum(1 for _, _, line in candidates for _ in compiled.finditer(line))


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


def _candidates(
    text: str | Document, pattern: re.Pattern[str], engine: Engine, *, at_once: bool
) -> Generator[Candidate, None, None]:
    """Every line that may match, in order; `at_once` as they are found rather than in batches."""
    number, offset = 0, 0
    small = not isinstance(text, Document) and len(text) < SMALL_CHARS
    if engine == "ripgrep" or (engine == "auto" and not small):
        ascii_only = text.is_known_ascii() if isinstance(text, Document) else text.isascii()
        widened = widen(pattern, ascii_only=ascii_only)
        if widened is not None:
            search = Ripgrep(text, widened, at_once=at_once)
            with closing(search.lines()) as lines:
                for number, offset in lines:
                    line = _line_at(text, offset)
                    yield number, offset, line.removesuffix("\r")
                    offset += len(line) + 1
            if search.complete:
                return
    # Ripgrep could not run the pattern, or gave up on the way: Python goes on behind the last line it found.
    for number, (offset, line) in enumerate(iter_lines(text, start=offset), start=number + 1):  # noqa: B020
        yield number, offset, line.removesuffix("\r")


def _line_end(text: str | Document, start: int) -> int:
    end = text.find("\n", start)
    return end if end >= 0 else len(text)


def _line_at(text: str | Document, start: int) -> str:
    return text[start : _line_end(text, start)]


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
