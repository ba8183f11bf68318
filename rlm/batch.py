"""One batch under way: its items side by side, each with a result of its own, told of as events.

Results have the order and the length of what was asked; what fails has the name and the text of its error in
its place. What an item does is handed in; prices are `rlm.batch_price`'s business, money `rlm.calls`'.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from rlm.calls import Call, CallReply
from rlm.errors import NoAnswer, RlmError
from rlm.events import Event, SubCallFinished, SubCallsFinished, SubCallsProgress, SubCallsStarted, Usage

HEAD_CHARS = 2_000
PROGRESS_S = 0.1
TASKS_AT_ONCE = 2_048
"""So many items have a task; the places that `rlm.retry` gives are fewer."""

Result = tuple[str, str]
"""`ok` or `cut` and a reply, or the name of an error and its text."""


@dataclass(slots=True, eq=False)
class Item:
    """One thing that is asked: of a model with `call`, or of the child RLM number `child`."""

    index: int
    prompt: str
    call: Call | None = None
    child: int = 0
    running: bool = False
    started_s: float = field(default_factory=time.monotonic)
    given_up: str = ""
    """Why it is cancelled, when that is a result of its own."""
    result: Result = ("NotSent", "It was not sent.")
    task: "asyncio.Task[None] | None" = None

    @property
    def under_way(self) -> bool:
        return self.running if self.call is None else self.call.state == "running"

    def give_up(self, reason: str) -> None:
        """Stop it; `reason` is what the cell reads."""
        if self.task and not self.task.done():
            self.given_up = reason
            self.result = ("NoAnswer", reason)  # should it not even have begun
            self.task.cancel()


Work = Callable[[Item], Awaitable[CallReply]]


@dataclass(slots=True, kw_only=True)
class Batch:
    """Of the RLM number `child` at `depth`. `active` are the items that have a task, of all batches."""

    number: int
    total: int
    model: str
    recursive: bool
    depth: int
    child: int
    emit: Callable[[Event], None]
    active: set[Item]
    closed: Callable[[], str]
    """Why nothing more is begun, empty as long as that is not so."""
    done: int = 0
    failed: int = 0
    _own: set[Item] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def open(self, estimate_usd: float | None) -> AsyncIterator[None]:
        """Tell of its beginning, now and then of how it stands, and of its end."""
        started = time.monotonic()
        self.emit(
            SubCallsStarted(
                batch=self.number,
                total=self.total,
                model=self.model,
                estimate_usd=estimate_usd,
                recursive=self.recursive,
                depth=self.depth,
                child=self.child,
            )
        )
        telling = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            telling.cancel()
            self.emit(
                SubCallsFinished(
                    batch=self.number,
                    total=self.total,
                    failed=self.failed + self.total - self.done,
                    duration_s=time.monotonic() - started,
                    depth=self.depth,
                    child=self.child,
                )
            )

    async def send(self, items: Sequence[Item], work: Work) -> None:
        """Do `work` for each; when this returns, each has its result."""
        room = asyncio.Semaphore(TASKS_AT_ONCE)

        def ended(item: Item, task: "asyncio.Task[None]") -> None:
            # Of the task, not in it: one that is cancelled before it began runs nothing of its own.
            self.active.discard(item)
            self._own.discard(item)
            room.release()

        async with asyncio.TaskGroup() as group:
            for item in items:
                await room.acquire()
                self.active.add(item)
                self._own.add(item)
                item.task = group.create_task(self._one(item, work))
                item.task.add_done_callback(functools.partial(ended, item))

    def fail(self, item: Item, error: RlmError) -> None:
        """The item has no result but this error."""
        self._finish(item, None, error)

    async def _one(self, item: Item, work: Work) -> None:
        try:
            if reason := self.closed():
                raise NoAnswer(reason)
            self._finish(item, await work(item), None)
        except RlmError as error:
            self._finish(item, None, error)
        except asyncio.CancelledError:
            if not item.given_up:
                raise
            self._finish(item, None, NoAnswer(item.given_up))

    def _finish(self, item: Item, reply: CallReply | None, error: RlmError | None) -> None:
        call = item.call
        if reply:
            item.result = ("cut" if reply.cut else "ok", reply.text)
        else:
            item.result = (type(error).__name__, str(error))
            self.failed += 1
        self.done += 1
        self.emit(
            SubCallFinished(
                batch=self.number,
                index=item.index,
                prompt=item.prompt[:HEAD_CHARS],
                reply=reply.text[:HEAD_CHARS] if reply else "",
                error="" if reply else str(error),
                usage=call.usage if call else Usage(),
                duration_s=time.monotonic() - (call.started_s if call else item.started_s),
                done=self.done,
                total=self.total,
                cached=bool(reply and call and not call.sent),
                cut=bool(reply and reply.cut),
                retries=call.retries if call else 0,
                answered_by=item.child,
                depth=self.depth,
                child=self.child,
            )
        )

    async def _tell(self) -> None:
        last: SubCallsProgress | None = None
        while True:
            await asyncio.sleep(PROGRESS_S)
            retries = [
                item.call.retry_at_s for item in self._own if item.call and item.call.state == "retrying"
            ]
            progress = SubCallsProgress(
                batch=self.number,
                running=sum(item.under_way for item in self._own),
                retrying=len(retries),
                retry_in_s=max(0.0, min(retries, default=0.0) - time.monotonic()) if retries else 0.0,
                depth=self.depth,
                child=self.child,
            )
            if progress != last:
                self.emit(progress)
            last = progress
