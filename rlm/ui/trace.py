"""Tells one turn of a trace as text: question, steps with code and output, sub-calls, answer, totals.

Rows are those of `events.jsonl`: what `rlm.events.to_json` gives, with `ts` (ISO time) and `session`. Those
of child RLMs that ran side by side are told one child after another, under the sub-call that asked. Lines
come out, safe to show. Nothing is read from files here, and a key that a row lacks is left out of the text.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rlm.events import Usage
from rlm.trace.rows import Row, turn_rows, usage_of
from rlm.ui.flow import Flow
from rlm.ui.numbers import cost_text, count, duration, plural, size, tokens_text, usage_text
from rlm.ui.render import OUTCOMES
from rlm.ui.sanitise import visible, visible_line

if TYPE_CHECKING:
    from rlm.records import SessionView

PROMPTS_SHOWN = 3
"""Of each batch, the first prompts; and as many of the failures."""
INSIDE = " " * 6
"""How what belongs to a call stands below it."""
RESUMED = {"answer": "answer now", "continue": "continue", "stop": "end the turn"}
ANSWER_LINES = 40
ANSWER_CHARS = 4000


def turns_kept(view: "SessionView") -> set[int]:
    """The numbers of the session's turns, finished or not, without those that were taken back."""
    unfinished = {view.interrupted.turn} if view.interrupted else set()
    return {turn.ended.turn for turn in view.turns} | unfinished


def trace_text(
    events: Iterable[Row],
    turn: int | None = None,
    *,
    console_width: int = 80,
    view: "SessionView | None" = None,
) -> Iterator[str]:
    """The lines, without their newlines, of turn number `turn`, or of the last one when None.

    A number that was asked twice (after an undo) means the later turn. Prose, prompts and replies are laid
    out for `console_width` columns; code and output stand as they are. With `view`, the first line says when
    a turn of that session was taken back. Raises `UsageError` when there is no such turn.
    """
    return _Teller(console_width, view).tell(turn_rows(events, turn))


@dataclasses.dataclass(slots=True)
class _Batch:
    """`priced`: the model has a known price."""

    model: str = ""
    total: int = 0
    recursive: bool = False
    priced: bool = True
    usage: Usage = dataclasses.field(default_factory=Usage)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    finished: dict[int, Row] = dataclasses.field(default_factory=dict)

    def shown(self) -> set[int]:
        """Of the calls that came back, the first ones and the first failures; all that children answered."""
        failed = [index for index in sorted(self.finished) if self.finished[index].get("error")]
        others = sorted(self.finished.keys() - set(failed))
        most = None if self.recursive else PROMPTS_SHOWN
        return {*failed[:most], *others[:most]}


Batches = dict[int, _Batch]


class _Teller:
    """Turns rows into lines, and adds up per model on the way.

    `indent` is how far a line will be indented in the end; what is yielded is not yet.
    """

    def __init__(self, width: int, view: "SessionView | None" = None) -> None:
        self._width = width
        self._view = view
        self._max_steps: dict[tuple[int, int], int] = {}
        self._models: dict[str, Usage] = {}
        self._rows: defaultdict[int, list[Row]] = defaultdict(list)
        """Of each RLM that was not told yet; what has no number is the turn's own, 0."""
        self._starts: defaultdict[int, list[Row]] = defaultdict(list)
        """Of each batch, how the children began that it asked for."""
        self._ends: dict[int, Row] = {}

    def tell(self, rows: Iterable[Row]) -> Iterator[str]:
        # Some things happen after the end, such as saving; the totals are the last lines all the same.
        for row in sorted(rows, key=_is_end_of_turn):
            child = row.get("child") or 0
            self._rows[child].append(row)
            if row.get("event") == "ChildStarted":
                self._starts[row.get("batch", 0)].append(row)
            elif row.get("event") == "ChildFinished":
                self._ends[child] = row
        for line in self._tell(0, ""):
            yield line.rstrip()
        for child in sorted(self._rows):  # those whose sub-call is not in the trace
            yield from (f"  {line}".rstrip() for line in self._tell(child, "  "))

    def _tell(self, child: int, indent: str) -> Iterator[str]:
        """All that one RLM did, with its children's below their sub-calls. It is not told again."""
        batches: Batches = {}
        for row in self._rows.pop(child, []):
            # In a trace of an earlier version children have no number, and stand where they ran.
            own = "" if child else "  " * row.get("depth", 0)
            if row.get("event") == ("ChildFinished" if child else "TurnFinished") and not own:
                yield from self._broken_off(batches, indent)
            yield from (own + line for line in self._lines(row, indent + own, batches))
        yield from self._broken_off(batches, indent)

    def _lines(self, row: Row, indent: str, batches: Batches) -> Iterator[str]:
        match row.get("event"):
            case "TurnStarted":
                yield from self._turn_started(row, indent)
            case "StepStarted":
                self._max_steps[_whose(row)] = row.get("max_steps", 0)
            case "ReplyFinished":
                yield from self._reply(row, indent)
            case "CellFinished":
                yield from self._cell(row)
            case "SubCallsStarted":
                model, total = visible_line(row.get("model", "")), row.get("total", 0)
                priced = row.get("estimate_usd") is not None
                batches[row.get("batch", 0)] = _Batch(model, total, bool(row.get("recursive")), priced)
            case "SubCallFinished":
                self._sub_call(row, batches)
            case "SubCallsFinished":
                batch = batches.pop(row.get("batch", 0), _Batch())
                yield from self._batch(row, batch, indent)
            case "ChildStarted":
                yield from self._child_started(row, indent)
            case "ChildFinished":
                yield from self._child_finished(row)
            case "Notice":
                yield from _labelled(row.get("level", "warning"), row.get("text", ""))
            case "Reminder":
                yield "reminded: the reply held neither a cell nor an answer"
            case "Said":
                yield from _labelled("you", row.get("text", ""))
            case "Resumed":
                yield from _labelled("stopped by the user", resumed_text(row))
            case "NamespaceSaved":
                for name, reason in row.get("skipped", ()):
                    yield f"not saved: {visible_line(name)} ({visible_line(reason)})"
            case "Compacted":
                before, after = row.get("before_chars", 0), row.get("after_chars", 0)
                if after < before:
                    yield f"compacted: {before:,} to {after:,} characters"
            case "TurnFinished":
                yield from self._turn_finished(row)

    # -- one row each

    def _turn_started(self, row: Row, indent: str) -> Iterator[str]:
        if row.get("depth"):
            yield ""
            yield "rlm_query"
        else:
            when = visible_line(row.get("ts", ""))[:19].replace("T", " ")
            session = visible_line(row.get("session", ""))
            head = [f"turn {row.get('turn', '?')}", when, f"session {session}" if session else ""]
            head += ["taken back"] if self._taken_back(row) else []
            yield " · ".join(part for part in head if part)
        yield from self._prose(row.get("question", ""), indent)

    def _taken_back(self, row: Row) -> bool:
        """Of other sessions that is not known."""
        view = self._view
        return bool(view and row.get("session") == view.session and row.get("turn") not in turns_kept(view))

    def _reply(self, row: Row, indent: str) -> Iterator[str]:
        step, usage = row.get("step", "?"), usage_of(row.get("usage"))
        model = row.get("model", "")
        self._models[model] = self._models.get(model, Usage()) + usage
        most = self._max_steps.get(_whose(row))
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

    # -- sub-calls and children

    def _sub_call(self, row: Row, batches: Batches) -> None:
        batch = batches.setdefault(row.get("batch", 0), _Batch())
        usage = usage_of(row.get("usage"))
        if not batch.recursive:  # what a child took is in rows of its own
            batch.usage += usage
            self._models[batch.model] = self._models.get(batch.model, Usage()) + usage
        batch.counts["failed"] += bool(row.get("error"))
        batch.counts["cached"] += bool(row.get("cached"))
        batch.counts["retried"] += bool(row.get("retries"))
        batch.counts["cut"] += bool(row.get("cut"))
        batch.finished[int(row.get("index", 0))] = row

    def _broken_off(self, batches: Batches, indent: str) -> Iterator[str]:
        while batches:
            number = next(iter(batches))
            yield from self._batch({"batch": number}, batches.pop(number), indent)

    def _batch(self, row: Row, batch: _Batch, indent: str) -> Iterator[str]:
        """How a batch went. `row` is its end, or names it only when it has none."""
        starts = self._starts.pop(row.get("batch", 0), [])
        model, usage = batch.model or "an unknown model", batch.usage
        total = row.get("total", batch.total)
        came_back = f"{count(len(batch.finished))} of " if len(batch.finished) < total else ""
        if batch.recursive:
            parts = [f"{came_back}{count(total)} child RLM{'s' * (total != 1)} of {model}"]
            usage = sum(
                (usage_of(self._ends.get(start.get("child", 0), {}).get("usage")) for start in starts),
                Usage(),
            )
        else:
            parts = [f"{came_back}{plural(total, 'sub-call')} to {model}"]
        parts += [f"{count(number)} {name}" for name, number in batch.counts.items() if number]
        parts += [plural(usage.calls, "call")] if batch.recursive else []
        if usage.calls or batch.priced:  # what no call was made for is no $0.00 without a price
            parts += [tokens_text(usage), cost_text(usage)]
        parts += [duration(row["duration_s"])] if "duration_s" in row else []
        yield " · ".join(parts)
        yield from self._calls(batch, starts, indent)

    def _calls(self, batch: _Batch, starts: Iterable[Row], indent: str) -> Iterator[str]:
        """The first calls of a batch, or all of them with the children that answered."""
        room = max(10, self._width - len(indent) - len(INSIDE))
        started = {int(start.get("index", 0)): start for start in starts}
        shown = batch.shown()
        for index in sorted({*shown, *started}):
            call, start = batch.finished.get(index, {}), started.get(index, {})
            prompt = call.get("prompt") or start.get("question", "")
            yield f"  [{index}] {visible_line(prompt, room)}"
            if start:
                lines = self._tell(start.get("child", 0), indent + INSIDE)
                yield from (INSIDE + line for line in lines)
            if call:
                yield INSIDE + visible_line(_result(call), room)
        if hidden := len(batch.finished) - len(shown):
            yield f"  … {hidden:,} more"

    def _child_started(self, row: Row, indent: str) -> Iterator[str]:
        chars = row.get("context_chars", 0)
        yield f"child {row.get('child', '?')} · {chars:,} characters of context"
        question = row.get("question", "")
        if visible_line(question, max(10, self._width - len(indent))) != question:
            yield from self._prose(question, indent)

    def _child_finished(self, row: Row) -> Iterator[str]:
        yield ""
        if row.get("message"):
            yield from _labelled("note", row["message"])
        yield _end_line(row)

    # -- the end

    def _turn_finished(self, row: Row) -> Iterator[str]:
        if row.get("depth"):
            yield _end_line(row)
            return
        answer = row.get("answer")
        yield ""
        if answer:
            yield "answer" if row.get("status") == "ok" else "best partial answer"
            yield from _head(answer)
            yield ""
        if row.get("message"):
            yield from _labelled("note", row["message"])
        yield _end_line(row)
        if len(self._models) > 1:
            for model, usage in self._models.items():
                yield f"  {visible_line(model) or 'an unknown model'}: {usage_text(usage)}"
        yield f"  session {cost_text(usage_of(row.get('session_usage')))}"

    def _prose(self, text: str, indent: str) -> Iterator[str]:
        flow = Flow(width=max(20, self._width - len(indent)), indent="  ")
        yield from (flow.feed(text) + flow.end()).splitlines()


def _whose(row: Row) -> tuple[int, int]:
    """What tells the RLMs of a turn apart: the number of a child, in an earlier version its depth alone."""
    return row.get("child") or 0, row.get("depth", 0)


def _is_end_of_turn(row: Row) -> bool:
    return row.get("event") == "TurnFinished" and not row.get("depth")


def resumed_text(row: Row) -> str:
    """How a turn that the user stopped went on: `continue: look at /cart`."""
    kind: str = row.get("kind", "")
    hint: str = row.get("hint", "").strip()
    how = RESUMED.get(kind, kind)
    return f"{how}: {hint}" if hint else how


def _end_line(row: Row) -> str:
    parts = [OUTCOMES.get(row.get("status", ""), "answered"), plural(row.get("steps", 0), "step")]
    parts += [usage_text(usage_of(row.get("usage"))), duration(row.get("duration_s", 0.0))]
    return " · ".join(parts)


def _result(call: Row) -> str:
    """`→ reply`, `→ (cached, free) reply`, `failed (after 2 retries): why`."""
    marks = ["cached, free"] if call.get("cached") else []
    if retries := call.get("retries", 0):
        marks.append(f"after {retries} {'retry' if retries == 1 else 'retries'}")
    if call.get("cut"):
        marks.append("cut at its length limit")
    marked = f" ({', '.join(marks)})" if marks else ""
    if call.get("error"):
        return f"failed{marked}: {call['error']}"
    return f"→{marked} {call.get('reply', '')}"


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
