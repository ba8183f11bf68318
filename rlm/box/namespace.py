"""One worker, seen from the host: run cells, set documents, save and restore, answer its requests.

It keeps the state machine: which message is legal now, who waits for it, and how long. A cell's time limit
counts active compute only; while the host works on a request of the cell its clock stands still.
Requests go to a `Serve` callable, each in a task of its own; a cell that ends takes its requests with it.
"""

import asyncio
import dataclasses
import itertools
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from rlm import protocol
from rlm.box.results import CellResult, SnapshotResult
from rlm.box.wire import BODY_LIMITS, MEMORY_BYTES, BytesSink, Sink, Wire
from rlm.errors import RlmError, SandboxError, SandboxLost
from rlm.protocol import LoadFile, Message, ProtocolError, ReadHistory, SubCalls

GRACE_S = 2.0
"""From an interrupt to the kill of a cell that does not yield."""
KILL_S = 10.0
"""From a kill to the end of the container, when not even that is answered."""
CONTROL_S = 120.0
"""For what runs no model code but may read documents: setting them, starting a worker."""
RESTORE_S = 600.0
CONVERT_IDLE_S = 120.0
"""How long a converter may work without a word before it is taken for stuck."""
TICK_S = 0.1
OPEN_REQUESTS = 1000
SNAPSHOT_BYTES = 8 * 1024**3

T = TypeVar("T")

Request = SubCalls | LoadFile | ReadHistory
Serve = Callable[[Request, bytes], Awaitable[bytes]]
"""Answers a request: the body of the reply. An exception becomes the reason that the cell reads."""


@dataclasses.dataclass(slots=True)
class _Saving:
    """A snapshot under way: places for its bytes, and the one where they are once all have come."""

    open_stream: Callable[[], Sink]
    open_blob: Callable[[str], Sink]
    sink: Sink | None = None


class Keeper(Protocol):
    """Takes what a `convert` brings. `begin` is called on the reading thread, the others on the loop."""

    def begin(self, part: protocol.Part) -> Sink: ...
    def skipped(self, item: int, name: str, reason: str) -> None: ...
    def done(self, item: int, problem: str, note: str) -> None: ...


class RequestRefused(Exception):
    """Raised by a `Serve`: the text is the reason, for the model to read."""


async def serve_nobody(request: Request, body: bytes) -> bytes:
    """A `Serve` for where no question is being answered."""
    raise RequestRefused("no question is being answered")


@dataclasses.dataclass(slots=True)
class _Cell:
    number: int
    done: asyncio.Future[CellResult]
    on_output: Callable[[str], None]
    final: tuple[Sink, str] | None = None
    live_chars: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Question:
    """Something that was asked of the worker, and how its answer is read."""

    waiting: "asyncio.Future[Any]"
    read: Callable[[bool, Any], Any]

    def settle(self, ok: bool, report: Any) -> None:  # noqa: FBT001
        try:
            answer = self.read(ok, report)
        except (AttributeError, TypeError, ValueError) as error:
            raise ProtocolError(f"an answer of another shape: {error}") from None
        if not self.waiting.done():
            self.waiting.set_result(answer)


class Namespace:
    """Made by `Box.open_namespace`.

    `final_sink`, `snapshot_sink` and `blob_sink` (given the digest) name places for the large bodies.
    """

    def __init__(self, channel: int, wire: Wire, *, serve: Serve, cell_timeout_s: float) -> None:
        self.channel = channel
        self._wire = wire
        self._serve = serve
        self._cell_timeout_s = cell_timeout_s
        self._ready: asyncio.Future[None] = wire.lost.get_loop().create_future()
        self._cell: _Cell | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._open: dict[int, _Question] = {}
        self._snapshots: dict[int, _Saving] = {}
        self._numbers = itertools.count(1)
        self._keeper: Keeper | None = None
        self._heard = 0.0
        self._stopping = ""
        self._kill_at = float("inf")
        self._kill_sent = False
        self._closed = False
        self.final_sink: Callable[[], Sink] = BytesSink
        self.snapshot_sink: Callable[[], Sink] = BytesSink
        self.blob_sink: Callable[[str], Sink] = lambda digest: BytesSink()
        self.cells_run = 0

    # -- what the host can ask of it

    @property
    def next_cell(self) -> int:
        """The number of the cell that runs next; numbers go on across commands."""
        return self.cells_run + 1

    async def ready(self) -> None:
        await self._within(self._ready, CONTROL_S, "A worker did not start.")

    async def set_documents(self, specs: bytes, active: str | None) -> dict[str, str]:
        """Make documents known; returns what is wrong, by name. `specs` is JSON, see `SetDocuments`."""
        return await self._ask(
            lambda number: protocol.SetDocuments(request=number, active=active),
            _pieces(specs),
            lambda _, report: {str(name): str(reason) for name, reason in report.items()},
            otherwise="The documents could not be set.",
        )

    async def set_context(self, text: str, *, piece: bool = False) -> str:
        """Make `text` the context, in place of a document; with `piece` it is a reference, see `SetContext`.

        Returns what is wrong, empty for nothing.
        """
        return await self._ask(
            lambda number: protocol.SetContext(request=number, piece=piece),
            _pieces(_encoded(text)),
            lambda ok, report: str(report["problem" if ok else "reason"])[:1000],
            otherwise="The context could not be set.",
        )

    async def run_cell(self, code: str, on_output: Callable[[str], None]) -> CellResult:
        """Run one cell and wait for its end; never longer than its limit, the grace and the kill."""
        started = time.monotonic()
        self.cells_run += 1
        number = self.cells_run
        cell = self._cell = _Cell(number, self._ready.get_loop().create_future(), on_output)
        self._stopping, self._kill_at, self._kill_sent = "", float("inf"), False
        try:
            await self._wire.send_body(self.channel, protocol.RunCell(cell=number), _pieces(_encoded(code)))
            await self._watch(cell)
            result = cell.done.result()
        finally:
            self._cell = None
            self._drop_requests()
        return dataclasses.replace(
            result,
            number=number,
            duration_s=time.monotonic() - started,
            timed_out=self._stopping == "timeout",
        )

    def interrupt(self, why: str = "user") -> None:
        """Stop the running cell: SIGINT at once, and when it does not yield in 2 s a kill."""
        if self._cell and not self._stopping:
            self._stopping = why
            self._kill_at = time.monotonic() + GRACE_S
            self._wire.send(0, protocol.Interrupt(worker=self.channel))
            # What it waits for will not come; it is told so, threads of it included.
            self._drop_requests()

    async def snapshot(
        self, *, have: Iterable[str] = (), max_bytes: int = SNAPSHOT_BYTES
    ) -> tuple[SnapshotResult, Sink | None]:
        """Save the namespace, up to `max_bytes`; cells may run meanwhile.

        The bytes go to a fresh `snapshot_sink`, those of each blob that is not in `have` to a `blob_sink`.
        """
        saving = _Saving(self.snapshot_sink, self.blob_sink)

        def take(number: int) -> Message:
            # It stays until the report is here, even when nobody waits for that any more.
            self._snapshots[number] = saving
            return protocol.TakeSnapshot(request=number, max_bytes=max_bytes)

        result = await self._ask(
            take,
            _pieces(b"".join(map(bytes.fromhex, have))),
            _saved,
            otherwise="The sandbox does not react.",
            seconds=RESTORE_S,
        )
        return result, saving.sink

    async def restore(self, pieces: Iterable[bytes]) -> dict[str, Any]:
        """Load a snapshot. Returns the worker's report.

        `reason` in it says why nothing was restored; `lost` holds name and reason of what was not.
        """
        return await self._ask(
            lambda number: protocol.Restore(request=number),
            pieces,
            lambda _, report: {**report, "lost": _pairs(report.get("lost", ()))},
            otherwise="The namespace was not restored.",
            seconds=RESTORE_S,
        )

    async def convert(self, items: bytes, keeper: Keeper) -> str:
        """Make texts of files; `items` is JSON, see `Convert`. Returns why it ended early, empty if not.

        A converter that crashed, or was stuck and killed, is why; the worker lives on. Raises `SandboxLost`.
        """
        self._keeper, self._heard = keeper, time.monotonic()
        answer = asyncio.ensure_future(
            self._ask(
                lambda number: protocol.Convert(request=number),
                _pieces(items),
                lambda ok, report: "" if ok else str(report.get("reason", "it ended")),
                otherwise="The documents were not converted.",
                seconds=float("inf"),
            )
        )
        try:
            while not (await asyncio.wait({answer}, timeout=TICK_S))[0]:
                silent_s = time.monotonic() - self._heard
                if silent_s > CONVERT_IDLE_S + KILL_S:
                    raise SandboxLost("The container did not react.", "A converter could not be killed.")
                if silent_s > CONVERT_IDLE_S:
                    self._wire.send(0, protocol.Kill(worker=self.channel))
            return answer.result()
        finally:
            answer.cancel()
            self._keeper = None

    async def variables(self) -> tuple[dict[str, str], ...]:
        """What the namespace holds: name, type and size of each, as text."""
        return await self._ask(
            lambda number: protocol.ListVariables(request=number),
            (),
            lambda ok, report: tuple(map(_variable, report)) if ok else (),
            otherwise="The variables could not be listed.",
        )

    async def keep_answer(self, text: str | None) -> None:
        """Append to the worker's `answers`: `text`, or with None the value of the last FINAL."""
        message = protocol.KeepAnswer(final=text is None)
        await self._wire.send_body(self.channel, message, _pieces(_encoded(text or "")))

    def close(self) -> None:
        """End the worker; its namespace is forgotten, and whoever waits for it is cancelled."""
        if self._closed:
            return
        self._closed = True
        self._drop_requests()
        self._wire.cut_off(self.channel)
        for waiting in [*(question.waiting for question in self._open.values()), self._ready]:
            waiting.cancel()
        if self._cell:
            self._cell.done.cancel()
        self._wire.send(0, protocol.Close(worker=self.channel))

    # -- what arrives; called on the loop, in order

    def open_sink(self, message: Message) -> Sink | None:
        """On the reading thread: a place for the body of `message`. Raises `ProtocolError`."""
        if self._closed:
            return None
        if isinstance(message, protocol.Final):
            return self.final_sink()
        if isinstance(message, protocol.Snapshot):
            return self._saving(message).open_stream()
        if isinstance(message, protocol.Blob):
            return self._saving(message).open_blob(message.sha256)
        if isinstance(message, protocol.Part) and self._keeper:
            return _Heard(self._keeper.begin(message), self)
        return None

    def receive(self, message: protocol.FromWorker, sink: Sink) -> None:
        if self._closed:
            return  # it was on its way already
        match message:
            case protocol.Ready():
                if self._ready.done():
                    raise ProtocolError("ready: twice")
                self._ready.set_result(None)
            case protocol.Output():
                self._output(message)
            case protocol.Final():
                cell = self._running(message.cell)
                if cell.final or message.format not in ("text", "json", "repr"):
                    raise ProtocolError("final: not like this")
                cell.final = (sink, message.format)
            case protocol.CellDone():
                self._cell_done(message, _bytes(sink))
            case protocol.Snapshot():
                self._saving(message).sink = sink
            case protocol.Blob():
                self._saving(message)
            case protocol.Part() | protocol.Skipped() | protocol.ItemDone():
                self._keep(message)
            case protocol.Done() | protocol.SnapshotReport() | protocol.Restored() | protocol.Converted():
                waiting = self._open.pop(message.request, None)
                if waiting is None:
                    raise ProtocolError(f"{message.tag}: nobody asked")
                self._snapshots.pop(message.request, None)
                ok = message.ok if isinstance(message, protocol.SnapshotReport | protocol.Restored) else True
                limit = BODY_LIMITS[protocol.SnapshotReport.tag]
                waiting.settle(ok, protocol.json_body(_bytes(sink) or b"{}", most_bytes=limit))
            case protocol.SubCalls() | protocol.LoadFile() | protocol.ReadHistory():
                self._take_request(message, _bytes(sink))
            case protocol.Ack():
                self._wire.acknowledged(self.channel, message)

    def ended(self, why: str) -> None:
        """There is no worker any more: it was closed, or could not be started. Raises `ProtocolError`."""
        if self._closed:
            return
        if self._ready.done():
            raise ProtocolError("rolled_back: closed, and nobody asked")
        self._closed = True
        self._ready.set_exception(SandboxError("A worker could not be started in the container.", f"{why}."))

    def rolled_back(self, message: protocol.RolledBack) -> None:
        if self._closed:
            return
        self._drop_requests()
        self._wire.cut_off(self.channel)
        if not message.restored:
            self._ready = self._ready.get_loop().create_future()
        for waiting in self._open.values():
            waiting.settle(False, {"reason": f"the worker died ({message.reason})"})  # noqa: FBT003
        self._open.clear()
        self._snapshots.clear()
        if self._cell and not self._cell.done.done():
            self._cell.done.set_result(
                CellResult(
                    status="rolled_back",
                    reason=message.reason[:40],
                    detail=message.detail[:200],
                    namespace_lost=not message.restored,
                )
            )

    # -- inside

    async def _watch(self, cell: _Cell) -> None:
        """Wait for the end of a cell, with one eye on its clock."""
        active_s, last = 0.0, time.monotonic()
        while not cell.done.done():
            either: set[asyncio.Future[Any]] = {cell.done, self._wire.lost}
            await asyncio.wait(either, timeout=TICK_S, return_when="FIRST_COMPLETED")
            if self._wire.lost.done() and not cell.done.done():
                self._wire.lost.result()
                raise SandboxLost("The container was closed.", "It was running a cell.")
            now = time.monotonic()
            if not self._requests:
                active_s += now - last
            last = now
            if not self._stopping and active_s > self._cell_timeout_s:
                self.interrupt("timeout")
            if now > self._kill_at + KILL_S:
                raise SandboxLost("The container did not react.", "Its cell could not even be killed.")
            if now > self._kill_at and not self._kill_sent:
                self._kill_sent = True
                self._wire.send(0, protocol.Kill(worker=self.channel))

    def _saving(self, message: protocol.Snapshot | protocol.Blob) -> _Saving:
        if message.request not in self._snapshots:
            raise ProtocolError(f"{message.tag}: nobody asked")
        return self._snapshots[message.request]

    def _running(self, number: int) -> _Cell:
        if self._cell is None or self._cell.number != number or self._cell.done.done():
            raise ProtocolError(f"cell {number} is not running")
        return self._cell

    def _output(self, message: protocol.Output) -> None:
        cell = self._cell
        if cell is None or cell.number != message.cell:
            return  # a thread that outlived its cell
        cell.live_chars += len(message.text)
        if cell.live_chars <= 128 * 1024:
            cell.on_output(message.text)

    def _cell_done(self, message: protocol.CellDone, shown: bytes) -> None:
        cell = self._running(message.cell)
        if message.status not in ("ok", "error", "interrupted", "final"):
            raise ProtocolError("cell_done: unknown status")
        if (message.status == "final") != (cell.final is not None):
            raise ProtocolError("cell_done: final without a value, or a value without final")
        sink, form = cell.final or (None, "")
        cell.done.set_result(
            CellResult(
                status=message.status,
                error=message.error[:500],
                shown=shown.decode("utf-8", "replace"),
                total_chars=message.total_chars,
                kept_as=message.kept_as[:40],
                final=sink,
                final_format=form,
                checkpoint=message.checkpoint,
                active=message.active[:500],
            )
        )

    def _keep(self, message: protocol.Part | protocol.Skipped | protocol.ItemDone) -> None:
        if self._keeper is None:
            raise ProtocolError(f"{message.tag}: nobody asked")
        self._heard = time.monotonic()
        match message:
            case protocol.Skipped():
                self._keeper.skipped(message.item, message.name[:500], message.reason[:500])
            case protocol.ItemDone():
                self._keeper.done(message.item, message.problem[:1000], message.note[:1000])

    def heard(self) -> None:
        """Something of a conversion has come; called on the reading thread."""
        self._heard = time.monotonic()

    def _take_request(self, request: Request, body: bytes) -> None:
        """Answer a request in a task of its own; what all of them hold in memory is bounded."""
        wire = self._wire
        too_much = wire.held_bytes + len(body) > MEMORY_BYTES or len(self._requests) >= OPEN_REQUESTS
        size_bytes = 0 if too_much else len(body)
        answer = self._refuse(request) if too_much else self._answer(request, body)
        task = self._ready.get_loop().create_task(answer)
        wire.held_bytes += size_bytes
        self._requests.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._requests.discard(task)
            wire.held_bytes -= size_bytes

        task.add_done_callback(done)

    async def _refuse(self, request: Request) -> None:
        reason = "too many or too large requests at once; wait for replies, or send less"
        await self._wire.send_body(
            self.channel, protocol.Reply(request=request.request, ok=False), [reason.encode()]
        )

    async def _answer(self, request: Request, body: bytes) -> None:
        reply, ok = await self._serve_or_refuse(request, body)
        message = protocol.Reply(request=request.request, ok=ok)
        await self._wire.send_body(self.channel, message, _pieces(reply))

    async def _serve_or_refuse(self, request: Request, body: bytes) -> tuple[bytes, bool]:
        """The body of the reply, and whether it is what was asked for or a reason why not."""
        try:
            if self._cell is None or self._stopping:
                raise RequestRefused(
                    "no cell is running" if self._cell is None else "the cell was interrupted"
                )
            return await self._serve(request, body), True
        except (RequestRefused, ProtocolError, RlmError) as refused:
            return _encoded(str(refused)), False
        except asyncio.CancelledError:
            if not self._closed:
                self._wire.send(self.channel, protocol.Reply(request=request.request, ok=False))
            raise
        except Exception as error:  # ours, but the cell must not wait for a reply that never comes
            return _encoded(f"internal error: {type(error).__name__}: {error}"[:500]), False

    def _drop_requests(self) -> None:
        for task in self._requests:
            task.cancel()

    async def _ask(
        self,
        make: Callable[[int], Message],
        body: Iterable[bytes],
        read: Callable[[bool, Any], T],
        *,
        otherwise: str,
        seconds: float = CONTROL_S,
    ) -> T:
        """Send what `make` makes of a fresh number, and wait for what answers that number.

        `read` turns the answer (whether it went well, and its JSON) into what is returned, on arrival: an
        answer of another shape breaks the protocol there and then. Raises `SandboxLost`, saying `otherwise`.
        """
        number = next(self._numbers)
        waiting: asyncio.Future[T] = self._ready.get_loop().create_future()
        self._open[number] = _Question(waiting, read)
        await self._wire.send_body(self.channel, make(number), body)
        return await self._within(waiting, seconds, otherwise)

    async def _within(self, waiting: "asyncio.Future[T]", seconds: float, what: str) -> T:
        either: set[asyncio.Future[Any]] = {waiting, self._wire.lost}
        await asyncio.wait(either, timeout=seconds, return_when="FIRST_COMPLETED")
        if waiting.done():
            return waiting.result()
        if self._wire.lost.done():
            self._wire.lost.result()
        raise SandboxLost(what, f"Nothing came back within {seconds:.0f} s.")


@dataclasses.dataclass(slots=True)
class _Heard:
    """A sink that tells its namespace of every piece that comes."""

    sink: Sink
    namespace: Namespace

    def write(self, data: bytes) -> None:
        self.namespace.heard()
        self.sink.write(data)


def _pieces(data: bytes) -> Sequence[bytes]:
    return [data] if data else []


def _bytes(sink: Sink) -> bytes:
    return sink.data if isinstance(sink, BytesSink) else b""


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _saved(ok: bool, report: Any) -> SnapshotResult:  # noqa: FBT001
    blobs = tuple((str(digest), size) for digest, size in report.get("blobs", ()))
    if len(blobs) > protocol.MAX_BLOBS or not all(
        re.fullmatch("[0-9a-f]{64}", digest) and type(size) is int and 0 <= size <= protocol.MAX_SAFE_INT
        for digest, size in blobs
    ):
        raise ValueError("blobs that cannot be")
    return SnapshotResult(
        ok=ok,
        reason=str(report.get("reason", ""))[:400],
        sha256=str(report.get("sha256", "")),
        skipped=_pairs(report.get("skipped", ())),
        variables=tuple(map(_variable, report.get("variables", ()))),
        blobs=blobs,
        took_s=float(report.get("took_s", 0)),
    )


def _pairs(rows: Any) -> tuple[tuple[str, str], ...]:
    """Names and reasons."""
    return tuple((str(name)[:200], str(reason)[:400]) for name, reason in rows)


def _variable(row: Any) -> dict[str, str]:
    return {
        "name": str(row.get("name", ""))[:200],
        "type": str(row.get("type", ""))[:200],
        "size": str(row.get("size", ""))[:100],
    }
