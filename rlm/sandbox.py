"""A container with the session's namespace in it, kept alive: started, restored, replaced, saved.

The engine runs cells through it and never sees a container. When the container is lost, another one is
started and the last snapshot restored, and the cell is reported as rolled back. A document that was agreed
to in the middle of a turn is mounted at the next cell boundary, which takes a new container too.
"""

import asyncio
import dataclasses
import importlib.metadata
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlm import protocol
from rlm.answers import FailedSink, FileSink
from rlm.blobs import Arriving
from rlm.box.container import NOBODY, Box, BoxConfig, ensure_image, find_image, reap, with_deadline
from rlm.box.engine_api import Engine
from rlm.box.namespace import Namespace, Serve
from rlm.box.results import CellResult, SnapshotResult
from rlm.box.wire import Sink
from rlm.documents import Document, Mount, Nothing, mount_plan, require_readable_inside
from rlm.errors import DocumentError, SandboxError, SandboxLost, StateError
from rlm.events import Event, NamespaceSaved, Notice, Progress
from rlm.log import writing
from rlm.records import SnapshotSaved, Variable
from rlm.settings import Config
from rlm.snapshots import SnapshotInfo, SnapshotWriter
from rlm.state import State
from rlm.texts import Prepared, Text, prepare

BUILD_S = 3600.0
SLOW_CELL_S = 3.0
LISTED_SKIPPED = 20
ATTEMPTS = 4
"""What a sandbox may send while it saves, as a multiple of what is kept: it tries again with less."""
SLACK_BYTES = 64 * 1024**2


@dataclass(slots=True)
class Sandbox:
    """`serve` answers requests of the session's cells; `first_cell` counts on from earlier commands."""

    config: Config
    state: State
    emit: Callable[[Event], None]
    serve: Serve
    documents: Sequence[Document] = ()
    active: str | None = None
    first_cell: int = 0
    session: str = ""
    turn: int = 0
    paid_calls: Callable[[], int] = lambda: 0
    """How many sub-calls the question under way has made."""
    variables: tuple[Variable, ...] = ()
    notes: list[str] = field(default_factory=list)
    """What the root model has to be told once: what a restore brought back, and what not."""

    prepared: Prepared = field(default_factory=Prepared)
    """What the documents became: the texts that the namespace knows, and why some have none."""

    _engine: Engine | None = None
    _tag: str = ""
    _box: Box | None = None
    _namespace: Namespace | None = None
    _plan: list[Mount] = field(default_factory=list)
    _identities: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Device and inode of each document when it was mounted."""
    _changed: bool = False
    """The worker has to be told of documents; `_stale`: the container cannot see them all."""
    _stale: bool = False
    _told: set[str] = field(default_factory=set)
    _skipped: set[tuple[str, str]] = field(default_factory=set)
    """Name and reason of each variable that the model was told is not saved."""
    _saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    _background: "asyncio.Task[None] | None" = None

    # -- life

    @property
    def running(self) -> bool:
        return self._box is not None and not self._box.lost

    async def start(self) -> None:
        """Start a container with the documents mounted and the last snapshot restored, unless one runs."""
        if self._namespace is None:
            await self._close_box()
        if self.running and self._stale:
            await self._replace()
            return
        if self.running:
            if self._changed and self._namespace:
                self._changed = False
                await self.prepare()
                self._require_texts()
                await self._set_documents(self._namespace)
            return
        self.emit(Progress(text="starting the sandbox"))
        engine = await self._ready_engine()
        await self.prepare()
        self._require_texts()
        blobs = Mount(source=self.state.blobs_folder(), target=protocol.BLOBS, is_dir=True)
        self._plan = [blobs, *self._plan_of(self.documents, texts=self.state.shown_texts())]
        self._identities = {document.path: (document.device, document.inode) for document in self.documents}
        self._changed = self._stale = False
        self._box = await Box.start(engine, self._config_of(self._plan), self._tag, session=self.session)
        await self._open_namespace()

    async def _ready_engine(self, *, build: bool = True) -> Engine:
        """The engine, with the image built and what earlier containers left removed."""
        if self._engine is None:
            self._engine = await with_deadline(Engine)
        engine, settings = self._engine, self.config.sandbox
        loop = asyncio.get_running_loop()

        def progress(text: str) -> None:
            loop.call_soon_threadsafe(self.emit, Progress(text=text))

        if not self._tag:
            self._tag = await with_deadline(find_image, engine, settings.image, settings.packages)
        if not self._tag and not build:
            raise SandboxError("The sandbox image is not built yet.")
        if not self._tag:
            self._tag = await with_deadline(
                ensure_image, engine, settings.image, progress, settings.packages, seconds=BUILD_S
            )
        await with_deadline(reap, engine)
        return engine

    def _plan_of(self, documents: Sequence[Document], *, texts: Path | None = None) -> list[Mount]:
        """How these documents are mounted. Raises `DocumentError` for what cannot be."""
        uid, gid = (os.getuid(), os.getgid()) if os.getuid() else (NOBODY, NOBODY)
        require_readable_inside(documents, uid=uid, gid=gid)
        file, folder = self.state.nothing()
        nothing = Nothing(file=file, folder=folder)
        return mount_plan(documents, nothing=nothing, state_dir=self.state.path, texts=texts)

    def _config_of(self, plan: Sequence[Mount]) -> BoxConfig:
        settings = self.config.sandbox
        return BoxConfig(
            base=settings.image,
            memory_bytes=settings.memory_bytes,
            cpus=settings.cpus,
            pids=settings.pids,
            runtime=settings.runtime,
            cell_timeout_s=self.config.limits.cell_timeout_s,
            state_dir=self.state.path,
            mounts=[(str(mount.source), mount.target) for mount in plan],
        )

    async def prepare(self, *, build: bool = True) -> None:
        """Have texts made of the documents that are none; `prepared` tells what came of it.

        The container that makes them is started only if some are missing. Raises `SandboxError` when it
        cannot be, or when `build` is False and the image is not built yet.
        """

        async def open_converter(documents: Sequence[Document]) -> tuple[Box, list[Mount]]:
            engine = await self._ready_engine(build=build)
            plan = self._plan_of(documents)
            return await Box.start(engine, self._config_of(plan), self._tag, session=self.session), plan

        self.prepared = await prepare(
            self.documents,
            cache=self.state.texts(limit_bytes=self.config.sandbox.cache_bytes),
            folder=self.state.shown_texts(),
            open_box=open_converter,
            tell=lambda text: self.emit(Progress(text=text)),
        )
        problems = [f"{name!r} {problem}" for name, problem in self.prepared.problems.items()]
        for text in (*problems, *self.prepared.notes):
            if text not in self._told:
                self._told.add(text)
                self._tell(text)

    def _require_texts(self) -> None:
        if self.documents and not self.prepared.texts:
            name, problem = next(iter(self.prepared.problems.items()), ("", ""))
            raise DocumentError(f"{name!r} {problem}" if name else "There is nothing to read.")

    async def close(self) -> None:
        if self._background:
            self._background.cancel()  # a turn that ended has saved already, and waited for this
        await self._close_box()
        engine, self._engine = self._engine, None
        if engine:
            engine.close()

    async def _close_box(self) -> None:
        box, self._box, self._namespace = self._box, None, None
        if box:
            await box.close()

    def discard(
        self,
        *,
        documents: Sequence[Document],
        active: str | None,
        first_cell: int,
        variables: tuple[Variable, ...],
    ) -> None:
        """Forget the namespace: the next cell gets a new container, with the newest snapshot on record.

        `variables` are those that this is to bring.
        """
        if self._background:
            self._background.cancel()
        self._namespace = None
        self.add_documents(documents, active=active)
        self.first_cell, self.variables = first_cell, variables
        self.notes.clear()

    async def child(self, serve: Serve, memory_bytes: int) -> Namespace:
        """A fresh, empty worker in the same container, with a share of its memory. Raises `SandboxError`."""
        if self._box is None or self._box.lost:
            raise SandboxLost("The container was lost.", "A child RLM needs the one of its parent.")
        return await self._box.open_namespace(serve, memory_bytes=memory_bytes)

    async def give_context(self, namespace: Namespace, *, text: str, piece: str) -> None:
        """Give a child's worker its context: `piece`, with the document that it is of, or else `text`.

        Beside a text it has all documents, none of them opened. Raises `DocumentError` for a piece that
        cannot be read.
        """
        problem = await namespace.set_context(piece or text, piece=bool(piece))
        if problem:
            raise DocumentError("A child RLM could not be given its context.", f"{problem.rstrip('.')}.")
        if not piece:
            await namespace.set_documents(self._specs(), None)

    # -- cells

    @property
    def next_cell(self) -> int:
        return self._namespace.next_cell if self._namespace else self.first_cell + 1

    async def run_cell(self, code: str, on_output: Callable[[str], None]) -> CellResult:
        """Run a cell; afterwards save in the background, if it took long or cost money."""
        started, paid = time.monotonic(), self.paid_calls()
        try:
            await self.start()
            assert self._namespace is not None
            result = await self._namespace.run_cell(code, on_output)
        except SandboxLost as lost:
            return await self._recover(lost, started)
        self.first_cell = self._namespace.cells_run
        if result.namespace_lost:
            await self._revive()
        if result.active:
            self.active = result.active
        dear = self.paid_calls() > paid or result.duration_s > SLOW_CELL_S
        if dear and result.status in ("ok", "error", "interrupted"):
            self._save_soon()
        return result

    def interrupt(self, why: str = "user") -> None:
        if self._namespace:
            self._namespace.interrupt(why)

    async def _recover(self, lost: SandboxLost, started: float) -> CellResult:
        """Another container, the last snapshot, and a result that says what happened."""
        self.emit(Notice(text=f"{lost.what} {lost.why} Starting another one."))
        number = self._namespace.cells_run if self._namespace else self.first_cell
        self.first_cell = number
        box, self._box = self._box, None
        if box:
            await box.close()
        await self.start()
        return CellResult(
            status="rolled_back",
            number=number,
            reason="container",
            detail=lost.why,
            namespace_lost=True,
            duration_s=time.monotonic() - started,
        )

    async def _revive(self) -> None:
        """The worker died without a checkpoint; a fresh one has its channel."""
        assert self._namespace is not None
        await self._namespace.ready()
        await self._fill(self._namespace)

    # -- documents

    def add_documents(self, documents: Sequence[Document], *, active: str | None) -> None:
        """The documents from here on; mounted, where need be, before the next cell."""
        self.documents, self.active = documents, active
        self._changed = True
        self._stale = self._box is not None and not self.has_mounted(documents)

    def has_mounted(self, documents: Sequence[Document]) -> bool:
        """Whether the present container can see all of `documents`, as the files they are at present.

        A mounted file stays the file it was, whatever takes its place on disk; not so in a mounted folder.
        """
        mounted = {mount.source for mount in self._plan}
        for document in documents:
            identity = (document.device, document.inode)
            alone = document.mount == document.path
            if document.mount not in mounted or (alone and self._identities.get(document.path) != identity):
                return False
        return True

    async def _replace(self) -> None:
        """A new container with the present documents and the present namespace."""
        self._stale = False
        self.emit(Progress(text="mounting documents in a fresh container"))
        await self.save(self.turn)
        box, self._box = self._box, None
        if box:
            await box.close()
        await self.start()

    def texts_of(self, documents: Sequence[Document]) -> list[Text]:
        """The texts that these documents became."""
        paths = {document.path for document in documents}
        return [text for text in self.prepared.texts if text.document.path in paths]

    def specs_of(self, texts: Sequence[Text]) -> bytes:
        """What a worker is told of texts: JSON, see `sandbox.textfile.DocumentSpec`."""
        return json.dumps([text.to_spec(self._plan) for text in texts]).encode()

    def _specs(self) -> bytes:
        return self.specs_of(self.prepared.texts)

    @property
    def active_text(self) -> str | None:
        """The name of the text that is `context`: that of the active document, or its first."""
        names = [text.name for text in self.prepared.texts]
        inside = (text.name for text in self.prepared.texts if text.document.name == self.active)
        return self.active if self.active in names else next(inside, next(iter(names), None))

    # -- snapshots

    async def save(self, turn: int, *, waits: bool = True) -> None:
        """Save the namespace under this turn. What cannot be saved is told by an event, never raised.

        `waits`: the user waits for it.
        """
        namespace, box = self._namespace, self._box
        if namespace is None or box is None or box.lost:
            return
        started = time.monotonic()
        async with self._saving:
            try:
                saved = await self._save(namespace, box, turn)
                waited_s = time.monotonic() - started if waits else 0.0
                self.variables = saved.variables
                self.state.append(dataclasses.replace(saved, waited_s=waited_s))
            except (SandboxError, StateError) as error:
                self.emit(Notice(text=f"The namespace was not saved. {error.what} {error.why}".strip()))
                return
            self._tell_skipped(saved.skipped)
            self.emit(
                NamespaceSaved(
                    size_bytes=saved.size_bytes,
                    skipped=saved.skipped,
                    duration_s=time.monotonic() - started,
                )
            )

    async def _save(self, namespace: Namespace, box: Box, turn: int) -> SnapshotSaved:
        """Write a snapshot with the blobs it needs; returns what is to be recorded of it.

        Raises `SandboxError` and `StateError`, and then nothing is left behind.
        """
        keep_bytes = self.config.sandbox.keep_bytes
        incoming = _Incoming(self.state, turn=turn, box=box, limit_bytes=keep_bytes)
        namespace.snapshot_sink, namespace.blob_sink = incoming.stream_sink, incoming.blob_sink
        try:
            have = await asyncio.to_thread(self.state.blobs.sizes)
            result, sink = await namespace.snapshot(have=have, max_bytes=keep_bytes)
            if not result.ok or sink is None or not result.sha256:
                raise SandboxError("The sandbox could not do it:", f"{_why_not(result)}.")
        except BaseException:
            incoming.abort()
            raise
        # In a thread that goes on when nobody waits for it any more: whole, or nothing.
        info, written_bytes = await asyncio.to_thread(incoming.commit, result)
        return SnapshotSaved(
            generation=info.header.generation,
            turn=turn,
            size_bytes=info.size_bytes + sum(size_bytes for _, size_bytes in info.blobs),
            sha256=info.sha256,
            skipped=result.skipped,
            variables=tuple(Variable(**row) for row in result.variables),
            written_bytes=written_bytes,
            created=info.header.created,
        )

    def _tell_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Tell the model once of each variable that is not saved; the user reads it in `NamespaceSaved`."""
        fresh = [f"{name} ({reason})" for name, reason in skipped if (name, reason) not in self._skipped]
        self._skipped.update(skipped)
        if fresh:
            self.notes.append(
                "Note: not saved with the namespace, so gone when the sandbox is started again: "
                f"{', '.join(fresh[:LISTED_SKIPPED])}."
            )

    def _save_soon(self) -> None:
        """Save while the turn goes on; not while an earlier save is under way."""
        if self._background is None or self._background.done():
            self._background = asyncio.create_task(self.save(self.turn, waits=False))

    async def list_variables(self) -> None:
        """Bring `variables` up to date."""
        if self._namespace and self.running:
            self.variables = tuple(Variable(**row) for row in await self._namespace.variables())

    async def keep_answer(self, text: str | None) -> None:
        """Let `answers` grow by the turn's answer: `text`, or with None what FINAL was last given."""
        if self._namespace and self.running:
            await self._namespace.keep_answer(text)

    async def _open_namespace(self) -> None:
        assert self._box is not None
        namespace = await self._box.open_namespace(self.serve)
        namespace.cells_run = self.first_cell
        namespace.final_sink = self._final_sink
        await self._fill(namespace)

    async def _fill(self, namespace: Namespace) -> None:
        """Documents, then the newest snapshot that can be restored."""
        self._namespace = None  # should this fail, nothing half filled may be used or saved
        await self._set_documents(namespace)
        await self._restore(namespace)
        self._namespace = namespace

    async def _set_documents(self, namespace: Namespace) -> None:
        problems = await namespace.set_documents(self._specs(), self.active_text)
        for name, reason in problems.items():
            self.emit(Notice(text=f"{name}: {reason}"))
            self.notes.append(f"Note: {name!r} could not be loaded: {reason}")

    async def _restore(self, namespace: Namespace) -> None:
        """Load the newest snapshot of the session that can be loaded; what is lost by that is told."""
        view = self.state.view()
        tried: set[int] = set()
        problems: set[str] = set()
        while info := next(
            (info for info in self.state.snapshots(view) if info.header.generation not in tried), None
        ):
            tried.add(info.header.generation)
            problem, not_loaded = await self._load(namespace, info)
            if problem and problem in problems:
                continue  # such as the Python version, which is that of all of them
            if problem:
                problems.add(problem)
                self._tell(f"{info} could not be restored: {problem} Going back to the one before it.")
                continue
            saved = next(saved for saved in view.snapshots if saved.generation == info.header.generation)
            lost = dict((*saved.skipped, *not_loaded))
            self.variables = tuple(row for row in saved.variables if row.name not in lost)
            if lost:
                listed = [f"{name} ({reason})" for name, reason in lost.items()]
                self._tell(f"Not restored: {', '.join(listed[:LISTED_SKIPPED])}.")
            break
        else:
            self.variables = ()
        restored = info.header.turn if info else 0
        behind = [past.ended.turn for past in view.turns if past.ended.steps and past.ended.turn > restored]
        if behind:
            what = (
                f"are those of turn {restored}, as no later snapshot" if info else "are gone, as no snapshot"
            )
            self._tell(f"The variables {what} is there to restore.")

    async def _load(
        self, namespace: Namespace, info: SnapshotInfo
    ) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Load a snapshot into the namespace.

        Returns why it could not be, empty when it could; and name and reason of what was left out then.
        """
        if info.header.python != self._python:
            return (
                f"it was made by Python {info.header.python}, and the sandbox has {self._python}, which "
                "cannot load it safely."
            ), ()
        try:
            pieces: Iterator[bytes] = await asyncio.to_thread(self.state.read_snapshot, info)
        except StateError as damaged:
            return f"{damaged.what} {damaged.why}", ()
        report = await namespace.restore(pieces)
        if "restored" in report:
            return "", report["lost"]
        damaged_blobs = await asyncio.to_thread(self.state.set_aside_damaged_blobs, info)
        if damaged_blobs:
            return f"{damaged_blobs:,} of the values that it needs were damaged on the disk.", ()
        return f"{str(report.get('reason', 'unknown'))[:400].removesuffix('.')}.", ()

    @property
    def _python(self) -> str:
        return self._box.python if self._box else ""

    def _tell(self, text: str) -> None:
        self.emit(Notice(text=text))
        self.notes.append(f"Note: {text}")

    def _final_sink(self) -> Sink:
        try:
            return FileSink(self.state.new_answer(self.turn))
        except StateError as error:
            return FailedSink(error)


def _why_not(result: SnapshotResult) -> str:
    """Why there is no snapshot."""
    if result.reason:
        return result.reason.removesuffix(".")
    name, reason = next(iter(result.skipped), ("", ""))
    return f"{name}: {reason}" if name else "nothing came back"


class _Incoming:
    """A snapshot on its way from a sandbox to the disk: the stream and the blobs.

    The sinks are asked for on the thread that reads the stream; what cannot be written takes everything and
    is told at `commit`.
    """

    def __init__(self, state: State, *, turn: int, box: Box, limit_bytes: int) -> None:
        self._state = state
        self._turn = turn
        self._box = box
        self._limit_bytes = limit_bytes
        self._stream: FileSink | FailedSink | None = None
        self._blobs: Arriving | FailedSink | None = None
        self._lock = threading.Lock()
        self._over = False

    def stream_sink(self) -> Sink:
        """A fresh place for the stream: an earlier one met something that cannot be saved."""
        with self._lock:
            self._abort_stream()
            try:
                self._require_time()
                with writing(self._state.path):
                    writer = self._state.new_snapshot(
                        self._turn,
                        python=self._box.python,
                        image=self._box.image,
                        protocol=protocol.VERSION,
                        dill=importlib.metadata.version("dill"),
                        limit_bytes=self._limit_bytes + SLACK_BYTES,
                    )
                self._stream = FileSink(writer)
            except StateError as error:
                self._stream = FailedSink(error)
            return self._stream

    def blob_sink(self, digest: str) -> Sink:
        """A place for a blob. Raises `ProtocolError` for one that cannot be."""
        with self._lock:
            if self._blobs is None:
                try:
                    self._require_time()
                    limit_bytes = ATTEMPTS * self._limit_bytes + SLACK_BYTES
                    self._blobs = self._state.new_blobs(limit_bytes=limit_bytes)
                except StateError as error:
                    self._blobs = FailedSink(error)
            return self._blobs if isinstance(self._blobs, FailedSink) else self._blobs.sink(digest)

    def _require_time(self) -> None:
        if self._over:
            raise StateError("Nobody waits for it any more.")

    def commit(self, result: SnapshotResult) -> tuple[SnapshotInfo, int]:
        """Put everything in its place, durably; returns the bytes that were written too.

        Raises `SandboxError` and `StateError`, and then nothing is left behind.
        """
        try:
            return self._commit(result)
        except BaseException:
            self.abort()
            raise

    def _commit(self, result: SnapshotResult) -> tuple[SnapshotInfo, int]:
        for sink in (self._blobs, self._stream):
            if isinstance(sink, FailedSink | FileSink) and sink.error:
                raise sink.error
        writer = self._writer
        if writer is None:
            raise SandboxError("It did not arrive.")
        if writer.sha256 != result.sha256:
            raise SandboxError("It did not arrive as it was sent.")
        needed = {digest for digest, _ in result.blobs}
        written_bytes = self._blobs.commit(needed) if isinstance(self._blobs, Arriving) else 0
        self._state.blobs.require(result.blobs)
        info = writer.commit(result.blobs)
        return info, written_bytes + info.size_bytes

    def abort(self) -> None:
        """Leave nothing behind."""
        with self._lock:
            self._over = True
            self._abort_stream()
            if isinstance(self._blobs, Arriving):
                self._blobs.abort()

    @property
    def _writer(self) -> SnapshotWriter | None:
        file = self._stream.file if isinstance(self._stream, FileSink) else None
        return file if isinstance(file, SnapshotWriter) else None

    def _abort_stream(self) -> None:
        if writer := self._writer:
            writer.abort()
