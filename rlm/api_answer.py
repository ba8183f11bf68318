"""What a question of the Python API ended in: the answer, what it took, and how it came about.

It is whole in memory, up to a size, so that it outlives the session and its folder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rlm import errors
from rlm.errors import RlmError
from rlm.events import TurnFinished, Usage

TEXT_BYTES = 64 * 1024 * 1024
"""Of a longer answer, `Answer.text` is the beginning."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened in the turn: one row for each event, as `rlm trace --json` has them."""

    rows: Sequence[dict[str, Any]] = field(repr=False)

    def text(self, *, columns: int = 80) -> str:
        """What `rlm trace` shows, laid out for so many columns."""
        from rlm.ui.trace import trace_text

        return "".join(f"{line}\n" for line in trace_text(self.rows, console_width=columns))

    def html(self) -> str:
        """One self-contained page, what `rlm trace --html` writes."""
        from rlm.trace.page import page

        return page(self.rows)

    def write_html(self, path: str | Path) -> None:
        """Write that page to a file. Raises `OSError`."""
        Path(path).write_text(self.html(), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The end of one question.

    `status` is `ok`; or `no_answer`, `budget`, `interrupted` or `error`, and then `error` says what stood in
    the way, and the text is the best there was until then. `value` is the answer as data when it is JSON,
    else its text. `path` is the file with the whole answer, while the state folder lasts; None without an
    answer. `complete` is False when `text` is only the beginning of an answer of over 64 MiB.
    """

    question: str
    text: str
    value: Any
    status: str
    error: RlmError | None
    usage: Usage
    session_usage: Usage
    turn: int
    steps: int
    duration_s: float
    path: Path | None
    complete: bool
    trace: Trace

    @property
    def ok(self) -> bool:
        """Whether the model gave this as its answer, within the limits."""
        return self.status == "ok"

    def raise_for_status(self) -> Self:
        """The answer itself when it is `ok`; else raises `error`."""
        if self.error:
            raise self.error
        return self

    def __str__(self) -> str:
        return self.text


def answer_of(
    finished: TurnFinished, *, question: str, rows: Sequence[dict[str, Any]], fitting: Sequence[Any] = ()
) -> Answer:
    """Reads the answer from its file. `fitting` holds the answer as data where a schema asked for data."""
    text, complete = _text(finished)
    value: Any = text
    if fitting:
        value = fitting[0]
    elif finished.answer and finished.answer.format == "json" and complete:
        value = json.loads(text)
    return Answer(
        question=question,
        text=text,
        value=value,
        status=finished.status,
        error=_error(finished),
        usage=finished.usage,
        session_usage=finished.session_usage,
        turn=finished.turn,
        steps=finished.steps,
        duration_s=finished.duration_s,
        path=Path(finished.answer.path) if finished.answer else None,
        complete=complete,
        trace=Trace(rows),
    )


def _text(finished: TurnFinished) -> tuple[str, bool]:
    """The text of the answer, and whether it is all of it."""
    answer = finished.answer
    if answer is None or answer.complete:
        return (answer.text if answer else ""), True
    with Path(answer.path).open("rb") as file:
        data = file.read(TEXT_BYTES)
    return data.decode("utf-8", "replace"), answer.size_bytes <= TEXT_BYTES


def _error(finished: TurnFinished) -> RlmError | None:
    if finished.status == "ok":
        return None
    kind = getattr(errors, finished.error, RlmError)
    error: RlmError = kind(finished.message, hint=finished.hint)
    return error
