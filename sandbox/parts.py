"""A lazy list of the parts of a text, which are read whenever it is gone through; it keeps none of them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NoReturn, overload


class LazyParts(Sequence[str]):
    """What `split` and `splitlines` of a `Document` give: read from the file whenever it is gone through.

    Iteration and `[:n]` read as far as they need, `[-n:]` mostly from the end. `len` reads all, once; `[i]`
    reads up to part i, and a slice gives a list, so go through it in a loop rather than by index.
    """

    def __init__(
        self, parts: Callable[[], Iterator[str]], last: Callable[[int], list[str] | None] | None = None
    ) -> None:
        """`last` gives so many parts from the end, or None where it cannot: then all are gone through."""
        self._parts = parts
        self._from_end = last
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
            return self._slice(key)
        if key < 0:
            last = self._last(-key)
            if len(last) == -key:
                return last[0]
        for part in islice(self, key, None) if key >= 0 else ():
            return part
        raise IndexError("part index out of range")

    def _slice(self, key: slice) -> list[str]:
        bounds = (key.start, key.stop, key.step)
        if all(bound is None or bound >= 0 for bound in bounds):
            return list(islice(self, *bounds))
        if key.start is not None and key.start < 0 and key.stop is None and key.step in (None, 1):
            return self._last(-key.start)
        wanted = range(len(self))[key]
        if not wanted:
            return []
        low, high = sorted((wanted[0], wanted[-1]))
        return list(islice(self, low, high + 1, abs(wanted.step)))[:: 1 if wanted.step > 0 else -1]

    def _last(self, count: int) -> list[str]:
        found = self._from_end(count) if self._from_end else None
        return list(deque(self, maxlen=count)) if found is None else found

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """Number of the first part that is `value`. Raises `ValueError` when there is none."""
        for number, part in enumerate(islice(self, start, stop), start=start):
            if part == value:
                return number
        raise ValueError(f"{value!r:.80} is not among the parts")

    def __reversed__(self) -> NoReturn:
        raise TypeError("parts of a document are read forwards: take the last ones with [-1000:]")

    def __repr__(self) -> str:
        first = [part[:60] for part in islice(self, 3)]
        return f"<lazy parts of a document: {', '.join(map(repr, first))}, …; loop over it or slice it>"
