"""The algorithm (arXiv 2512.24601, section 2): ask the root model, take its cell, run it, show it the output,
until there is an answer.

The engine knows a model, something that runs cells, and a ledger, each as a protocol; no terminal, no file,
no Docker. It emits events; what the user does meanwhile reaches it as `UserInput`. `rlm.turn` puts it
together.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rlm import feedback, prompts
from rlm.box.results import CellResult
from rlm.box.wire import Sink
from rlm.cell_runs import CellRuns, Cells
from rlm.deadline import SETTLE_S, Deadline
from rlm.errors import (
    BudgetReached,
    Interrupted,
    ModelError,
    NoAnswer,
    RlmError,
)
from rlm.events import Event, Notice, Resumed, Said
from rlm.ledger import ANOTHER_SESSION, Ledger
from rlm.models import ChatMessage, Model, ReplyStream
from rlm.parse import Reply
from rlm.root_calls import RootCalls, as_said
from rlm.telling import Telling
from rlm.user_input import UserInput
from rlm.window import Window, limit_tokens

T = TypeVar("T")

LAST_ANSWER_S = 120.0
"""For the last reply, and the cell in it, once the turn is out of steps, time or money."""
BEST = "What follows is the best that was found."


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`timeout_s` counts from the start of the turn, sub-calls and all.

    `of_session`: it is what the session has left, which is less than a question may take.
    """

    max_steps: int
    timeout_s: float
    of_session: bool = False

    def out_of_time(self) -> NoAnswer:
        timeout = f"{self.timeout_s:.0f} s"
        if self.of_session:
            what = f"No answer within the {timeout} that were left to this session."
            hint = f"Raise limits.session_timeout_s, {ANOTHER_SESSION}"
        else:
            what = f"No answer within {timeout}."
            hint = "Raise --timeout, or ask something narrower."
        return NoAnswer(what, BEST, hint=hint)

    def out_of_steps(self) -> NoAnswer:
        return NoAnswer(
            f"No answer within {self.max_steps} step{'s' * (self.max_steps != 1)}.",
            BEST,
            hint="Raise --max-steps, or ask something narrower.",
        )


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
    """One turn of one RLM. `messages` starts with the system prompt and grows by what is said and shown.

    All of them are kept; where they near the model's window, less is sent (`rlm.window`), with `earlier` in
    the place of what was said before the question. `turn` is its number, for the event that tells of it.
    """

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
    accept_prose: Callable[[str], str | None] = lambda text: None
    """The same for an answer in prose."""
    user: UserInput = field(default_factory=UserInput)
    earlier: Sequence[ChatMessage] = ()
    turn: int = 0
    close_calls: Callable[[str], None] = lambda reason: None
    """Called once, when time is up during a cell: no sub-call begins any more; running ones may come back."""

    _steps: int = 0
    _deadline: Deadline = field(default_factory=lambda: Deadline.after(0.0))
    _calls: RootCalls | None = None
    _opening: int = 0
    """Where in `messages` the question stands."""
    _reminded: bool = False
    _late: bool = False
    """Time was up during a cell."""
    _refused: int = 0
    """Sub-calls that did not fit the budget, as far as the model was told."""
    _cells: CellRuns = field(init=False)
    _tell: Telling = field(init=False)

    def __post_init__(self) -> None:
        self._tell = Telling(emit=self.emit, turn=self.turn, depth=self.depth, child=self.child)
        self._cells = CellRuns(
            cells=self.cells, ledger=self.ledger, on_output=self._tell.output, on_late=self._on_late
        )

    async def run(self, question: str) -> Outcome:
        """Answer `question`. Never raises an `RlmError`: it is the outcome's `problem`."""
        self._deadline = Deadline.after(self.bounds.timeout_s)
        self._opening = len(self.messages)
        self._say("user", question)
        try:
            return await self._loop()
        except (NoAnswer, BudgetReached) as limit:
            return await self._last_answer(limit)
        except RlmError as problem:
            return Outcome(steps=self._steps, problem=problem)

    async def _loop(self) -> Outcome:
        answer_now = False
        while answer_now or self._steps < self.bounds.max_steps:
            try:
                if answer_now:
                    return await self._answer_now()
                self._steps += 1
                if outcome := await self._step():
                    return outcome
            except Interrupted as interrupted:
                answer_now = await self._go_on(interrupted)
        raise self.bounds.out_of_steps()

    def interrupt(self) -> None:
        """Stop what is under way: the reply that streams, or the cell, which keeps what it assigned."""
        self.user.stop.set()
        self._cells.interrupt()

    @property
    def said(self) -> list[ChatMessage]:
        """What was said and shown in this turn, beginning with the question."""
        return self.messages[self._opening :]

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
        self._tell.step(self._steps, self.bounds.max_steps)
        reply, stream = await self._query()
        if reply.code is None:
            return await self._without_block(reply, stream)
        if not reply.closed:
            self._say("user", feedback.cut_off(reply, stream))
            return None
        return await self._finished(await self._execute(reply.code))

    async def _query(self, *, final: bool = False) -> tuple[Reply, ReplyStream]:
        """Ask the root model, with what the user has typed meanwhile."""
        self._calls = self._calls or await self._open_calls()
        self._check_stop()
        if typed := self.user.take():
            self._say("user", prompts.fill("said", text=typed))
            self.emit(Said(text=typed))
        reply, stream = await self._calls.ask(final=final)
        self._say("assistant", as_said(reply) or "(empty reply)")
        self._tell.reply(self._steps, reply, stream, cell=self.cells.next_cell, model=self.root.name)
        return reply, stream

    async def _open_calls(self) -> RootCalls:
        limit = await asyncio.to_thread(limit_tokens, self.root)
        return RootCalls(
            root=self.root,
            ledger=self.ledger,
            messages=self.messages,
            window=Window(limit=limit, opening=self._opening, earlier=self.earlier),
            unless_stopped=self._unless_stopped,
            on_prose=self._tell.prose,
            on_shorter=self._tell.shortened,
        )

    async def _without_block(self, reply: Reply, stream: ReplyStream) -> Outcome | None:
        """Prose that was whole counts as the answer, once the model was reminded how to give one."""
        whole = bool(reply.prose) and stream.finish_reason != "length"
        if whole and self._reminded:
            if (refused := await asyncio.to_thread(self.accept_prose, reply.prose)) is None:
                return Outcome(steps=self._steps, text=reply.prose)
            self._say("user", prompts.fill("refused", why=refused))
            return None
        self._reminded = self._reminded or whole
        self._tell.reminder(self._steps)
        self._say("user", feedback.without_block(reply, stream))
        return None

    async def _execute(self, code: str) -> CellResult:
        if self.user.stop.is_set() and self._calls:
            self._calls.broken_off = ""  # the reply was said; its block is not run
        self._check_stop()
        self._reminded = False
        result = await self._cells.run(code, self._deadline)
        self._tell.cell(self._steps, result)
        return result

    def _on_late(self) -> None:
        """Time is up while a cell runs."""
        if not self._late:
            self._late = True
            self.close_calls(f"The question is out of time: it had {self.bounds.timeout_s:.0f} s.")
        if self.ledger.under_way:
            text = f"time is up; calls under way have {SETTLE_S:.0f} s to come back"
            self.emit(Notice(text=text, level="info"))

    async def _finished(self, result: CellResult) -> Outcome | None:
        """Show the model what came out; an outcome when that was the answer, or the user's Ctrl-C."""
        refused = await asyncio.to_thread(self.accept, result) if result.status == "final" else None
        if result.status == "final" and refused is None:
            self._say("user", self._output_message(result, "FINAL was called; the turn is answered"))
            return Outcome(
                steps=self._steps,
                value=result.final,
                format=result.final_format,
                problem=self.bounds.out_of_time() if self._late else None,
            )
        note = result.sentence() if refused is None else f"FINAL was not accepted: {refused}"
        self._say("user", self._output_message(result, note))
        self._check_stop()
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
        try:
            return await self._one_answer(limit.what, limit=limit)
        except Interrupted as interrupted:
            return Outcome(steps=self._steps, problem=interrupted)
        except RlmError:
            return Outcome(steps=self._steps, problem=limit)

    async def _answer_now(self) -> Outcome:
        """The same because the user wants it, paid as other replies are. Raises `Interrupted`."""
        deadline = self._deadline
        try:
            return await self._one_answer("The user wants an answer now.", limit=None)
        except Interrupted:
            self._deadline = deadline
            raise
        except NoAnswer as problem:
            return Outcome(steps=self._steps, problem=problem)

    async def _one_answer(self, reason: str, *, limit: RlmError | None) -> Outcome:
        """One more reply and at most one more cell. `limit` is why there is no full answer, if so."""
        self._deadline = Deadline.after(LAST_ANSWER_S)
        self._say("user", prompts.fill("last", reason=reason))
        reply, stream = await self._query(final=limit is not None)
        if reply.code is None:
            whole = bool(reply.prose) and stream.finish_reason != "length"
            refused = await asyncio.to_thread(self.accept_prose, reply.prose) if reply.prose else None
            problem = _problem(limit, refused=refused, answered=whole)
            return Outcome(steps=self._steps, text=reply.prose or None, problem=problem)
        if reply.closed:
            result = await self._execute(reply.code)
            if result.status == "final":
                refused = await asyncio.to_thread(self.accept, result)
                problem = _problem(limit, refused=refused, answered=True)
                return Outcome(
                    steps=self._steps, value=result.final, format=result.final_format, problem=problem
                )
            self._say("user", self._output_message(result, result.sentence()))
            self._check_stop()
        problem = _problem(limit, refused=None, answered=False)
        return Outcome(steps=self._steps, text=reply.prose or None, problem=problem)

    # -- the user

    async def _go_on(self, interrupted: Interrupted) -> bool:
        """Ask the user how the stopped turn goes on; True for an answer now.

        Raises `interrupted` when it does not, or nobody is there.
        """
        resume, waited_s = await self.user.resume(self._steps)
        self._deadline.extend(waited_s)
        if self.user.ask is None:
            raise interrupted
        self.emit(Resumed(kind=resume.kind, hint=resume.hint, waited_s=waited_s))
        if resume.kind == "stop":
            raise interrupted
        what = "you"
        if self._calls and (broken_off := self._calls.broken_off) is not None:
            self._calls.broken_off = None
            if broken_off:
                self._say("assistant", broken_off)
            what = "your last reply, so that nothing of it was run"
        hint = f"\nThe user says: {resume.hint.strip()}" if resume.hint.strip() else ""
        if hint or resume.kind == "continue":
            self._say("user", prompts.fill("resumed", what=what, hint=hint))
        return resume.kind == "answer"

    def _check_stop(self) -> None:
        if self.user.stop.is_set():
            raise _interrupted()

    def _check_time(self) -> None:
        self._check_stop()
        if not self._deadline.left_s:
            raise self.bounds.out_of_time()

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """Await `work`; cancel it at once when the user interrupts, or when time is up."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.user.stop.wait())
        try:
            await self._deadline.wait(task, stop)
            if task.done():
                return task.result()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ModelError):
                await task
            raise _interrupted() if self.user.stop.is_set() else self.bounds.out_of_time()
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()

    def _say(self, role: str, content: str) -> None:
        message = ChatMessage(role=role, content=content)
        self.messages.append(message)
        self.on_message(message)


def _interrupted() -> Interrupted:
    return Interrupted("Interrupted.", "Variables and paid results are kept.")


def _problem(limit: RlmError | None, *, refused: str | None, answered: bool) -> RlmError | None:
    """Why the last answer is no full one, in the words of the limit that was reached, if one was."""
    if refused is not None:
        why = f"The last answer does not fit: {refused}"
        if limit is not None:
            return type(limit)(limit.what, why, hint=limit.hint)
        return NoAnswer("There is no answer that fits.", why, hint="Ask again, or for another form.")
    if limit is None and not answered:
        return NoAnswer("The root model gave no answer when it was asked for one.")
    return limit
