"""One session of the Python API: its folder, its documents, its questions, one at a time.

All of it runs on the loop of `rlm.loop_thread`; `rlm.api` calls it from other threads.
"""

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rlm.accept import Accept
from rlm.answer_schema import AnswerSchema
from rlm.api_answer import Answer, answer_of
from rlm.api_settings import StrPath
from rlm.documents import Document, look
from rlm.errors import Interrupted, UsageError
from rlm.events import LIVE_ONLY, Event, TurnFinished, to_json
from rlm.models import preload
from rlm.register import add_documents, now
from rlm.session import Models, Session
from rlm.settings import Config
from rlm.state import State
from rlm.text_probe import one_line

Files = StrPath | Sequence[StrPath] | Mapping[str, str | bytes]
"""Paths, patterns or addresses; or the documents themselves, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, over which documents beside those of before, and what counts as an answer."""

    text: str
    files: Files | None = None
    schema: AnswerSchema | None = None
    accept: Accept | None = None


@dataclass(slots=True, kw_only=True)
class Conversation:
    """`state_dir` None: the session has a temporary folder, removed with `close`."""

    config: Config
    models: Models
    state_dir: Path | None
    cwd: Path
    last: Answer | None = None
    """The answer to the question that ended last, also of one that failed."""

    _session: Session | None = None
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _turns: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asking: "asyncio.Task[Any] | None" = None
    _stopped: bool = False

    async def open(self) -> None:
        """Take the folder. Raises `StateError`, or `StateLocked` when another command has it."""
        async with self._turns:
            self._open()

    async def ask(self, question: Question, tell: Callable[[Event], None]) -> Answer:
        """Ask once those before have ended; `tell` gets each event. Cancelled, the turn is abandoned.

        Raises `RlmError` for what comes before the turn; how the turn itself fails is in the answer.
        """
        async with self._turns:
            self._asking, self._stopped = asyncio.current_task(), False
            try:
                return await self._ask(self._open(), question, tell)
            finally:
                self._asking = None

    def interrupt(self) -> None:
        """Stop the question under way; its variables and what was paid for are kept."""
        self._stopped = True
        if self._session:
            self._session.interrupt()

    async def close(self) -> None:
        """Abandon the question under way, end the container and let go of the folder."""
        if self._asking:
            self._asking.cancel()
        async with self._turns:
            session, self._session = self._session, None
            try:
                if session:
                    await session.close()
            finally:
                self._held.close()

    def _open(self) -> Session:
        if self._session is None:
            preload()
            with contextlib.ExitStack() as held:
                folder = self.state_dir
                if folder is None:
                    folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="rlm-"))) / "state"
                state = State.open(folder, create=True)
                held.enter_context(state.lock(command="a Python program"))
                # A question comes from a program, which may have it from anyone: it opens no file.
                self._session = Session(
                    config=self.config,
                    state=state,
                    models=self.models,
                    cwd=self.cwd,
                    loads_typed_paths=False,
                )
                self._held = held.pop_all()
        return self._session

    async def _ask(self, session: Session, question: Question, tell: Callable[[Event], None]) -> Answer:
        if not question.text.strip():
            raise UsageError("The question is empty.")
        if question.files:
            # In a thread, since files are looked at and addresses fetched.
            await asyncio.to_thread(_load, session, question.files)
        if self._stopped:
            raise Interrupted("The question was stopped before it was asked.")
        accept = question.accept
        if schema := question.schema:
            accept = schema.accept
            session.sandbox.notes.append(schema.note)
        rows = []
        finished: TurnFinished | None = None
        try:
            async for event in session.ask(question.text, accept):
                if not isinstance(event, LIVE_ONLY):
                    about = {"ts": now(), "session": session.sandbox.session, "turn": session.sandbox.turn}
                    rows.append({**about, **to_json(event)})
                if isinstance(event, TurnFinished):
                    finished = event
                tell(event)
        except asyncio.CancelledError:
            if finished is None:
                # The namespace of before the turn comes back with the next question.
                await session.sandbox.close()
            raise
        assert finished is not None
        self.last = await asyncio.to_thread(
            answer_of,
            finished,
            question=question.text,
            rows=rows,
            fitting=schema.fitting if schema else (),
        )
        return self.last


def _load(session: Session, files: Files) -> None:
    """Raises `DocumentError`."""
    if isinstance(files, Mapping):
        _keep(session, files)
    elif isinstance(files, str | os.PathLike):
        session.load([os.fspath(files)])
    else:
        session.load([os.fspath(path) for path in files])


def _keep(session: Session, texts: Mapping[str, str | bytes]) -> None:
    """Make documents of what has no file; one of the same name is replaced."""
    found = []
    for name, data in texts.items():
        # Named by a hash: the name given may be anything, and tells what kind of file it is.
        file_name = hashlib.sha256(name.encode()).hexdigest()[:32] + ".txt"
        data = data.encode() if isinstance(data, str) else data
        path = session.state.keep_input(file_name, data)
        found.append(look(path, name=one_line(name), file_name=PurePosixPath(name).name))
    names = {document.name for document in found}
    rows = [Document.from_json(row) for row in session.state.view().documents]
    old = [row for row in rows if row.name not in names]
    added, session.documents = add_documents(session.state, found, old)
    for document in added:
        session.consent.add(document.mount)
    session.sandbox.add_documents(session.documents, active=added[0].name)
