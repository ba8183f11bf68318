"""The C pickler and unpickler for a namespace, and a slow unpickler that gets by without damaged values.

They know nothing of snapshots or blobs: they are told what is saved by reference, and what one means.
"""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sandbox.blobs import LARGE_BYTES
from sandbox.byvalue import Reduce, reducer_of

Resolve = Callable[[Any], Any]
"""Gives the object that a reference means."""

_SIZED = frozenset({str, bytes, bytearray})


@dataclass(frozen=True, slots=True)
class References:
    """What is saved by reference: objects by id, of the types in `kinds`, and what `blob` gives one for.

    `blob` is asked for large values of `sandbox.blobs.KINDS`; None saves one by value.
    """

    named: Mapping[int, Any]
    kinds: frozenset[type]
    blob: Callable[[Any], Any]


class Pickler(pickle.Pickler):
    """Give it several values in turn: what they share stays shared, if one unpickler loads them all."""

    def __init__(self, file: Any, references: References) -> None:
        super().__init__(file, protocol=5)
        self._named = references.named
        self._kinds = references.kinds
        self._blob = references.blob
        self._reducers: dict[type, Reduce | None] = {}

    def persistent_id(self, obj: Any) -> Any:
        # It is called for every object of the namespace.
        kind = type(obj)
        if kind not in self._kinds:
            return None
        if id(obj) in self._named:
            return self._named[id(obj)]
        if kind in _SIZED:
            return self._blob(obj) if len(obj) >= LARGE_BYTES else None
        return self._blob(obj) if kind is pickle.PickleBuffer else None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind not in self._reducers:
            self._reducers[kind] = reducer_of(kind)
        reduce = self._reducers[kind]
        return NotImplemented if reduce is None else reduce(obj)


class Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, resolve: Resolve) -> None:
        super().__init__(file)
        self._resolve = resolve

    def persistent_load(self, reference: Any) -> Any:
        return self._resolve(reference)


class _Lost:
    """Stands where a value could not be made, so that what comes after it in the stream can be."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"<could not be restored: {type(self.error).__name__}>"


class PatientUnpickler(pickle._Unpickler):
    """Goes on where making a value raises, whatever it raises but the `fatal` ones. It is slow."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(self, file: Any, resolve: Resolve, *, fatal: tuple[type[BaseException], ...]) -> None:
        super().__init__(file)
        self._resolve = resolve
        self.fatal = fatal
        self.lost: BaseException | None = None

    def load_next(self) -> tuple[Any, BaseException | None]:
        """The next value of the stream, and the first thing that went wrong with it."""
        self.lost = None
        return self.load(), self.lost

    def persistent_load(self, reference: Any) -> Any:
        return self._resolve(reference)

    def lose(self, error: BaseException) -> _Lost:
        if self.lost is None:
            self.lost = error
        return _Lost(error)


_Step = Callable[[PatientUnpickler], None]


def _patient(step: _Step, go_on: Callable[[PatientUnpickler, _Lost], None]) -> _Step:
    """A step of the unpickler that, when it raises, leaves the stack as deep as it should be."""

    def load(self: PatientUnpickler) -> None:
        try:
            step(self)
        except self.fatal:
            raise
        except BaseException as error:
            go_on(self, self.lose(error))

    return load


def _noticing(step: _Step) -> _Step:
    """A step that fetches what was loaded before, perhaps in vain."""

    def load(self: PatientUnpickler) -> None:
        step(self)
        if isinstance(self.stack[-1], _Lost):
            self.lose(self.stack[-1].error)

    return load


def _replace(unpickler: PatientUnpickler, lost: _Lost) -> None:
    unpickler.stack[-1] = lost


def _push(unpickler: PatientUnpickler, lost: _Lost) -> None:
    unpickler.append(lost)


def _leave(unpickler: PatientUnpickler, lost: _Lost) -> None:
    """The object to be filled is on the stack already, and stays incomplete."""


_GO_ON: dict[Callable[[PatientUnpickler, _Lost], None], tuple[bytes, ...]] = {
    _replace: (pickle.REDUCE,),
    _push: (pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.STACK_GLOBAL, pickle.BINPERSID, pickle.FROZENSET),
    _leave: (
        pickle.BUILD,
        pickle.APPEND,
        pickle.APPENDS,
        pickle.SETITEM,
        pickle.SETITEMS,
        pickle.ADDITEMS,
    ),
}
_steps = PatientUnpickler.dispatch
for _go_on, _codes in _GO_ON.items():
    _steps.update({code[0]: _patient(_steps[code[0]], _go_on) for code in _codes})
_steps.update({code[0]: _noticing(_steps[code[0]]) for code in (pickle.BINGET, pickle.LONG_BINGET)})
