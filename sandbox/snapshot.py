"""The namespace as a stream of pickles and blobs and back, inside the container only.

What exists elsewhere goes in by reference: documents, helpers, and large values, which are blobs. A value
that cannot be pickled, or is too large, is left out and named with its reason; the rest is saved without it.
It does not decide when to save, nor does it store anything: bytes go out through callables.
"""

import builtins
import hashlib
import importlib
import io
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dill

from sandbox import blobs
from sandbox.blobs import BlobError, BlobReader, BlobWriter, TooLargeError
from sandbox.documents import human_size
from sandbox.pickling import PatientUnpickler, Pickler, References, Resolve, Unpickler

PIECE_BYTES = 1024 * 1024
MAGIC = b"rlm namespace 2\n"
"""Begins a stream of the C pickler's: a list of names, then one pickle for the value of each.

Any other stream is one pickle of a dict by dill, as version 1 of the state folder has them.
"""

Reference = tuple[str, str]
"""How a value that is not saved by value is named: its kind (`helper`, `document`), and its name."""


@dataclass(frozen=True, slots=True)
class Saved:
    """The hash of the stream in hex; names that were left out, with reasons."""

    sha256: str
    skipped: list[tuple[str, str]]


class _Sink(io.RawIOBase):
    """Gathers what the pickler writes into pieces of about a megabyte and hashes them."""

    def __init__(self, take: Callable[[bytes], None], spend: Callable[[int], None]) -> None:
        self._take = take
        self._spend = spend
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
        self._spend(len(piece))
        self.sha256.update(piece)
        self.size_bytes += len(piece)
        self._take(piece)


class _DillUnpickler(dill.Unpickler):  # type: ignore[misc]
    def __init__(self, file: Any, resolve: Resolve) -> None:
        super().__init__(file)
        self._resolve = resolve

    def persistent_load(self, reference: Any) -> Any:
        return self._resolve(reference)


class _Known:
    """Which objects exist elsewhere, and are saved by name."""

    def __init__(self, named: Iterable[tuple[object, Reference]]) -> None:
        self._objects = [
            *named,
            (vars(sys.modules["__main__"]), ("globals", "__main__")),
            (vars(builtins), ("globals", "builtins")),
        ]
        self._by_id = {id(obj): reference for obj, reference in self._objects}
        self._kinds = frozenset({*blobs.KINDS, *(type(obj) for obj, _ in self._objects)})

    def and_blobs(self, blob: Callable[[Any], Any]) -> References:
        return References(self._by_id, self._kinds, blob)


def _dump(values: Mapping[str, Any], file: Any, references: References) -> None:
    file.write(MAGIC)
    pickler = Pickler(file, references)
    pickler.dump(list(values))
    for value in values.values():
        pickler.dump(value)


def save(
    values: Mapping[str, Any],
    references: Iterable[tuple[object, Reference]],
    *,
    begin: Callable[[], Callable[[bytes], None]],
    writer: BlobWriter,
    max_bytes: int,
) -> Saved:
    """Pickle `values`, large ones of them as blobs of `writer`, up to `max_bytes` with their blobs.

    `references` are objects saved by name only. `begin` starts a fresh output and returns where its pieces
    go: it is called again when an attempt met something that cannot be saved.
    """
    known = _Known(references)
    keep = dict(values)
    skipped: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        # A warning of dill's means a pickle that will not load.
        warnings.simplefilter("error", dill.PicklingWarning)
        while True:
            writer.begin(max_bytes)
            sink = _Sink(begin(), writer.spend)
            try:
                _dump(keep, sink, known.and_blobs(writer.reference))
                sink.finish()
                return Saved(sink.sha256.hexdigest(), skipped)
            except MemoryError:
                raise
            except TooLargeError:
                left_out = _too_large(keep, known, max_bytes)
            except Exception:
                left_out = _sizes(keep, known)[1]
                if not left_out:
                    raise  # each can be saved alone, but not together
            skipped += ((_shown(name), reason) for name, reason in left_out.items())
            for name in left_out:
                del keep[name]


def load(
    data: bytes, resolve: Callable[[Reference], Any], reader: BlobReader, namespace: dict[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The dict that `save` was given, and names of values that could not be made, each with a reason.

    Variables are put into `namespace` one by one: code that makes one may use another. Runs whatever the
    pickle says: inside the container only. Raises `BlobError`, and anything else for bytes that are no
    snapshot.
    """

    def found(reference: Any) -> Any:
        kind, *names = reference
        if kind == "blob":
            return reader.load(*names)
        if kind == "globals":
            return vars(importlib.import_module(names[0]))
        return resolve(reference)

    if not data.startswith(MAGIC):
        return _load_with_dill(data, found), []
    values = _load_at_once(data, found, namespace)
    if values is not None:
        return values, []
    values, lost = _load_patiently(data, found, namespace)
    if lost:  # perhaps for want of a variable that came later, and is there now
        values, lost = _load_patiently(data, found, namespace)
    return values, lost


def _load_at_once(data: bytes, found: Resolve, namespace: dict[str, Any]) -> dict[str, Any] | None:
    """All values, None when something of them could not be made."""
    values: dict[str, Any] = {}
    try:
        unpickler = Unpickler(_stream(data), found)
        for name in unpickler.load():
            values[name] = unpickler.load()
            _put(name, values[name], namespace)
    except _FATAL:
        raise
    except BaseException:
        return None
    return values


def _load_patiently(
    data: bytes, found: Resolve, namespace: dict[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    unpickler = PatientUnpickler(_stream(data), found, fatal=_FATAL)
    names, error = unpickler.load_next()
    if error is not None:
        raise error
    values: dict[str, Any] = {}
    lost = []
    for name in names:
        value, error = unpickler.load_next()
        if error is None:
            values[name] = value
            _put(name, value, namespace)
        else:
            lost.append((_shown(name), _reason(error)))
    return values, lost


def _put(name: str, value: Any, namespace: dict[str, Any]) -> None:
    if not name.startswith("."):
        namespace[name] = value


def _load_with_dill(data: bytes, found: Resolve) -> dict[str, Any]:
    values = _DillUnpickler(io.BytesIO(data), found).load()
    if not isinstance(values, dict):
        raise TypeError(f"a snapshot holds a dict, not {type(values).__name__}")
    return values


_FATAL = (BlobError, MemoryError)


def _stream(data: bytes) -> io.BytesIO:
    file = io.BytesIO(data)
    file.seek(len(MAGIC))
    return file


def _sizes(values: Mapping[str, Any], known: _Known) -> tuple[dict[str, int], dict[str, str]]:
    """The size in bytes of each value, if it were the only one; reasons of those that cannot be saved."""
    sizes: dict[str, int] = {}
    unpicklable: dict[str, str] = {}
    for name, value in values.items():
        try:
            sizes[name] = _size_alone(value, known)
        except Exception as error:
            unpicklable[name] = _reason(error)
    return sizes, unpicklable


def _too_large(values: Mapping[str, Any], known: _Known, max_bytes: int) -> dict[str, str]:
    """What cannot be saved, and the largest of the values, until the rest fits; at least one."""
    sizes, left_out = _sizes(values, known)
    total = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if left_out and total <= max_bytes:
            break
        total -= sizes[name]
        left_out[name] = f"{human_size(sizes[name])}, more than is kept (sandbox.keep in config.json)"
    return left_out


def _size_alone(value: Any, known: _Known) -> int:
    """In bytes, blobs included."""
    large: dict[int, Any] = {}

    def blob(value: Any) -> str:
        large[id(value)] = value
        return "blob"

    sink = _Sink(lambda piece: None, lambda size_bytes: None)
    _dump({"": value}, sink, known.and_blobs(blob))
    sink.finish()
    return sink.size_bytes + sum(map(blobs.size_of, large.values()))


def _shown(name: str) -> str:
    """Reserved names are saved with a dot before them."""
    return name.removeprefix(".")


def _reason(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}"[:200]
