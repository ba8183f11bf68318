"""Find lines: `grep` over a `str` or a `Document`, at the speed of ripgrep and with the meaning of `re`.

Python's `re`, on one line at a time, decides what matches. Where it pays, the pattern is first *widened*
to one for ripgrep that finds every line Python could match and perhaps a few more; Python then looks at
those lines only. So results never depend on which engine ran. Lines end at a newline; a carriage return
before it belongs to the line end. A pattern cannot match across lines (`Document.finditer` can).

Text goes to ripgrep through its stdin, the pattern after `-e`; no shell and no file name is involved.
"""

import functools
import importlib
import os
import re
import resource
import select
import subprocess
import sys
import threading
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import IO, Any, Literal, overload

from sandbox.documents import Document, clip, iter_lines, text_pieces

Engine = Literal["auto", "ripgrep", "python"]

TEXT_CHARS = 2000
"""How much of a line a `Match` carries."""
SHOWN_CHARS = 400
"""How much of a line is printed."""
SMALL_CHARS = 1024 * 1024
"""Below this, starting ripgrep takes longer than Python takes."""
RIPGREP_DATA_BYTES = 512 * 1024 * 1024
"""Ripgrep holds whole lines: this stops it before a gigabyte without a newline fills the sandbox."""
WIDENED_CHARS = 10_000


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

    def __repr__(self) -> str:
        first = self.line - len(self.before)
        rows = [f"{self.document}-{first + i}- {_shown(row)}" for i, row in enumerate(self.before)]
        rows.append(f"{self.document}:{self.line}: {_shown(self.text, self.match)}")
        rows += [
            f"{self.document}-{self.line + i}- {_shown(row)}" for i, row in enumerate(self.after, start=1)
        ]
        return "\n".join(rows)


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
            count = f"first {count}; there may be more: raise max_matches, or use count_matches"
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
                items.append(
                    Match(
                        document=name,
                        line=number,
                        offset=offset + found.start(),
                        text=_cut(line, found.start(), found.end()),
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
    literal = _literal(compiled) if engine == "auto" else None
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


# Which lines to look at.

Candidate = tuple[int, int, str]
"""Line number, offset of its start, and the line without its end."""


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
            search = _Ripgrep(text, widened, at_once=at_once)
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


class _Ripgrep:
    """One run of ripgrep over a text."""

    def __init__(self, text: str | Document, pattern: str, *, at_once: bool) -> None:
        self._text = text
        self._command = ["rg", "--no-config", "--text", "--encoding=none", "--threads=1", "--color=never"]
        self._command += ["--line-buffered" if at_once else "--block-buffered"]
        # One short row for each line: its number and byte offset, and never the line, however long it is.
        self._command += [
            "--no-heading",
            "--no-filename",
            "--line-number",
            "--byte-offset",
            "--max-columns=1",
        ]
        self._command += ["-e", pattern, "-"]
        self.complete = False

    def lines(self) -> Generator[tuple[int, int], None, None]:
        """Number and character offset of each line found. `complete` is set when ripgrep saw it all."""
        text = self._text
        file = text.reopen() if isinstance(text, Document) and text.is_utf8 else None
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE if file is None else file,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            return
        finally:
            if file is not None:
                os.close(file)
        with process:
            _limit_memory(process.pid)
            feed = _Feed(text, process.stdin) if process.stdin else None
            try:
                assert process.stdout is not None
                for row in _rows(process.stdout.fileno(), text if feed is None else None):
                    number, position, _ = row.split(b":", 2)
                    if feed:
                        yield int(number), feed.offset(int(position))
                    elif isinstance(text, Document) and int(position) < text.size_bytes - text.first_byte:
                        yield int(number), text.offset_of_byte(int(position) + text.first_byte)
                process.wait()
            finally:
                process.kill()
                if feed:
                    feed.join()
        self.complete = process.returncode in (0, 1)
        if isinstance(text, Document):
            text.check_size()


def _rows(pipe: int, text: str | Document | None) -> Iterator[bytes]:
    """The rows that ripgrep writes. While there is none, a document gets on with its index: a row that
    comes late needs all of the index before it, and would wait for it then.
    """
    poll = select.poll()
    poll.register(pipe)
    rest = b""
    while True:
        while isinstance(text, Document) and not poll.poll(0) and text.index_more():
            pass
        data = os.read(pipe, 65_536)
        if not data:
            return
        *rows, rest = (rest + data).split(b"\n")
        yield from rows


class _Feed(threading.Thread):
    """Writes a text as UTF-8 to ripgrep's stdin, and leads from offsets in that stream to characters."""

    def __init__(self, text: str | Document, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._text = text
        self._pipe = pipe
        self._error: Exception | None = None
        self._positions: list[int] = []
        self._offsets: list[int] = []
        self.start()

    def run(self) -> None:
        position = 0
        try:
            with suppress(BrokenPipeError), self._pipe as pipe:
                for offset, piece in text_pieces(self._text):
                    data = piece.encode("utf-8", "surrogatepass")
                    self._offsets.append(offset)
                    self._positions.append(position)
                    position += len(data)
                    pipe.write(data)
        except Exception as error:
            self._error = error

    def join(self, timeout: float | None = None) -> None:
        """Raises what went wrong with reading the text."""
        super().join(timeout)
        if self._error:
            raise self._error

    def offset(self, position: int) -> int:
        """Character offset of a position that has been found, later than all before."""
        number = bisect_right(self._positions, position) - 1
        start, offset = self._positions[number], self._offsets[number]
        # A character is at least one byte, so no more characters than bytes are needed.
        between = self._text[offset : offset + position - start].encode("utf-8", "surrogatepass")
        offset += len(between[: position - start].decode("utf-8", "surrogatepass"))
        self._positions[number], self._offsets[number] = position, offset
        return offset


def _limit_memory(pid: int) -> None:
    if sys.platform == "linux":
        with suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (RIPGREP_DATA_BYTES, RIPGREP_DATA_BYTES))


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


def _cut(line: str, start: int, end: int, most: int = TEXT_CHARS) -> str:
    """At most so many characters of a line around start to end, with "…" where something is left out."""
    if len(line) <= most:
        return line
    first = max(min(start - max(most - (end - start), 0) // 2, len(line) - most), 0)
    last = first + most
    return ("…" if first else "") + line[first:last] + ("…" if last < len(line) else "")


def _shown(row: str, match: str = "") -> str:
    start = max(row.find(match), 0)
    return _cut(row, start, start + len(match), SHOWN_CHARS)


# Widening: from a pattern of Python to one for ripgrep that matches wherever Python's does.

ASCII = frozenset(range(128))
WORD = frozenset(map(ord, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"))
CATEGORIES: dict[str, tuple[frozenset[int], str]] = {
    # The ASCII members exactly, and Unicode properties that hold all others. Unassigned code points are
    # among them since the two sides may know different versions of Unicode.
    "DIGIT": (frozenset(range(48, 58)), r"\p{Nd}\p{Cn}"),
    "SPACE": (frozenset((*range(9, 14), *range(28, 33))), r"\p{Z}\x{85}"),
    "WORD": (WORD, r"\p{L}\p{N}\p{Cn}"),
}
NOT_ASCII = r"[\x80-\xFF]{1,4}"
"""Any character beyond ASCII, or invalid bytes that are read as U+FFFD; for byte mode."""


class _CannotWidenError(Exception):
    pass


def widen(pattern: re.Pattern[str], *, ascii_only: bool = False) -> str | None:
    """A pattern for ripgrep that matches every line on which `pattern` does; `ascii_only` if the text is.

    None if there is none, or no use in one: when `pattern` can match nothing, it matches every line.
    Lookarounds are left out, a reference to a group becomes the group's own pattern, and a class that
    Unicode decides takes in every character that Python or ripgrep may count to it.
    """
    tree = _parse(pattern)
    if tree is None or tree.getwidth()[0] == 0:
        return None
    try:
        widened = _Widener(ascii_only=ascii_only).sequence(
            tree, ignore_case=bool(pattern.flags & re.IGNORECASE)
        )
    except _CannotWidenError:
        return None
    return widened if len(widened) <= WIDENED_CHARS else None


def _parse(pattern: re.Pattern[str]) -> Any:
    """The parse tree of a pattern; None where this Python does not show it."""
    try:
        parser = importlib.import_module("re._parser")
        return parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    except (ImportError, AttributeError):
        return None


def _literal(pattern: re.Pattern[str]) -> str | None:
    """The text that a pattern stands for, if it stands for just one that lies within a line."""
    tree = _parse(pattern)
    if tree is None or pattern.flags & re.IGNORECASE or any(op.name != "LITERAL" for op, _ in tree):
        return None
    text = "".join(chr(code) for _, code in tree)
    return None if "\n" in text or "\r" in text else text


class _Widener:
    """Walks a parse tree of `re`; every method returns a pattern no narrower than the node it is given."""

    def __init__(self, *, ascii_only: bool) -> None:
        self._ascii_only = ascii_only
        self._groups: dict[int, tuple[str, bool]] = {}
        self._positions = 0

    def sequence(self, nodes: Any, *, ignore_case: bool) -> str:
        parts: list[str] = []
        for i, (op, arg) in enumerate(nodes):
            if op.name == "AT":
                beside = [(nodes[i - 1], -1)] if i else []
                beside += [(nodes[i + 1], 0)] if i + 1 < len(nodes) else []
                next_to_word = any(_is_word(node, side, ignore_case=ignore_case) for node, side in beside)
                parts.append(self._position(arg.name, next_to_word=next_to_word))
                self._positions += bool(parts[-1])
            else:
                parts.append(self._node(op.name, arg, ignore_case=ignore_case))
        if sum(map(len, parts)) > WIDENED_CHARS:
            raise _CannotWidenError
        return "".join(parts)

    def _position(self, name: str, *, next_to_word: bool) -> str:
        match name:
            case "AT_BEGINNING" | "AT_BEGINNING_STRING":
                return "^"
            case "AT_END" | "AT_END_STRING":
                return r"\r?$"
            case "AT_BOUNDARY" if next_to_word or self._ascii_only:
                # By bytes nothing beyond ASCII is a word, so that beside an ASCII letter there is a boundary
                # wherever Python may see one.
                return r"(?-u:\b)"
            case "AT_NON_BOUNDARY" if self._ascii_only:
                return r"(?-u:\B)"
        return ""

    def _node(self, name: str, arg: Any, *, ignore_case: bool) -> str:
        match name:
            case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY":
                return self._character(name, arg, ignore_case=ignore_case)
            case "BRANCH":
                return f"(?:{'|'.join(self.sequence(b, ignore_case=ignore_case) for b in arg[1])})"
            case "SUBPATTERN":
                group, added, removed, nodes = arg
                ignore_case = bool((ignore_case or added & re.IGNORECASE) and not removed & re.IGNORECASE)
                positions = self._positions
                body = self.sequence(nodes, ignore_case=ignore_case)
                if positions == self._positions:  # elsewhere, what it says of its surroundings is not so
                    self._groups[group] = body, ignore_case
                return f"(?:{body})" if body else ""
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                low, high, nodes = arg
                body = self.sequence(nodes, ignore_case=ignore_case)
                most = "" if high >= 2**32 - 1 else high
                return f"(?:{body}){{{low},{most}}}" if body else ""
            case "ATOMIC_GROUP":
                return f"(?:{self.sequence(arg, ignore_case=ignore_case)})"
            case "GROUPREF" if arg in self._groups:
                body, any_case = self._groups[arg]
                if any_case or not ignore_case:
                    return f"(?:{body})" if body else ""
            case "ASSERT" | "ASSERT_NOT":
                return ""
        raise _CannotWidenError

    def _character(self, name: str, arg: Any, *, ignore_case: bool) -> str:
        ascii_members, others, wide = _members(name, arg, ignore_case=ignore_case)
        low = "".join(rf"\x{code:02X}" for code in sorted(ascii_members - {10}))
        if self._ascii_only:
            others, wide = "", False
        if wide:
            return f"(?-u:[{low}]|{NOT_ASCII})" if low else f"(?-u:{NOT_ASCII})"
        if not low and not others:
            raise _CannotWidenError
        return f"[{low}{others}]"


def _members(name: str, arg: Any, *, ignore_case: bool) -> tuple[frozenset[int], str, bool]:
    """What a node for one character matches: its ASCII members, all others as the inside of a class, and
    whether those may be anything beyond ASCII, invalid bytes included.
    """
    match name:
        case "IN":
            items = [(op.name, value) for op, value in arg]
        case "ANY":
            items = [("NEGATE", None), ("LITERAL", 10)]
        case "NOT_LITERAL":
            items = [("NEGATE", None), ("LITERAL", arg)]
        case _:
            items = [("LITERAL", arg)]
    negated = items[0][0] == "NEGATE"
    members: set[int] = set()
    others, wide = "", negated
    for kind, value in items[negated:]:
        if kind == "CATEGORY":
            category = value.name.removeprefix("CATEGORY_")
            ascii_members, properties = CATEGORIES[category.removeprefix("NOT_")]
            if category.startswith("NOT_"):
                members |= ASCII - ascii_members
                wide = True
            else:
                members |= ascii_members
                others += properties
            continue
        low, high = value if kind == "RANGE" else (value, value)
        spans = [(low, high)]
        if ignore_case and not negated:
            spans += [(ord(case), ord(case)) for case in _other_cases(low, high)]
        for first, last in spans:
            members.update(range(first, min(last, 127) + 1))
            if last >= 128:
                others += rf"\x{{{max(first, 128):X}}}-\x{{{last:X}}}"
            # Lone surrogates and invalid bytes reach ripgrep as bytes that are not UTF-8.
            wide = wide or first <= 0xFFFD <= last or (first <= 0xDFFF and last >= 0xD800)
    return frozenset(ASCII - members if negated else members), others, wide


def _is_word(node: Any, side: int, *, ignore_case: bool) -> bool:
    """Whether a node surely begins (side 0) or ends (side -1) with an ASCII letter, digit or underscore."""
    op, arg = node

    def edge(nodes: Any) -> bool:
        return len(nodes) > 0 and _is_word(nodes[side], side, ignore_case=ignore_case)

    match op.name:
        case "LITERAL" | "IN":
            members, others, wide = _members(op.name, arg, ignore_case=ignore_case)
            return members <= WORD and not others and not wide
        case "SUBPATTERN":
            ignore_case = bool(ignore_case or arg[1] & re.IGNORECASE)
            return edge(arg[3])
        case "MAX_REPEAT" | "MIN_REPEAT":
            return bool(arg[0] > 0 and edge(arg[2]))
        case "BRANCH":
            return all(edge(branch) for branch in arg[1])
    return False


def _other_cases(low: int, high: int) -> set[str]:
    """Everything that `re.IGNORECASE` may take for a character of the range."""
    classes = _case_classes()
    if low == high:
        return set(classes.get(chr(low), ""))
    return {case for char, cases in classes.items() if low <= ord(char) <= high for case in cases}


@functools.cache
def _case_classes() -> dict[str, str]:
    """Each character that has cases, with all it equals, by the rule of `re`: same lower or upper case."""
    classes: dict[str, str] = {}
    cased = [char for char in map(chr, range(0x1F000)) if char.lower() != char or char.upper() != char]
    keys = {char: char.lower()[0].upper()[0] for char in cased}
    for char in cased:
        classes[keys[char]] = classes.get(keys[char], "") + char
    return {char: classes[keys[char]] for char in cased}
