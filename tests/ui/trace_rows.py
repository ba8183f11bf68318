"""Turns as the rows that a trace is made of, with and without child RLMs, and what is told of them."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rlm.events import (
    LIVE_ONLY,
    Answer,
    CellFinished,
    ChildFinished,
    ChildStarted,
    Compacted,
    Event,
    ReplyFinished,
    StepStarted,
    SubCallFinished,
    SubCallsFinished,
    SubCallsStarted,
    TurnFinished,
    TurnStarted,
    Usage,
    to_json,
)
from rlm.ui.trace import trace_text

ROOT = Usage(calls=1, input_tokens=3_000, output_tokens=200, cost_usd=0.01)
SUB = Usage(calls=1, sub_calls=1, input_tokens=25_000, output_tokens=500, cost_usd=0.002)
TOTAL = Usage(calls=6, sub_calls=5, input_tokens=128_000, output_tokens=2_700, cost_usd=0.02)
CODE = "import re\n" + "\n".join(f"x{n} = {n}" for n in range(30))


def sub_call(index: int, *, error: str = "") -> SubCallFinished:
    return SubCallFinished(
        batch=1,
        index=index,
        prompt=f"Summarise part {index}\nof the log",
        reply="" if error else f"Part {index} is dull",
        error=error,
        usage=SUB,
        duration_s=1.0,
        done=index + 1,
        total=5,
    )


def turn(
    number: int = 1, *, question: str = "which endpoints got slower?", answer: str = "/cart"
) -> list[Event]:
    return [
        TurnStarted(turn=number, question=question),
        StepStarted(step=1, max_steps=30),
        ReplyFinished(
            step=1, cell=4, prose="I look first.", code=CODE, reasoning="", usage=ROOT, model="gpt-5"
        ),
        SubCallsStarted(batch=1, total=5, model="gpt-5-mini", estimate_usd=None),
        *[sub_call(index, error="Timeout: 60 s" if index == 4 else "") for index in range(5)],
        SubCallsFinished(batch=1, total=5, failed=1, duration_s=6.0),
        CellFinished(
            step=1, cell=4, status="ok", shown="a\nb\n", total_chars=90_000, error="", duration_s=2.1
        ),
        TurnFinished(
            turn=number,
            status="ok",
            steps=1,
            answer=Answer(
                path="/state/a", size_bytes=len(answer.encode()), format="text", text=answer, complete=True
            ),
            usage=TOTAL,
            session_usage=replace(TOTAL, cost_usd=0.84),
            duration_s=38.0,
        ),
        Compacted(turn=number, before_chars=40_000, after_chars=900),
    ]


def rows(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The events as they come back from `events.jsonl`."""
    extra = {"ts": "2026-03-12T10:00:01.250+00:00", "session": "k3f9"}
    return [
        json.loads(json.dumps(to_json(event) | extra)) for event in events if not isinstance(event, LIVE_ONLY)
    ]


def told(events: Iterable[Event], turn: int | None = None, *, width: int = 80) -> list[str]:
    return list(trace_text(rows(events), turn, console_width=width))


def child(number: int, *, parent: int = 0, batch: int = 1, index: int = 0) -> tuple[Event, ...]:
    """How a child begins, what it does, and how it ends."""
    depth = 1 if not parent else 2
    return (
        ChildStarted(
            child=number,
            parent=parent,
            batch=batch,
            index=index,
            question=f"What is in part {index}?",
            context_chars=26_000,
            model="gpt-5-mini",
            depth=depth,
        ),
        StepStarted(step=1, max_steps=5, depth=depth, child=number),
        ReplyFinished(
            step=1,
            cell=1,
            prose=f"I am child {number}.",
            code="look()",
            reasoning="",
            usage=SUB,
            model="gpt-5-mini",
            depth=depth,
            child=number,
        ),
        CellFinished(
            step=1,
            cell=1,
            status="final",
            shown="",
            total_chars=0,
            error="",
            duration_s=0.1,
            depth=depth,
            child=number,
        ),
        ChildFinished(
            child=number, status="ok", steps=1, answer="dull", usage=SUB, duration_s=2.0, depth=depth
        ),
    )


def answered(number: int, *, index: int, batch: int = 1, child: int = 0) -> SubCallFinished:
    found = sub_call(index)
    return replace(
        found, batch=batch, prompt=f"What is in part {index}?", answered_by=number, usage=Usage(), child=child
    )


def recursive(batch: int, total: int, *, child: int = 0) -> SubCallsStarted:
    return SubCallsStarted(
        batch=batch, total=total, model="gpt-5-mini", estimate_usd=None, recursive=True, child=child
    )
