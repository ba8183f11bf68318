"""A lazy list of the parts of a text, which are read whenever it is gone through."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import overload


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
