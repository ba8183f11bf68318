"""SIGINT in a worker: a KeyboardInterrupt in the cell, nothing outside it, never in a critical section."""

import signal
import threading
from types import FrameType


class Interrupts:
    """Armed while a cell runs. `hold`/`release` bracket code that must not be cut in two."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._held = 0
        self._pending = False

    def ignore(self) -> None:
        """Outside a cell: SIGINT does nothing."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._held, self._pending = 0, False

    def arm(self) -> None:
        """A cell begins: SIGINT raises KeyboardInterrupt in the main thread."""
        self._held, self._pending = 0, False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, self._arrived)

    def hold(self) -> None:
        """Put off a KeyboardInterrupt until `release`. Does nothing off the main thread."""
        if threading.get_ident() == self._main:
            self._held += 1

    def release(self) -> None:
        if threading.get_ident() != self._main:
            return
        self._held = max(0, self._held - 1)
        if self._pending and not self._held:
            self._pending = False
            raise KeyboardInterrupt

    def _arrived(self, _signal: int, _frame: FrameType | None) -> None:
        if self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt
