"""The algorithm (arXiv 2512.24601, section 2): ask the root model, take its cell, run it, show it the output,
until there is an answer.

The engine knows a model, something that runs cells, and a ledger, each as a protocol; no terminal, no file,
no Docker. It emits events and is told to stop; nothing else flows back. `rlm.session` puts it together.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from rlm import feedback, prompts, root_calls
from rlm.box.results import CellResult
from rlm.box.wire import Sink
from rlm.deadline import SETTLE_S, Deadline
from rlm.errors import BudgetReached, ConfigError, Interrupted, ModelError, NoAnswer, RlmError
from rlm.events import (
    CellFinished,
    CellOutput,
    Event,
    Notice,
    Reminder,
    ReplyDelta,
    ReplyFinished,
    StepStarted,
)
from rlm.ledger import ANOTHER_SESSION, Ledger
from rlm.models import ChatMessage, Model, ReplyStream
from rlm.parse import Reply, ReplyCutter

T = TypeVar("T")

LAST_ANSWER_S = 120.0
"""For the last reply, and the cell in it, once the turn is out of steps, time or money."""
KEEP_S = 3.0
"""When time is up in a cell, and no call is under way, it has so long to keep what came back."""
TICK_S = 0.1
AFTER_BLOCK_S = 1.0
"""How long the stream may go on being silent after the block, so that the provider can send its numbers."""


class Cells(Protocol):
    """What runs cells: a worker of the sandbox, kept alive by `rlm.sandbox`."""

    @property
    def next_cell(self) -> int: ...
    async def run_cell(self, code: str, on_output: Callable[[str], None]) -> CellResult: ...
    def interrupt(self, why: str = "user") -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`timeout_s` counts from the start of the turn, sub-calls and all.

    `of_session`: it is what the session has left, which is less than a question may take.
    """

    max_steps: int
    timeout_s: float
    of_session: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a turn ended. `value` holds what FINAL was given, or else `text` is the answer.

    `problem` is why there is no full answer: `NoAnswer`, `BudgetReached`, `Interrupted`, or a failure.
    """

    steps: int
    value: Sink | None = None
    format: str = "text"
    text: str | None = None
    problem: RlmError | None = None


@dataclass(slots=True)
class Engine:
    """One turn of one RLM. `messages` starts with the system prompt and grows by what is said and shown."""

    root: Model
    cells: Cells
    ledger: Ledger
    bounds: Bounds
    emit: Callable[[Event], None]
    messages: list[ChatMessage]
    depth: int = 0
    child: int = 0
    on_message: Callable[[ChatMessage], None] = lambda message: None
    accept: Callable[[CellResult], str | None] = lambda result: None
    """Looks at a FINAL before it counts; a text is why not, for the model to read."""
    close_calls: Callable[[str], None] = lambda reason: None
    """Called once, when time is up during a cell: no sub-call begins any more; running ones may come back."""

    _steps: int = 0
    _deadline: Deadline = field(default_factory=lambda: Deadline.after(0.0))
    _opening: int = 0
    """Where in `messages` the question stands."""
    _reminded: bool = False
    _late: bool = False
    """Time was up during a cell."""
    _refused: int = 0
    """Sub-calls that did not fit the budget, as far as the model was told."""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _cell_runs: bool = False

    async def run(self, question: str) -> Outcome:
        """Answer `question`. Never raises an `RlmError`: it is the outcome's `problem`."""
        self._deadline = Deadline.after(self.bounds.timeout_s)
        self._opening = len(self.messages)
        self._say("user", question)
        try:
            while self._steps < self.bounds.max_steps:
                self._steps += 1
                if outcome := await self._step():
                    return outcome
            limit: RlmError = NoAnswer(
                f"No answer within {self.bounds.max_steps} step{'s' * (self.bounds.max_steps != 1)}.",
                "What follows is the best that was found.",
                hint="Raise --max-steps, or ask something narrower.",
            )
        except (NoAnswer, BudgetReached) as reached:
            limit = reached
        except RlmError as problem:
            return Outcome(steps=self._steps, problem=problem)
        return await self._last_answer(limit)

    def interrupt(self) -> None:
        """Stop what is under way: the reply that streams, or the cell, which keeps what it assigned."""
        self._stop.set()
        if self._cell_runs:
            self.cells.interrupt()

    @property
    def deadline_s(self) -> float:
        """When time is up, as a reading of `time.monotonic`."""
        return self._deadline.at_s

    def extend(self, seconds: float) -> None:
        """Give back time that was not the turn's own, such as that of a user who was asked something."""
        self._deadline.extend(seconds)

    # -- one step: query, then execute

    async def _step(self) -> Outcome | None:
        self._check_time()
        self.emit(
            StepStarted(step=self._steps, max_steps=self.bounds.max_steps, depth=self.depth, child=self.child)
        )
        reply, stream = await self._query()
        if reply.code is None:
            return self._without_block(reply, stream)
        if not reply.closed:
            self._say("user", feedback.cut_off(reply, stream))
            return None
        result = await self._execute(reply.code)
        return self._finished(result)

    async def _query(self, *, final: bool = False) -> tuple[Reply, ReplyStream]:
        """Ask the root model and read its reply up to the end of its first block."""
        if self._stop.is_set():
            raise _interrupted()
        messages = self.messages
        if final:
            messages = root_calls.what_can_be_paid(self.root, messages, self.ledger, opening=self._opening)
        reservation, limit = root_calls.reserve(self.root, messages, self.ledger, final=final)
        cutter = ReplyCutter()
        stream = self.root.stream(messages, max_output_tokens=limit)
        charged = True
        try:
            await self._unless_stopped(self._read(stream, cutter))
        except (ModelError, ConfigError):
            charged = bool(stream.text or stream.reasoning)
            raise
        finally:
            # What was broken off here had been sent: its input at least is charged for.
            if charged:
                self.ledger.settle(reservation, stream.usage)
            else:
                self.ledger.release(reservation)
        reply = cutter.finish()
        if reply.code is not None and not reply.closed and stream.finish_reason != "length":
            reply = Reply(reply.prose, reply.code)  # it ended by itself, and only the fence is missing
        self._say("assistant", _as_said(reply) or "(empty reply)")
        self.emit(
            ReplyFinished(
                step=self._steps,
                cell=self.cells.next_cell if reply.code is not None else None,
                prose=reply.prose,
                code=reply.code,
                reasoning=stream.reasoning,
                usage=stream.usage,
                model=self.root.name,
                depth=self.depth,
                child=self.child,
            )
        )
        return reply, stream

    async def _read(self, stream: ReplyStream, cutter: ReplyCutter) -> None:
        async with stream:
            pieces = aiter(stream)
            while not cutter.done:
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                if prose := cutter.feed(piece):
                    self.emit(ReplyDelta(text=prose, depth=self.depth, child=self.child))
            # Nothing more is read as text. A model that ends here is given a moment to send its usage.
            with contextlib.suppress(TimeoutError, StopAsyncIteration):
                async with asyncio.timeout(AFTER_BLOCK_S):
                    while not (await anext(pieces)).strip():
                        continue

    def _without_block(self, reply: Reply, stream: ReplyStream) -> Outcome | None:
        """Prose that was whole counts as the answer, once the model was reminded how to give one."""
        whole = bool(reply.prose) and stream.finish_reason != "length"
        if whole and self._reminded:
            return Outcome(steps=self._steps, text=reply.prose)
        self._reminded = self._reminded or whole
        self.emit(Reminder(step=self._steps, depth=self.depth, child=self.child))
        self._say("user", feedback.without_block(reply, stream))
        return None

    async def _execute(self, code: str) -> CellResult:
        def on_output(text: str) -> None:
            self.emit(CellOutput(text=text, depth=self.depth, child=self.child))

        self._reminded = False
        self._cell_runs = True
        try:
            running = asyncio.ensure_future(self.cells.run_cell(code, on_output))
            await self._deadline.wait(running)
            if not running.done():
                await self._run_late(running)
            result = await running
        finally:
            self._cell_runs = False
        self.emit(
            CellFinished(
                step=self._steps,
                cell=result.number,
                status=result.status,
                shown=result.shown,
                total_chars=result.total_chars,
                error=result.error or result.reason,
                duration_s=result.duration_s,
                depth=self.depth,
                child=self.child,
            )
        )
        return result

    async def _run_late(self, running: "asyncio.Future[CellResult]") -> None:
        """Time is up while a cell runs: let it have the results of calls under way, then interrupt it."""
        if not self._late:
            self._late = True
            self.close_calls(f"The question is out of time: it had {self.bounds.timeout_s:.0f} s.")
        if self.ledger.under_way:
            text = f"time is up; calls under way have {SETTLE_S:.0f} s to come back"
            self.emit(Notice(text=text, level="info"))
        now = quiet_since = time.monotonic()
        end = now + SETTLE_S + KEEP_S
        while not running.done() and now < min(end, quiet_since + KEEP_S):
            await asyncio.wait({running}, timeout=TICK_S)
            now = time.monotonic()
            if self.ledger.under_way:
                quiet_since = now
        if not running.done():
            self.cells.interrupt("time")

    def _finished(self, result: CellResult) -> Outcome | None:
        """Show the model what came out; an outcome when that was the answer, or the user's Ctrl-C."""
        refused = self.accept(result) if result.status == "final" else None
        if result.status == "final" and refused is None:
            self._say("user", self._output_message(result, "FINAL was called; the turn is answered"))
            return Outcome(
                steps=self._steps,
                value=result.final,
                format=result.final_format,
                problem=self._out_of_time() if self._late else None,
            )
        note = result.sentence() if refused is None else f"FINAL was not accepted: {refused}"
        self._say("user", self._output_message(result, note))
        if self._stop.is_set():
            raise _interrupted()
        return None

    def _output_message(self, result: CellResult, note: str) -> str:
        refused = self.ledger.refused - self._refused
        self._refused += refused
        return feedback.output(
            result,
            note=note,
            step=self._steps,
            max_steps=self.bounds.max_steps,
            root=self.root,
            ledger=self.ledger,
            refused=refused,
        )

    # -- limits

    async def _last_answer(self, limit: RlmError) -> Outcome:
        """Out of steps, time or money: one more reply, paid from the reserve, and at most one more cell."""
        self._deadline = Deadline.after(LAST_ANSWER_S)
        self._say("user", prompts.fill("last", reason=limit.what))
        try:
            reply, _ = await self._query(final=True)
            if reply.code is not None and reply.closed:
                result = await self._execute(reply.code)
                if result.status == "final" and self.accept(result) is None:
                    return Outcome(
                        steps=self._steps, value=result.final, format=result.final_format, problem=limit
                    )
            return Outcome(steps=self._steps, text=reply.prose or None, problem=limit)
        except Interrupted as interrupted:
            return Outcome(steps=self._steps, problem=interrupted)
        except RlmError:
            return Outcome(steps=self._steps, problem=limit)

    def _check_time(self) -> None:
        if self._stop.is_set():
            raise _interrupted()
        if not self._deadline.left_s:
            raise self._out_of_time()

    def _out_of_time(self) -> NoAnswer:
        timeout = f"{self.bounds.timeout_s:.0f} s"
        if self.bounds.of_session:
            what = f"No answer within the {timeout} that were left to this session."
            hint = f"Raise limits.session_timeout_s, {ANOTHER_SESSION}"
        else:
            what = f"No answer within {timeout}."
            hint = "Raise --timeout, or ask something narrower."
        return NoAnswer(what, "What follows is the best that was found.", hint=hint)

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """Await `work`; cancel it at once when the user interrupts, or when time is up."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await self._deadline.wait(task, stop)
            if task.done():
                return task.result()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ModelError):
                await task
            raise _interrupted() if self._stop.is_set() else self._out_of_time()
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()

    def _say(self, role: str, content: str) -> None:
        message = ChatMessage(role=role, content=content)
        self.messages.append(message)
        self.on_message(message)


def _as_said(reply: Reply) -> str:
    if reply.code is None:
        return reply.prose
    return f"{reply.prose}\n\n```repl\n{reply.code.rstrip()}\n```".strip()


def _interrupted() -> Interrupted:
    return Interrupted("Interrupted.", "Variables and paid results are kept.")
