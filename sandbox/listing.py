"""How values are shown to the model and listed: names, types and sizes, never the values themselves."""

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

_COUNTED = (list, tuple, dict, set, frozenset, range, Counter, OrderedDict, defaultdict, deque)


class Shown(str):
    """Text that echoes as itself: as the last expression of a cell it is shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def type_name(value: object) -> str:
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def size_text(value: Any) -> str:
    """Length for what has one, bytes for arrays, else a shallow size. Calls nothing of the model's own."""
    kind = type(value)
    if kind in (str, bytes, bytearray):
        unit = "characters" if kind is str else "bytes"
        return f"{len(value):,} {unit}"
    if kind in _COUNTED or (kind.__module__.startswith("sandbox.") and hasattr(kind, "__len__")):
        return f"{len(value):,} items"
    if kind in (int, float, bool, complex, type(None)):
        return str(value) if kind is not int or value.bit_length() < 200 else f"{value.bit_length()} bits"
    nbytes = getattr(value, "nbytes", None) if kind.__module__.split(".")[0] == "numpy" else None
    if isinstance(nbytes, int):
        return f"{nbytes:,} bytes"
    return f"{sys.getsizeof(value):,} bytes"


def describe(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per variable: `name`, `type`, `size`."""
    rows = []
    for name, value in values.items():
        try:
            size = size_text(value)
        except Exception as error:  # a property of the model's own that raises
            size = type(error).__name__
        rows.append({"name": name, "type": type_name(value), "size": size})
    return rows


def table(rows: Iterable[Mapping[str, str]]) -> Shown:
    lines = [f"{row['name']}: {row['type']}, {row['size']}" for row in rows]
    return Shown("\n".join(lines) if lines else "no variables yet")
