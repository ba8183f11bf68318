"""Text of any size behind the interface of `str`: a real `str` when it fits, a lazy `Document` beyond.

A `Document` reads its file in blocks, on demand, and decodes each on its own. A sparse index (where each
block starts, in bytes and in characters) grows only as far as it is needed and makes every offset exact.
Memory is constant; a file that shrinks under it is an `OSError`, since it is read and never mapped.

It does not detect encodings or compression (the host sends both in the `DocumentSpec`), search patterns
across a whole file fast (`sandbox.search`), or write anything but unlinked copies of compressed text.
"""

import bz2
import codecs
import errno
import functools
import gzip
import importlib
import lzma
import os
import re
import subprocess
import tempfile
import weakref
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, NoReturn, Protocol, overload

BLOCK_BYTES = 256 * 1024
WINDOW_CHARS = 1024 * 1024
ASCII = bytes(range(128))

Decode = Callable[[bytes, str, bool], tuple[str, int]]
"""Data, error handler and whether this is the end, to text and bytes used: a cut character is not used."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class DocumentTooLargeError(MemoryError):
    """A piece of text was asked for that is larger than the sandbox holds as one `str`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSpec:
    """A document as the host describes it. `path` is where it is mounted, `source` the path on the host.

    `encoding` is a Python codec name, `compression` one of "", "gz", "bz2", "xz", "zst".
    """

    name: str
    path: str
    source: str
    size_bytes: int
    mtime_ns: int
    encoding: str = "utf-8"
    compression: str = ""

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "DocumentSpec":
        """Raises `ValueError` for a missing, unknown or mistyped field."""
        for field in fields(cls):
            if field.name in obj and type(obj[field.name]) is not field.type:
                raise ValueError(f"document spec: {field.name} is not of type {field.type}")
        try:
            return cls(**obj)
        except TypeError as error:
            raise ValueError(f"document spec: {error}") from None


def open_document(spec: DocumentSpec, *, str_limit_bytes: int) -> "str | Document":
    """The text of a document: a `str` if its characters take at most `str_limit_bytes`, else a `Document`.

    CPython stores 1, 2 or 4 bytes for every character, by the highest one in the text; that is what is
    compared. Raises `OSError` when the file cannot be read as described, `LookupError` for an unknown
    codec, `DocumentTooLargeError` when decompressed text fits neither memory nor the temporary folder.
    """
    if _must_be_copied(spec):
        text = _join_within(_decoded(spec), str_limit_bytes)
        return Document(spec, str_limit_bytes=str_limit_bytes) if text is None else text
    document = Document(spec, str_limit_bytes=str_limit_bytes)
    if spec.size_bytes > 2 * str_limit_bytes:  # no encoding here spends more than twice what `str` does
        return document
    text = _join_within((piece for _, piece in document.pieces()), str_limit_bytes)
    return document if text is None else text


class Document:
    """A read-only view of a text file with the interface of `str`, as far as constant memory allows.

    Offsets and lengths are in characters of the decoded text; invalid bytes count as U+FFFD; line ends
    stay as they are. What the file held when it was described is what is seen, appended text is not.
    A slice is a `str`, and a `DocumentTooLargeError` beyond `str_limit_bytes` characters. Methods that
    need the whole text at once (`lower`, `replace`, …, also `str()` and `+`) raise a `TypeError` that
    says what to use instead. Pickles as a reference: unpickling opens the file again.
    """

    def __init__(
        self,
        spec: DocumentSpec,
        *,
        str_limit_bytes: int,
        block_bytes: int = BLOCK_BYTES,
        window_chars: int = WINDOW_CHARS,
    ) -> None:
        self.spec = spec
        self.str_limit_bytes = str_limit_bytes
        self._block_bytes = max(block_bytes, 8)  # a block holds at least one whole character
        self._window_chars = max(window_chars, 16)
        self._file, self._size, encoding = _open_file(spec)
        weakref.finalize(self, os.close, self._file)
        self._decode = _decoder(encoding)
        self._ascii_is_ascii = ASCII.decode(encoding, "replace").encode("ascii", "replace") == ASCII
        self._all_ascii = self._ascii_is_ascii
        self.is_utf8 = encoding in ("utf-8", "utf-8-sig")
        bom = _bom(encoding)
        self.first_byte = len(bom) if bom and self._read(0, min(len(bom), self._size)) == bom else 0
        self._bytes = array("q", [self.first_byte])
        self._chars = array("q", [0])
        self._newlines = array("q", [0])
        self._cached = (-1, "")
        self._byte_memo = (self.first_byte, 0)

    def __reduce__(self) -> tuple[Callable[[DocumentSpec], "Document"], tuple[DocumentSpec]]:
        reopen = functools.partial(
            Document,
            str_limit_bytes=self.str_limit_bytes,
            block_bytes=self._block_bytes,
            window_chars=self._window_chars,
        )
        return reopen, (self.spec,)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def size_bytes(self) -> int:
        """Size of the text as it is read: decompressed, with its byte order mark."""
        return self._size

    def __repr__(self) -> str:
        indexed = self._bytes[-1] == self._size
        length = f", {self._chars[-1]:,} characters" if indexed else ""
        return f"<Document {self.name!r}: {human_size(self._size)}{length}; use peek, grep, lines, chunks>"

    # The index and what reads through it.

    def _read(self, start: int, end: int) -> bytes:
        """Bytes `start` to `end`; reading moves no file position, so threads and forks may share it."""
        parts: list[bytes] = []
        while start < end:
            part = os.pread(self._file, end - start, start)
            if not part:
                raise OSError(
                    errno.EIO, f"{self.name!r} has become shorter since it was loaded; load it again"
                )
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _decode_all(self, data: bytes) -> str:
        return self._decode(data, "replace", True)[0]  # noqa: FBT003 - codecs take it by position

    def index_more(self) -> bool:
        """Index one more block; False at the end. Repeating a step is harmless, so threads need no lock."""
        number = len(self._bytes)
        start = self._bytes[number - 1]
        end = min(start + self._block_bytes, self._size)
        if start == end:
            return False
        data = self._read(start, end)
        if self._ascii_is_ascii and data.isascii():
            used = count = len(data)
        else:
            text, used = self._decode(data, "replace", end == self._size)
            count = len(text)
            self._all_ascii = False
            self._cached = (number - 1, text)
        self._chars[number : number + 1] = array("q", [self._chars[number - 1] + count])
        self._bytes[number : number + 1] = array("q", [start + used])
        return True

    def _block(self, number: int) -> str:
        cached, text = self._cached
        if cached != number:
            data = self._read(self._bytes[number], self._bytes[number + 1])
            text = self._decode_all(data)
            self._cached = (number, text)
        return text

    def _block_at(self, offset: int) -> int:
        """Number of the block that holds the character, or of the one after the last."""
        while self._chars[-1] <= offset and self.index_more():
            pass
        return bisect_right(self._chars, offset) - 1

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str]]:
        """Consecutive pieces of the text from `start` to `stop`, each with its offset."""
        number = self._block_at(start)
        while number + 1 < len(self._bytes) or self.index_more():
            base = self._chars[number]
            if stop is not None and base >= stop:
                return
            text = self._block(number)
            first = max(start - base, 0)
            yield base + first, text[first : len(text) if stop is None else max(stop - base, 0)]
            number += 1

    def _pieces_backwards(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        for number in range(self._block_at(max(stop - 1, 0)), -1, -1):
            base = self._chars[number]
            if number + 1 < len(self._bytes) and base < stop:
                first = max(start - base, 0)
                yield base + first, self._block(number)[first : stop - base]
            if base <= start:
                return

    def clip(self, offset: int) -> int:
        """The offset, or the length where that is less; reads no further than it has to."""
        while self._chars[-1] < offset and self.index_more():
            pass
        return min(offset, self._chars[-1])

    def offset_of_byte(self, position: int) -> int:
        """Character offset of a byte position at which a character starts, as at the start of a line."""
        while self._bytes[-1] <= position and self.index_more():
            pass
        number = min(bisect_right(self._bytes, position), max(len(self._bytes) - 1, 1)) - 1
        byte, char = self._bytes[number], self._chars[number]
        if number + 1 < len(self._bytes) and self._bytes[number + 1] - byte == self._chars[number + 1] - char:
            return char + position - byte
        known, offset = self._byte_memo  # callers mostly go forward: count on from where the last one was
        if byte <= known <= position:
            byte, char = known, offset
        char += len(self._decode_all(self._read(byte, position)))
        self._byte_memo = (position, char)
        return char

    def is_known_ascii(self) -> bool:
        """Whether all of the text has been seen and is ASCII. Reads nothing."""
        return self._all_ascii and self._bytes[-1] == self._size

    def reopen(self) -> int | None:
        """A descriptor of its own at the first character, owned by the caller.

        None where that is impossible, or where the file holds more than this document does.
        """
        try:
            descriptor = os.open(f"/proc/self/fd/{self._file}", os.O_RDONLY)
        except OSError:
            return None
        if os.fstat(descriptor).st_size != self._size:
            os.close(descriptor)
            return None
        os.lseek(descriptor, self.first_byte, os.SEEK_SET)
        return descriptor

    def check_size(self) -> None:
        """Raises `OSError` when the file has become shorter than this document."""
        if self._size:
            self._read(self._size - 1, self._size)

    # The interface of str.

    def __len__(self) -> int:
        while self.index_more():
            pass
        return self._chars[-1]

    def __bool__(self) -> bool:
        return self._size > self.first_byte

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
        return self.find(sub) >= 0

    def find(self, sub: str, start: int | None = None, end: int | None = None) -> int:
        first, stop = self._bounds(start, end)
        if not sub:
            return first if self.clip(first) == first and (stop is None or first <= stop) else -1
        tail = ""
        for at, text in self.pieces(first, stop):
            window = tail + text
            found = window.find(sub)
            if found >= 0:
                return at - len(tail) + found
            tail = window[len(window) - len(sub) + 1 :] if len(window) >= len(sub) else window
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
        total = 0
        rest = ""
        for _, text in self.pieces(first, stop):
            window = rest + text
            if found := window.count(sub):
                total += found
                window = window.split(sub)[-1]  # what overlaps an occurrence already counted does not count
            rest = window[max(len(window) - len(sub) + 1, 0) :]
        return total

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

    def split(self, sep: str | None = None, maxsplit: int = -1) -> "LazyParts":
        """As `str.split`, but lazy: see `LazyParts`."""
        if sep == "":
            raise ValueError("empty separator")
        if sep is None:
            return LazyParts(functools.partial(self._words, maxsplit))
        return LazyParts(functools.partial(self._split, sep, maxsplit))

    def _split(self, sep: str, maxsplit: int) -> Iterator[str]:
        start = 0
        while maxsplit != 0 and (found := self.find(sep, start)) >= 0:
            yield self[start:found]
            start = found + len(sep)
            maxsplit -= 1
        yield self[start:]

    def _words(self, maxsplit: int) -> Iterator[str]:
        for word in self.finditer(r"\S+"):
            if maxsplit == 0:
                yield self[word.start() :]
                return
            maxsplit -= 1
            yield word.group() or ""

    def splitlines(self, keepends: bool = False) -> "LazyParts":  # noqa: FBT001, FBT002 - as str has it
        """As `str.splitlines`, but lazy: see `LazyParts`."""
        return LazyParts(functools.partial(self._splitlines, keepends=keepends))

    def _splitlines(self, *, keepends: bool) -> Iterator[str]:
        for at, line in iter_lines(self):
            end = at + len(line)
            yield from (line + "\n" if self.clip(end + 1) > end else line).splitlines(keepends)

    @property
    def line_count(self) -> int:
        """Lines as an editor counts them, ended by a newline; the last one need not be."""
        while self._count_newlines():
            pass
        size = len(self)
        return self._newlines[-1] + (size > 0 and self[size - 1] != "\n")

    def lines(self, first: int = 1, last: int | None = None) -> Iterator[str]:
        """The lines `first` to `last` (from 1, both included), without their line ends; lazy."""
        start = self.line_start(first)
        lines = iter_lines(self, start=start)
        for _, line in islice(lines, None if last is None else max(last - max(first, 1) + 1, 0)):
            yield line.removesuffix("\r")

    def line_start(self, line: int) -> int:
        """Offset at which a line (from 1) starts; the length when there are fewer."""
        before = max(line - 1, 0)
        while self._newlines[-1] < before and self._count_newlines():
            pass
        if before == 0 or self._newlines[-1] < before:
            return 0 if before == 0 else len(self)
        # The block before the first one that starts with this many newlines behind it.
        number = bisect_right(self._newlines, before - 1) - 1
        text, at = self._block(number), -1
        for _ in range(before - self._newlines[number]):
            at = text.index("\n", at + 1)
        return self._chars[number] + at + 1

    def _count_newlines(self) -> bool:
        number = len(self._newlines) - 1
        if number + 1 >= len(self._bytes) and not self.index_more():
            return False
        if self._ascii_is_ascii:
            count = self._read(self._bytes[number], self._bytes[number + 1]).count(b"\n")
        else:
            count = self._block(number).count("\n")
        self._newlines[number + 1 : number + 2] = array("q", [self._newlines[number] + count])
        return True

    def search(self, pattern: str | re.Pattern[str], flags: int = 0) -> "DocumentMatch | None":
        """The first match, or None; see `finditer`."""
        return next(self.finditer(pattern, flags), None)

    def finditer(self, pattern: str | re.Pattern[str], flags: int = 0) -> Iterator["DocumentMatch"]:
        """As `re.finditer`, over windows of the text, a million characters each; matches may span lines.

        Exact as long as a match and what it looks ahead or back at is under 64 Ki characters. A longer
        one is found too, if what was read of it so far matched; raises `DocumentTooLargeError` when it
        outgrows one `str`.
        """
        compiled = re.compile(pattern, flags)
        margin = self._window_chars // 16
        start, width = 0, self._window_chars
        previous = (-1, -1)
        while True:
            left = max(start - margin, 0)
            window = self[left : start + width]
            at_end = len(window) < start + width - left
            certain = left + len(window) - (0 if at_end else margin)
            resume = certain
            for found in compiled.finditer(window, start - left):
                begin, end = found.start() + left, found.end() + left
                # A match that reaches the last character could go on behind it, or `$` be wrong there.
                if not at_end and (begin >= certain or found.end() >= len(window) - 1):
                    resume = min(begin, certain)
                    break
                if (begin, end) != previous:
                    yield DocumentMatch(found, left)
                previous = (begin, end)
            if at_end:
                return
            resume = max(resume, previous[1])
            width = 2 * width if resume == start else self._window_chars
            start = resume

    def _needs_str(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            f"{self.name!r} is a Document of {human_size(self._size)}, too big for one str: use peek, grep, "
            "lines or chunks, or document.finditer(pattern), and str methods on the pieces they give"
        )

    __str__ = __format__ = __add__ = __radd__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _needs_str
    capitalize = casefold = center = encode = expandtabs = format = format_map = join = _needs_str
    ljust = lower = lstrip = partition = removeprefix = removesuffix = replace = rjust = _needs_str
    rpartition = rsplit = rstrip = strip = swapcase = title = translate = upper = zfill = _needs_str
    isalnum = isalpha = isascii = isdecimal = isdigit = isidentifier = islower = _needs_str
    isnumeric = isprintable = isspace = istitle = isupper = _needs_str


class LazyParts(Sequence[str]):
    """What `split` and `splitlines` of a `Document` give: read from the file whenever it is gone through.

    Iteration and `[:n]` read as far as they need. `len` reads all, once; `[i]` reads up to part i, and a
    slice gives a list, so go through it in a loop rather than by index.
    """

    def __init__(self, parts: Callable[[], Iterator[str]]) -> None:
        self._parts = parts
        self._length: int | None = None

    def __iter__(self) -> Iterator[str]:
        return self._parts()

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(1 for _ in self)
        return self._length

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        if isinstance(key, slice):
            if any(bound is not None and bound < 0 for bound in (key.start, key.stop, key.step)):
                wanted = range(len(self))[key]
                low, high = (min(wanted), max(wanted) + 1) if wanted else (0, 0)
                return list(islice(self, low, high))[:: abs(wanted.step)][:: 1 if wanted.step > 0 else -1]
            return list(islice(self, key.start, key.stop, key.step))
        at = key if key >= 0 else key + len(self)
        for part in islice(self, at, None) if at >= 0 else ():
            return part
        raise IndexError("part index out of range")

    def __repr__(self) -> str:
        first = [part[:60] for part in islice(self, 3)]
        return f"<lazy parts of a document: {', '.join(map(repr, first))}, …; loop over it or slice it>"


class DocumentMatch:
    """What `Document.finditer` finds: an `re.Match` with offsets in the document, without its window."""

    __slots__ = ("_names", "_spans", "_texts")

    def __init__(self, found: re.Match[str], shift: int) -> None:
        self._texts: tuple[str | None, ...] = (found.group(), *found.groups())
        spans = (found.span(number) for number in range(len(self._texts)))
        self._spans = [(a + shift, b + shift) if a >= 0 else (a, b) for a, b in spans]
        self._names = dict(found.re.groupindex)

    def _number(self, group: int | str) -> int:
        number = self._names.get(group, -1) if isinstance(group, str) else group
        if not 0 <= number < len(self._texts):
            raise IndexError("no such group")
        return number

    def __getitem__(self, group: int | str) -> str | None:
        return self._texts[self._number(group)]

    def group(self, *groups: int | str) -> Any:
        texts = tuple(self[group] for group in groups or (0,))
        return texts[0] if len(texts) == 1 else texts

    def groups(self, default: str | None = None) -> tuple[str | None, ...]:
        return tuple(default if text is None else text for text in self._texts[1:])

    def groupdict(self, default: str | None = None) -> dict[str, str | None]:
        return {name: self.groups(default)[number - 1] for name, number in self._names.items()}

    def span(self, group: int | str = 0) -> tuple[int, int]:
        return self._spans[self._number(group)]

    def start(self, group: int | str = 0) -> int:
        return self.span(group)[0]

    def end(self, group: int | str = 0) -> int:
        return self.span(group)[1]

    def __repr__(self) -> str:
        return f"<match {self.start()}-{self.end()}: {self[0]!r:.80}>"


# For `str` and `Document` alike.


def text_pieces(
    text: str | Document, *, start: int = 0, piece_chars: int = 65_536
) -> Iterator[tuple[int, str]]:
    """The text from `start` in pieces with their offsets; those of a `Document` are its blocks."""
    if isinstance(text, Document):
        yield from text.pieces(start)
    else:
        for at in range(start, len(text), piece_chars):
            yield at, text[at : at + piece_chars]


def iter_lines(text: str | Document, *, start: int = 0) -> Iterator[tuple[int, str]]:
    """Offset and text of each line from offset `start`, cut at newlines only and without them.

    Raises `DocumentTooLargeError` for a line of a `Document` that does not fit one `str`.
    """
    parts: list[str] = []
    line_at, length = start, 0
    for _, piece in text_pieces(text, start=start):
        head, *rest = piece.split("\n")
        parts.append(head)
        length += len(head)
        if isinstance(text, Document) and length > text.str_limit_bytes:
            raise DocumentTooLargeError(
                f"the line at offset {line_at:,} of {text.name!r} does not fit one str: "
                "use chunks(by='chars') or document.finditer"
            )
        if not rest:
            continue
        yield line_at, "".join(parts)
        line_at += length + 1
        for line in rest[:-1]:
            yield line_at, line
            line_at += len(line) + 1
        parts, length = [rest[-1]], len(rest[-1])
    if length:
        yield line_at, "".join(parts)


def clip(text: str | Document, offset: int) -> int:
    """The offset, or the length of the text where that is less."""
    return text.clip(offset) if isinstance(text, Document) else min(offset, len(text))


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


# Opening and decoding.


def _found(offset: int) -> int:
    if offset < 0:
        raise ValueError("substring not found")
    return offset


def _bom(encoding: str) -> bytes:
    """The byte order mark that is no part of the text."""
    name = codecs.lookup(encoding).name
    if name == "utf-8-sig":
        return codecs.BOM_UTF8
    return "\ufeff".encode(name) if name.startswith(("utf-16-", "utf-32-")) else b""


def _decoder(encoding: str) -> Decode:
    """How to decode a block on its own. Raises `LookupError` for codecs that need all that came before."""
    match codecs.lookup(encoding).name:
        case "utf-8" | "utf-8-sig":
            return codecs.utf_8_decode
        case "utf-16-le":
            return codecs.utf_16_le_decode
        case "utf-16-be":
            return codecs.utf_16_be_decode
    decode = codecs.getdecoder(encoding)
    if len(decode(bytes(range(256)), "replace")[0]) != 256:
        raise LookupError(f"{encoding} is not a code of one byte a character")
    return lambda data, errors, _final: decode(data, errors)


def _must_be_copied(spec: DocumentSpec) -> bool:
    """Whether text cannot be read from the middle of the file."""
    codecs.lookup(spec.encoding)
    try:
        _decoder(spec.encoding)
    except LookupError:
        return True
    return bool(spec.compression)


def _open_file(spec: DocumentSpec) -> tuple[int, int, str]:
    """Descriptor, size in bytes and encoding of a file that can be read from anywhere."""
    if _must_be_copied(spec):
        return _copy(spec)
    descriptor = os.open(spec.path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    if size < spec.size_bytes:
        os.close(descriptor)
        raise OSError(errno.EIO, f"{spec.name!r} has become shorter since it was registered; load it again")
    return descriptor, spec.size_bytes, codecs.lookup(spec.encoding).name


def _copy(spec: DocumentSpec) -> tuple[int, int, str]:
    """Decode a document into an unlinked temporary file, as UTF-8."""
    try:
        with tempfile.TemporaryFile(prefix="document-") as file:
            for text in _decoded(spec):
                file.write(text.encode())
            file.flush()
            return os.dup(file.fileno()), os.fstat(file.fileno()).st_size, "utf-8"
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DocumentTooLargeError(
            f"the text of {spec.name!r} fits neither memory nor {tempfile.gettempdir()}: "
            "decompress it on the host (as UTF-8) and load that file"
        ) from None


def _decoded(spec: DocumentSpec) -> Iterator[str]:
    """The text of any document, from its start, in pieces."""
    decoder = codecs.getincrementaldecoder(spec.encoding)("replace")
    skip = "\ufeff" if _bom(spec.encoding) else ""
    try:
        with _decompressed(spec) as file:
            while data := file.read(BLOCK_BYTES):
                text = decoder.decode(data)
                yield text.removeprefix(skip)
                skip = "" if text else skip
            yield decoder.decode(b"", final=True)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise OSError(errno.EIO, f"{spec.name!r} cannot be decompressed: {error}") from error


def _decompressed(spec: DocumentSpec) -> AbstractContextManager[Readable]:
    match spec.compression:
        case "":
            return open(spec.path, "rb")
        case "gz":
            return gzip.open(spec.path)
        case "bz2":
            return bz2.open(spec.path)
        case "xz":
            return lzma.open(spec.path)
        case "zst":
            return _zstd(spec)
        case other:
            raise OSError(errno.EINVAL, f"{spec.name!r}: unknown compression {other!r}")


@contextmanager
def _zstd(spec: DocumentSpec) -> Iterator[Readable]:
    """Through the standard library where it can (Python 3.14), else through the program `zstd`."""
    try:
        module = importlib.import_module("compression.zstd")
    except ImportError:
        command = ["zstd", "-dcq", "--", spec.path]
    else:
        with module.open(spec.path) as file:
            yield file
        return
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        message = f"{spec.name!r}: reading .zst needs the program zstd; decompress it on the host"
        raise OSError(errno.ENOSYS, message) from None
    with process:
        assert process.stdout is not None
        yield process.stdout
    if process.returncode:
        raise OSError(errno.EIO, f"{spec.name!r} cannot be decompressed: it is damaged or not zstd")


def _join_within(pieces: Iterator[str], limit_bytes: int) -> str | None:
    """The pieces as one `str`, or None as soon as it would take more than the limit."""
    kept: list[str] = []
    chars, width = 0, 1
    for piece in pieces:
        kept.append(piece)
        chars += len(piece)
        width = max(width, _char_width(piece))
        if chars * width > limit_bytes:
            return None
    return "".join(kept)


def _char_width(text: str) -> int:
    """Bytes that CPython keeps for each character of this text."""
    if text.isascii():
        return 1
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return 2 if len(text.encode("utf-16-le")) == 2 * len(text) else 4
    return 1
