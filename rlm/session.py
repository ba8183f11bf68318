"""One session of one folder: puts config, state, models and sandbox together, and runs turns.

What happens in a turn is `rlm.turn`'s. `ask` yields the events of one turn and is what `chat`, `run`, `demo`
and the Python API consume; each event is also written to `events.jsonl` here, once, for `trace`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlm import memory
from rlm.accept import Accept, Acceptance
from rlm.call_cache import CallCache
from rlm.consent import Consent, paths_in_question
from rlm.documents import Document
from rlm.errors import StateError
from rlm.events import LIVE_ONLY, AskInterrupted, Compacted, Event, Notice, Progress, Resume, to_json
from rlm.line_counts import LineCounts
from rlm.models import Model
from rlm.records import SessionView, TurnsCompacted
from rlm.register import begin_session, now, record_documents, refreshed, register
from rlm.requests import CellRequests
from rlm.retry import Retry
from rlm.root_calls import chars
from rlm.sandbox import Sandbox
from rlm.settings import Config
from rlm.state import State
from rlm.texts import Text, known_texts
from rlm.turn import TurnRun, room_for_earlier
from rlm.user_input import UserInput


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
    loads_typed_paths: bool = True
    """A path in a question is loaded: whoever typed the question agrees to it."""

    sandbox: Sandbox = field(init=False)
    consent: Consent = field(init=False)
    documents: list[Document] = field(init=False)
    _events: "asyncio.Queue[Event | None]" = field(default_factory=asyncio.Queue)
    _turn: TurnRun | None = None
    _user: UserInput = field(default_factory=UserInput)
    _requests: CellRequests = field(init=False)
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

    async def ask(self, question: str, accept: Accept | None = None) -> AsyncIterator[Event]:
        """Run one turn. `TurnFinished` carries the answer; saving goes on after it.

        An answer that `accept` gives a reason against is handed back to the root model with it. One that
        never fits ends the turn as `no_answer`, with its text as the answer.
        """
        self._user = UserInput(ask=self._ask_how_to_go_on if self.asks else None)
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._events = events
        self._turn = self._run(question, accept)
        turn = asyncio.create_task(self._turn.run())
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
            self._turn = None

    def interrupt(self) -> None:
        """Stop the reply or the cell under way; variables and what was paid for are kept.

        With `asks`, `AskInterrupted` then asks how the turn goes on; else it ends.
        """
        self._user.stop.set()
        if self._turn and self._turn.engine:
            self._turn.engine.interrupt()

    def say(self, text: str) -> None:
        """Tell the root model of the turn under way something, with the next request to it."""
        self._user.say(text)

    def take_leftover(self) -> str:
        """What was said too late for the turn that ended, line by line; it is not kept after that."""
        return self._user.take()

    async def close(self) -> None:
        self._lines.stop()
        try:
            await self.sandbox.close()
        finally:
            if self._calls:
                self._calls.close()

    def _run(self, question: str, accept: Accept | None) -> TurnRun:
        return TurnRun(
            question=question,
            config=self.config,
            state=self.state,
            root=self.models.root,
            sub=self.models.sub,
            choose=self.models.choose,
            retry=self.models.retry,
            sandbox=self.sandbox,
            requests=self._requests,
            lines=self._lines,
            calls=self._calls,
            user=self._user,
            accepts=Acceptance(accept),
            emit=self._emit,
            load_documents=self._load_documents,
            asks=self.asks,
        )

    async def _load_documents(self, question: str) -> None:
        if self.loads_typed_paths:
            # In threads: a folder of thousands of files takes a while, and Ctrl-C is heard meanwhile.
            typed = await asyncio.to_thread(paths_in_question, question, self.cwd)
            if unloaded := [str(path) for path in typed if not self._is_loaded(path)]:
                self._emit(Progress(text="loading documents"))
                await asyncio.to_thread(self.load, unloaded)
        self._refresh()

    async def _ask_how_to_go_on(self, step: int) -> Resume:
        answer: asyncio.Future[Resume] = asyncio.get_running_loop().create_future()
        self._emit(AskInterrupted(step=step, answer=answer))
        return await answer

    # -- what is kept of earlier turns

    def compact(self) -> tuple[int, int]:
        """Tell all earlier turns in their shortest form from now on; not for while a question is answered.

        Returns how many characters the root model would have been sent of them, and how many now. Raises
        `StateError`.
        """
        view = self.state.view()
        before = self._told_chars(view)
        if not view.turns:
            return before, before
        turn = view.turns[-1].ended.turn
        self.state.append(TurnsCompacted(turn=turn))
        after = self._told_chars(self.state.view())
        self._emit(Compacted(turn=turn, before_chars=before, after_chars=after, what="session"))
        return before, after

    def memory(self) -> list[memory.MemoryRow]:
        """What is kept of earlier turns: the messages that the root model would be sent, then what is data.

        The first look at the model's window waits for litellm.
        """
        return memory.rows(
            self.state.view(),
            compaction=self.config.compaction,
            variables=self.sandbox.variables,
            limit_tokens=self._room(),
        )

    def _told_chars(self, view: SessionView) -> int:
        told = memory.conversation(view, compaction=self.config.compaction, limit_tokens=self._room())
        return chars(told)

    def _room(self) -> int:
        return room_for_earlier(self.models.root)

    # -- small things

    def _history(self) -> list[dict[str, object]]:
        """Every message of the session, those of the turn under way too."""
        rows = memory.history(self.state.view())
        said = self._turn.said if self._turn else []
        return rows + [{"turn": self.sandbox.turn, **message} for message in said]

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
