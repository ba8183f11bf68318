"""Enum classes that a cell defined, taken apart and made again: dill cannot save them by value."""

import enum
from collections.abc import Mapping
from types import FunctionType
from typing import Any

_METHODS = (FunctionType, property, classmethod, staticmethod)
_NEW = ("_new_member_", "__new_member__")
"""Where the enum module puts a `__new__` of the class."""


def reduce(cls: enum.EnumMeta) -> tuple[Any, ...]:
    """How to make the class again: metaclass, name, bases, members, and what else was written in its body."""
    found: Mapping[str, Any] = cls.__members__
    members = {name: member.value for name, member in found.items()}
    left_out = {*members, *_NEW}
    body = {name: value for name, value in vars(cls).items() if name not in left_out and _is_ours(value)}
    made_by = vars(cls).get(_NEW[0])
    if _is_ours(made_by):
        body["__new__"] = made_by
    body["__doc__"] = cls.__doc__
    return make, (type(cls), cls.__name__, cls.__qualname__, cls.__bases__, members, body)


def _is_ours(value: object) -> bool:
    """Whether the body of the class held this; the rest is what the enum module put there."""
    if not isinstance(value, _METHODS):
        return False
    inner = getattr(value, "fget", None) or getattr(value, "__func__", value)
    return getattr(inner, "__module__", None) == "__main__"


def make(
    metaclass: type[enum.EnumMeta],
    name: str,
    qualname: str,
    bases: tuple[type, ...],
    members: Mapping[str, Any],
    body: Mapping[str, Any],
) -> enum.EnumMeta:
    """The class that `reduce` took apart."""
    namespace = metaclass.__prepare__(name, bases)
    for key, value in {"__module__": "__main__", "__qualname__": qualname, **body, **members}.items():
        namespace[key] = value
    return metaclass(name, bases, namespace)
