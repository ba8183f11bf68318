"""One child RLM: its worker with its context, its share of memory, its steps, and what becomes of its answer.

It is an RLM like the one that asked, one level deeper. It has the money, the calls and the time of that one,
whatever it does. It does not decide how many run at once; `rlm.subcalls` does.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from rlm import child_context, memory, prompts
from rlm.box.namespace import Namespace, Serve
from rlm.box.results import CellResult
from rlm.box.wire import BytesSink
from rlm.child_context import ChildContext
from rlm.engine import Bounds, Engine, Outcome
from rlm.errors import BudgetReached, DocumentError, NoAnswer, RlmError
from rlm.events import ChildFinished, ChildStarted, Event
from rlm.ledger_view import Tally
from rlm.models import ChatMessage
from rlm.retry import with_retry
from rlm.sandbox import Sandbox
from rlm.settings import Config
from rlm.subcalls import ChildTask, SubCallServer

MiB = 1024 * 1024
CHILDREN_PART = 3
"""Children together get one part in so many of the container's memory."""
LEAST_BYTES = 96 * MiB
"""With less, a worker could hardly do more than start."""
ROOT_PIDS, CHILD_PIDS = 48, 8
"""Processes and threads: of the root and its cells, and of each child with its checkpoint."""
TIME_SHARE = 0.9
"""Of the time that its asker has left, so that an answer can still be used."""
TEXT_PART = 8
"""A text as context may take one part in so many of a child's memory: for a while it is there several times.
"""
ANSWER_BYTES = 50_000_000
BEST_CHARS = 20_000
LOST = "There is no snapshot of a child RLM: its variables are gone, and `context` is as it was."


@dataclass(frozen=True, slots=True)
class Share:
    """What children get: so many at once at each depth, and so much memory each."""

    at_once: int
    memory_bytes: int


def share_of(config: Config) -> Share:
    """How children share the container: as many at once as the limit says, or as have room."""
    limits, box = config.limits, config.sandbox
    levels = max(1, limits.max_depth - 1)
    room = box.memory_bytes // CHILDREN_PART // levels
    processes = (box.pids - ROOT_PIDS) // levels
    at_once = max(1, min(limits.max_children, room // LEAST_BYTES, processes // CHILD_PIDS))
    return Share(at_once, max(LEAST_BYTES, room // at_once))


@dataclass(slots=True, kw_only=True)
class ChildRun:
    """One child at work. `timeout_s` is its time; `ledger` adds up what it and its own sub-calls take."""

    task: ChildTask
    config: Config
    server: SubCallServer
    sandbox: Sandbox
    emit: Callable[[Event], None]
    ledger: Tally
    timeout_s: float
    on_engine: Callable[[Engine], None] = lambda engine: None

    async def answer(self, serve: Serve) -> str:
        """Run it to its end; `serve` answers its requests. Raises `RlmError` when it has no full answer."""
        task = self.task
        if task.piece:
            context = child_context.of_piece(task.piece)
        else:
            context = child_context.of_text(task.context, documents=len(self.sandbox.prepared.texts))
        self.emit(
            ChildStarted(
                child=task.child,
                parent=task.parent,
                batch=task.batch,
                index=task.index,
                question=task.query,
                context_chars=context.chars,
                model=task.model.name,
                depth=task.depth,
            )
        )
        started = time.monotonic()
        outcome = Outcome(steps=0)
        answer, problem, status = "", "", "interrupted"
        try:
            outcome = await self._run(serve, context)
            answer = _text_of(outcome)
            status = "ok"
        except RlmError as error:
            problem, status = str(error), error.status
            raise
        finally:
            self.emit(
                ChildFinished(
                    child=task.child,
                    status=status,
                    steps=outcome.steps,
                    answer=answer,
                    usage=self.ledger.usage,
                    duration_s=time.monotonic() - started,
                    message=problem,
                    depth=task.depth,
                )
            )
        return answer

    async def _run(self, serve: Serve, context: ChildContext) -> Outcome:
        share = share_of(self.config)
        cells = ChildCells(self.sandbox, self.task, await self.sandbox.child(serve, share.memory_bytes))
        try:
            await cells.give_context(share)
            engine = Engine(
                root=with_retry(self.task.model, self.server.retry),
                cells=cells,
                ledger=self.ledger,
                bounds=Bounds(max_steps=self.config.limits.max_steps, timeout_s=self.timeout_s),
                emit=self.emit,
                messages=[self._system(share)],
                depth=self.task.depth,
                child=self.task.child,
                turn=self.sandbox.turn,
            )
            self.on_engine(engine)
            return await engine.run(
                prompts.fill(
                    "question",
                    documents=context.sentence,
                    namespace="The namespace holds no variables yet.",
                    question=self.task.query,
                )
            )
        finally:
            cells.close()

    def _system(self, share: Share) -> ChatMessage:
        """The system prompt with what is so for this child: its memory, and how much deeper it can go."""
        limits, box = self.config.limits, self.config.sandbox
        config = dataclasses.replace(
            self.config,
            limits=dataclasses.replace(limits, max_depth=limits.max_depth - self.task.depth),
            sandbox=dataclasses.replace(box, memory_bytes=share.memory_bytes),
        )
        return memory.system(config, self.server.sub, root=self.task.model.name, choose=self.server.choose)


class ChildCells:
    """The cells of a child RLM: a worker of its own with its context in it."""

    def __init__(self, sandbox: Sandbox, task: ChildTask, namespace: Namespace) -> None:
        self._sandbox = sandbox
        self._task = task
        self._namespace = namespace
        namespace.final_sink = AnswerSink

    @property
    def next_cell(self) -> int:
        return self._namespace.next_cell

    async def give_context(self, share: Share) -> None:
        """Raises `DocumentError` when the worker cannot have it."""
        task = self._task
        if len(task.context) * TEXT_PART > share.memory_bytes:
            raise DocumentError(
                f"The context of a child RLM is a text of {len(task.context):,} characters.",
                f"At most {share.memory_bytes // TEXT_PART:,} fit its memory. Give it a chunk of chunks(), "
                "or a document as files[name]: those are not copied.",
            )
        await self._sandbox.give_context(self._namespace, text=task.context, piece=task.piece)

    async def run_cell(self, code: str, on_output: Callable[[str], None]) -> CellResult:
        result = await self._namespace.run_cell(code, on_output)
        if not result.namespace_lost:
            return result
        await self._namespace.ready()
        await self._sandbox.give_context(self._namespace, text=self._task.context, piece=self._task.piece)
        return dataclasses.replace(result, shown=LOST)

    def interrupt(self, why: str = "user") -> None:
        self._namespace.interrupt(why)

    def close(self) -> None:
        self._namespace.close()


class AnswerSink:
    """Takes what FINAL was given, up to `ANSWER_BYTES`; of more it keeps only how much there was."""

    def __init__(self) -> None:
        self._kept = BytesSink()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.size_bytes <= ANSWER_BYTES:
            self._kept.write(data)

    def text(self) -> str:
        """Raises `NoAnswer` when it was more."""
        if self.size_bytes > ANSWER_BYTES:
            raise NoAnswer(
                f"The answer of a child RLM has {self.size_bytes:,} bytes.",
                f"At most {ANSWER_BYTES:,} are handed back: ask it for less, such as a summary, counts or "
                "offsets.",
            )
        return self._kept.data.decode("utf-8", "replace")


def _text_of(outcome: Outcome) -> str:
    """The answer. Raises `RlmError` for one that is not full, with the best there is in it."""
    problem = outcome.problem
    text = outcome.value.text() if isinstance(outcome.value, AnswerSink) else outcome.text
    if problem is None and text is not None:
        return text
    if isinstance(problem, NoAnswer | BudgetReached):
        best = f"Its best answer so far: {text[:BEST_CHARS]}" if text else "It has no answer."
        raise type(problem)(f"A child RLM did not finish: {problem.what}", best)
    raise problem or NoAnswer("A child RLM gave no answer.")
