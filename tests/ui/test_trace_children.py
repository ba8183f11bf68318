"""The trace of child RLMs, which ran side by side, reads as a tree."""

from collections.abc import Iterable
from dataclasses import replace

from rlm.events import (
    ChildFinished,
    ChildStarted,
    Event,
    SubCallsFinished,
)

from .trace_rows import answered, child, recursive, told, turn


def told_child(number: int, index: int) -> list[str]:
    return [
        f"child {number} · 26,000 characters of context",
        "",
        "step 1/5 · gpt-5-mini · 1 call · 25k in / 500 out · $0.0020",
        f"  I am child {number}.",
        "In [1]",
        "  │ look()",
        "Out [1] final 0.1s",
        "",
        "answered · 1 step · 1 call · 25k in / 500 out · $0.0020 · 2.0s",
    ]


def indented(lines: Iterable[str], columns: int) -> list[str]:
    return [f"{' ' * columns}{line}".rstrip() for line in lines]


def test_children_side_by_side_are_told_one_after_another() -> None:
    first, second = child(1, index=1), child(2, index=0)
    mixed = [event for both in zip(first, second, strict=True) for event in both]
    events: list[Event] = [
        *turn()[:3],
        recursive(1, 2),
        *mixed,
        answered(1, index=1),
        answered(2, index=0),
        SubCallsFinished(batch=1, total=2, failed=0, duration_s=6.0),
        *turn()[-3:],
    ]
    lines = told(events)
    at = lines.index("2 child RLMs of gpt-5-mini · 2 calls · 50k in / 1k out · $0.0040 · 6.0s")
    assert lines[at + 1 : at + 23] == [
        "  [0] What is in part 0?",
        *indented(told_child(2, 0), 6),
        "      → Part 0 is dull",
        "  [1] What is in part 1?",
        *indented(told_child(1, 1), 6),
        "      → Part 1 is dull",
    ]
    assert lines[at + 23] == "  a", "what the parent's cell printed"
    assert "  gpt-5-mini: 2 calls · 50k in / 1k out · $0.0040" in lines, "each call is counted once"


def test_a_child_of_a_child_stands_below_its_sub_call() -> None:
    begins, *does, ends = child(1)
    events: list[Event] = [
        *turn()[:3],
        recursive(1, 1),
        begins,
        *does,
        recursive(2, 1, child=1),
        *child(2, parent=1, batch=2),
        answered(2, index=0, batch=2, child=1),
        SubCallsFinished(batch=2, total=1, failed=0, duration_s=3.0, depth=1, child=1),
        ends,
        answered(1, index=0),
        SubCallsFinished(batch=1, total=1, failed=0, duration_s=6.0),
    ]
    lines = told(events)
    at = lines.index("      1 child RLM of gpt-5-mini · 1 call · 25k in / 500 out · $0.0020 · 3.0s")
    assert lines[at + 1 :] == [
        "        [0] What is in part 0?",
        *indented(told_child(2, 0), 12),
        "            → Part 0 is dull",
        "",
        "      answered · 1 step · 1 call · 25k in / 500 out · $0.0020 · 2.0s",
        "      → Part 0 is dull",
    ]


def test_what_broke_off_is_told_as_far_as_it_went() -> None:
    begun, done = child(1, index=0), child(2, index=1)
    assert isinstance(done[-1], ChildFinished)
    failed = replace(done[-1], status="no_answer", message="No answer within 5 steps.")
    events: list[Event] = [*turn()[:3], recursive(1, 3), *begun[:3], *done[:-1], failed]
    lines = told(events)
    at = lines.index("0 of 3 child RLMs of gpt-5-mini · 1 call · 25k in / 500 out · $0.0020")
    assert lines[at + 1 :] == [
        "  [0] What is in part 0?",
        *indented(told_child(1, 0)[:6], 6),
        "  [1] What is in part 1?",
        *indented(told_child(2, 1)[:-1], 6),
        "      note: No answer within 5 steps.",
        "      no answer · 1 step · 1 call · 25k in / 500 out · $0.0020 · 2.0s",
    ]
    assert told([*events, turn()[-2]])[at : len(lines)] == lines[at:], "before the end of the turn"


def test_a_child_whose_sub_call_is_lost_is_told_all_the_same() -> None:
    lines = told([*turn()[:3], *child(7, batch=9, index=4)])
    assert lines[-9:] == indented(told_child(7, 4), 2)


def test_a_long_question_of_a_child_is_told_in_full() -> None:
    begins, *others = child(1)
    assert isinstance(begins, ChildStarted)
    long = replace(begins, question="What is in it, " + "really, " * 20 + "and\nwhy?")
    lines = told([*turn()[:3], recursive(1, 1), long, *others], width=60)
    assert "  [0] What is in it, really, really, really, really, really…" in lines
    assert lines[lines.index("      child 1 · 26,000 characters of context") + 1].startswith(
        "        What is in it, really,"
    )
    assert "        why?" in lines
    assert max(map(len, lines)) <= 100
