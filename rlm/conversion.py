"""Has texts made of documents, by converters in a container of their own, and puts them into the cache.

The container ends with the conversion, so what a hostile file does to its converter stays there. Nothing is
parsed on this side; what comes back is bounded and taken for nothing but text.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlm.box import namespace
from rlm.box.container import Box
from rlm.box.wire import Sink
from rlm.documents import Document, Mount, changes, container_path
from rlm.errors import RlmError, SandboxLost
from rlm.formats import FORMATS
from rlm.protocol import Part, ProtocolError
from rlm.text_cache import TextCache
from rlm.text_entries import MAX_TEXTS, Entry, EntryWriter
from rlm.text_probe import one_line

MAX_NAME_CHARS = 1000
MAX_ENCODING_CHARS = 40
TICK_S = 0.5

NO_ROOM = (
    "cannot be kept as text: there is no room left for it. "
    "Free some space on the disk, or raise sandbox.cache in config.json."
)
CHANGED = "was written to while its text was made: wait until it is complete, then load it again."

OpenBox = Callable[[Sequence[Document]], Awaitable[tuple[Box, list[Mount]]]]
"""Starts a container that has these documents mounted."""
Outcome = Entry | str
"""What is in the cache now of a document, or why there is nothing, as what follows its name."""


async def make_texts(
    documents: Sequence[Document],
    keys: Mapping[str, str],
    *,
    cache: TextCache,
    open_box: OpenBox,
    tell: Callable[[str], None],
) -> dict[str, Outcome]:
    """Convert documents, in order; `keys` has the cache's key for each name, no two of them the same.

    What else is in `keys` stays in the cache. Returns by name what became of each. A file that brings its
    converter down costs only itself. Raises `SandboxError` when no container can be started, `StateError`
    when the cache cannot be used.
    """
    outcomes: dict[str, Outcome] = {}
    left = list(documents)
    while left:
        room = await asyncio.to_thread(_make_room, cache, left, frozenset(keys.values()))
        if not room:
            outcomes |= {document.name: NO_ROOM for document in left}
            break
        before = len(documents) - len(left)
        batch = _Batch(cache, left, keys, room=room, before=before, total=len(documents))
        died = await _convert(batch, open_box, tell)
        outcomes |= batch.outcomes
        left = left[batch.finished :]
        if left:
            outcomes[left[0].name] = f"brought its converter down: {died}. The rest of the session is whole."
            del left[0]
    return {document.name: outcomes[document.name] for document in documents}


def _make_room(cache: TextCache, documents: Sequence[Document], keep: frozenset[str]) -> int:
    """Make room for texts about as large as the documents; how many bytes there may be of them at most."""
    cache.make_room(sum(document.size_bytes for document in documents), keep=keep)
    return cache.room_for(keep=keep)


async def _convert(batch: "_Batch", open_box: OpenBox, tell: Callable[[str], None]) -> str:
    """Fill the batch as far as one container gets. Returns why it got no further."""
    box, plan = await open_box(batch.documents)
    telling = asyncio.create_task(_tell(batch, tell))
    try:
        worker = await box.open_namespace(namespace.serve_nobody)
        items = [_item(document, plan, room=batch.room) for document in batch.documents]
        try:
            died = await worker.convert(json.dumps(items).encode(), batch)
        except SandboxLost as lost:
            died = lost.why or lost.what
    finally:
        telling.cancel()
        try:
            await box.close()
        finally:
            await batch.settle()
    return _cause(died, memory_bytes=box.config.memory_bytes)


def _cause(died: str, *, memory_bytes: int) -> str:
    """What to tell of the end of a converter, from what `Namespace.convert` says."""
    causes = {
        "(memory)": f"it needs more memory than the sandbox has ({memory_bytes / 1024**2:,.0f} MiB); "
        "raise sandbox.memory in config.json, or split the file",
        "(killed)": f"it was stopped after {namespace.CONVERT_IDLE_S:.0f} s in which no text came of it; "
        "the file may be damaged, or made to do this",
        "(signal)": "it crashed, on a damaged file or for want of memory (sandbox.memory in config.json)",
        "(exit)": "it ended its own process; the file may be damaged",
    }
    cause = next((cause for end, cause in causes.items() if died.endswith(end)), died)
    cause = one_line(cause).removesuffix(".") or "it ended early"
    return cause[0].lower() + cause[1:]


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
class _Work:
    """What has come of one item so far."""

    writer: EntryWriter
    texts: int = 0
    skipped: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class _Batch:
    """Takes in what the converters send: `begin` on the reading thread, the rest on the loop.

    The worker was told its bounds; one that exceeds them is none of ours any more, and ends the stream. What
    is done is brought to the disk in threads of its own; `settle` waits for that.
    """

    cache: TextCache
    documents: Sequence[Document]
    keys: Mapping[str, str]
    room: int
    """Bytes, for all of them together."""
    before: int
    """How many of the `total` came before these."""
    total: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    finished: int = 0
    _works: dict[int, _Work] = field(default_factory=dict)
    _used: int = 0
    """Bytes of all that was not given up."""
    _settled: bool = False
    _commits: "list[asyncio.Future[None]]" = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def begin(self, part: Part) -> Sink:
        if part.kind not in FORMATS:
            raise ProtocolError(f"part: unknown kind {part.kind[:40]!r}")
        if part.item not in self._works:
            self._catch_up()
        self._check(part.item)
        work = self._work(part.item)
        work.texts += 1
        if work.texts > MAX_TEXTS:
            raise ProtocolError("part: too many of one item")
        sink = work.writer.begin(
            part.name[:MAX_NAME_CHARS], kind=part.kind, encoding=part.encoding[:MAX_ENCODING_CHARS]
        )
        return _Counted(sink, work, self)

    def count(self, work: _Work, size_bytes: int) -> None:
        with self._lock:
            self._used += size_bytes
            work.size_bytes += size_bytes
        if work.size_bytes > self.room:
            raise ProtocolError("part: more text than it may be")

    def skipped(self, item: int, name: str, reason: str) -> None:
        self._check(item)
        work = self._work(item)
        work.skipped += 1
        if work.skipped > MAX_TEXTS:
            raise ProtocolError("skipped: too many of one item")
        work.writer.skip(name, reason)

    def done(self, item: int, problem: str, note: str) -> None:
        self._check(item)
        work = self._works.get(item)
        if not problem and (work is None or not work.texts):
            raise ProtocolError("item_done: neither a text nor a problem")
        self.finished += 1
        if work:
            work.writer.end()  # so that few files are open, however slow the disk is
            if problem or work.writer.error:
                self._give_up(work)
        self._commits.append(
            self._loop.run_in_executor(None, self._commit, self.documents[item], work, problem, note)
        )

    def progress(self) -> str:
        number = min(self.finished, len(self.documents) - 1)
        work = self._works.get(number)
        count = f" ({self.before + number + 1:,} of {self.total:,})" if self.total > 1 else ""
        size_bytes = work.size_bytes if work else 0
        return f"making text of {self.documents[number].name}{count}, {size_bytes / 1e6:,.0f} MB"

    async def settle(self) -> None:
        """Keep what is done, drop what is not, and take nothing more."""
        with self._lock:
            self._settled = True
        try:
            await asyncio.gather(*self._commits)
        finally:
            # A job of its own even now: it goes on if whoever waits for it is cancelled.
            await self._loop.run_in_executor(None, self._abort)

    def _abort(self) -> None:
        for work in self._works.values():
            work.writer.abort()

    def _commit(self, document: Document, work: _Work | None, problem: str, note: str) -> None:
        outcome: Outcome = one_line(problem)
        if work and not problem:
            outcome = _committed(document, work.writer, note)
        if work and not isinstance(outcome, Entry):
            work.writer.abort()
            self._give_up(work)
        self.outcomes[document.name] = outcome

    def _give_up(self, work: _Work) -> None:
        """What it takes is free again, or will be in a moment."""
        with self._lock:
            self._used -= work.size_bytes
            work.size_bytes = 0

    def _check(self, item: int) -> None:
        if item != self.finished or item >= len(self.documents):
            raise ProtocolError("conversion: not this item's turn")

    def _catch_up(self) -> None:
        """On the reading thread: wait until the loop has heard of all that came before, in its order."""
        caught_up = threading.Event()
        with self._lock:
            self._require_open()
            self._loop.call_soon_threadsafe(caught_up.set)
        caught_up.wait()

    def _work(self, item: int) -> _Work:
        with self._lock:
            self._require_open()
            if item not in self._works:
                room = max(self.room - self._used, 0)
                key = self.keys[self.documents[item].name]
                self._works[item] = _Work(self.cache.writer(key, limit_bytes=room))
            return self._works[item]

    def _require_open(self) -> None:
        if self._settled:
            raise ProtocolError("conversion: it is over")


def _committed(document: Document, writer: EntryWriter, note: str) -> Outcome:
    if changes(document) != "unchanged":
        return CHANGED
    try:
        return writer.commit(note)
    except RlmError as error:
        return " ".join(filter(None, ("cannot be kept as text:", str(error), error.hint)))


@dataclass(slots=True)
class _Counted:
    """A sink that raises `ProtocolError` when more comes of an item than the worker was told there may."""

    sink: Sink
    work: _Work
    batch: _Batch

    def write(self, data: bytes) -> None:
        self.batch.count(self.work, len(data))
        self.sink.write(data)
