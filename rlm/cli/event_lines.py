"""`--events`: what happens in a turn as JSON Lines on stdout, while it happens.

A thread writes them, so that a slow reader holds up no turn; a reader that goes away ends the lines and not
the turn.
"""

import errno
import queue
import sys
import threading
from typing import Any

from rlm.cli.result import to_json
from rlm.errors import RlmError


class EventLines:
    """Writes rows to stdout, each on a line of its own, in order."""

    def __init__(self) -> None:
        self._rows: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._problem: OSError | None = None
        self._writer = threading.Thread(target=self._write, name="event-lines", daemon=True)
        self._writer.start()

    def write(self, row: dict[str, Any]) -> None:
        self._rows.put(row)

    def close(self) -> None:
        """Wait until all is read. Raises `RlmError` when stdout did not take it."""
        self._rows.put(None)
        self._writer.join()
        if self._problem and self._problem.errno != errno.EPIPE:
            raise RlmError("The events could not be written to stdout.", f"{self._problem.strerror}.")

    def _write(self) -> None:
        while (row := self._rows.get()) is not None:
            if self._problem:
                continue
            try:
                sys.stdout.buffer.write(to_json(row, ascii_only=sys.stdout.isatty()))
                sys.stdout.buffer.flush()
            except OSError as error:
                self._problem = error
