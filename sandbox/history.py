"""`history` in a cell: the messages of the session, which the host has."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rlm.protocol import ReadHistory
from sandbox.link import Link


class History(Sequence[dict[str, Any]]):
    """The messages of the session, fetched from the host when they are looked at."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def _rows(self) -> list[dict[str, Any]]:
        request = self._link.new_request()
        rows: list[dict[str, Any]] = json.loads(self._link.ask(ReadHistory(request=request), request))
        return rows

    def __len__(self) -> int:
        return len(self._rows())

    def __getitem__(self, key: Any) -> Any:
        return self._rows()[key]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows())

    def __repr__(self) -> str:
        return f"<history: {len(self)} messages; each a dict with turn, role, content>"
