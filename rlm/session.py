"""One session of one folder: puts config, state, models, sandbox and engine together, and runs turns.

The only place that names them all. `ask` yields the events of one turn and is what `chat`, `run`, `demo`
and the Python API consume; each event is also written to `events.jsonl` here, once, for `trace`.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlm import memory
from rlm.answers import write_answer
from rlm.call_cache import CallCache
from rlm.caps import bounds_for, ledger_for, require_first_reply
from rlm.children import share_of
from rlm.consent import Consent, paths_in_question
from rlm.documents import Document
from rlm.engine import Engine, Outcome
from rlm.errors import NoAnswer, RlmError, SandboxLost, StateError
from rlm.events import (
    LIVE_ONLY,
    Answer,
    Compacted,
    Event,
    Notice,
    TurnFinished,
    TurnStarted,
    to_json,
)
from rlm.ledger import Ledger
from rlm.line_counts import LineCounts
from rlm.models import ChatMessage, Model
from rlm.records import MessageAdded, SessionView, TurnBegan, TurnEnded, TurnUndone
from rlm.register import begin_session, now, record_documents, refreshed, register
from rlm.requests import CellRequests
from rlm.retry import Retry
from rlm.sandbox import Sandbox
from rlm.settings import Config
from rlm.state import State
from rlm.subcalls import SubCallServer
from rlm.texts import Text, known_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a session. `choose` finds one by alias or name, and refuses what is not configured."""

    root: Model
    sub: Model
    choose: Callable[[str], Model]
    retry: Retry = field(default_factory=Retry)


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
    _requests: CellRequests = field(init=False)
    _interrupted: bool = False
    _lines: LineCounts = field(init=False)
    _calls: CallCache | None = field(init=False)

    def __post_init__(self) -> None:
        view = self.state.view()
        if not view.session:
            view.add(begin_session(self.state))
        self.documents = [Document.from_json(row) for row in view.documents]
        agreed = [Path(path) for path in view.consents]
        agreed += {document.mount for document in self.documents}
        self.consent = Consent([*agreed, *self.config.allow], state_dir=self.state.path)
        self._requests = CellRequests(
            config=self.config,
            consent=self.consent,
            cwd=self.cwd,
            emit=self._emit,
            load=self.load,
            history=self._history,
            asks=self.asks,
        )
        self._lines = LineCounts(self.state.texts(limit_bytes=self.config.sandbox.cache_bytes))
        limit_bytes = self.config.limits.call_cache_bytes
        self._calls = (
            CallCache(self.state.cache_path, limit_bytes=limit_bytes, emit=self._emit)
            if limit_bytes
            else None
        )
        self.sandbox = self._requests.sandbox = Sandbox(
            config=self.config,
            state=self.state,
            emit=self._emit,
            serve=self._requests.serve,
            documents=self.documents,
            active=view.active,
            session=view.session,
            variables=view.variables,
            first_cell=sum(turn.ended.steps for turn in view.turns),
        )

    # -- documents

    def load(self, paths: Sequence[str], *, replace: bool = False, name: str | None = None) -> list[Document]:
        """Register files, folders and patterns that the user named. Raises `DocumentError`."""
        registered = register(
            self.state, paths, cwd=self.cwd, environ=self.config.environ, replace=replace, name=name
        )
        added, self.documents = registered.added, registered.documents
        for document in added:
            self.consent.add(document.mount)
        self.sandbox.add_documents(self.documents, active=added[0].name if added else self.sandbox.active)
        return added

    def known_texts(self) -> list[Text]:
        """The texts of the documents, as far as they are made."""
        return known_texts(
            self.documents, cache=self.state.texts(limit_bytes=self.config.sandbox.cache_bytes)
        )

    def _refresh(self) -> None:
        """Look again at what is loaded: tell what changed, leave out what is gone."""
        present, notes = refreshed(self.documents)
        for note in notes:
            self._tell(note)
        if present != self.documents:
            names = [document.name for document in present]
            active = self.sandbox.active or ""
            if not any(active == name or active.startswith(f"{name}/") for name in names):
                active = next(iter(names), "")
            self.documents = present
            record_documents(self.state, present, active=active or None)
            self.sandbox.add_documents(present, active=active or None)

    # -- turns

    def undo(self) -> int | None:
        """Take back the last turn, finished or not; returns its number, None when there is none.

        Documents, messages and answers are those of before it, and from the next question on the variables
        too. What it cost, and what it was allowed to read, stays. Not for while a question is answered.
        Raises `StateError`.
        """
        last = self.state.view().last
        for record in self.state.view().to_take_back():
            self.state.append(record)
        if last is None:
            return None
        view = self.state.view()
        self.documents = [Document.from_json(row) for row in view.documents]
        self.sandbox.discard(
            documents=self.documents,
            active=view.active,
            first_cell=sum(turn.ended.steps for turn in view.turns),
            variables=view.variables,
        )
        return last.turn

    def retry(self) -> str | None:
        """Take back the last turn and return its question, to be asked again; None when there is none."""
        last = self.state.view().last
        if last is None or not last.question:
            return None
        self.undo()
        return last.question

    async def ask(self, question: str) -> AsyncIterator[Event]:
        """Run one turn. `TurnFinished` carries the answer; saving goes on after it."""
        self._interrupted = False
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._events = events
        turn = asyncio.create_task(self._turn(question))
        turn.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
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
        self._lines.stop()
        try:
            await self.sandbox.close()
        finally:
            if self._calls:
                self._calls.close()

    async def _turn(self, question: str) -> None:
        started = time.monotonic()
        view = self.state.view()
        turn = self.sandbox.turn = view.next_turn
        self.state.append(TurnBegan(turn=turn, question=question))
        self._emit(TurnStarted(turn=turn, question=question))
        ledger = ledger_for(self.config.limits, view)
        messages: list[ChatMessage] = []
        try:
            outcome = await self._answer(question, view, turn, ledger, messages)
        except RlmError as problem:
            outcome = Outcome(steps=0, problem=problem)
        except asyncio.CancelledError:
            self._abandon(turn, ledger, duration_s=time.monotonic() - started)
            raise
        await self._finish(
            question, outcome, view=view, turn=turn, ledger=ledger, messages=messages, t0=started
        )

    async def _answer(
        self, question: str, view: SessionView, turn: int, ledger: Ledger, messages: list[ChatMessage]
    ) -> Outcome:
        limits = self.config.limits
        bounds = bounds_for(limits, view)

        def beginning() -> list[ChatMessage]:
            system = memory.system(self.config, self.models.sub)
            return [system, *memory.conversation(view, compaction=self.config.compaction)]

        await require_first_reply(limits, self.models.root, question, ledger, beginning=beginning)
        if typed := [path for path in paths_in_question(question, self.cwd) if not self._is_loaded(path)]:
            self.load([str(path) for path in typed])
        self._refresh()
        await self.sandbox.start()
        server = self._requests.server = SubCallServer(
            sub=self.models.sub,
            choose=self.models.choose,
            settings=self.config.named,
            ledger=ledger,
            retry=self.models.retry,
            max_depth=limits.max_depth,
            max_children=share_of(self.config).at_once,
            confirm_above_usd=limits.confirm_above_usd,
            asks=self.asks,
            emit=self._emit,
            cache=self._calls,
            child=self._requests.child,
        )

        self.sandbox.paid_calls = lambda: ledger.usage.sub_calls

        def keep(message: ChatMessage) -> None:
            messages.append(message)
            self.state.append(MessageAdded(turn=turn, role=message["role"], content=message["content"]))

        engine = self._engine = Engine(
            root=self.models.root,
            cells=self.sandbox,
            ledger=ledger,
            bounds=bounds,
            emit=self._emit,
            messages=beginning(),
            on_message=keep,
            close_calls=server.close,
        )
        server.extend = engine.extend
        self._requests.deadline = lambda: engine.deadline_s
        texts = self.sandbox.prepared.texts
        opening = memory.opening(
            question,
            texts,
            active=self.sandbox.active_text,
            lines=await self._lines.count_small(texts[: memory.LISTED_DOCUMENTS]),
            variables=self.sandbox.variables,
            notes=self.sandbox.notes,
        )
        self.sandbox.notes.clear()
        self._lines.count_rest(texts)
        try:
            if self._interrupted:
                self._engine.interrupt()
            return await self._engine.run(opening)
        finally:
            self._engine = None

    def _abandon(self, turn: int, ledger: Ledger, *, duration_s: float) -> None:
        """The user gave the turn up: what it cost is kept, the turn itself is not."""
        self._record_end(turn, ledger, status="interrupted", duration_s=duration_s)
        self.state.append(TurnUndone(turn=turn))

    def _record_end(
        self,
        turn: int,
        ledger: Ledger,
        *,
        status: str,
        duration_s: float,
        steps: int = 0,
        answer: Answer | None = None,
        summary: str = "",
    ) -> None:
        self.state.append(
            TurnEnded(
                turn=turn,
                status=status,
                steps=steps,
                answer=Path(answer.path).name if answer else None,
                answer_format=answer.format if answer else "text",
                answer_bytes=answer.size_bytes if answer else 0,
                summary=summary,
                usage=ledger.usage,
                by_model=ledger.by_model(),
                duration_s=duration_s,
            )
        )

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
            answer = write_answer(
                outcome.value, outcome.text, form=outcome.format, state=self.state, turn=turn
            )
        except StateError as error:
            problem = error
        if problem is None and answer is None:
            problem = NoAnswer("The root model gave no answer.")
        status = problem.status if problem else "ok"
        if answer:
            with contextlib.suppress(SandboxLost):
                await self.sandbox.keep_answer(None if outcome.value is not None else answer.text)
        with contextlib.suppress(SandboxLost):
            await self.sandbox.list_variables()
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
        try:
            self._record_end(
                turn,
                ledger,
                status=status,
                duration_s=duration_s,
                steps=outcome.steps,
                answer=answer,
                summary=summary,
            )
        except StateError as error:
            # The answer is shown all the same; the turn stays one that was not finished.
            problem = problem or error
            status = problem.status
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
        await self.sandbox.save(turn)

    # -- small things

    def _history(self) -> list[dict[str, object]]:
        """Every message of the session, those of the turn under way too."""
        rows = memory.history(self.state.view())
        if self._engine:
            current = [message for message in self._engine.messages if message["role"] != "system"]
            rows += [{"turn": self.sandbox.turn, **message} for message in current]
        return rows

    def _is_loaded(self, path: Path) -> bool:
        real = path.resolve()
        return any(document.path == real for document in self.documents)

    def _tell(self, text: str) -> None:
        self._emit(Notice(text=text))
        self.sandbox.notes.append(f"Note: {text}")

    def _emit(self, event: Event) -> None:
        if not isinstance(event, LIVE_ONLY):
            row = {"ts": now(), "session": self.sandbox.session, "turn": self.sandbox.turn, **to_json(event)}
            try:
                self.state.events.append(row)
            except StateError as error:
                if not isinstance(event, Notice):
                    self._events.put_nowait(Notice(text=f"The trace is not written. {error.why}"))
        self._events.put_nowait(event)
