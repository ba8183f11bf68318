"""How many lines documents have: counted once, small ones at once and large ones in the background.

A count is kept with the file's identity and is not made again until the file changes. It reads documents of
plain text only; of texts that were made the count is known from their making.
"""

import asyncio
import contextlib
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlm.text_cache import TextCache
from rlm.texts import Text, identity_of

SMALL_BYTES = 64 * 1024 * 1024
BLOCK_BYTES = 1024 * 1024


@dataclass(slots=True)
class LineCounts:
    """Counts for one session. `stop` ends what runs in the background."""

    cache: TextCache
    _stopped: threading.Event = field(default_factory=threading.Event)
    _background: "asyncio.Task[None] | None" = None

    async def count_small(self, texts: Sequence[Text]) -> dict[str, int]:
        """Lines by name, of the texts for which that is known or quickly found out."""
        small = [text for text in texts if text.lines < 0 and text.size_bytes <= SMALL_BYTES]
        return {text.name: text.lines for text in texts if text.lines >= 0} | await asyncio.to_thread(
            self._count, small
        )

    def count_rest(self, texts: Sequence[Text]) -> None:
        """Count what is not known yet while the session goes on."""
        unknown = sorted((text for text in texts if text.lines < 0), key=lambda text: text.size_bytes)
        if unknown and (self._background is None or self._background.done()):
            self._background = asyncio.create_task(self._in_background(unknown))

    def stop(self) -> None:
        self._stopped.set()

    async def _in_background(self, texts: Sequence[Text]) -> None:
        await asyncio.to_thread(self._count, texts)

    def _count(self, texts: Sequence[Text]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for text in texts:
            lines = count_lines(text.document.path, text.encoding, stopped=self._stopped.is_set)
            if lines is not None:
                counts[text.name] = lines
                self.cache.remember_lines({identity_of(text.document): lines})
        return counts


def count_lines(
    path: Path,
    encoding: str,
    *,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda size_bytes: None,
) -> int | None:
    """Newlines in a file; None when it cannot be read to its end, or was told to stop."""
    count = 0
    wide = encoding.startswith("utf-16")
    with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
        done = 0
        while block := file.read(BLOCK_BYTES):
            if stopped():
                return None
            count += _wide_newlines(block, encoding) if wide else block.count(b"\n")
            done += len(block)
            progress(done)
        return count
    return None


def _wide_newlines(block: bytes, encoding: str) -> int:
    units = array("H", block[: len(block) & ~1])
    if encoding.endswith("le") != (sys.byteorder == "little"):
        units.byteswap()
    return units.count(ord("\n"))
