"""A container with the session's namespace in it, kept alive: started, restored, replaced, saved.

The engine runs cells through it and never sees a container. When the container is lost, another one is
started and the last snapshot restored, and the cell is reported as rolled back. A document that was agreed
to in the middle of a turn is mounted at the next cell boundary, which takes a new container too.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlm import protocol
from rlm.answers import FailedSink, FileSink
from rlm.box.container import NOBODY, Box, BoxConfig, ensure_image, find_image, reap, with_deadline
from rlm.box.engine_api import Engine
from rlm.box.namespace import Namespace, Serve
from rlm.box.results import CellResult
from rlm.box.wire import Sink
from rlm.documents import Document, Mount, Nothing, mount_plan, require_readable_inside
from rlm.errors import DocumentError, SandboxError, SandboxLost, StateError
from rlm.events import Event, NamespaceSaved, Notice, Progress
from rlm.records import SnapshotSaved, Variable
from rlm.settings import Config
from rlm.snapshots import SnapshotWriter
from rlm.state import State
from rlm.texts import Prepared, Text, prepare

BUILD_S = 3600.0
SLOW_CELL_S = 3.0


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
    _saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    _background: "asyncio.Task[None] | None" = None

    # -- life

    @property
    def running(self) -> bool:
        return self._box is not None and not self._box.lost

    async def start(self) -> None:
        """Start a container with the documents mounted and the last snapshot restored, unless one runs."""
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
        self._plan = self._plan_of(self.documents, texts=self.state.shown_texts())
        self._identities = {document.path: (document.device, document.inode) for document in self.documents}
        self._changed = False
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
        box, self._box, self._namespace = self._box, None, None
        if box:
            await box.close()
        engine, self._engine = self._engine, None
        if engine:
            engine.close()

    async def child(self, serve: Serve, context: str) -> Namespace:
        """A fresh namespace in the same container, with `context` as its context."""
        assert self._box is not None
        namespace = await self._box.open_namespace(serve)
        await namespace.set_documents(self._specs(), None)
        await namespace.set_context(context)
        return namespace

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

    async def save(self, turn: int) -> None:
        """Save the namespace under this turn. What cannot be saved is told by an event, never raised."""
        namespace, box = self._namespace, self._box
        if namespace is None or box is None or box.lost:
            return
        async with self._saving:
            started = time.monotonic()
            writers: list[SnapshotWriter] = []

            def open_sink() -> Sink:
                # Called again when a first attempt met something that cannot be saved.
                for writer in writers:
                    writer.abort()
                writer = self.state.new_snapshot(
                    turn,
                    python=box.python,
                    image=box.image,
                    protocol=protocol.VERSION,
                    dill=importlib.metadata.version("dill"),
                )
                writers[:] = [writer]
                return FileSink(writer)

            namespace.snapshot_sink = open_sink
            try:
                result, sink = await namespace.snapshot()
                if not result.ok or not isinstance(sink, FileSink):
                    raise SandboxError("The namespace was not saved.", result.reason or "Nothing came back.")
                if sink.error:
                    raise sink.error
                writer = writers[0]
                if result.sha256 and writer.sha256 != result.sha256:
                    raise SandboxError("The namespace was not saved.", "It did not arrive as it was sent.")
                info = await asyncio.to_thread(writer.commit)
            except (SandboxError, StateError) as error:
                for writer in writers:
                    with contextlib.suppress(StateError):
                        writer.abort()
                self.emit(Notice(text=f"{error.what} {error.why}"))
                return
            self.variables = tuple(Variable(**row) for row in result.variables)
            self.state.append(
                SnapshotSaved(
                    generation=info.header.generation,
                    turn=turn,
                    size_bytes=info.size_bytes,
                    sha256=writer.sha256,
                    skipped=result.skipped,
                    variables=self.variables,
                )
            )
            self.emit(
                NamespaceSaved(
                    size_bytes=info.size_bytes, skipped=result.skipped, duration_s=time.monotonic() - started
                )
            )

    def _save_soon(self) -> None:
        """Save while the turn goes on; not while an earlier save is under way."""
        if self._background is None or self._background.done():
            self._background = asyncio.create_task(self.save(self.turn))

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
        namespace = self._namespace = await self._box.open_namespace(self.serve)
        namespace.cells_run = self.first_cell
        namespace.final_sink = self._final_sink
        await self._fill(namespace)

    async def _fill(self, namespace: Namespace) -> None:
        """Documents, then the newest snapshot that can be restored."""
        await self._set_documents(namespace)
        await self._restore(namespace)

    async def _set_documents(self, namespace: Namespace) -> None:
        problems = await namespace.set_documents(self._specs(), self.active_text)
        for name, reason in problems.items():
            self.emit(Notice(text=f"{name}: {reason}"))
            self.notes.append(f"Note: {name!r} could not be loaded: {reason}")

    async def _restore(self, namespace: Namespace) -> None:
        view = self.state.view()
        recorded = {saved.generation: saved for saved in view.snapshots}
        for info in self.state.snapshots(view):
            if info.header.python != self._python:
                self._tell(
                    f"The snapshot of turn {info.header.turn} was made by Python {info.header.python}; the "
                    f"sandbox has {self._python}, which cannot load it safely."
                )
                continue
            try:
                pieces: Iterator[bytes] = await asyncio.to_thread(self.state.read_snapshot, info)
            except StateError as damaged:
                self._tell(f"{damaged.what} {damaged.why} Going back to the snapshot before it.")
                continue
            report = await namespace.restore(pieces)
            if "restored" not in report:
                self._tell(f"A snapshot could not be restored: {report.get('reason', 'unknown')}.")
                continue
            saved = recorded[info.header.generation]
            self.variables = saved.variables
            lost = [f"{name} ({reason})" for name, reason in saved.skipped]
            if lost:
                self._tell(f"Not restored, because it could not be saved: {', '.join(lost[:20])}.")
            return

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
