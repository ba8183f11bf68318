"""Text of any size behind the interface of `str`: a real `str` when it fits, a lazy `Document` beyond.

A `Document` is `BlockText` (read from its file on demand, in constant memory) that can be sliced, searched,
split and gone through as a `str` can. It does not search patterns across a whole file fast
(`sandbox.search`), and has no method that would need the whole text at once.
"""

import functools
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NoReturn, overload

from sandbox.blocks import BlockText, count_in, iter_lines, text_pieces
from sandbox.parts import LazyParts
from sandbox.textfile import (
    BLOCK_BYTES,
    DocumentSpec,
    DocumentTooLargeError,
    decode_pieces,
    join_within,
    must_be_copied,
)
from sandbox.windows import DocumentMatch, find_in_windows

WINDOW_CHARS = 1024 * 1024

Cut = Callable[[str], list[str]]
CutWhole = Callable[[str], tuple[list[str], str]]


def open_document(spec: DocumentSpec, *, str_limit_bytes: int) -> "str | Document":
    """The text of a document: a `str` if its characters take at most `str_limit_bytes`, else a `Document`.

    CPython stores 1, 2 or 4 bytes for every character, by the highest one in the text; that is what is
    compared. Raises `OSError` when the file cannot be read as described, `LookupError` for an unknown
    codec, `DocumentTooLargeError` when text that must be copied fits neither memory nor the temporary folder.
    """
    if must_be_copied(spec):
        text = join_within(decode_pieces(spec), str_limit_bytes)
        return Document(spec, str_limit_bytes=str_limit_bytes) if text is None else text
    document = Document(spec, str_limit_bytes=str_limit_bytes)
    if spec.size_bytes > 2 * str_limit_bytes:  # no encoding here spends more than twice what `str` does
        return document
    text = join_within((piece for _, piece in document.pieces()), str_limit_bytes)
    return document if text is None else text


class Document(BlockText):
    """A read-only view of a text file with the interface of `str`, as far as constant memory allows.

    A slice is a `str`, and a `DocumentTooLargeError` beyond `str_limit_bytes` characters. Methods that need
    the whole text at once (`lower`, `replace`, …, also `str()` and `+`) raise a `TypeError` that says what to
    use instead. Pickles as a reference: unpickling opens the file again.
    """

    def __init__(
        self,
        spec: DocumentSpec,
        *,
        str_limit_bytes: int,
        block_bytes: int = BLOCK_BYTES,
        window_chars: int = WINDOW_CHARS,
    ) -> None:
        super().__init__(spec, str_limit_bytes=str_limit_bytes, block_bytes=block_bytes)
        self._window_chars = max(window_chars, 16)
        self.mark_offsets: array[int] | None = None
        """Kept by `sandbox.marks`."""

    def __reduce__(self) -> tuple[Callable[..., "Document"], tuple[object, ...]]:
        reopen = functools.partial(
            Document,
            str_limit_bytes=self.str_limit_bytes,
            block_bytes=self._block_bytes,
            window_chars=self._window_chars,
        )
        return reopen, (self.spec,)

    def __repr__(self) -> str:
        indexed = self._bytes[-1] == self._size
        length = f", {self._chars[-1]:,} characters" if indexed else ""
        size = human_size(self._size - self.first_byte)
        return f"<Document {self.name!r}: {size}{length}; use peek, grep, lines, chunks>"

    @property
    def known_length(self) -> int:
        """The length in characters as far as it is known without reading on, else -1."""
        return self._chars[-1] if self._bytes[-1] == self._size else -1

    def byte_of(self, offset: int) -> int:
        """Where in the file the character at an offset begins; for the length, where the text ends."""
        number = self._block_at(offset)
        if number + 1 >= len(self._bytes):
            return self._bytes[-1]
        data = self._read(self._bytes[number], self._bytes[number + 1])
        return self._bytes[number] + self._bytes_before(data, offset - self._chars[number])

    def _bytes_before(self, data: bytes, count: int) -> int:
        """How many bytes of a block its first `count` characters take.

        Where bytes are invalid, the place to cut is the one where both sides decode as the whole does.
        """
        total = len(self._decode_all(data))
        if total == len(data):
            return count
        most = bisect_left(
            range(len(data) + 1),
            count,
            key=lambda size: len(self._decode(data[:size], "replace", False)[0]),  # noqa: FBT003
        )
        return next(
            size
            for size in range(most, -1, -1)
            if len(self._decode_all(data[:size])) == count
            and len(self._decode_all(data[size:])) == total - count
        )

    def _bounds(self, start: int | None, end: int | None) -> tuple[int, int | None]:
        """Start and end as `str` methods read them; an open end stays open, so that nothing is counted."""
        first = start or 0
        if first < 0:
            first = max(first + len(self), 0)
        if end is not None and end < 0:
            end = max(end + len(self), 0)
        return first, end

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> str: ...
    def __getitem__(self, key: int | slice) -> str:
        if isinstance(key, int):
            at = key if key >= 0 else key + len(self)
            if at < 0 or self.clip(at + 1) <= at:
                raise IndexError("document index out of range")
            number = self._block_at(at)
            return self._block(number)[at - self._chars[number]]
        step = 1 if key.step is None else key.step
        if step > 0 and key.stop is not None:
            first, stop = self._bounds(key.start, key.stop)
            wanted = range(*slice(first, stop, step).indices(self.clip(stop or 0)))
        else:
            wanted = range(*key.indices(len(self)))
        if len(wanted) > self.str_limit_bytes:
            raise DocumentTooLargeError(
                f"a slice of {len(wanted):,} characters of {self.name!r} is more than fits one str "
                f"({self.str_limit_bytes:,}): use chunks or document.finditer, or a smaller slice"
            )
        if step < 0:
            return self._every(wanted[::-1])[::-1]
        return self._every(wanted)

    def _every(self, wanted: range) -> str:
        """The characters at the offsets of an ascending range."""
        if not wanted:
            return ""
        step = wanted.step
        pieces = self.pieces(wanted[0], wanted[-1] + 1)
        return "".join(text[-(at - wanted[0]) % step :: step] for at, text in pieces)

    def __contains__(self, sub: str) -> bool:
        if not isinstance(sub, str):
            raise TypeError(f"what is looked for in a Document must be a str, not {type(sub).__name__}")
        return self.holds(sub)

    def __eq__(self, other: object) -> bool:
        """Whether the text is the same, character by character."""
        if self is other or not isinstance(other, str | Document):
            return self is other
        return _same(self.pieces(), text_pieces(other))

    def __hash__(self) -> int:
        raise TypeError(
            f"{self.name!r} is a Document and cannot be a key or in a set: use its name ({self.name!r})"
        )

    def find(self, sub: str, start: int | None = None, end: int | None = None) -> int:
        first, stop = self._bounds(start, end)
        if not sub:
            return first if self.clip(first) == first and (stop is None or first <= stop) else -1
        tail = ""
        for base, text, low, high in self._spans(first, stop):
            over_border = (tail + text[low : min(low + len(sub) - 1, high)]).find(sub) if tail else -1
            if over_border >= 0:
                return base + low - len(tail) + over_border
            found = text.find(sub, low, high)
            if found >= 0:
                return base + found
            tail = (
                (tail + text[max(high - len(sub) + 1, low) : high])[-(len(sub) - 1) :] if len(sub) > 1 else ""
            )
        return -1

    def rfind(self, sub: str, start: int | None = None, end: int | None = None) -> int:
        first, stop = self._bounds(start, end)
        last = len(self) if stop is None else self.clip(stop)
        if not sub:
            return last if first <= last else -1
        head = ""
        for at, text in self._pieces_backwards(first, last):
            window = text + head
            found = window.rfind(sub)
            if found >= 0:
                return at + found
            head = window[: len(sub) - 1]
        return -1

    def index(self, sub: str, start: int | None = None, end: int | None = None) -> int:
        return _found(self.find(sub, start, end))

    def rindex(self, sub: str, start: int | None = None, end: int | None = None) -> int:
        return _found(self.rfind(sub, start, end))

    def count(self, sub: str, start: int | None = None, end: int | None = None) -> int:
        first, stop = self._bounds(start, end)
        if not sub:
            last = len(self) if stop is None else self.clip(stop)
            return max(last - first + 1, 0)
        if first == 0 and stop is None:
            return self.count_all(sub)
        return count_in((text for _, text in self.pieces(first, stop)), sub)

    def startswith(
        self, prefix: str | tuple[str, ...], start: int | None = None, end: int | None = None
    ) -> bool:
        if isinstance(prefix, tuple):
            return any(self.startswith(one, start, end) for one in prefix)
        first, stop = self._bounds(start, end)
        edge = first + len(prefix)
        return self.clip(edge) == edge and (stop is None or edge <= stop) and self[first:edge] == prefix

    def endswith(
        self, suffix: str | tuple[str, ...], start: int | None = None, end: int | None = None
    ) -> bool:
        if isinstance(suffix, tuple):
            return any(self.endswith(one, start, end) for one in suffix)
        first, stop = self._bounds(start, end)
        last = len(self) if stop is None else self.clip(stop)
        return last - len(suffix) >= first and self[last - len(suffix) : last] == suffix

    def __iter__(self) -> Iterator[str]:
        for _, text in self.pieces():
            yield from text

    def split(self, sep: str | None = None, maxsplit: int = -1) -> LazyParts:
        """As `str.split`, but lazy: see `LazyParts`."""
        if sep == "":
            raise ValueError("empty separator")
        if maxsplit >= 0:
            split_some = self._first_words if sep is None else functools.partial(self._first_parts, sep)
            return LazyParts(functools.partial(split_some, maxsplit))
        # A separator such as "aa" can begin at either of three "a", by what is before them.
        overlaps = sep is not None and len(set(sep)) < len(sep)
        cut, cut_whole = functools.partial(_parts, sep), functools.partial(_whole_parts, sep)
        return self._lazy_parts(cut, cut_whole, from_end=not overlaps)

    def splitlines(self, keepends: bool = False) -> LazyParts:  # noqa: FBT001, FBT002 - as str has it
        """As `str.splitlines`, but lazy: see `LazyParts`."""
        cut, cut_whole = functools.partial(_lines, keepends), functools.partial(_whole_lines, keepends)
        return self._lazy_parts(cut, cut_whole, from_end=True)

    def _lazy_parts(self, cut: Cut, cut_whole: CutWhole, *, from_end: bool) -> LazyParts:
        return LazyParts(
            functools.partial(self._parts, cut, cut_whole),
            functools.partial(self._last_parts, cut) if from_end else None,
        )

    def _parts(self, cut: Cut, cut_whole: CutWhole) -> Iterator[str]:
        rest = ""
        fresh: list[str] = []
        size = 0
        for at, text in self.pieces():
            fresh.append(text)
            size += len(text)
            if size < len(rest) and len(rest) + size <= self.str_limit_bytes:
                continue  # a long part is looked through again only when it may have doubled
            whole, rest = cut_whole(rest + "".join(fresh))
            if len(rest) > self.str_limit_bytes:
                raise DocumentTooLargeError(
                    f"the part that begins about offset {at + len(text) - len(rest):,} of {self.name!r} does "
                    "not fit one str: use chunks(by='chars') or document.finditer"
                )
            fresh, size = [], 0
            yield from whole
        yield from cut(rest + "".join(fresh))

    def _last_parts(self, cut: Cut, count: int) -> list[str] | None:
        """The last parts, read from the end; None where they are not found in what fits one `str`."""
        width = max(self._window_chars // 64, 1)
        while width < min(len(self), self.str_limit_bytes):
            parts = cut(self[len(self) - width :])
            if len(parts) > count:  # the first may begin further ahead
                return parts[len(parts) - count :]
            width *= 4
        return None

    def _first_parts(self, sep: str, maxsplit: int) -> Iterator[str]:
        start = 0
        while maxsplit > 0 and (found := self.find(sep, start)) >= 0:
            yield self[start:found]
            start = found + len(sep)
            maxsplit -= 1
        yield self[start:]

    def _first_words(self, maxsplit: int) -> Iterator[str]:
        for word in self.finditer(r"\S+"):
            if maxsplit == 0:
                yield self[word.start() :]
                return
            maxsplit -= 1
            yield word.group() or ""

    @property
    def line_count(self) -> int:
        """Lines as an editor counts them, ended by a newline; the last one need not be."""
        return self.newline_count() + (bool(self) and not self.ends_with_newline())

    def lines(self, first: int = 1, last: int | None = None) -> Iterator[str]:
        """The lines `first` to `last` (from 1, both included), without their line ends; lazy."""
        start = self.line_start(first)
        lines = iter_lines(self, start=start)
        for _, line in islice(lines, None if last is None else max(last - max(first, 1) + 1, 0)):
            yield line.removesuffix("\r")

    def search(self, pattern: str | re.Pattern[str], flags: int = 0) -> DocumentMatch | None:
        """The first match, or None; see `finditer`."""
        return next(self.finditer(pattern, flags), None)

    def finditer(self, pattern: str | re.Pattern[str], flags: int = 0) -> Iterator[DocumentMatch]:
        """As `re.finditer`, over windows of the text, a million characters each; matches may span lines.

        Exact as long as a match and what it looks ahead or back at is under 64 Ki characters. A longer
        one is found too, if what was read of it so far matched; raises `DocumentTooLargeError` when it
        outgrows one `str`.
        """
        compiled = re.compile(pattern, flags)
        yield from find_in_windows(
            lambda start, end: self[start:end], compiled, window_chars=self._window_chars
        )

    def _needs_str(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            f"{self.name!r} is a Document of {human_size(self._size - self.first_byte)}, too big for one "
            "str: use peek, grep, lines or chunks, or document.finditer(pattern), and str methods on the "
            "pieces they give"
        )

    __str__ = __format__ = __add__ = __radd__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _needs_str
    capitalize = casefold = center = encode = expandtabs = format = format_map = join = _needs_str
    ljust = lower = lstrip = partition = removeprefix = removesuffix = replace = rjust = _needs_str
    rpartition = rsplit = rstrip = strip = swapcase = title = translate = upper = zfill = _needs_str
    isalnum = isalpha = isascii = isdecimal = isdigit = isidentifier = islower = _needs_str
    isnumeric = isprintable = isspace = istitle = isupper = _needs_str


def _parts(sep: str | None, text: str) -> list[str]:
    return text.split(sep)


def _lines(keepends: bool, text: str) -> list[str]:  # noqa: FBT001 - as str has it
    return text.splitlines(keepends)


def _whole_parts(sep: str | None, text: str) -> tuple[list[str], str]:
    """The parts that end in the text, and the rest, which may go on behind it."""
    parts = text.split(sep)
    ended = not parts or (sep is None and text[-1].isspace())
    return parts, "" if ended else parts.pop()


def _whole_lines(keepends: bool, text: str) -> tuple[list[str], str]:  # noqa: FBT001 - as str has it
    end = text.rfind("\n") + 1  # no other line end is sure to be whole: a carriage return may go on
    return text[:end].splitlines(keepends), text[end:]


def _same(one: Iterator[tuple[int, str]], other: Iterator[tuple[int, str]]) -> bool:
    """Whether the pieces of two texts make the same."""
    left = right = ""
    while True:
        left = left or next((text for _, text in one if text), "")
        right = right or next((text for _, text in other if text), "")
        common = min(len(left), len(right))
        if common == 0 or left[:common] != right[:common]:
            return left == right
        left, right = left[common:], right[common:]


def text_lines(text: str | Document, first: int, last: int) -> str:
    """The lines `first` to `last` (from 1, both included), as they are in the text."""
    if isinstance(text, Document):
        return text[text.line_start(first) : text.line_start(max(last, 0) + 1)]
    wanted = islice(iter_lines(text), max(first - 1, 0), max(last, 0))
    spans = [(at, at + len(line) + 1) for at, line in wanted]
    return text[spans[0][0] : spans[-1][1]] if spans else ""


def human_size(size_bytes: int) -> str:
    """A size for people: "812 bytes", "10.2 GB"."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _found(offset: int) -> int:
    if offset < 0:
        raise ValueError("substring not found")
    return offset
