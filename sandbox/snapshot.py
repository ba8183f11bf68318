"""The namespace as bytes and back, with dill, inside the container only.

A snapshot is one pickle of a dict name → value, so that values shared by two variables stay shared. What
already exists elsewhere goes in by reference: documents and their text, and the helpers. A value that
cannot be pickled is found, left out and named with its reason; the rest is saved again without it.
It does not decide when to save, nor does it store anything: pieces go out through a callable.
"""

import enum
import hashlib
import io
import pickle
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import dill

from sandbox import enums

PIECE_BYTES = 1024 * 1024

Reference = tuple[str, str]
"""How a value that is not saved by value is named: its kind (`helper`, `document`), and its name."""


class _Sink(io.RawIOBase):
    """Gathers what the pickler writes into pieces of about a megabyte and hashes them."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._buffer = bytearray()
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) >= PIECE_BYTES:
            self.finish()
            for start in range(0, len(view), PIECE_BYTES):
                self._emit(bytes(view[start : start + PIECE_BYTES]))
        else:
            self._buffer += view
            if len(self._buffer) >= PIECE_BYTES:
                self.finish()
        return len(view)

    def finish(self) -> None:
        if self._buffer:
            self._emit(bytes(self._buffer))
            self._buffer.clear()

    def _emit(self, piece: bytes) -> None:
        self.sha256.update(piece)
        self.size_bytes += len(piece)
        self._take(piece)


class _Pickler(dill.Pickler):  # type: ignore[misc]  # dill has no types
    def __init__(self, file: Any, references: Mapping[int, Reference]) -> None:
        super().__init__(file, protocol=5, recurse=False)
        self._references = references

    def persistent_id(self, obj: Any) -> Reference | None:
        return self._references.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, io.IOBase) and not isinstance(obj, (io.StringIO, io.BytesIO)):
            # dill would open the file again at load, and empty it when it was open for writing.
            raise pickle.PicklingError("an open file")
        if isinstance(obj, enum.EnumMeta) and obj.__module__ == "__main__":
            return enums.reduce(obj)  # dill saves it by a name that a new process does not have
        return NotImplemented


class _Unpickler(dill.Unpickler):  # type: ignore[misc]
    def __init__(self, file: Any, resolve: Callable[[Reference], Any]) -> None:
        super().__init__(file)
        self._resolve = resolve

    def persistent_load(self, reference: Any) -> Any:
        return self._resolve(reference)


def save(
    values: Mapping[str, Any],
    references: Mapping[int, Reference],
    *,
    begin: Callable[[], Callable[[bytes], None]],
) -> tuple[str, list[tuple[str, str]]]:
    """Pickle `values`; returns the sha256 of the bytes and the names left out, each with a reason.

    `references` maps the id of an object to its name. `begin` starts a fresh output and returns where its
    pieces go: it is called again when a first attempt met something that cannot be pickled.
    """
    keep = dict(values)
    skipped: list[tuple[str, str]] = []
    while True:
        sink = _Sink(begin())
        try:
            _dump(keep, sink, references)
        except Exception as error:
            found = _unpicklable(keep, references)
            if not found:
                # Each value can be saved alone, but not together: nothing better is known than the reason.
                return "", [*skipped, *((name, _reason(error)) for name in keep)]
            skipped += found
            for name, _ in found:
                del keep[name]
            continue
        sink.finish()
        return sink.sha256.hexdigest(), skipped


def _dump(value: Any, sink: _Sink, references: Mapping[int, Reference]) -> None:
    with warnings.catch_warnings():
        # A warning of dill's means a pickle that will not load.
        warnings.simplefilter("error", dill.PicklingWarning)
        _Pickler(sink, references).dump(value)


def load(data: bytes, resolve: Callable[[Reference], Any]) -> dict[str, Any]:
    """The dict that `save` was given. Runs whatever the pickle says: inside the container only."""
    values = _Unpickler(io.BytesIO(data), resolve).load()
    if not isinstance(values, dict):
        raise TypeError(f"a snapshot holds a dict, not {type(values).__name__}")
    return values


def _unpicklable(values: Mapping[str, Any], references: Mapping[int, Reference]) -> list[tuple[str, str]]:
    found = []
    for name, value in values.items():
        try:
            _dump(value, _Sink(lambda piece: None), references)
        except Exception as error:
            found.append((name, _reason(error)))
    return found


def _reason(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}"[:200]
