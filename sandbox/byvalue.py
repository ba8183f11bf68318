"""What a cell defines, taken apart for pickle and put together again: functions, classes, modules.

Pickle would save them by a name that a new process does not have. For the few other types that it refuses,
dill is asked. Code is saved as bytecode: the Python that loads it must be of the same version.
"""

import abc
import enum
import functools
import importlib
import io
import marshal
import operator
import pickle
import sys
import threading
import typing
from array import array
from collections.abc import Callable, Mapping
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import dill

from sandbox import enums
from sandbox.blobs import array_buffer

Reduce = Callable[[Any], Any]
"""Gives what `__reduce__` would, or NotImplemented for pickle's own way."""

_HEAP_TYPE = 1 << 9
_FUNCTION_FIELDS = (
    "__qualname__",
    "__module__",
    "__doc__",
    "__defaults__",
    "__kwdefaults__",
    "__annotate__" if sys.version_info >= (3, 14) else "__annotations__",
    "__type_params__",
)
_FROM_THE_START = ("__module__", "__qualname__", "__slots__", "__orig_bases__")
"""What a class must have when it is made; everything else is put into it afterwards."""
_NOT_OF_THE_CLASS = ("__dict__", "__weakref__", "_abc_impl")


def reducer_of(kind: type) -> Reduce | None:
    """How objects of a type are taken apart; None for pickle's own way."""
    if kind in _REDUCERS:
        return _REDUCERS[kind]
    if issubclass(kind, type):
        return _reduce_class
    if issubclass(kind, io.IOBase) and not issubclass(kind, io.StringIO | io.BytesIO):
        return _refuse_file
    if issubclass(kind, BaseException) and kind.__reduce__ is BaseException.__reduce__:
        return None if _is_importable(kind) else _reduce_exception
    return _reduce_with_dill if kind in _LEFT_TO_DILL else None


def _refuse_file(file: object) -> Any:
    """dill would open the file again at load, and empty it when it was open for writing."""
    raise pickle.PicklingError("an open file")


def _is_importable(obj: Any) -> bool:
    """Whether a new process finds this object by module and name."""
    module = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", getattr(obj, "__name__", None))
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return False
    try:
        return operator.attrgetter(name)(sys.modules[module]) is obj
    except (AttributeError, KeyError):
        return False


# -- functions


def _reduce_function(function: FunctionType) -> Any:
    if _is_importable(function):
        return NotImplemented
    args = (_globals_of(function), marshal.dumps(function.__code__), function.__name__, function.__closure__)
    fields = {name: getattr(function, name) for name in _FUNCTION_FIELDS if hasattr(function, name)}
    return make_function, args, (fields, function.__dict__), None, None, set_function


def _globals_of(function: FunctionType) -> str | dict[str, Any]:
    """The module whose globals it sees, or a dict that is no module's."""
    name = function.__globals__.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is not None and vars(module) is function.__globals__:
        return str(name)
    return function.__globals__


def make_function(
    seen: str | dict[str, Any], code: bytes, name: str, closure: tuple[CellType, ...] | None
) -> FunctionType:
    namespace = vars(importlib.import_module(seen)) if isinstance(seen, str) else seen
    return FunctionType(make_code(code), namespace, name, None, closure)


def set_function(function: FunctionType, state: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
    fields, attributes = state
    for name, value in fields.items():
        setattr(function, name, value)
    function.__dict__.update(attributes)


def _reduce_code(code: CodeType) -> Any:
    return make_code, (marshal.dumps(code),)


def make_code(data: bytes) -> CodeType:
    code = marshal.loads(data)  # noqa: S302 - as the pickle around it: inside the container only
    assert isinstance(code, CodeType)
    return code


def _reduce_cell(cell: CellType) -> Any:
    try:
        content = cell.cell_contents
    except ValueError:
        return make_cell, ()
    # As its state, not at once: the content may be the very function that has this cell.
    return make_cell, (), (content,), None, None, set_cell


def make_cell() -> CellType:
    return CellType()


def set_cell(cell: CellType, state: tuple[Any]) -> None:
    cell.cell_contents = state[0]


def _reduce_method(method: MethodType) -> Any:
    return make_method, (method.__func__, method.__self__)


def make_method(function: Callable[..., Any], instance: object) -> MethodType:
    return MethodType(function, instance)


def _reduce_cached(function: Any) -> Any:
    if _is_importable(function):
        return NotImplemented
    return make_cached, (function.__wrapped__, function.cache_parameters())


def make_cached(function: Callable[..., Any], parameters: Mapping[str, Any]) -> object:
    return functools.lru_cache(**parameters)(function)


def _reduce_property(found: property) -> Any:
    return property, (found.fget, found.fset, found.fdel, found.__doc__)


def _reduce_wrapper(method: Any) -> Any:
    return type(method), (method.__func__,)


# -- classes


def _reduce_class(cls: Any) -> Any:
    if _is_importable(cls):
        return NotImplemented
    if isinstance(cls, enum.EnumMeta):
        return enums.reduce(cls)
    if cls in _SINGLETONS:
        return NotImplemented
    if not cls.__flags__ & _HEAP_TYPE:
        return _reduce_with_dill(cls)
    if any(map(_makes_in_c, type(cls).__mro__[:-2])):
        raise pickle.PicklingError(f"the class {cls.__qualname__} is one of {type(cls).__module__}")
    body = {name: value for name, value in vars(cls).items() if name in _FROM_THE_START}
    body["__qualname__"] = cls.__qualname__
    rest = {
        name: value for name, value in vars(cls).items() if name not in body and _is_own(cls, name, value)
    }
    state = (rest, _registered(cls))
    return make_class, (type(cls), cls.__name__, cls.__bases__, body), state, None, None, set_class


def _makes_in_c(metaclass: type) -> bool:
    """Whether it keeps things of its own about its classes where Python cannot put them, as ctypes does."""
    return isinstance(vars(metaclass).get("__new__"), BuiltinFunctionType)


def _is_own(cls: type, name: str, value: Any) -> bool:
    """Whether a class does not get this by itself: as it does the places of its `__slots__`."""
    descriptor = isinstance(value, MemberDescriptorType | GetSetDescriptorType)
    return name not in _NOT_OF_THE_CLASS and not (descriptor and value.__objclass__ is cls)


def _registered(cls: Any) -> list[type]:
    """The classes that were registered with an abstract base class."""
    if not isinstance(cls, abc.ABCMeta):
        return []
    found = [reference() for reference in abc._get_dump(cls)[0]]  # type: ignore[attr-defined]
    return [other for other in found if other is not None]


def make_class(metaclass: type, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
    """The class without its attributes.

    Neither the metaclass is called nor a hook of a base: what they do has been done, and is in the state.
    """
    maker: Any = abc.ABCMeta if issubclass(metaclass, abc.ABCMeta) else type
    hooks = {
        base: vars(base)["__init_subclass__"]
        for base in {ancestor for base in bases for ancestor in base.__mro__}
        if base.__module__ == "__main__" and "__init_subclass__" in vars(base)
    }
    try:
        for base in hooks:
            type.__setattr__(base, "__init_subclass__", classmethod(_do_nothing))
        made: type = maker.__new__(metaclass, name, bases, dict(body))
    finally:
        for base, hook in hooks.items():
            type.__setattr__(base, "__init_subclass__", hook)
    return made


def _do_nothing(cls: type) -> None:
    """Stands in for `__init_subclass__`."""


def set_class(cls: Any, state: tuple[Mapping[str, Any], list[type]]) -> None:
    attributes, registered = state
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)
    for other in registered:
        abc.ABCMeta.register(cls, other)


def _reduce_exception(error: BaseException) -> Any:
    return make_exception, (type(error), error.args), vars(error) or None


def make_exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Not by a call: an `__init__` of its own may take other arguments than it passes on."""
    return kind.__new__(kind, *args)


def _reduce_typevar(variable: Any) -> Any:
    if _is_importable(variable):
        return NotImplemented
    variance = {"covariant": variable.__covariant__, "contravariant": variable.__contravariant__}
    return make_typevar, (variable.__name__, variable.__constraints__, variable.__bound__, variance)


def make_typevar(
    name: str, constraints: tuple[Any, ...], bound: Any, variance: Mapping[str, bool]
) -> typing.TypeVar:
    return typing.TypeVar(name, *constraints, bound=bound, **variance)


# -- the rest


def _reduce_module(module: ModuleType) -> Any:
    name = module.__name__
    if sys.modules.get(name) is module:
        return importlib.import_module, (name,)
    left_out = ("__builtins__", "__loader__", "__spec__")
    return make_module, (name,), {key: it for key, it in vars(module).items() if key not in left_out}


def make_module(name: str) -> ModuleType:
    return ModuleType(name)


def _reduce_array(values: "array[Any]") -> Any:
    buffer = array_buffer(values)
    return NotImplemented if buffer is None else (make_array, (values.typecode, buffer))


def make_array(typecode: str, data: bytes | bytearray) -> "array[Any]":
    made = array(typecode)
    made.frombytes(data)
    return made


def _reduce_view(view: memoryview) -> Any:
    with memoryview(view.obj) as whole:
        if view.contiguous and view.nbytes == whole.nbytes:
            return make_view, (view.obj, view.format, view.shape)
    data = view.tobytes()
    return make_view, (data if view.readonly else bytearray(data), view.format, view.shape)


def make_view(data: Any, form: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(data)
    if (view.format, view.shape) == (form, shape):
        return view
    return view.cast("B").cast(form, shape)  # type: ignore[call-overload,no-any-return]


def _reduce_lock(lock: object) -> Any:
    """As a lock that nobody holds: who held it is gone, and could never release it."""
    return (make_rlock if isinstance(lock, _RLOCK) else make_lock), ()


def make_lock() -> object:
    return threading.Lock()


def make_rlock() -> object:
    return threading.RLock()


def _reduce_parameters(variable: Any) -> Any:
    return NotImplemented if _is_importable(variable) else (type(variable), (variable.__name__,))


def _reduce_newtype(kind: typing.NewType) -> Any:
    return NotImplemented if _is_importable(kind) else (typing.NewType, (kind.__name__, kind.__supertype__))


class _Extract(dill.Pickler):  # type: ignore[misc]  # dill has no types
    """Pickles one object; everything that it refers to is left to the pickle around it."""

    def __init__(self, file: io.BytesIO, obj: object) -> None:
        super().__init__(file, protocol=5, recurse=False)
        self._obj = obj
        self.others: list[object] = []

    def persistent_id(self, obj: Any) -> int | None:
        if obj is self._obj:
            return None
        self.others.append(obj)
        return len(self.others) - 1


class _Insert(dill.Unpickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, others: list[object]) -> None:
        super().__init__(file)
        self._others = others

    def persistent_load(self, number: int) -> object:
        return self._others[number]


def _reduce_with_dill(obj: object) -> Any:
    file = io.BytesIO()
    pickler = _Extract(file, obj)
    pickler.dump(obj)
    return load_with_dill, (file.getvalue(), pickler.others)


def load_with_dill(data: bytes, others: list[object]) -> object:
    return _Insert(io.BytesIO(data), others).load()


_RLOCK = type(threading.RLock())
_SINGLETONS = (type(None), type(...), type(NotImplemented))
_REDUCERS: dict[type, Reduce] = {
    FunctionType: _reduce_function,
    CodeType: _reduce_code,
    CellType: _reduce_cell,
    MethodType: _reduce_method,
    functools._lru_cache_wrapper: _reduce_cached,
    property: _reduce_property,
    classmethod: _reduce_wrapper,
    staticmethod: _reduce_wrapper,
    typing.TypeVar: _reduce_typevar,
    typing.ParamSpec: _reduce_parameters,
    typing.TypeVarTuple: _reduce_parameters,
    typing.NewType: _reduce_newtype,
    ModuleType: _reduce_module,
    array: _reduce_array,
    memoryview: _reduce_view,
    type(threading.Lock()): _reduce_lock,
    _RLOCK: _reduce_lock,
}
_LEFT_TO_DILL = frozenset(dill.Pickler.dispatch) - {slice, range, GenericAlias}
"""dill has a way of its own for these; the three are common, and pickle does them right."""
