"""One session of one folder: puts config, state, models, sandbox and engine together, and runs turns.

The only place that names them all. `ask` yields the events of one turn and is what `chat`, `run`, `demo`
and the Python API consume; each event is also written to `events.jsonl` here, once, for `trace`.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlm import memory, prompts
from rlm.box.namespace import Request, RequestRefused
from rlm.box.wire import BytesSink
from rlm.consent import Consent, paths_in_question
from rlm.documents import Document, changes, expand, look
from rlm.engine import Bounds, Cells, Engine, Outcome
from rlm.errors import DocumentError, NoAnswer, RlmError, SandboxLost, StateError
from rlm.events import (
    LIVE_ONLY,
    Answer,
    AskConsent,
    Compacted,
    Event,
    Notice,
    TurnFinished,
    TurnStarted,
    Usage,
    to_json,
)
from rlm.ledger import Ledger
from rlm.models import ChatMessage, Model
from rlm.protocol import LoadFile, ReadHistory, SubCalls
from rlm.records import (
    ConsentGiven,
    DocumentsSet,
    MessageAdded,
    SessionStarted,
    SessionView,
    TurnBegan,
    TurnEnded,
)
from rlm.sandbox import FailedSink, FileSink, Sandbox
from rlm.settings import Config
from rlm.state import State
from rlm.subcalls import SubCallServer

ANSWER_TEXT_BYTES = 1024 * 1024
COUNTED_BYTES = 64 * 1024 * 1024
"""Lines are counted up front in documents of at most this size."""
SLOW_CELL_S = 3.0
"""After a cell of this length, or one that spent money, the namespace is saved in the middle of a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a session. `choose` finds one by alias or name, and refuses what is not configured."""

    root: Model
    sub: Model
    choose: Callable[[str], Model]


@dataclass(slots=True)
class Session:
    """Needs the lock on `state`. `asks` tells whether somebody is there to answer `AskConsent`."""

    config: Config
    state: State
    models: Models
    cwd: Path
    asks: bool = False

    sandbox: Sandbox = field(init=False)
    consent: Consent = field(init=False)
    documents: list[Document] = field(init=False)
    _events: "asyncio.Queue[Event | None]" = field(default_factory=asyncio.Queue)
    _engine: Engine | None = None
    _server: SubCallServer | None = None
    _interrupted: bool = False
    _saving: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        view = self.state.view()
        if not view.session:
            view.add(_begin(self.state))
        self.documents = [Document.from_json(row) for row in view.documents]
        agreed = [Path(path) for path in view.consents]
        agreed += [document.mount for document in self.documents]
        self.consent = Consent([*agreed, *self.config.allow], state_dir=self.state.path)
        self.sandbox = Sandbox(
            config=self.config,
            state=self.state,
            emit=self._emit,
            serve=self._serve,
            documents=self.documents,
            active=view.active,
            session=view.session,
            first_cell=sum(turn.ended.steps for turn in view.turns),
        )

    # -- documents

    def load(self, paths: Sequence[str], *, replace: bool = False, name: str | None = None) -> list[Document]:
        """Register files, folders and patterns that the user named. Raises `DocumentError`."""
        added, documents, _ = register(self.state, paths, cwd=self.cwd, replace=replace, name=name)
        self.documents = documents
        for document in added:
            self.consent.add(document.mount)
        self.sandbox.add_documents(documents, active=added[0].name if added else self.sandbox.active)
        return added

    def _refresh(self) -> None:
        """Look again at what is loaded: tell what changed, leave out what is gone."""
        present: list[Document] = []
        for document in self.documents:
            change = changes(document)
            if change == "unchanged":
                present.append(document)
                continue
            try:
                if change == "missing":
                    raise DocumentError(f"{document.path} is gone.")
                again = look(document.path, name=document.name, mount=document.mount)
            except DocumentError as error:
                self._tell(f"{document.name!r} is left out: {error.what}")
                continue
            if document.mount == document.path and again.path != document.path:
                self._tell(f"{document.name!r} is left out: its path leads elsewhere.")
                continue
            self._tell(
                f"{document.name!r} has {change} on disk since it was loaded; this is the present one."
            )
            present.append(again)
        if present != self.documents:
            self.documents = present
            names = [document.name for document in present]
            active = self.sandbox.active if self.sandbox.active in names else next(iter(names), None)
            self.state.append(_documents_record(present, active))
            self.sandbox.add_documents(present, active=active)

    # -- turns

    async def ask(self, question: str) -> AsyncIterator[Event]:
        """Run one turn. The last `TurnFinished` of depth 0 carries the answer; saving goes on after it."""
        self._interrupted = False
        turn = asyncio.create_task(self._turn(question))
        turn.add_done_callback(lambda _: self._events.put_nowait(None))
        try:
            while (event := await self._events.get()) is not None:
                yield event
            await turn
        finally:
            if not turn.done():
                turn.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await turn

    def interrupt(self) -> None:
        """Stop the turn; variables and what was paid for are kept."""
        self._interrupted = True
        if self._engine:
            self._engine.interrupt()

    async def close(self) -> None:
        if self._saving:
            await self._saving
        await self.sandbox.close()

    async def _turn(self, question: str) -> None:
        started = time.monotonic()
        view = self.state.view()
        turn = self.sandbox.turn = view.next_turn
        self.state.append(TurnBegan(turn=turn, question=question))
        self._emit(TurnStarted(turn=turn, question=question))
        limits = self.config.limits
        ledger = Ledger(
            max_cost_usd=limits.max_cost_usd, max_tokens=limits.max_tokens, max_sub_calls=limits.max_sub_calls
        )
        messages: list[ChatMessage] = []
        try:
            outcome = await self._answer(question, view, turn, ledger, messages)
        except RlmError as problem:
            outcome = Outcome(steps=0, problem=problem)
        await self._finish(
            question, outcome, view=view, turn=turn, ledger=ledger, messages=messages, t0=started
        )

    async def _answer(
        self, question: str, view: SessionView, turn: int, ledger: Ledger, messages: list[ChatMessage]
    ) -> Outcome:
        if typed := [path for path in paths_in_question(question, self.cwd) if not self._is_loaded(path)]:
            self.load([str(path) for path in typed])
        self._refresh()
        await self.sandbox.start()
        limits = self.config.limits
        self._server = SubCallServer(
            sub=self.models.sub,
            choose=self.models.choose,
            ledger=ledger,
            parallel=limits.parallel,
            max_depth=limits.max_depth,
            emit=self._emit,
            child=self._child,
        )

        def keep(message: ChatMessage) -> None:
            messages.append(message)
            self.state.append(MessageAdded(turn=turn, role=message["role"], content=message["content"]))

        self._engine = Engine(
            root=self.models.root,
            cells=_SavingCells(self, ledger, turn),
            ledger=ledger,
            bounds=Bounds(max_steps=limits.max_steps, timeout_s=limits.timeout_s),
            emit=self._emit,
            messages=[self._system(), *memory.conversation(view, compaction=self.config.compaction)],
            on_message=keep,
        )
        opening = memory.opening(
            question,
            self.documents,
            active=self.sandbox.active,
            lines=_count_lines(self.documents),
            variables=self.sandbox.variables,
            notes=self.sandbox.notes,
        )
        self.sandbox.notes.clear()
        try:
            if self._interrupted:
                self._engine.interrupt()
            return await self._engine.run(opening)
        finally:
            self._engine = None

    async def _finish(
        self,
        question: str,
        outcome: Outcome,
        *,
        view: SessionView,
        turn: int,
        ledger: Ledger,
        messages: list[ChatMessage],
        t0: float,
    ) -> None:
        problem = outcome.problem
        answer: Answer | None = None
        try:
            answer = self._write_answer(outcome, turn)
        except StateError as error:
            problem = error
        if problem is None and answer is None:
            problem = NoAnswer("The root model gave no answer.")
        status = problem.status if problem else "ok"
        if answer:
            with contextlib.suppress(SandboxLost):
                await self.sandbox.keep_answer(None if outcome.value is not None else answer.text)
        summary = ""
        if self.config.compaction:
            summary = memory.summary(
                turn,
                question,
                messages[1:],
                answer=answer.text if answer else "",
                status=status,
                answer_index=sum(1 for past in view.turns if past.ended.answer) if answer else None,
                variables=self.sandbox.variables,
            )
        duration_s = time.monotonic() - t0
        self.state.append(
            TurnEnded(
                turn=turn,
                status=status,
                steps=outcome.steps,
                answer=Path(answer.path).name if answer else None,
                answer_format=answer.format if answer else "text",
                answer_bytes=answer.size_bytes if answer else 0,
                summary=summary,
                usage=ledger.usage,
                by_model=ledger.by_model(),
                duration_s=duration_s,
            )
        )
        self.sandbox.first_cell += outcome.steps
        self._emit(
            TurnFinished(
                turn=turn,
                status=status,
                steps=outcome.steps,
                answer=answer,
                usage=ledger.usage,
                session_usage=view.usage + ledger.usage,
                duration_s=duration_s,
                message=f"{problem.what} {problem.why}".strip() if problem else "",
                error=type(problem).__name__ if problem else "",
                hint=problem.hint if problem else "",
            )
        )
        if summary:
            before = sum(len(message["content"]) for message in messages)
            self._emit(Compacted(turn=turn, before_chars=before, after_chars=len(summary)))
        await self._save(turn)

    def _write_answer(self, outcome: Outcome, turn: int) -> Answer | None:
        """The answer as a file of the state folder. Raises `StateError` when it cannot be kept."""
        sink = outcome.value
        if isinstance(sink, FailedSink):
            raise sink.error
        if isinstance(sink, FileSink):
            if sink.error:
                raise sink.error
            sink.file.commit()
        elif outcome.text is not None or isinstance(sink, BytesSink):
            data = sink.data if isinstance(sink, BytesSink) else (outcome.text or "").encode()
            with self.state.new_answer(turn) as file:
                file.write(data)
        else:
            return None
        path = self.state.answer_path(turn)
        with path.open("rb") as written:
            head = written.read(ANSWER_TEXT_BYTES)
        size_bytes = path.stat().st_size
        return Answer(
            path=str(path),
            size_bytes=size_bytes,
            format=outcome.format,
            text=head.decode("utf-8", "replace"),
            complete=size_bytes <= ANSWER_TEXT_BYTES,
        )

    async def _save(self, turn: int) -> None:
        if self._saving and not self._saving.done():
            await self._saving
        await self.sandbox.save(turn)

    def save_soon(self, turn: int) -> None:
        """Save in the background, in the middle of a turn; not while an earlier save is under way."""
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self.sandbox.save(turn))

    # -- what cells ask for

    async def _serve(self, request: Request, body: bytes, *, depth: int = 0) -> bytes:
        match request:
            case SubCalls():
                if self._server is None:
                    raise RequestRefused("no question is being answered")
                return await self._server.serve(request, body, depth=depth)
            case LoadFile():
                return await self._load_for_cell(request.path)
            case ReadHistory():
                return json.dumps(self._history()).encode()

    def _history(self) -> list[dict[str, object]]:
        rows = memory.history(self.state.view())
        if self._engine:
            turn = self.sandbox.turn
            current = [message for message in self._engine.messages if message["role"] != "system"]
            rows += [{"turn": turn, **message} for message in current]
        return rows

    async def _load_for_cell(self, path: str) -> bytes:
        """A cell asked for a file that is not among the documents. Raises `RequestRefused`."""
        try:
            real = self.consent.check(path, self.cwd)
            if not self.consent.allows(real) and not await self._ask_consent(path, real):
                raise RequestRefused(
                    f"{path}: the user has not agreed to it. They can: rlm init {path}, or -f {path}, or "
                    f"by naming it as @{path} in the question, or a folder under allow in config.json."
                )
            self.consent.add(real)
            added = self.load([str(real)])
        except DocumentError as error:
            raise RequestRefused(str(error)) from None
        if any(document.mount not in self._mounted() for document in added):
            raise RequestRefused(
                f"{path}: agreed, and there from the next step on. Call load_file({path!r}) again in your "
                "next block."
            )
        return self.sandbox.specs_of(added)

    def _mounted(self) -> set[Path]:
        return {mount.source for mount in self.sandbox._plan}

    async def _ask_consent(self, path: str, real: Path) -> bool:
        if not self.asks:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        reason = self.consent.sensitive(real)
        self._emit(AskConsent(path=path, real_path=str(real), reason=reason, answer=answer))
        return await answer

    async def _child(self, query: str, context: str, *, depth: int) -> str:
        """A child RLM: its own namespace and steps; the ledger, the container and the clock are shared."""
        assert self._server is not None
        ledger = self._server.ledger

        async def serve(request: Request, body: bytes) -> bytes:
            return await self._serve(request, body, depth=depth)

        started = time.monotonic()
        turn = self.sandbox.turn
        self._emit(TurnStarted(turn=turn, question=query, depth=depth))
        namespace = await self.sandbox.child(serve, context)
        limits = self.config.limits
        engine = Engine(
            root=self.models.sub,
            cells=namespace,
            ledger=ledger,
            bounds=Bounds(max_steps=limits.max_steps, timeout_s=limits.timeout_s),
            emit=self._emit,
            messages=[self._system()],
            depth=depth,
        )
        opening = prompts.fill(
            "question",
            documents=f"`context` holds {len(context):,} characters.",
            namespace="The namespace holds no variables yet.",
            question=query,
        )
        try:
            outcome = await engine.run(opening)
        finally:
            namespace.close()
        text = outcome.value.data.decode() if isinstance(outcome.value, BytesSink) else outcome.text
        self._emit(
            TurnFinished(
                turn=turn,
                status=outcome.problem.status if outcome.problem else "ok",
                steps=outcome.steps,
                answer=None,
                usage=ledger.usage,
                session_usage=ledger.usage,
                duration_s=time.monotonic() - started,
                message=str(outcome.problem or ""),
                depth=depth,
            )
        )
        if text is None:
            raise outcome.problem or NoAnswer("The child RLM gave no answer.")
        return text

    # -- small things

    def _system(self) -> ChatMessage:
        limits = self.config.limits
        window = self.models.sub.context_window
        grows = limits.max_depth > 1
        text = prompts.fill(
            "system",
            max_steps=limits.max_steps,
            cell_timeout=f"{limits.cell_timeout_s:.0f}",
            memory=f"{self.config.sandbox.memory_bytes / 1024**3:.1f} GiB",
            sub_model=self.models.sub.name,
            sub_chars=f"{window * 3:,} characters" if window else "an unknown number of characters",
            rlm_note=(
                "like llm_query, but a child RLM with a REPL of its own works on `context`, step by step. "
                "Dearer and slower: for pieces that need code or several looks."
                if grows
                else "here the same as llm_query on the prompt followed by the context."
            ),
        )
        return ChatMessage(role="system", content=text)

    def _is_loaded(self, path: Path) -> bool:
        real = path.resolve()
        return any(document.path == real for document in self.documents)

    def _tell(self, text: str) -> None:
        self._emit(Notice(text=text))
        self.sandbox.notes.append(f"Note: {text}")

    def _emit(self, event: Event) -> None:
        if not isinstance(event, LIVE_ONLY):
            row = {"ts": _now(), "session": self.sandbox.session, "turn": self.sandbox.turn, **to_json(event)}
            try:
                self.state.events.append(row)
            except StateError as error:
                if not isinstance(event, Notice):
                    self._events.put_nowait(Notice(text=f"The trace is not written. {error.why}"))
        self._events.put_nowait(event)


@dataclass(slots=True)
class _SavingCells(Cells):
    """The sandbox's cells, with a save after one that took long or cost money."""

    session: Session
    ledger: Ledger
    turn: int

    async def run_cell(self, code: str, on_output: Callable[[str], None]):  # type: ignore[no-untyped-def]
        before = self.ledger.usage
        result = await self.session.sandbox.run_cell(code, on_output)
        paid = self.ledger.usage.sub_calls > before.sub_calls
        if result.status in ("ok", "error", "interrupted") and (paid or result.duration_s > SLOW_CELL_S):
            self.session.save_soon(self.turn)
        return result

    def interrupt(self, why: str = "user") -> None:
        self.session.sandbox.interrupt(why)


def register(
    state: State, paths: Sequence[str], *, cwd: Path, replace: bool = False, name: str | None = None
) -> tuple[list[Document], list[Document], tuple[tuple[str, str], ...]]:
    """Add what `paths` name to the session's documents; returns the added ones, all, and what was left out.

    A path that is registered already is looked at again and keeps its name. Raises `DocumentError`.
    """
    view = state.view()
    if not view.session:
        _begin(state)
    old = [] if replace else [Document.from_json(row) for row in view.documents]
    expansion = expand(paths, cwd=cwd, state_dir=state.path, taken=[document.name for document in old])
    if not expansion.documents:
        raise DocumentError(
            "There is nothing to read.",
            "; ".join(f"{path}: {reason}" for path, reason in expansion.skipped[:3]) or "Nothing was found.",
        )
    return *add_documents(state, expansion.documents, old, name=name), expansion.skipped


def add_documents(
    state: State, found: Sequence[Document], old: Sequence[Document], *, name: str | None = None
) -> tuple[list[Document], list[Document]]:
    """Record `found` beside `old`; returns the added ones as named, and all."""
    names = {document.path: document.name for document in old}
    added = [
        dataclasses.replace(document, name=names.get(document.path, document.name)) for document in found
    ]
    if name is not None:
        if len(added) != 1:
            raise DocumentError("--name is for one file.", f"{len(added)} files were given.")
        if name in {document.name for document in old if document.path != added[0].path}:
            raise DocumentError(f"The name {name!r} is taken.", hint="Choose another, or use --replace.")
        added = [dataclasses.replace(added[0], name=name)]
    paths = {document.path for document in added}
    documents = [document for document in old if document.path not in paths] + added
    for document in added:
        state.append(ConsentGiven(path=str(document.path)))
    state.append(_documents_record(documents, added[0].name if added else None))
    return added, documents


def _documents_record(documents: Sequence[Document], active: str | None) -> DocumentsSet:
    return DocumentsSet(documents=tuple(document.to_json() for document in documents), active=active)


def _begin(state: State) -> SessionStarted:
    record = SessionStarted(session=secrets.token_hex(3), created=_now())
    state.append(record)
    return record


def new_session(state: State) -> None:
    """Begin afresh in the same folder: documents stay, turns and variables do not."""
    _begin(state)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _count_lines(documents: Sequence[Document]) -> dict[str, int]:
    counts = {}
    for document in documents[: memory.LISTED_DOCUMENTS]:
        if document.size_bytes <= COUNTED_BYTES and not document.compression:
            with contextlib.suppress(OSError), document.path.open("rb") as file:
                counts[document.name] = sum(
                    block.count(b"\n") for block in iter(lambda: file.read(1024 * 1024), b"")
                )
    return counts


__all__ = ["Models", "Session", "Usage", "new_session", "register"]
