"""Tells one turn of a trace as text: question, steps with code and output, sub-calls, answer, totals.

Rows are those of `events.jsonl`: what `rlm.events.to_json` gives, with `ts` (ISO time) and `session`. Lines
come out, safe to show. Nothing is read from files here, and a key that a row lacks is left out of the text.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from rlm.errors import UsageError
from rlm.events import Usage
from rlm.ui.flow import Flow
from rlm.ui.numbers import cost_text, duration, plural, size, tokens_text, usage_text
from rlm.ui.render import OUTCOMES
from rlm.ui.sanitise import visible, visible_line

Row = dict[str, Any]

PROMPTS_SHOWN = 3
"""Of each batch, the first prompts; and as many of the failures."""
ANSWER_LINES = 40
ANSWER_CHARS = 4000


def trace_text(events: Iterable[Row], turn: int | None = None, *, console_width: int = 80) -> Iterator[str]:
    """The lines, without their newlines, of turn number `turn`, or of the last one when None.

    A number that was asked twice (after an undo) means the later turn. Prose, prompts and replies are laid
    out for `console_width` columns; code and output stand as they are. Raises `UsageError` when there is no
    such turn.
    """
    return _Teller(console_width).tell(_turn_rows(events, turn))


def _turn_rows(events: Iterable[Row], turn: int | None) -> list[Row]:
    """One pass, holding no more than two turns: the file may be long."""
    chosen: list[Row] = []
    numbers: list[int] = []
    wanted = False
    for row in events:
        if row.get("event") == "TurnStarted" and not row.get("depth"):
            number = row.get("turn", 0)
            numbers.append(number)
            wanted = turn is None or number == turn
            if wanted:
                chosen = []
        if wanted:
            chosen.append(row)
    if chosen:
        return chosen
    if not numbers:
        raise UsageError("There is nothing to trace.", "No question was asked here yet.", hint='rlm run "…"')
    first, last = min(numbers), max(numbers)
    raise UsageError(
        f"There is no turn {turn}.", f"The trace has turns {first} to {last}.", hint=f"rlm trace {last}"
    )


@dataclasses.dataclass(slots=True)
class _Batch:
    model: str
    usage: Usage = dataclasses.field(default_factory=Usage)
    finished: list[Row] = dataclasses.field(default_factory=list)


class _Teller:
    """Turns rows into lines, and adds up per model on the way."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._max_steps: dict[int, int] = {}
        self._batches: dict[int, _Batch] = {}
        self._models: dict[str, Usage] = {}

    def tell(self, rows: Iterable[Row]) -> Iterator[str]:
        for row in rows:
            indent = "  " * row.get("depth", 0)
            for line in self._lines(row, indent):
                yield f"{indent}{line}".rstrip()

    def _lines(self, row: Row, indent: str) -> Iterator[str]:
        match row.get("event"):
            case "TurnStarted":
                yield from self._turn_started(row, indent)
            case "StepStarted":
                self._max_steps[row.get("depth", 0)] = row.get("max_steps", 0)
            case "ReplyFinished":
                yield from self._reply(row, indent)
            case "CellFinished":
                yield from self._cell(row)
            case "SubCallsStarted":
                self._batches[row.get("batch", 0)] = _Batch(visible_line(row.get("model", "")))
            case "SubCallFinished":
                self._sub_call(row)
            case "SubCallsFinished":
                yield from self._sub_calls(row, indent)
            case "Notice":
                yield from _labelled(row.get("level", "warning"), row.get("text", ""))
            case "Reminder":
                yield "reminded: the reply held neither a cell nor an answer"
            case "NamespaceSaved":
                for name, reason in row.get("skipped", ()):
                    yield f"not saved: {visible_line(name)} ({visible_line(reason)})"
            case "Compacted":
                before, after = row.get("before_chars", 0), row.get("after_chars", 0)
                yield f"compacted: {before:,} to {after:,} characters"
            case "TurnFinished":
                yield from self._turn_finished(row)

    def _turn_started(self, row: Row, indent: str) -> Iterator[str]:
        if row.get("depth"):
            yield ""
            yield "rlm_query"
        else:
            when = visible_line(row.get("ts", ""))[:19].replace("T", " ")
            session = visible_line(row.get("session", ""))
            head = [f"turn {row.get('turn', '?')}", when, f"session {session}" if session else ""]
            yield " · ".join(part for part in head if part)
        yield from self._prose(row.get("question", ""), indent)

    def _reply(self, row: Row, indent: str) -> Iterator[str]:
        depth, step, usage = row.get("depth", 0), row.get("step", "?"), _usage(row.get("usage"))
        model = row.get("model", "")
        self._models[model] = self._models.get(model, Usage()) + usage
        most = self._max_steps.get(depth)
        yield ""
        yield " · ".join(
            [f"step {step}/{most}" if most else f"step {step}", visible_line(model), usage_text(usage)]
        )
        if row.get("reasoning"):
            yield "thinking"
            yield from self._prose(row["reasoning"], indent)
        yield from self._prose(row.get("prose", ""), indent)
        if row.get("code") is not None:
            yield f"In [{row.get('cell') or step}]"
            yield from _block(row["code"], "  │ ")

    def _cell(self, row: Row) -> Iterator[str]:
        shown, total = row.get("shown", ""), row.get("total_chars", 0)
        yield from _block(shown, "  ")
        if total > len(shown):
            yield f"  … {total:,} characters in all"
        status = row.get("status", "").replace("_", " ")
        yield f"Out [{row.get('cell', '?')}] {visible_line(status)} {duration(row.get('duration_s', 0.0))}"
        yield from _block(row.get("error", ""), "  ")

    def _sub_call(self, row: Row) -> None:
        batch = self._batches.setdefault(row.get("batch", 0), _Batch(""))
        usage = _usage(row.get("usage"))
        batch.usage += usage
        self._models[batch.model] = self._models.get(batch.model, Usage()) + usage
        of_its_kind = sum(bool(other.get("error")) == bool(row.get("error")) for other in batch.finished)
        if of_its_kind < PROMPTS_SHOWN:
            batch.finished.append(row)

    def _sub_calls(self, row: Row, indent: str) -> Iterator[str]:
        batch = self._batches.pop(row.get("batch", 0), None) or _Batch("")
        parts = [f"{plural(row.get('total', 0), 'sub-call')} to {batch.model or 'an unknown model'}"]
        if row.get("failed"):
            parts.append(f"{row['failed']} failed")
        parts += [tokens_text(batch.usage), cost_text(batch.usage), duration(row.get("duration_s", 0.0))]
        yield " · ".join(parts)
        room = max(10, self._width - len(indent) - len("      "))
        for call in sorted(batch.finished, key=lambda call: int(call.get("index", 0))):
            yield f"  [{call.get('index', '?')}] {visible_line(call.get('prompt', ''), room)}"
            failed = call.get("error", "")
            yield "      " + visible_line(
                f"failed: {failed}" if failed else f"→ {call.get('reply', '')}", room
            )

    def _turn_finished(self, row: Row) -> Iterator[str]:
        parts = [OUTCOMES.get(row.get("status", ""), "answered"), plural(row.get("steps", 0), "step")]
        parts += [usage_text(_usage(row.get("usage"))), duration(row.get("duration_s", 0.0))]
        answer = row.get("answer")
        if row.get("depth"):
            yield " · ".join(parts)
            return
        yield ""
        if answer:
            yield "answer" if row.get("status") == "ok" else "best partial answer"
            yield from _head(answer)
            yield ""
        if row.get("message"):
            yield from _labelled("note", row["message"])
        yield " · ".join(parts)
        if len(self._models) > 1:
            for model, usage in self._models.items():
                yield f"  {visible_line(model) or 'an unknown model'}: {usage_text(usage)}"
        yield f"  session {cost_text(_usage(row.get('session_usage')))}"

    def _prose(self, text: str, indent: str) -> Iterator[str]:
        flow = Flow(width=self._width - len(indent), indent="  ")
        yield from (flow.feed(text) + flow.end()).splitlines()


def _usage(fields: Row | None) -> Usage:
    """Usage from a row that an older or later version may have written."""
    names = [field.name for field in dataclasses.fields(Usage)]
    return Usage(**{name: fields[name] for name in names if name in fields} if fields else {})


def _block(text: str, indent: str) -> Iterator[str]:
    text = visible(text).strip("\n")
    if text:
        yield from (indent + line for line in text.split("\n"))


def _labelled(label: str, text: str) -> Iterator[str]:
    """`label: ` and the text, its further lines indented so that none can pass for a line of ours."""
    first, *rest = visible(text).split("\n")
    yield f"{visible_line(label)}: {first}"
    yield from ("  " + line for line in rest)


def _head(answer: Row) -> Iterator[str]:
    text = answer.get("text", "")
    head = "\n".join(text[:ANSWER_CHARS].splitlines()[:ANSWER_LINES])
    yield from _block(head, "  ")
    size_bytes = answer.get("size_bytes", 0)
    if len(head) < len(text.rstrip()) or size_bytes > len(text.encode("utf-8", "replace")):
        yield f"  … {size(size_bytes)} in all: {visible_line(answer.get('path', ''))}"
