"""The trace of a turn reads like what happened, whatever the rows hold."""

from dataclasses import replace
from typing import Any

import pytest

from rlm.errors import UsageError
from rlm.events import (
    Compacted,
    Event,
    NamespaceSaved,
    Notice,
    Reminder,
    Resumed,
    Said,
    SubCallsFinished,
    SubCallsStarted,
    TurnFinished,
    TurnStarted,
    Usage,
)
from rlm.ui.trace import trace_text

from . import ALL_HOSTILE, FORBIDDEN, HOSTILE
from .samples import cell, reply, shown, started
from .trace_rows import TOTAL, answered, child, recursive, rows, sub_call, told, turn


def test_a_turn_is_told_step_by_step() -> None:
    assert told(turn()) == [
        "turn 1 · 2026-03-12 10:00:01 · session k3f9",
        "  which endpoints got slower?",
        "",
        "step 1/30 · gpt-5 · 1 call · 3k in / 200 out · $0.01",
        "  I look first.",
        "In [4]",
        "  │ import re",
        *[f"  │ x{n} = {n}" for n in range(30)],
        "5 sub-calls to gpt-5-mini · 1 failed · 125k in / 2.5k out · $0.01 · 6.0s",
        "  [0] Summarise part 0⏎of the log",
        "      → Part 0 is dull",
        "  [1] Summarise part 1⏎of the log",
        "      → Part 1 is dull",
        "  [2] Summarise part 2⏎of the log",
        "      → Part 2 is dull",
        "  [4] Summarise part 4⏎of the log",
        "      failed: Timeout: 60 s",
        "  … 1 more",
        "  a",
        "  b",
        "  … 90,000 characters in all",
        "Out [4] ok 2.1s",
        "compacted: 40,000 to 900 characters",
        "",
        "answer",
        "  /cart",
        "",
        "answered · 1 step · 6 calls · 128k in / 2.7k out · $0.02 · 38s",
        "  gpt-5: 1 call · 3k in / 200 out · $0.01",
        "  gpt-5-mini: 5 calls · 125k in / 2.5k out · $0.01",
        "  session $0.84",
    ]


def test_the_last_turn_unless_one_is_chosen() -> None:
    events = [
        *turn(1, question="first"),
        *turn(2, question="second, undone"),
        *turn(2, question="second"),
        *turn(3, question="third"),
    ]
    assert told(events)[1] == "  third"
    assert told(events, 1)[1] == "  first"
    assert told(events, 2)[1] == "  second"
    assert sum(line.startswith("turn ") for line in told(events, 2)) == 1


def test_a_turn_that_is_not_there() -> None:
    with pytest.raises(UsageError) as caught:
        told([*turn(2), *turn(3)], 7)
    assert str(caught.value) == "There is no turn 7. The trace has turns 2 to 3."
    with pytest.raises(UsageError, match="nothing to trace"):
        told([])


def test_a_turn_that_broke_off_is_told_as_far_as_it_went() -> None:
    lines = told(turn()[:3])
    assert lines[-1] == "  │ x29 = 29"


def test_other_events_have_a_line_each() -> None:
    events: list[Event] = [
        TurnStarted(turn=1, question="q"),
        Reminder(step=1),
        Notice(text="a file changed\nanswered"),
        NamespaceSaved(size_bytes=1, skipped=(("conn", "sqlite3.Connection"),), duration_s=0.1),
        TurnFinished(
            turn=1,
            status="no_answer",
            steps=30,
            answer=None,
            usage=replace(TOTAL, cost_usd=None),
            session_usage=TOTAL,
            duration_s=125.0,
            message="The step limit came first.",
        ),
    ]
    assert told(events)[2:] == [
        "reminded: the reply held neither a cell nor an answer",
        "warning: a file changed",
        "  answered",
        "not saved: conn (sqlite3.Connection)",
        "",
        "note: The step limit came first.",
        "no answer · 30 steps · 6 calls · 128k in / 2.7k out · $? · 2m 05s",
        "  session $0.02",
    ]


def test_what_the_user_did_while_the_turn_ran_is_told() -> None:
    events: list[Event] = [
        TurnStarted(turn=1, question="q"),
        Said(text="only March\nturn 2"),
        Resumed(kind="continue", hint="look at /cart", waited_s=2.0),
        Resumed(kind="answer", hint="", waited_s=2.0),
        Resumed(kind="stop", hint="", waited_s=2.0),
    ]
    assert told(events)[2:] == [
        "you: only March",
        "  turn 2",
        "stopped by the user: continue: look at /cart",
        "stopped by the user: answer now",
        "stopped by the user: end the turn",
    ]


def test_what_became_longer_was_not_compacted() -> None:
    events = [*turn()[:-1], Compacted(turn=1, before_chars=2_140, after_chars=2_693)]
    assert not [line for line in told(events) if "compacted" in line]


def test_what_was_not_called_of_an_unpriced_model_has_no_cost() -> None:
    def ended(estimate_usd: float | None) -> list[Event]:
        begun = SubCallsStarted(batch=1, total=8, model="local", estimate_usd=estimate_usd)
        return [*turn()[:3], begun, SubCallsFinished(batch=1, total=8, failed=0, duration_s=1.0)]

    assert told(ended(None))[-1] == "0 of 8 sub-calls to local · 1.0s"
    assert told(ended(0.2))[-1] == "0 of 8 sub-calls to local · 0 in / 0 out · $0.00 · 1.0s"


@pytest.mark.parametrize("total", [8, 1])
def test_nor_has_it_one_on_the_screen(total: int) -> None:
    end = SubCallsFinished(batch=1, total=total, failed=0, duration_s=1.0)
    lines = shown([reply(), started(1, total, estimate_usd=None), end, cell()])
    assert any("gpt-5-mini" in line for line in lines)
    assert not [line for line in lines if "$" in line or "tok" in line]


def test_children_of_an_earlier_version_stand_where_they_ran() -> None:
    """Their rows have a depth but no number."""
    child = [row | {"depth": 1} for row in rows(turn()[:-1])]
    events = [*rows(turn()[:3]), *child, *rows(turn()[-3:])]
    lines = list(trace_text([without_numbers(row) for row in events]))
    at = lines.index("  rlm_query")
    assert lines[at : at + 5] == [
        "  rlm_query",
        "    which endpoints got slower?",
        "",
        "  step 1/30 · gpt-5 · 1 call · 3k in / 200 out · $0.01",
        "    I look first.",
    ]
    assert "  answered · 1 step · 6 calls · 128k in / 2.7k out · $0.02 · 38s" in lines
    assert lines.count("answer") == 1


def without_numbers(row: dict[str, Any]) -> dict[str, Any]:
    new = ("child", "recursive", "cached", "cut", "retries", "answered_by")
    return {key: value for key, value in row.items() if key not in new}


def test_a_trace_without_the_newer_keys_reads_the_same() -> None:
    old = [without_numbers(row) for row in rows(turn())]
    assert list(trace_text(old)) == told(turn())


def test_what_became_of_the_calls_of_a_batch() -> None:
    events: list[Event] = [
        *turn()[:4],
        replace(sub_call(0), cached=True, usage=Usage()),
        replace(sub_call(1), retries=2, cut=True),
        replace(sub_call(2, error="Timeout: 60 s"), retries=1),
        SubCallsFinished(batch=1, total=5, failed=3, duration_s=6.0),
    ]
    assert told(events)[-7:] == [
        "3 of 5 sub-calls to gpt-5-mini · 1 failed · 1 cached · 2 retried · 1 cut · 50k in / 1k out · $0.0040"
        " · 6.0s",
        "  [0] Summarise part 0⏎of the log",
        "      → (cached, free) Part 0 is dull",
        "  [1] Summarise part 1⏎of the log",
        "      → (after 2 retries, cut at its length limit) Part 1 is dull",
        "  [2] Summarise part 2⏎of the log",
        "      failed (after 1 retry): Timeout: 60 s",
    ]


@pytest.mark.parametrize("answer", ["line\n" * 100, "x" * 10_000])
def test_a_long_answer_is_told_by_its_head(answer: str) -> None:
    lines = told(turn(answer=answer))
    end = lines.index("answered · 1 step · 6 calls · 128k in / 2.7k out · $0.02 · 38s")
    assert lines[end - 2] in ("  … 500 B in all: /state/a", "  … 10 kB in all: /state/a")
    assert len("\n".join(lines)) < 7000


def test_rows_may_lack_what_this_version_writes() -> None:
    names = ("TurnStarted", "StepStarted", "ReplyFinished", "SubCallFinished", "SubCallsFinished")
    child = ("ChildStarted", "ChildFinished")
    more = ("CellFinished", "Notice", "TurnFinished", "Compacted", "NamespaceSaved", "Unheard")
    lines = list(trace_text([{"event": name} for name in (*names, *child, *more)]))
    assert lines[0] == "turn ?"
    assert any(line.startswith("answered · 0 steps") for line in lines)


@pytest.mark.parametrize("width", [80, 20])
@pytest.mark.parametrize("text", [*HOSTILE.values(), ALL_HOSTILE], ids=[*HOSTILE, "all"])
def test_nothing_hostile_is_in_a_line(text: str, width: int) -> None:
    def spoiled(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spoiled(inner, name) for name, inner in value.items()}
        return f"{text}\n{text}" if isinstance(value, str) and key != "event" else value

    extra: list[Event] = [
        Notice(text="x"),
        Said(text="x"),
        Resumed(kind="continue", hint="x", waited_s=1.0),
        NamespaceSaved(size_bytes=1, skipped=((text, text),), duration_s=0.1),
    ]
    children = [recursive(2, 2), *child(1, batch=2), answered(1, batch=2, index=0), *child(2, batch=9)]
    spoilt = [spoiled(row) for row in rows([*turn()[:-2], *children, *turn()[-2:], *extra])]
    lines = list(trace_text(spoilt, console_width=width))
    assert len(lines) > 20
    assert not [line for line in lines if FORBIDDEN.search(line) or "\n" in line]


def test_prose_and_prompts_fit_the_width() -> None:
    lines = told(turn(question="which of all these endpoints got slower in March?"), width=30)
    assert lines[1:3] == ["  which of all these endpoints", "  got slower in March?"]
    assert "  [0] Summarise part 0⏎of the…" in lines
