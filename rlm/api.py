"""The Python API: `RLM` for plain code, `AsyncRLM` for code that runs on an event loop.

    with RLM(model="gpt-5", sub_model="gpt-5-mini") as rlm:
        print(rlm.run("Which errors repeat most?", files=["access.log"]))

Each object is one session: documents and variables stay from question to question. Nothing is printed, and
nobody is asked anything: what may be read and spent is said beforehand.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, Unpack

from rlm.accept import Accept
from rlm.answer_schema import AnswerSchema
from rlm.api_answer import Answer, Trace
from rlm.api_session import Conversation, Files, Question
from rlm.api_settings import Settings, StrPath, read_settings
from rlm.choose import models_of
from rlm.errors import UsageError
from rlm.events import Event
from rlm.loop_thread import LOOP, Call

__all__ = ["RLM", "Answer", "AsyncRLM", "Files", "Settings", "Trace"]

Schema = Mapping[str, Any] | StrPath
"""A JSON Schema, or the file that holds one."""


class _Base:
    def __init__(
        self,
        *,
        state_dir: StrPath | None = None,
        config_file: StrPath | None = None,
        env_file: StrPath | None = None,
        environ: Mapping[str, str] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        """A session that continues the one in `state_dir`, or a new one in a temporary folder.

        Settings are keywords, and else come from `RLM_*` variables of `environ` (the process's own unless
        given) and from `config_file`; keys from `environ` and `env_file`. No other file is looked for. Raises
        `ConfigError` for a setting or key that will not do, `TypeError` for a keyword that there is not.
        """
        config = read_settings(settings, config_file=config_file, env_file=env_file, environ=environ)
        self._conversation = Conversation(
            config=config,
            models=models_of(config),
            state_dir=None if state_dir is None else Path(state_dir).absolute(),
            cwd=Path.cwd(),
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def last(self) -> Answer | None:
        """How the last question ended that got as far as the model, also where `run` raised its error."""
        return self._conversation.last

    def interrupt(self) -> None:
        """Stop the question under way, from any thread; `run` then returns the best answer so far, if any.

        Its status is `interrupted`; variables and what was paid for are kept.
        """
        if self._loop:
            self._loop.call_soon_threadsafe(self._conversation.interrupt)

    def _opening(self) -> "Call[None]":
        return Call(self._joined(), self._conversation.open())

    def _asking(self, question: Question, tell: Callable[[Event], None]) -> "Call[Answer]":
        return Call(self._joined(), self._conversation.ask(question, tell))

    def _closing(self) -> "Call[None] | None":
        """None when nothing is open."""
        self._closed = True
        return Call(self._loop, self._conversation.close()) if self._loop else None

    def _joined(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise UsageError("This session is closed.", hint="Make another RLM.")
        if self._loop is None:
            self._loop = LOOP.join()
        return self._loop

    def _left(self) -> None:
        if self._loop:
            self._loop = None
            LOOP.leave()


class RLM(_Base):
    """A session for plain code. It may be used from several threads: their questions wait for each other.

    Use it in a `with`, or call `close`. Ctrl-C in the main thread stops the question, keeps what it found,
    and comes out as `KeyboardInterrupt`; a second one abandons the question.
    """

    def run(
        self,
        question: str,
        *,
        files: Files | None = None,
        schema: Schema | None = None,
        accept: Accept | None = None,
    ) -> Answer:
        """Ask, and wait for the answer.

        `files` are loaded first, and stay: paths, patterns and addresses, or `{name: text}`. With `schema`
        the answer is JSON that fits it. `accept` gets each answer, as data where it is data, and returns None
        or why it does not fit, which the model reads. It holds up all sessions while it runs.

        An answer cut short by a limit is returned, with its `status`. Raises the question's `RlmError` when
        there is no answer at all; `DocumentError` for files, `SandboxError` for Docker.
        """
        _require_no_loop("run", "await rlm.run(…)")
        call = self._asking(_question(question, files, schema, accept), lambda _: None)
        with self._minding(call):
            return _checked(call.ended.result())

    def events(
        self,
        question: str,
        *,
        files: Files | None = None,
        schema: Schema | None = None,
        accept: Accept | None = None,
    ) -> Iterator[Event]:
        """Ask, and give each event of `rlm.events` as it happens; the answer is `last` afterwards.

        The iterator does not hold up the question. Leaving it early abandons the question: the variables are
        those of before. Raises what `run` raises, after the last event.
        """
        _require_no_loop("events", "async for event in rlm.stream(…)")
        return self._events(_question(question, files, schema, accept))

    def _events(self, question: Question) -> Iterator[Event]:
        feed: SimpleQueue[Event | None] = SimpleQueue()
        call = self._asking(question, feed.put)
        call.ended.add_done_callback(lambda _: feed.put(None))
        with self._minding(call):
            while (event := feed.get()) is not None:
                yield event
            _checked(call.ended.result())

    def close(self) -> None:
        """End the session; a question under way is abandoned. May be called again."""
        if closing := self._closing():
            try:
                closing.ended.result()
            finally:
                self._left()

    def __enter__(self) -> Self:
        _require_no_loop("RLM", "async with AsyncRLM(…) as rlm")
        try:
            self._opening().ended.result()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _minding(self, call: "Call[Answer]") -> Iterator[None]:
        """While somebody waits for this call: it ends before they go on, whatever makes them stop waiting."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupt()
            _wait(call)
            raise
        finally:
            if not call.ended.done():
                call.cancel()
                _wait(call)


class AsyncRLM(_Base):
    """A session for code on an event loop; its questions run on a loop of their own, in another thread.

    Several tasks may use it: their questions wait for each other. For questions side by side, make several.
    A cancelled `run` abandons its question: the variables are those of before.
    """

    async def run(
        self,
        question: str,
        *,
        files: Files | None = None,
        schema: Schema | None = None,
        accept: Accept | None = None,
    ) -> Answer:
        """As `RLM.run`."""
        call = self._asking(_question(question, files, schema, accept), lambda _: None)
        async with _minding(call):
            return _checked(await asyncio.wrap_future(call.ended))

    async def stream(
        self,
        question: str,
        *,
        files: Files | None = None,
        schema: Schema | None = None,
        accept: Accept | None = None,
    ) -> AsyncIterator[Event]:
        """As `RLM.events`. To leave it early, use `contextlib.aclosing`: it then ends at once."""
        here = asyncio.get_running_loop()
        feed: asyncio.Queue[Event | None] = asyncio.Queue()

        def tell(event: Event | None) -> None:
            with contextlib.suppress(RuntimeError):  # nobody reads any more: the loop is closed
                here.call_soon_threadsafe(feed.put_nowait, event)

        call = self._asking(_question(question, files, schema, accept), tell)
        call.ended.add_done_callback(lambda _: tell(None))
        async with _minding(call):
            while (event := await feed.get()) is not None:
                yield event
            _checked(call.ended.result())

    async def close(self) -> None:
        """As `RLM.close`."""
        if closing := self._closing():
            try:
                await asyncio.wrap_future(closing.ended)
            finally:
                await asyncio.to_thread(self._left)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.wrap_future(self._opening().ended)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@contextlib.asynccontextmanager
async def _minding(call: "Call[Answer]") -> AsyncIterator[None]:
    try:
        yield
    finally:
        if not call.ended.done():
            call.cancel()
            with contextlib.suppress(Exception):
                await asyncio.wrap_future(call.ended)


def _wait(call: "Call[Answer]") -> None:
    """Until it has ended, however it does."""
    with contextlib.suppress(Exception):
        call.ended.result()


def _question(text: str, files: Files | None, schema: Schema | None, accept: Accept | None) -> Question:
    """Raises `UsageError`."""
    if schema is not None and accept is not None:
        raise UsageError("schema and accept exclude each other.")
    read = None if schema is None else _schema(schema)
    return Question(text=text, files=files, schema=read, accept=accept)


def _schema(schema: Schema) -> AnswerSchema:
    if isinstance(schema, Mapping):
        return AnswerSchema.of(dict(schema), name="The schema")
    return AnswerSchema.read(Path(schema))


def _checked(answer: Answer) -> Answer:
    """Raises the error of a question that has no answer, not even a part of one."""
    if answer.error and answer.path is None:
        raise answer.error
    return answer


def _require_no_loop(name: str, instead: str) -> None:
    """Raises `UsageError`: to wait here would hold up all that runs on the caller's event loop."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise UsageError(
            f"{name} waits, and an event loop runs in this thread, which it would hold up.",
            hint=f"Use AsyncRLM: {instead}",
        )
