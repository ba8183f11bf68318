"""Everything that can happen in a session, as a closed union of frozen dataclasses.

The engine yields events; the screen, the trace file and `--json` read them and cannot influence it. What
flows back is cancellation, and the answer to a question that an event asks (`AskConsent`, `AskBatch`,
`AskInterrupted`).

An event with `depth` and `child` tells of one RLM of the turn: 0 and 0 are the turn's own, a child RLM has a
number within the turn and is deeper by one than the RLM that asked it.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import asyncio


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What model calls took. `cost_usd` is None once one call had no known price.

    `cached_tokens` were read from the provider's prompt cache, `cache_write_tokens` written to it; both are a
    part of `input_tokens`. `estimated` is True when a provider's numbers were missing and tokens were counted
    here instead.
    """

    calls: int = 0
    sub_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = 0.0
    estimated: bool = False

    def __add__(self, other: "Usage") -> "Usage":
        unpriced = self.cost_usd is None or other.cost_usd is None
        return Usage(
            calls=self.calls + other.calls,
            sub_calls=self.sub_calls + other.sub_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cost_usd=None if unpriced else (self.cost_usd or 0.0) + (other.cost_usd or 0.0),
            estimated=self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """The user's question is asked."""

    turn: int
    question: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something slow is under way: the image is built, the container starts, the namespace returns."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The user should know. `level` is `info` or `warning`."""

    text: str
    level: str = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    step: int
    max_steps: int
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyDelta:
    """A piece of the root model's prose, as it streams in."""

    text: str
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyFinished:
    """The root model's reply, cut after its first block. `code` is None when it holds none.

    `cell` is the number that the block will run under.
    """

    step: int
    cell: int | None = None
    prose: str
    code: str | None
    reasoning: str
    usage: Usage
    model: str
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutput:
    """A piece of what the running cell printed."""

    text: str
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFinished:
    """`status` is `ok`, `error`, `interrupted`, `final` or `rolled_back`; `shown` is what the model sees."""

    step: int
    cell: int
    status: str
    shown: str
    total_chars: int
    error: str
    duration_s: float
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallsStarted:
    """A batch of sub-calls was sent. `batch` numbers it within the turn."""

    batch: int
    total: int
    model: str
    estimate_usd: float | None
    recursive: bool = False
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallFinished:
    """One sub-call of a batch. `error` is empty when it succeeded; prompts and replies are cut to a head.

    `cached`: it was not sent, since the reply was kept or an equal call was under way; `usage` is zero then.
    `cut`: the reply ended at its length limit. `retries`: how often it was sent again after a failure.
    `answered_by` is the number of the child RLM that answered, 0 for a plain call.
    """

    batch: int
    index: int
    prompt: str
    reply: str
    error: str
    usage: Usage
    duration_s: float
    done: int
    total: int
    cached: bool = False
    cut: bool = False
    retries: int = 0
    answered_by: int = 0
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallsFinished:
    batch: int
    total: int
    failed: int
    duration_s: float
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallsProgress:
    """How a batch stands at the moment; at most ten a second. `retry_in_s` is the soonest of the waits.

    `running` calls are on their way, `retrying` ones wait to be sent again.
    """

    batch: int
    running: int
    retrying: int = 0
    retry_in_s: float = 0.0
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPrice:
    """What a batch, or the rest of one, is expected to take, beside what is left.

    `calls` are to be sent; `cached` ones are answered already. `cost_usd` is None for an unpriced model;
    `left_usd` and `left_tokens` are None without a cap. `affordable` of the calls fit what is left. With
    `measured` the length of replies is known from calls of this turn, not guessed.
    """

    calls: int
    cached: int
    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    left_usd: float | None
    left_tokens: int | None
    affordable: int
    measured: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchChoice:
    """`run` all of it, `sample` the first `calls` and ask again, or `cancel` what has not been sent."""

    kind: Literal["run", "sample", "cancel"]
    calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AskBatch:
    """May this batch be sent? Whoever shows the event sets `answer`; unanswered, it waits.

    `sampled` calls of it have been made before.
    """

    batch: int
    price: BatchPrice
    sampled: int
    answer: "asyncio.Future[BatchChoice]" = dataclasses.field(repr=False, compare=False)
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted:
    """A child RLM begins: number `child` of its turn, asked by call `index` of batch `batch` in `parent`.

    `parent` is the number of the RLM that asked, 0 for the turn's own. What the child does has its number.
    """

    child: int
    parent: int
    batch: int
    index: int
    question: str
    context_chars: int
    model: str
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFinished:
    """`status` as in `TurnFinished`. `usage` is what the child and its sub-calls took."""

    child: int
    status: str
    steps: int
    answer: str
    usage: Usage
    duration_s: float
    message: str = ""
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reminder:
    """The reply had neither a block nor an answer; the root model is told once."""

    step: int
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AskConsent:
    """May this path be read? Whoever shows the event sets `answer`; unanswered, it is a no."""

    path: str
    real_path: str
    reason: str
    answer: "asyncio.Future[bool]" = dataclasses.field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """How an interrupted turn goes on: the best `answer` now, `continue`, or `stop` it.

    `hint` is what the user wants the root model to know.
    """

    kind: Literal["answer", "continue", "stop"]
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskInterrupted:
    """The user stopped what was under way in this step: how is the turn to go on?

    Whoever shows the event sets `answer`; the turn waits until then, and its clock stands still.
    """

    step: int
    answer: "asyncio.Future[Resume]" = dataclasses.field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The user's answer to `AskInterrupted`, and how long it took: the fields of `Resume`."""

    kind: str
    hint: str
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the user typed while the turn ran; the root model is told with its next request."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a turn, in a file of the state folder: it may be larger than memory.

    `format` is `text`, `json` (a JSON document) or `repr`. `text` is the whole answer when it is at most
    1 MiB, else its beginning.
    """

    path: str
    size_bytes: int
    format: str
    text: str
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceSaved:
    size_bytes: int
    skipped: tuple[tuple[str, str], ...]
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What the root model is sent became shorter: how long it was, and how long it is.

    `what`: the `turn` that was answered became one message; earlier `steps` of the turn under way did; all
    earlier turns of the `session` were put in their shortest form.
    """

    turn: int
    before_chars: int
    after_chars: int
    what: Literal["turn", "steps", "session"] = "turn"
    depth: int = 0
    child: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFinished:
    """`status` is `ok`, `no_answer`, `budget`, `interrupted` or `error`.

    Unless it is `ok`, `error` names what stood in the way (a class of `rlm.errors`), `message` says it in a
    sentence or two, and `hint` what to do.
    """

    turn: int
    status: str
    steps: int
    answer: Answer | None
    usage: Usage
    session_usage: Usage
    duration_s: float
    error: str = ""
    message: str = ""
    hint: str = ""


Event = (
    TurnStarted
    | Progress
    | Notice
    | StepStarted
    | ReplyDelta
    | ReplyFinished
    | CellOutput
    | CellFinished
    | SubCallsStarted
    | SubCallFinished
    | SubCallsFinished
    | SubCallsProgress
    | AskBatch
    | ChildStarted
    | ChildFinished
    | Reminder
    | AskConsent
    | AskInterrupted
    | Resumed
    | Said
    | NamespaceSaved
    | Compacted
    | TurnFinished
)

LIVE_ONLY = (ReplyDelta, CellOutput, Progress, AskConsent, SubCallsProgress, AskBatch, AskInterrupted)
"""Events that are not written to the trace: what they carry is in the event that ends them."""


def to_json(event: Event) -> dict[str, Any]:
    """The event as it stands in `events.jsonl`: its fields, and its name under `event`."""
    return {"event": type(event).__name__, **dataclasses.asdict(event)}
