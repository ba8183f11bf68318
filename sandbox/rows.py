"""What `sql` gives back: rows as plain Python values, printed as a table that is never too long.

It holds nothing of DuckDB, so that a snapshot can keep it. It asks no query.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, overload

SHOWN_ROWS = 40
SHOWN_CHARS = 8000
CELL_CHARS = 80
LINE_CHARS = 1000
"""A printed line is no longer; columns that do not fit are left out and counted."""


@dataclass(frozen=True, slots=True, repr=False)
class Rows(Sequence[tuple[Any, ...]]):
    """The rows of a result as tuples of Python values, in order; prints as a table, cut where it is large.

    `columns` are the names of the columns, `types` their types in SQL.
    """

    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    items: tuple[tuple[Any, ...], ...] = ()

    @overload
    def __getitem__(self, key: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, key: slice) -> list[tuple[Any, ...]]: ...
    def __getitem__(self, key: int | slice) -> tuple[Any, ...] | list[tuple[Any, ...]]:
        return list(self.items[key]) if isinstance(key, slice) else self.items[key]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.items)

    def dicts(self) -> list[dict[str, Any]]:
        """One dict a row: name of the column → value."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.items]

    def column(self, name: str) -> list[Any]:
        """The values of one column. Raises KeyError with the names there are."""
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; there are: {', '.join(self.columns) or 'none'}")
        at = self.columns.index(name)
        return [row[at] for row in self.items]

    def __repr__(self) -> str:
        return _printed(self)


def _printed(rows: Rows) -> str:
    if not rows.columns:
        return "(no rows)"
    columns = rows.columns[: LINE_CHARS // 4]
    half = SHOWN_ROWS // 2
    picked = rows.items if len(rows) <= SHOWN_ROWS else rows.items[:half] + rows.items[-half:]
    cells = [[_cell(value) for value in row[: len(columns)]] for row in picked]
    titles = [_cell(name) for name in columns]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    while len(widths) > 1 and sum(widths) + 3 * len(widths) > LINE_CHARS:
        widths.pop()
    right = [all(isinstance(row[at], _NUMBERS) for row in picked) for at in range(len(widths))]
    lines = [_line(row, widths, right) for row in cells]
    most = min(SHOWN_ROWS, SHOWN_CHARS // (sum(widths) + 3 * len(widths)) - 4)
    if len(rows) > most:
        tail = most // 2
        left_out = f"… {len(rows) - most:,} rows more …"
        lines = [*lines[: most - tail], left_out, *lines[len(lines) - tail :]]
    rule = "-+-".join("-" * width for width in widths)
    return "\n".join([_line(titles, widths, right), rule, *lines, _footer(rows, len(widths))])


_NUMBERS = (int, float, Decimal, type(None))


def _cell(value: Any) -> str:
    text = "NULL" if value is None else value[: CELL_CHARS + 1] if isinstance(value, str) else str(value)
    text = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 1] + "…"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=False)
    ]
    return " | ".join(aligned).rstrip()


def _footer(rows: Rows, shown: int) -> str:
    size = f"{_counted(len(rows), 'row')} \N{MULTIPLICATION SIGN} {_counted(len(rows.columns), 'column')}"
    left_out = len(rows.columns) - shown
    return f"({size}{f'; the last {left_out:,} columns are not shown' if left_out else ''})"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
