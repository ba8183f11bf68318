"""Builds the tree of a turn from its rows: steps, their cells, batches, calls, and the steps of child RLMs.

The tree is plain JSON, as the page reads it: text made visible, numbers spelled out, times in seconds since
the turn began. What is empty is left out. It lays out nothing and reads no file.

    turn   turn, session, when, question, status, outcome, answer, message, took, models, start, end, items
    item   a step or a note (`text`, `level`, `at`)
    step   step, max_steps, model, took, reasoning, prose, code, start, replied, batches, and of its cell:
           cell, status, shown, total_chars, error, end
    batch  batch, model, total, recursive, took, start, end, calls
    call   index, prompt, reply, error, took, cached, cut, retries, start, end, and `child` for an RLM
    child  child, depth, model, question, context_chars, status, outcome, answer, message, took, start, end,
           items
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from rlm.events import Usage
from rlm.trace.rows import Row, usage_of
from rlm.ui.numbers import cost_text, count, money, size, tokens_text
from rlm.ui.render import OUTCOMES
from rlm.ui.sanitise import visible
from rlm.ui.trace import resumed_text

Node = dict[str, Any]

KEPT = ("index", "start", "replied", "end")
"""Zero says something in these."""


def tree(rows: Iterable[Row]) -> Node:
    """The tree of one turn, whose rows are given in order; of a turn that broke off, as far as it went."""
    builder = _Builder()
    for row in rows:
        builder.add(row)
    turn: Node = _compact(builder.finish())
    return turn


class _Builder:
    """Takes rows in. An RLM is known by its number: 0 is the turn's own."""

    def __init__(self) -> None:
        self._turn: Node = {"items": []}
        self._rlms: dict[int, Node] = {0: self._turn}
        self._steps: dict[int, Node] = {}
        self._batches: dict[int, Node] = {}
        self._calls: dict[tuple[int, int], Node] = {}
        self._models: dict[str, Usage] = {}
        self._took: dict[int, Usage] = {}
        """Of each batch."""
        self._asked_in: dict[int, int] = {}
        """The batch that each child was asked in."""
        self._began: datetime | None = None
        self._now_s = 0.0
        self._add: dict[str, Callable[[Row], object]] = {
            "TurnStarted": self._turn_started,
            "StepStarted": self._step_started,
            "ReplyFinished": self._reply,
            "CellFinished": self._cell,
            "SubCallsStarted": self._batch_started,
            "SubCallFinished": self._sub_call,
            "SubCallsFinished": self._batch_finished,
            "ChildStarted": self._child_started,
            "ChildFinished": self._child_finished,
            "Notice": lambda row: self._note(row, row.get("text", ""), row.get("level", "warning")),
            "Reminder": lambda row: self._note(row, "Reminded: the reply held neither a cell nor an answer."),
            "Said": self._said,
            "Resumed": self._resumed,
            "NamespaceSaved": self._saved,
            "Compacted": self._compacted,
            "TurnFinished": self._turn_finished,
        }

    def add(self, row: Row) -> None:
        """Take in a row; one of an event that is not known here is passed over."""
        add = self._add.get(row.get("event", ""))
        if add:
            self._now_s = self._seconds(row.get("ts", ""))
            add(row)

    def finish(self) -> Node:
        for batch in self._batches.values():
            batch["calls"].sort(key=lambda call: call["index"])
            usage = self._took.get(batch["batch"])
            batch["took"] = _took(usage) if usage else ""
        self._turn.setdefault("end", self._now_s)
        self._turn["models"] = [_model_row(model, usage) for model, usage in self._models.items()]
        return self._turn

    def _seconds(self, ts: str) -> float:
        """Since the turn began; a clock that was set back does not go below what was."""
        try:
            now = datetime.fromisoformat(ts)
            self._began = self._began or now
            return max(self._now_s, round((now - self._began).total_seconds(), 3))
        except (ValueError, TypeError):
            return self._now_s

    # -- the turn

    def _turn_started(self, row: Row) -> None:
        if not row.get("depth"):
            when = row.get("ts", "")[:19].replace("T", " ")
            self._turn |= {"turn": row.get("turn"), "session": row.get("session"), "when": when}
            self._turn["question"] = row.get("question")

    def _turn_finished(self, row: Row) -> None:
        if row.get("depth"):
            return
        answer = row.get("answer") or {}
        text, size_bytes = answer.get("text", ""), answer.get("size_bytes", 0)
        if size_bytes > len(text.encode("utf-8", "replace")):
            self._turn["rest"] = f"The whole answer has {size(size_bytes)}: {answer.get('path', '')}"
        self._turn |= {
            "status": row.get("status", "ok"),
            "outcome": OUTCOMES.get(row.get("status", ""), "answered"),
            "answer": text,
            "message": " ".join(part for part in (row.get("message"), row.get("hint")) if part),
            "took": _took(usage_of(row.get("usage"))),
            "session_cost": cost_text(usage_of(row.get("session_usage"))),
            "end": self._now_s,
        }

    def _note(self, row: Row, text: str, level: str = "info") -> None:
        items = self._rlm(row)["items"]
        items.append({"kind": "note", "text": text, "level": level, "at": self._now_s})

    def _said(self, row: Row) -> None:
        """Before the step whose request it went with."""
        self._note(row, f"You: {row.get('text', '')}")
        items = self._rlm(row)["items"]
        if len(items) > 1 and items[-2]["kind"] == "step" and "replied" not in items[-2]:
            items[-2:] = [items[-1], items[-2]]

    def _resumed(self, row: Row) -> None:
        self._note(row, f"Stopped by the user: {resumed_text(row)}")

    def _saved(self, row: Row) -> None:
        for name, reason in row.get("skipped", ()):
            self._note(row, f"Not saved: {name} ({reason})", "warning")

    def _compacted(self, row: Row) -> None:
        before, after = row.get("before_chars", 0), row.get("after_chars", 0)
        if after < before:
            self._note(row, f"Compacted: {before:,} to {after:,} characters.")

    # -- steps

    def _rlm(self, row: Row) -> Node:
        return self._rlms.get(row.get("child") or 0, self._turn)

    def _step_started(self, row: Row) -> Node:
        step: Node = {"kind": "step", "step": row.get("step"), "start": self._now_s, "batches": []}
        step["max_steps"] = row.get("max_steps")
        if not row.get("child"):  # in a trace of an earlier version a child has a depth and no number
            step["depth"] = row.get("depth")
        self._rlm(row)["items"].append(step)
        self._steps[row.get("child") or 0] = step
        return step

    def _step(self, row: Row) -> Node:
        """The one that the RLM of this row is at."""
        return self._steps.get(row.get("child") or 0) or self._step_started(row)

    def _reply(self, row: Row) -> None:
        step = self._step(row)
        if "replied" in step:  # the last reply, out of steps or time, belongs to no step of its own
            start_s = step.get("end", step["replied"])
            step = self._step_started(row)
            step |= {"start": start_s, "last": True}
        usage, model = usage_of(row.get("usage")), row.get("model", "")
        self._count(model, usage)
        step |= {name: row.get(name) for name in ("reasoning", "prose", "code", "cell")}
        step |= {"model": model, "took": _took(usage), "replied": self._now_s}

    def _cell(self, row: Row) -> None:
        step = self._step(row)
        step |= {name: row.get(name) for name in ("cell", "status", "shown", "total_chars", "error")}
        step["end"] = self._now_s

    # -- sub-calls and children

    def _batch_started(self, row: Row) -> Node:
        number = row.get("batch", 0)
        batch: Node = {"batch": number, "start": self._now_s, "calls": []}
        batch |= {name: row.get(name) for name in ("model", "total", "recursive")}
        self._step(row)["batches"].append(batch)
        self._batches[number] = batch
        return batch

    def _batch(self, row: Row) -> Node:
        return self._batches.get(row.get("batch", 0)) or self._batch_started(row)

    def _batch_finished(self, row: Row) -> None:
        self._batch(row)["end"] = self._now_s

    def _call(self, row: Row) -> Node:
        number, index = row.get("batch", 0), int(row.get("index", 0))
        call = self._calls.get((number, index))
        if call is None:
            call = self._calls[number, index] = {"index": index, "start": self._now_s}
            self._batch(row)["calls"].append(call)
        return call

    def _sub_call(self, row: Row) -> None:
        call, batch, usage = self._call(row), self._batch(row), usage_of(row.get("usage"))
        call |= {name: row.get(name) for name in ("prompt", "reply", "error", "cached", "cut", "retries")}
        call["end"] = self._now_s
        # What was not sent has a duration too: it waited for its turn.
        ran_s = 0.0 if row.get("cached") else row.get("duration_s", 0.0)
        call["start"] = round(max(batch["start"], self._now_s - ran_s), 3)
        if not batch.get("recursive"):  # what a child took is in rows of its own
            call["took"] = _took(usage) if usage.calls else ""
            self._took[batch["batch"]] = self._took.get(batch["batch"], Usage()) + usage
            self._count(batch.get("model") or "", usage)

    def _child_started(self, row: Row) -> None:
        asked_by = {**row, "child": row.get("parent", 0)}
        call = self._call(asked_by)
        names = ("child", "depth", "model", "question", "context_chars")
        call["child"] = {**{name: row.get(name) for name in names}, "start": self._now_s, "items": []}
        number = row.get("child") or 0
        self._rlms[number], self._asked_in[number] = call["child"], row.get("batch", 0)

    def _child_finished(self, row: Row) -> None:
        number = row.get("child") or 0
        if number not in self._asked_in:
            return
        child, batch = self._rlms[number], self._asked_in[number]
        usage = usage_of(row.get("usage"))
        child |= {name: row.get(name) for name in ("status", "answer", "message")}
        child |= {"outcome": OUTCOMES.get(row.get("status", ""), "answered"), "took": _took(usage)}
        child["end"] = self._now_s
        self._took[batch] = self._took.get(batch, Usage()) + usage

    def _count(self, model: str, usage: Usage) -> None:
        self._models[model] = self._models.get(model, Usage()) + usage


def _took(usage: Usage) -> str:
    return f"{tokens_text(usage)} · {cost_text(usage)}"


def _model_row(model: str, usage: Usage) -> list[str]:
    """As the table of totals has it: name, calls, tokens in, out, from the provider's cache, and cost."""
    about = "~" if usage.estimated else ""
    tokens = (usage.input_tokens, usage.output_tokens, usage.cached_tokens)
    cost = about * (usage.cost_usd is not None) + money(usage.cost_usd)
    return [
        model or "an unknown model",
        f"{usage.calls:,}",
        *(about * (number > 0) + count(number) for number in tokens),
        cost,
    ]


def _compact(value: Any) -> Any:
    """Text made visible, and what is empty left out of objects."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        fields = ((name, _compact(inner)) for name, inner in value.items())
        return {name: inner for name, inner in fields if inner or name in KEPT}
    return [_compact(inner) for inner in value] if isinstance(value, list) else value
