"""The cells of one turn: run, stopped by the user, or ended when the turn is out of time.

What a cell holds is the root model's business, and what its result means the engine's.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rlm.box.results import CellResult
from rlm.deadline import SETTLE_S, Deadline
from rlm.ledger import Ledger

KEEP_S = 3.0
"""When time is up in a cell, and no call is under way, it has so long to keep what came back."""
TICK_S = 0.1


class Cells(Protocol):
    """What runs cells: a worker of the sandbox, kept alive by `rlm.sandbox`."""

    @property
    def next_cell(self) -> int: ...
    async def run_cell(self, code: str, on_output: Callable[[str], None]) -> CellResult: ...
    def interrupt(self, why: str = "user") -> None: ...


@dataclass(slots=True, kw_only=True)
class CellRuns:
    """`on_late` is called when time is up during a cell; calls under way may still come back then."""

    cells: Cells
    ledger: Ledger
    on_output: Callable[[str], None]
    on_late: Callable[[], None]
    running: bool = False

    async def run(self, code: str, deadline: Deadline) -> CellResult:
        self.running = True
        cell = asyncio.ensure_future(self.cells.run_cell(code, self.on_output))
        try:
            await deadline.wait(cell)
            if not cell.done():
                self.on_late()
                await self._settle(cell)
                if not cell.done():
                    self.cells.interrupt("time")
            return await cell
        finally:
            self.running = False
            cell.cancel()  # a turn that was abandoned leaves it behind

    def interrupt(self) -> None:
        """Stop the cell that runs, if one does; what it assigned is kept."""
        if self.running:
            self.cells.interrupt()

    async def _settle(self, cell: "asyncio.Future[CellResult]") -> None:
        """Wait while it may have the results of calls under way, and a moment longer to keep them."""
        now = quiet_since = time.monotonic()
        end = now + SETTLE_S + KEEP_S
        while not cell.done() and now < min(end, quiet_since + KEEP_S):
            await asyncio.wait({cell}, timeout=TICK_S)
            now = time.monotonic()
            if self.ledger.under_way:
                quiet_since = now
