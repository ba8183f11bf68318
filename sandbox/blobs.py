"""Large values as blobs: pieces of bytes named by their SHA-256, so that nothing is hashed or sent twice.

It decides what is large and hands the bytes on; where they are kept is the host's business.
"""

import hashlib
import mmap
import os
import pickle
import struct
import sys
from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from rlm.protocol import MAX_BLOBS

LARGE_BYTES = 64 * 1024
"""From here on a value is a blob: bytes, or characters of a `str`."""
PIECE_BYTES = 1024 * 1024
PINNED_BYTES = 4 * 1024 * 1024
"""From here on a string is worth a pin. To look at an object writes to it (its reference count), and after a
fork that copies a page: strings are looked at here only if they are few."""
WALKED_OBJECTS = 4000
MOST_ITEMS = 500
"""So many objects are looked at in search of strings to pin, and containers of at most so many items."""

KINDS: tuple[type, ...] = (str, bytes, bytearray, pickle.PickleBuffer)

BlobReference = tuple[str, str, str, int]
"""`blob`, the kind of value, the digest in hex, and a number: equal ones are the same object."""

_WALKED = {list, tuple, set, frozenset, dict, deque, defaultdict, OrderedDict}
_VALUES_OF = {dict, defaultdict, OrderedDict}
_HASHED = struct.Struct(">I32sQ")
_MAKE: dict[str, Callable[[Any], object]] = {
    "str": lambda data: str(data, "utf-8", "surrogatepass"),
    "bytes": bytes,
    "bytearray": bytearray,
}


class BlobError(Exception):
    """A blob that a snapshot needs is missing or damaged; says which."""


class TooLargeError(Exception):
    """There is more to save than is kept."""


class Pin:
    """A large `str` or `bytes` that is held, so that its id stays its own, and its digest once known."""

    __slots__ = ("digest", "size_bytes", "value")

    def __init__(self, value: str | bytes) -> None:
        self.value: str | bytes | None = value
        self.digest = b""
        self.size_bytes = 0


class Pins:
    """The large strings of a namespace whose digests need not be found again.

    They are pinned before a process is forked that hashes them; what it found is learnt from it.
    """

    def __init__(self) -> None:
        self._pins: dict[int, Pin] = {}

    def find(self, value: object) -> Pin | None:
        return self._pins.get(id(value))

    def take(self, values: Iterable[object], but: Container[int]) -> list[Pin]:
        """Pin what is large among `values` and in their builtin containers, but for the ids in `but`."""
        for value in _strings(values, but):
            if id(value) not in self._pins:
                self._pins[id(value)] = Pin(value)
        return list(self._pins.values())

    def drop_unused(self) -> None:
        """Let go of what nothing else refers to any more."""
        # Two references: the pin's and the one that is counting.
        unused = [key for key, pin in self._pins.items() if sys.getrefcount(pin.value) <= 2]
        for key in unused:
            self._pins.pop(key).value = None


def hashed(pins: list[Pin]) -> bytes:
    """What is known of `pins`, for `learn` in the process that this one was forked from."""
    known = ((number, pin) for number, pin in enumerate(pins) if pin.digest)
    return b"".join(_HASHED.pack(number, pin.digest, pin.size_bytes) for number, pin in known)


def learn(pins: list[Pin], data: bytes) -> None:
    """Take in what `hashed` gave; code of the model's may have put something else in its place."""
    for number, digest, size_bytes in _HASHED.iter_unpack(data[: len(data) // _HASHED.size * _HASHED.size]):
        if number < len(pins):
            pins[number].digest, pins[number].size_bytes = digest, size_bytes


def _strings(values: Iterable[object], but: Container[int]) -> Iterator[str | bytes]:
    """Breadth first, so that one deep structure does not hide the others."""
    waiting: deque[Any] = deque([list(values)])
    seen: set[int] = set()
    left = WALKED_OBJECTS
    while waiting and left > 0:
        container = waiting.popleft()
        inside = container.values() if type(container) in _VALUES_OF else container
        with suppress(RuntimeError):  # a thread that outlived its cell changes it
            for value in islice(inside, left):
                left -= 1
                kind = type(value)
                if kind is str or kind is bytes:
                    if len(value) >= PINNED_BYTES and id(value) not in but:
                        yield value
                elif kind in _WALKED and len(value) <= MOST_ITEMS and id(value) not in seen:
                    seen.add(id(value))
                    waiting.append(value)


class BlobWriter:
    """The blobs of one snapshot. `have` are digests that need not be sent; `send` takes digest and pieces."""

    def __init__(self, have: bytes, pins: Pins, send: Callable[[str, Iterable[bytes]], None]) -> None:
        self._there = {have[start : start + 32] for start in range(0, len(have), 32)}
        self._pins = pins
        self._send = send
        self.begin(0)

    def begin(self, max_bytes: int) -> None:
        """Another attempt: nothing is needed yet. What was sent already is not sent again."""
        self.needed: dict[str, int] = {}
        """Size in bytes by digest."""
        self._left_bytes = max_bytes
        self._numbers: dict[int, tuple[int, object]] = {}

    def spend(self, size_bytes: int) -> None:
        """Count what is written. Raises `TooLargeError` when it is more than `begin` allowed."""
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise TooLargeError

    def reference(self, value: Any) -> BlobReference | None:
        """How a value of one of `KINDS` is named as a blob; None for a small one, or one too many."""
        if len(self.needed) >= MAX_BLOBS or not is_large(value):
            return None
        digest, size_bytes = self._digest(value)
        name = digest.hex()
        if name not in self.needed:
            self.spend(size_bytes)
            self.needed[name] = size_bytes
            if digest not in self._there:
                self._send(name, pieces(value))
                self._there.add(digest)
        return "blob", _kind(value), name, self._number(value)

    def _digest(self, value: Any) -> tuple[bytes, int]:
        pin = self._pins.find(value)
        if pin and pin.digest:
            return pin.digest, pin.size_bytes
        hasher, size_bytes = hashlib.sha256(), 0
        for piece in pieces(value):
            hasher.update(piece)
            size_bytes += len(piece)
        if pin:
            pin.digest, pin.size_bytes = hasher.digest(), size_bytes
        return hasher.digest(), size_bytes

    def _number(self, value: object) -> int:
        """0 for what cannot change: of that, equal values may become one object."""
        if isinstance(value, str | bytes):
            return 0
        # Held, so that no other object gets its id: a buffer is made only to be pickled.
        return self._numbers.setdefault(id(value), (len(self._numbers) + 1, value))[0]


def is_large(value: Any) -> bool:
    """Whether a value of one of `KINDS` is worth a blob."""
    if type(value) is pickle.PickleBuffer:
        with memoryview(value) as view:
            return view.contiguous and view.nbytes >= LARGE_BYTES
    return len(value) >= LARGE_BYTES


def size_of(value: Any) -> int:
    """The size in bytes of a large value as a blob."""
    return sum(map(len, pieces(value)))


def pieces(value: Any) -> Iterator[bytes]:
    """The bytes of a large value, about a megabyte at a time."""
    if isinstance(value, str):
        for start in range(0, len(value), PIECE_BYTES):
            yield value[start : start + PIECE_BYTES].encode("utf-8", "surrogatepass")
        return
    view = value.raw() if type(value) is pickle.PickleBuffer else memoryview(value)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])


def _kind(value: object) -> str:
    if type(value) is not pickle.PickleBuffer:
        return type(value).__name__
    with memoryview(value) as view:
        return "bytes" if view.readonly else "bytearray"


class BlobReader:
    """Reads blobs of a folder when they are met. What could change has memory of its own."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._read: dict[tuple[str, str, int], object] = {}

    def load(self, kind: str, digest: str, number: int) -> object:
        """The value that was named so. Raises `BlobError`."""
        key = (kind, digest, number)
        if key not in self._read:
            self._read[key] = self._load(kind, digest)
        return self._read[key]

    def _load(self, kind: str, digest: str) -> object:
        try:
            with (
                open(os.path.join(self._folder, digest), "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                if hashlib.sha256(data).hexdigest() != digest:
                    raise BlobError(f"a large value of it is damaged: blob {digest}")
                return _MAKE[kind](data)
        except (OSError, ValueError) as error:
            raise BlobError(f"a large value of it cannot be read: blob {digest}: {error}") from None


def array_buffer(values: "array[Any]") -> pickle.PickleBuffer | None:
    """The memory of a large array, None of a small one."""
    return pickle.PickleBuffer(values) if len(values) * values.itemsize >= LARGE_BYTES else None
