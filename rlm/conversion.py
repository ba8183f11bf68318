"""Has texts made of documents, by converters in a container of their own, and puts them into the cache.

The container ends with the conversion, so what a hostile file does to its converter stays there. Nothing is
parsed on this side; what comes back is bounded and taken for nothing but text.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlm.box.container import Box
from rlm.box.namespace import serve_nobody
from rlm.box.wire import Sink
from rlm.documents import Document, Mount, container_path
from rlm.errors import RlmError, SandboxLost
from rlm.formats import FORMATS
from rlm.protocol import Part, ProtocolError
from rlm.text_cache import Entry, EntryWriter, TextCache
from rlm.text_probe import one_line

MAX_NAME_CHARS = 1000
TICK_S = 0.5

OpenBox = Callable[[Sequence[Document]], Awaitable[tuple[Box, list[Mount]]]]
"""Starts a container that has these documents mounted."""


async def make_texts(
    documents: Sequence[Document],
    keys: Mapping[str, str],
    *,
    cache: TextCache,
    open_box: OpenBox,
    tell: Callable[[str], None],
) -> dict[str, Entry | str]:
    """Convert documents, in order; `keys` has the cache's key for each name.

    Returns by name what is in the cache now, or why there is nothing. A file that brings its converter down
    costs only itself. Raises `SandboxError` when no container can be started.
    """
    outcomes: dict[str, Entry | str] = {}
    left = list(documents)
    while left:
        box, plan = await open_box(left)
        await asyncio.to_thread(
            cache.make_room, sum(document.size_bytes for document in left), keep={*keys.values()}
        )
        room = cache.room_for(keep=keys.values())
        batch = _Batch(cache, [(document.name, keys[document.name]) for document in left], room)
        telling = asyncio.create_task(_tell(batch, tell))
        try:
            namespace = await box.open_namespace(serve_nobody)
            items = [_item(document, plan, room=room) for document in left]
            died = await namespace.convert(json.dumps(items).encode(), batch)
        except SandboxLost as lost:
            died = lost.why or lost.what
        finally:
            telling.cancel()
            await box.close()
            await batch.settle()
        outcomes |= batch.outcomes
        left = left[batch.finished :]
        if left:
            died = died.removesuffix(".") or "it ended early"
            outcomes[left[0].name] = f"brought its converter down: {died}. The rest of the session is whole."
            del left[0]
    return outcomes


def _item(document: Document, plan: Sequence[Mount], *, room: int) -> dict[str, object]:
    """What the worker is told: the fields of `sandbox.convert.output.Item`."""
    return {
        "path": container_path(document, plan),
        "name": document.file_name,
        "kind": document.kind,
        "encoding": document.given_encoding or ("" if document.format.packed else document.encoding),
        "max_bytes": room,
    }


async def _tell(batch: "_Batch", tell: Callable[[str], None]) -> None:
    while True:
        tell(batch.progress())
        await asyncio.sleep(TICK_S)


@dataclass(slots=True)
class _Batch:
    """Takes in what the converters send: `begin` on the reading thread, the rest on the loop.

    What is done is brought to the disk in threads of its own; `settle` waits for that.
    """

    cache: TextCache
    items: list[tuple[str, str]]
    """Name and key of each."""
    room: int
    outcomes: dict[str, Entry | str] = field(default_factory=dict)
    writers: dict[int, EntryWriter] = field(default_factory=dict)
    commits: "list[asyncio.Future[None]]" = field(default_factory=list)
    finished: int = 0
    used: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, part: Part) -> Sink:
        if part.item >= len(self.items) or part.kind not in FORMATS:
            raise ProtocolError("part: not like this")
        sink = self._writer(part.item).begin(
            part.name[:MAX_NAME_CHARS], kind=part.kind, encoding=part.encoding[:40]
        )
        return _Counted(sink, self)

    def skipped(self, item: int, name: str, reason: str) -> None:
        self._check(item)
        self._writer(item).skip(name, reason)

    def done(self, item: int, problem: str, note: str) -> None:
        self._check(item)
        self.finished += 1
        commit = asyncio.to_thread(self._commit, self.items[item][0], self._writer(item), problem, note)
        self.commits.append(asyncio.ensure_future(commit))

    def progress(self) -> str:
        number = min(self.finished, len(self.items) - 1)
        count = f" ({number + 1:,} of {len(self.items):,})" if len(self.items) > 1 else ""
        return f"making text of {self.items[number][0]}{count}, {self.used / 1e6:,.0f} MB"

    async def settle(self) -> None:
        """Keep what is done, drop what is not."""
        await asyncio.gather(*self.commits)
        for writer in list(self.writers.values()):
            await asyncio.to_thread(writer.abort)

    def _commit(self, name: str, writer: EntryWriter, problem: str, note: str) -> None:
        if problem:
            writer.abort()
            self.outcomes[name] = one_line(problem)
            return
        try:
            self.outcomes[name] = writer.commit(note)
        except RlmError as error:
            self.outcomes[name] = f"cannot be kept as text: {error}"

    def _check(self, item: int) -> None:
        if item != self.finished or item >= len(self.items):
            raise ProtocolError("conversion: not this item's turn")

    def _writer(self, item: int) -> EntryWriter:
        with self.lock:
            if item not in self.writers:
                room = max(self.room - self.used, 0)
                self.writers[item] = self.cache.writer(self.items[item][1], limit_bytes=room)
            return self.writers[item]


@dataclass(slots=True)
class _Counted:
    sink: Sink
    batch: _Batch

    def write(self, data: bytes) -> None:
        self.batch.used += len(data)
        self.sink.write(data)
