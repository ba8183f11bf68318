"""One turn of a session: gives the engine what it needs, and makes answer, record and memory of its outcome.

What a session is beyond one turn, `rlm.session` knows.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from rlm import memory, summaries
from rlm.accept import Acceptance
from rlm.answers import write_answer
from rlm.call_cache import CallCache
from rlm.caps import bounds_for, ledger_for, require_first_reply
from rlm.children import share_of
from rlm.engine import Engine, Outcome
from rlm.errors import NoAnswer, RlmError, SandboxLost, StateError
from rlm.events import (
    Answer,
    Compacted,
    Event,
    Progress,
    ReplyFinished,
    SubCallFinished,
    TurnFinished,
    TurnStarted,
)
from rlm.ledger import Ledger
from rlm.line_counts import LineCounts
from rlm.models import ChatMessage, Model
from rlm.opening import LISTED_DOCUMENTS, opening
from rlm.records import MessageAdded, SessionView, TurnBegan, TurnEnded, TurnSpent, TurnUndone
from rlm.requests import CellRequests
from rlm.retry import Retry
from rlm.root_calls import chars
from rlm.sandbox import Sandbox
from rlm.settings import Config
from rlm.state import State
from rlm.subcalls import SubCallServer
from rlm.user_input import UserInput
from rlm.window import limit_tokens

SPEND_RECORDED_S = 1.0
"""What was spent is put on record so soon after calls have come back."""
EARLIER_PART = 2
"""Earlier turns may take one part in so many of what can be sent."""


def room_for_earlier(root: Model) -> int:
    """How many tokens earlier turns may take of a request; the first look waits for litellm."""
    return limit_tokens(root) // EARLIER_PART


@dataclass(slots=True, kw_only=True)
class TurnRun:
    """`run` it once. `load_documents` loads what the question names, and looks again at the others."""

    question: str
    config: Config
    state: State
    root: Model
    sub: Model
    choose: Callable[[str], Model]
    retry: Retry
    sandbox: Sandbox
    requests: CellRequests
    lines: LineCounts
    calls: CallCache | None
    user: UserInput
    accepts: Acceptance
    emit: Callable[[Event], None]
    load_documents: Callable[[str], Awaitable[None]]
    asks: bool = False

    engine: Engine | None = None
    """While the question is answered."""
    _view: SessionView = field(init=False)
    """The session as it was before the turn."""
    _turn: int = field(init=False)
    _ledger: Ledger = field(init=False)
    _messages: list[ChatMessage] = field(default_factory=list)
    _recording: asyncio.TimerHandle | None = None
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._view = self.state.view()
        self._turn = self.sandbox.turn = self._view.next_turn
        self._ledger = ledger_for(self.config.limits, self._view)

    @property
    def said(self) -> list[ChatMessage]:
        """What was said and shown in this turn, as long as it is under way."""
        return self.engine.said if self.engine else []

    @property
    def _duration_s(self) -> float:
        """How long it has taken, without the time that the user took to say how it goes on."""
        return time.monotonic() - self._started - self.user.waited_s

    async def run(self) -> None:
        """Answer the question; `TurnFinished` is emitted before the namespace is saved.

        Cancelled, the turn is taken back, but for what it cost.
        """
        self.state.append(TurnBegan(turn=self._turn, question=self.question))
        self.emit(TurnStarted(turn=self._turn, question=self.question))
        try:
            outcome = await self._answer()
        except RlmError as problem:
            outcome = Outcome(steps=0, problem=problem)
        except asyncio.CancelledError:
            self._record_end(status="interrupted")
            self.state.append(TurnUndone(turn=self._turn))
            raise
        await self._finish(outcome)

    # -- asking

    async def _answer(self) -> Outcome:
        limits = self.config.limits
        bounds = bounds_for(limits, self._view)
        await require_first_reply(limits, self.root, self.question, self._ledger, beginning=self._beginning)
        await self.load_documents(self.question)
        await self.sandbox.start()
        server = self.requests.server = self._sub_calls()
        self.requests.config = self.config  # which /model and /sub-model may have changed
        self.sandbox.paid_calls = lambda: self._ledger.usage.sub_calls
        room = await asyncio.to_thread(room_for_earlier, self.root)
        engine = Engine(
            root=self.root,
            cells=self.sandbox,
            ledger=self._ledger,
            bounds=bounds,
            emit=self._tell,
            messages=self._beginning(room),
            on_message=self._keep,
            accept=self.accepts.value,
            accept_prose=self.accepts.prose,
            close_calls=server.close,
            user=self.user,
            earlier=self._conversation(0),
            turn=self._turn,
        )

        def extend(seconds: float) -> None:
            engine.extend(seconds)
            self.requests.extend(seconds)

        server.extend = extend
        self.requests.deadline = lambda: engine.deadline_s
        text = await self._opening()
        self.engine = engine
        try:
            return await engine.run(text)
        finally:
            self.engine = None

    def _sub_calls(self) -> SubCallServer:
        limits = self.config.limits
        return SubCallServer(
            sub=self.sub,
            choose=self.choose,
            settings=self.config.named,
            ledger=self._ledger,
            retry=self.retry,
            max_depth=limits.max_depth,
            max_children=share_of(self.config).at_once,
            confirm_above_usd=limits.confirm_above_usd,
            asks=self.asks,
            emit=self._tell,
            cache=self.calls,
            child=self.requests.child,
        )

    def _beginning(self, room: int | None = None) -> list[ChatMessage]:
        """What goes before the question; `room` bounds what is told of earlier turns, in tokens."""
        return [
            memory.system(self.config, self.sub, root=self.root.name, choose=self.choose),
            *self._conversation(room),
        ]

    def _conversation(self, room: int | None) -> list[ChatMessage]:
        return memory.conversation(self._view, compaction=self.config.compaction, limit_tokens=room)

    async def _opening(self) -> str:
        sandbox, texts = self.sandbox, self.sandbox.prepared.texts
        text = opening(
            self.question,
            texts,
            active=sandbox.active_text,
            lines=await self.lines.count_small(texts[:LISTED_DOCUMENTS]),
            variables=sandbox.variables,
            notes=sandbox.notes,
        )
        sandbox.notes.clear()
        self.lines.count_rest(texts)
        return text

    def _tell(self, event: Event) -> None:
        """Pass it on; when calls have come back, see that what was spent is put on record soon."""
        self.emit(event)
        if isinstance(event, ReplyFinished | SubCallFinished) and self._recording is None:
            loop = asyncio.get_running_loop()
            self._recording = loop.call_later(SPEND_RECORDED_S, self._record_spend)

    def _record_spend(self) -> None:
        """Should the turn never end, this counts."""
        self._recording = None
        with contextlib.suppress(StateError):
            self.state.append(
                TurnSpent(
                    turn=self._turn,
                    usage=self._ledger.usage,
                    by_model=self._ledger.by_model(),
                    duration_s=self._duration_s,
                )
            )

    def _keep(self, message: ChatMessage) -> None:
        self._messages.append(message)
        self.state.append(MessageAdded(turn=self._turn, role=message["role"], content=message["content"]))

    # -- the end

    async def _finish(self, outcome: Outcome) -> None:
        problem = outcome.problem
        answer: Answer | None = None
        self.accepts.forget_refused(kept=outcome.value)
        try:
            answer = write_answer(
                outcome.value, outcome.text, form=outcome.format, state=self.state, turn=self._turn
            )
        except StateError as error:
            problem = error
        if problem is None and answer is None:
            problem = NoAnswer("The root model gave no answer.")
        if answer:
            with contextlib.suppress(SandboxLost):
                await self.sandbox.keep_answer(None if outcome.value is not None else answer.text)
        with contextlib.suppress(SandboxLost):
            await self.sandbox.list_variables()
        summary, brief = self._in_short(answer, status=problem.status if problem else "ok")
        try:
            self._record_end(
                status=problem.status if problem else "ok",
                steps=outcome.steps,
                answer=answer,
                summary=summary,
                brief=brief,
            )
        except StateError as error:
            # The answer is shown all the same; the turn stays one that was not finished.
            problem = problem or error
        self._emit_end(outcome, answer, problem)
        if self.config.compaction:
            before = chars(self._messages)
            self.emit(Compacted(turn=self._turn, before_chars=before, after_chars=len(summary)))
        self.emit(Progress(text="saving the namespace"))
        await self.sandbox.save(self._turn)

    def _in_short(self, answer: Answer | None, *, status: str) -> tuple[str, str]:
        """The turn as one message, and in a line."""
        text = answer.text if answer else ""
        index = sum(1 for past in self._view.turns if past.ended.answer) if answer else None
        made = self._messages[1:]
        summary, brief = (
            form(
                self._turn,
                self.question,
                made,
                answer=text,
                status=status,
                answer_index=index,
                variables=self.sandbox.variables,
            )
            for form in (summaries.summary, summaries.brief)
        )
        return summary, brief

    def _record_end(
        self,
        *,
        status: str,
        steps: int = 0,
        answer: Answer | None = None,
        summary: str = "",
        brief: str = "",
    ) -> None:
        if self._recording:
            self._recording.cancel()
            self._recording = None
        self.state.append(
            TurnEnded(
                turn=self._turn,
                status=status,
                steps=steps,
                answer=Path(answer.path).name if answer else None,
                answer_format=answer.format if answer else "text",
                answer_bytes=answer.size_bytes if answer else 0,
                summary=summary,
                usage=self._ledger.usage,
                by_model=self._ledger.by_model(),
                duration_s=self._duration_s,
                brief=brief,
            )
        )

    def _emit_end(self, outcome: Outcome, answer: Answer | None, problem: RlmError | None) -> None:
        self.emit(
            TurnFinished(
                turn=self._turn,
                status=problem.status if problem else "ok",
                steps=outcome.steps,
                answer=answer,
                usage=self._ledger.usage,
                session_usage=self._view.usage + self._ledger.usage,
                duration_s=self._duration_s,
                message=f"{problem.what} {problem.why}".strip() if problem else "",
                error=type(problem).__name__ if problem else "",
                hint=problem.hint if problem else "",
            )
        )
