"""The JSON form of how a question ended, for `--json` and the last line of `--events`; failures have one too.

Keys are only ever added to it.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlm import errors
from rlm.errors import Interrupted, RlmError, UsageError

if TYPE_CHECKING:
    from rlm.answer_schema import AnswerSchema
    from rlm.events import TurnFinished, Usage
    from rlm.settings import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question that was asked: how it ended, in which session, within which limits."""

    finished: "TurnFinished"
    session: str
    limits: "Limits"
    schema: "AnswerSchema | None" = None
    value: Any = None
    """What `read` gave, where it is told as data."""

    @property
    def problem(self) -> RlmError | None:
        """What stood in the way of a full answer."""
        if self.finished.status == "ok":
            return None
        kind: type[RlmError] = getattr(errors, self.finished.error, RlmError)
        return kind(self.finished.message, hint=self.finished.hint)

    @property
    def source(self) -> "Path | list[bytes] | None":
        """The answer's bytes: its file; the JSON form, when a schema wanted JSON and it was a bare text."""
        answer = self.finished.answer
        if answer is None:
            return None
        # A text that parses is JSON as it stands; one that does not fits as a JSON string.
        if answer.format != "json" and self.schema and self.schema.fitting:
            text = self.schema.fitting[0]
            if isinstance(text, str):
                return [to_json(text)]
        return Path(answer.path)

    def read(self) -> Any:
        """The answer as data where it is data, else its text; None without an answer."""
        if self.finished.answer is None:
            return None
        if self.schema and self.schema.fitting:
            return self.schema.fitting[0]
        text = Path(self.finished.answer.path).read_bytes().decode("utf-8", "replace")
        return json.loads(text) if self.finished.answer.format == "json" else text


@dataclass(slots=True)
class Begun:
    """What is known of a question that may yet fail: empty at first, filled in as it goes on."""

    limits: "Limits | None" = None
    session: str | None = None
    turn: int | None = None
    usage: "Usage | None" = None
    shown: bool = False
    """Whether the answer is on stdout already."""


def result(asked: Asked, problem: RlmError | None) -> dict[str, Any]:
    """How a turn ended. `problem` is the turn's, or that of handing the answer over."""
    finished = asked.finished
    return {
        "status": problem.status if problem else "ok",
        "answer": asked.value,
        "session": asked.session,
        "turn": finished.turn,
        "steps": finished.steps,
        "usage": _usage(finished.usage),
        "limits": dataclasses.asdict(asked.limits),
        "duration_s": round(finished.duration_s, 3),
        "error": _error(problem) if problem else None,
    }


def failure(error: RlmError, begun: Begun | None = None) -> dict[str, Any]:
    """The same object for what failed before a turn could end. `begun` is how far it came."""
    from rlm.events import Usage

    begun = begun or Begun()
    return {
        "status": error.status,
        "answer": None,
        "session": begun.session,
        "turn": begun.turn,
        "steps": 0,
        "usage": _usage(begun.usage or Usage()),
        "limits": dataclasses.asdict(begun.limits) if begun.limits else {},
        "duration_s": 0.0,
        "error": _error(error),
    }


def spent(before: "Usage", after: "Usage") -> "Usage":
    """What was added to a session's usage."""
    unpriced = after.cost_usd is None or before.cost_usd is None
    return dataclasses.replace(
        after,
        calls=after.calls - before.calls,
        sub_calls=after.sub_calls - before.sub_calls,
        input_tokens=after.input_tokens - before.input_tokens,
        output_tokens=after.output_tokens - before.output_tokens,
        cached_tokens=after.cached_tokens - before.cached_tokens,
        cache_write_tokens=after.cache_write_tokens - before.cache_write_tokens,
        cost_usd=None if unpriced else (after.cost_usd or 0.0) - (before.cost_usd or 0.0),
    )


def to_json(value: Any, *, ascii_only: bool = False) -> bytes:
    """One line of UTF-8. `ascii_only` is for a terminal: no control character is left in it."""
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "backslashreplace") + b"\n"


def explained(error: BaseException) -> RlmError:
    """Whatever ended a command, as an error that can be shown."""
    if isinstance(error, RlmError):
        return error
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Interrupted("Interrupted.")
    if isinstance(error, click.ClickException):
        return UsageError(error.format_message())
    return RlmError(
        "Something went wrong that should not.",
        f"{type(error).__name__}: {error}",
        hint="This is a mistake of the program; -v shows where. What was saved is kept.",
    ).with_traceback(error.__traceback__)


class ReportingCommand(click.Command):
    """A command that tells of wrong flags in its JSON form too: `report` gets the arguments and the error."""

    report: Callable[[list[str], RlmError], None]

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            self.report(given, explained(error))
            raise


def _error(error: RlmError) -> dict[str, str]:
    return {
        "type": type(error).__name__,
        "message": f"{error.what} {error.why}".strip(),
        "hint": error.hint,
    }


def _usage(usage: "Usage") -> dict[str, Any]:
    """The contract's keys: what an estimate was, the screen tells."""
    return {key: value for key, value in dataclasses.asdict(usage).items() if key != "estimated"}
