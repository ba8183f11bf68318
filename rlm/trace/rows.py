"""Picks the rows of one turn out of `events.jsonl`. It reads no file: rows come in, rows go out.

Rows are what `rlm.events.to_json` gives, with `ts` (ISO time), `session` and `turn`. An earlier or later
version may have written them, so that any key may be missing.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from rlm.errors import UsageError
from rlm.events import Usage

Row = dict[str, Any]


def turn_rows(events: Iterable[Row], turn: int | None = None) -> list[Row]:
    """The rows of turn number `turn`, or of the last one when None.

    A number that was asked twice means the later turn. Raises `UsageError` when there is no such turn. One
    pass, holding no more than two turns: the file may be long.
    """
    chosen: list[Row] = []
    numbers: list[int] = []
    wanted = False
    for row in events:
        if row.get("event") == "TurnStarted" and not row.get("depth"):
            number = row.get("turn", 0)
            numbers.append(number)
            wanted = turn is None or number == turn
            if wanted:
                chosen = []
        if wanted:
            chosen.append(row)
    if chosen:
        return chosen
    if not numbers:
        raise UsageError("There is nothing to trace.", "No question was asked here yet.", hint='rlm run "…"')
    first, last = min(numbers), max(numbers)
    raise UsageError(
        f"There is no turn {turn}.", f"The trace has turns {first} to {last}.", hint=f"rlm trace {last}"
    )


def usage_of(fields: Row | None) -> Usage:
    """Usage as a row has it; what the row lacks is zero."""
    names = [field.name for field in dataclasses.fields(Usage)]
    return Usage(**{name: fields[name] for name in names if name in fields} if fields else {})
