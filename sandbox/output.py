"""What a cell prints: streamed while it runs, cut to head and tail for the model, kept whole beside it.

Bounds: a cell streams at most 64 KiB live, the model sees at most 20,000 characters, and the whole is kept
up to 4 MiB of characters; of anything longer the first and the last part are kept, with a count.
"""

import io
import os
import threading
from collections import deque
from collections.abc import Callable

SHOWN_CHARS = 20_000
KEPT_CHARS = 4 * 1024 * 1024
LIVE_CHARS = 64 * 1024
FLUSH_SECONDS = 0.05
FLUSH_CHARS = 4096


class Output(io.TextIOBase):
    """A text stream in place of sys.stdout and sys.stderr, and of file descriptors 1 and 2.

    `live` is called with pieces of text, at most twenty times a second or every 4,096 characters.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, live: Callable[[str], None]) -> None:
        self._live = live
        self._lock = threading.RLock()
        self._head: list[str] = []
        self._head_chars = 0
        self._tail: deque[str] = deque()
        self._tail_chars = 0
        self._pending: list[str] = []
        self._pending_chars = 0
        self._live_chars = 0
        self._timer: threading.Timer | None = None
        self._mute = set(threading.enumerate()) - {threading.current_thread()}
        """Threads that outlived their cells have nothing to say in this one."""
        self.total_chars = 0

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not text or threading.current_thread() in self._mute:
            return 0
        with self._lock:
            self.total_chars += len(text)
            self._keep(text)
            if self._live_chars < LIVE_CHARS:
                piece = text[: LIVE_CHARS - self._live_chars]
                self._live_chars += len(piece)
                self._pending.append(piece)
                self._pending_chars += len(piece)
                if self._pending_chars >= FLUSH_CHARS:
                    self.flush()
                elif self._timer is None:
                    self._flush_soon()
        return len(text)

    def _flush_soon(self) -> None:
        """What is printed next may come long after, or never: so a timer sends what is there."""
        self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
        self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:  # the cell has used up its threads
            self.flush()

    def flush(self) -> None:
        with self._lock:
            if self._timer:
                self._timer.cancel()
                self._timer = None
            text, self._pending, self._pending_chars = "".join(self._pending), [], 0
            for start in range(0, len(text), FLUSH_CHARS):
                self._live(text[start : start + FLUSH_CHARS])

    def _keep(self, text: str) -> None:
        room = KEPT_CHARS // 2 - self._head_chars
        if room > 0:
            self._head.append(text[:room])
            self._head_chars += len(self._head[-1])
            text = text[room:]
        if text:
            self._tail.append(text[-KEPT_CHARS // 2 :])
            self._tail_chars += len(self._tail[-1])
            while self._tail_chars - len(self._tail[0]) >= KEPT_CHARS // 2:
                self._tail_chars -= len(self._tail.popleft())

    def whole(self) -> str:
        """All that was printed, or its first and last part around a count of what is missing."""
        head, tail = "".join(self._head), "".join(self._tail)
        missing = self.total_chars - len(head) - len(tail)
        if missing <= 0:
            return head + tail
        return f"{head}\n… {missing:,} characters were not kept …\n{tail}"


def shorten(text: str, kept_as: str, total_chars: int) -> str:
    """Head and tail of `text`, at most SHOWN_CHARS in all, naming the variable that has the whole."""
    if total_chars <= SHOWN_CHARS:
        return text
    half = (SHOWN_CHARS - 200) // 2
    left_out = total_chars - 2 * half
    note = f"… {left_out:,} characters left out; the whole output is in {kept_as} …"
    return f"{text[:half]}\n{note}\n{text[-half:]}"


class Capture:
    """File descriptors 1 and 2 as a file in memory: what subprocesses and C code print.

    It is read when the cell ends. A file, unlike a pipe, needs nobody to empty it while the cell runs; its
    size is bounded by the file size limit of the process.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("output")
        for descriptor in (1, 2):
            os.dup2(self._file, descriptor)

    def clear(self) -> None:
        """Forget what is there: of a cell that died, or of a process that outlived its cell."""
        os.lseek(self._file, 0, os.SEEK_SET)
        os.ftruncate(self._file, 0)

    def move_to(self, output: Output) -> None:
        """Append all of it to `output`, and begin again."""
        size = os.lseek(self._file, 0, os.SEEK_END)
        for start in range(0, size, KEPT_CHARS):
            output.write(os.pread(self._file, KEPT_CHARS, start).decode("utf-8", "backslashreplace"))
        if size:
            self.clear()
