"""What a user sees of sub-calls: how they stand, child RLMs, and the question before a dear batch."""

from dataclasses import replace

import pytest

from rlm.events import (
    BatchChoice,
    BatchPrice,
    CellOutput,
    Event,
    Reminder,
    ReplyDelta,
    StepStarted,
    SubCallsFinished,
    SubCallsProgress,
)
from rlm.ui import ask
from rlm.ui.render import Screen

from . import Terminal
from .samples import (
    CALL,
    CODE,
    PRICE,
    ask_batch,
    call,
    cell,
    child_finished,
    child_started,
    logged,
    reply,
    shown,
    started,
)


def test_a_batch_has_a_status_line_and_then_one_line() -> None:
    with Terminal(rows=20) as terminal:
        screen = Screen(terminal.console)
        for event in (StepStarted(step=3, max_steps=30), reply(step=3), started(1, 120)):
            terminal.clock.now_s += 1
            screen.show(event)
        assert terminal.shown[-1][1:] == " 0/120 calls · about $0.34"
        for done in range(1, 41):
            terminal.clock.now_s += 0.15
            screen.show(call(1, done, 120, error="RateLimitError: slow\ndown" if done in (7, 9) else ""))
        assert terminal.shown[-1][1:] == " 40/120 calls · 2 failed · 1.1M tok · $0.38 · ETA 12s"
        screen.show(SubCallsFinished(batch=1, total=120, failed=2, duration_s=6.0))
        screen.show(cell(step=3))
        assert terminal.shown[-3:] == [
            "40 of 120 calls to gpt-5-mini · 2 failed · 1.1M tok · $0.38 · 6.0s",
            "  first: RateLimitError: slow⏎down",
            "Out [9] ok 1.2s",
        ]


def test_batches_side_by_side_are_added_up() -> None:
    with Terminal() as terminal:
        screen = Screen(terminal.console)
        for event in (started(1, 10), started(2, 20, estimate_usd=None), call(1, 1, 10), call(2, 1, 20)):
            screen.show(event)
            terminal.clock.now_s += 1
        screen.tick()
        assert terminal.shown[-1][1:].startswith(" 2/30 calls · 55k tok · $0.02 · ETA ")


def test_a_batch_in_a_log() -> None:
    batch: list[Event] = [started(1, 60), *[call(1, done, 60) for done in range(1, 31)]]
    lines = logged([StepStarted(step=3, max_steps=30), reply(step=3), *batch])
    assert lines[0] == "step 3 · waiting for the model"
    assert lines[1] == "step 3 · 7/60 calls · 192k tok · $0.07 · ETA 52s"
    assert len(lines) == 4


def test_single_calls_in_a_loop_make_one_line() -> None:
    events: list[Event] = [reply()]
    for number in range(1, 21):
        events += [started(number, 1), call(number, 1, 1)]
        events.append(SubCallsFinished(batch=number, total=1, failed=0, duration_s=1.0))
    lines = shown([*events, cell()])
    assert lines[2:] == ["20 calls to gpt-5-mini · 550k tok · $0.19 · 1m 00s", "Out [7] ok 1.2s"]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            120,
            " 40/400 calls · 64 running · 3 retrying in 4s · 2 failed · 5 cached · ~1.1M tok · ~$0.38 · "
            "ETA 51s",
        ),
        (40, " 40/400 calls · 64 running · 3 retryi…"),
        (20, " 40/400 calls · 6…"),
    ],
)
def test_the_line_tells_what_matters_most_first(columns: int, line: str) -> None:
    with Terminal(columns=columns) as terminal:
        screen = Screen(terminal.console)
        screen.show(started(1, 400))
        for done in range(1, 41):
            terminal.clock.now_s += 0.125
            one = call(1, done, 400, error="Timeout" if done in (7, 9) else "")
            screen.show(replace(one, cached=done <= 5, usage=replace(CALL, estimated=done == 1)))
        screen.show(SubCallsProgress(batch=1, running=64, retrying=3, retry_in_s=3.9))
        terminal.clock.now_s += 0.1
        screen.tick()
        assert terminal.shown[-1][1:] == line


def test_the_line_goes_on_while_nothing_comes_back() -> None:
    with Terminal() as terminal:
        screen = Screen(terminal.console)
        screen.show(started(1, 100))
        screen.show(call(1, 1, 100))
        terminal.clock.now_s += 1
        screen.show(SubCallsProgress(batch=1, running=0, retrying=16, retry_in_s=30))
        for left in ("30s", "29s", "28s"):
            screen.tick()
            assert f" 1/100 calls · 16 retrying in {left} · 28k tok" in terminal.shown[-1]
            terminal.clock.now_s += 1


def test_unpriced_calls_cost_what_is_not_known() -> None:
    unpriced = replace(call(1, 1, 2), usage=replace(CALL, cost_usd=None))
    with Terminal() as terminal:
        screen = Screen(terminal.console)
        for event in (started(1, 2, estimate_usd=None), unpriced):
            terminal.clock.now_s += 1
            screen.show(event)
        assert terminal.shown[-1][1:] == " 1/2 calls · 28k tok · $? · ETA 1s"


def test_threads_that_make_single_calls_are_told_by_how_many_run() -> None:
    with Terminal() as terminal:
        screen = Screen(terminal.console)
        for batch in (1, 2, 3):
            screen.show(started(batch, 1))
            screen.show(SubCallsProgress(batch=batch, running=1))
        screen.show(replace(call(1, 1, 1), usage=CALL))
        screen.show(SubCallsFinished(batch=1, total=1, failed=0, duration_s=1.0))
        terminal.clock.now_s += 1
        screen.tick()
        assert terminal.shown[-1][1:] == " 1 call · 2 running · 28k tok · $0.0095"


def test_a_call_may_come_back_after_its_cell() -> None:
    end = SubCallsFinished(batch=1, total=1, failed=0, duration_s=1.0)
    assert shown([reply(), started(1, 1), cell(), call(1, 1, 1), end])[-1:] == ["Out [7] ok 1.2s"]


def test_a_batch_ends_with_what_became_of_it() -> None:
    calls = [replace(call(1, done, 4), cached=done == 1, retries=done // 3) for done in (1, 2, 3, 4)]
    end = SubCallsFinished(batch=1, total=4, failed=0, duration_s=1.0)
    assert shown([started(1, 4), *calls, end]) == [
        "4 calls to gpt-5-mini · 1 cached · 2 retried · 110k tok · $0.04 · 5.0s"
    ]
    assert shown([started(1, 4), *calls[:2], end]) == [
        "2 of 4 calls to gpt-5-mini · 1 cached · 55k tok · $0.02 · 3.0s"
    ]


def test_one_child_has_its_steps_indented_and_short() -> None:
    events: list[Event] = [
        reply("parent"),
        child_started("what is in part 1?"),
        StepStarted(step=1, max_steps=5, depth=1, child=1),
        ReplyDelta(text="streamed", depth=1, child=1),
        reply("I count.\n" * 6, CODE, child=1),
        CellOutput(text="live", depth=1, child=1),
        cell("final", shown="42\n", child=1),
        child_finished(),
        cell(),
    ]
    assert shown(events)[3:] == [
        "  child 1 · started: what is in part 1?",
        "  step 1",
        *["    I count."] * 4,
        "    … +2 lines",
        "  In [7]",
        "    │ import re",
        "    │ sample = context[:20_000]",
        "    │ x0 = 0",
        "    │ x1 = 1",
        "    … +45 lines",
        "    42",
        "  Out [7] final 1.2s",
        "  child 1 · answered · 3 steps · 41 calls · $0.09 · forty⏎two",
        "Out [7] ok 1.2s",
    ]


def side_by_side() -> list[Event]:
    """Two of three children at once, with steps that interleave."""
    return [
        StepStarted(step=1, max_steps=9),
        reply("parent"),
        started(1, 3, recursive=True),
        child_started("what is in\npart 1?", 1),
        StepStarted(step=1, max_steps=5, depth=1, child=1),
        child_started("what is in part 2?", 2),
        reply("I look.", "look()", child=1),
        reply("I look, too.", None, child=2),
        Reminder(step=1, depth=1, child=2),
        started(2, 2, child=1),
        call(2, 1, 2, child=1),
        call(2, 2, 2, error="Timeout", child=1),
        SubCallsFinished(batch=2, total=2, failed=1, duration_s=1.0, depth=1, child=1),
        cell("final", shown="42\n", child=1),
        child_finished(1),
        replace(call(1, 1, 3), usage=CALL, answered_by=1),
        child_started("what is in part 3?", 3),
        child_finished(2, status="no_answer", message="No answer within 5 steps."),
        replace(call(1, 2, 3, error="No answer"), answered_by=2),
    ]


def test_children_side_by_side_have_a_line_for_what_matters() -> None:
    assert shown(side_by_side(), columns=90)[4:] == [
        "  child 1 · started: what is in⏎part 1?",
        "  child 2 · started: what is in part 2?",
        "  child 1 · answered · 3 steps · 41 calls · $0.09 · forty⏎two",
        "  child 3 · started: what is in part 3?",
        "  child 2 · no answer · 3 steps · 41 calls · $0.09 · No answer within 5 steps.",
    ]
    assert shown(side_by_side(), quiet=True) == []


def test_their_steps_are_shown_with_their_numbers_when_verbose() -> None:
    lines = shown(side_by_side(), verbose=True)
    at = lines.index("  child 1 · step 1")
    assert lines[at : at + 13] == [
        "  child 1 · step 1",
        "    I look.",
        "  In [7]",
        "    │ look()",
        "  child 2 · step 1",
        "    I look, too.",
        "  child 2 · reminded: the reply held neither a cell nor an answer",
        "  child 1 · 2 calls to gpt-5-mini · 1 failed · 55k tok · $0.02 · 3.0s",
        "    first: Timeout",
        "    42",
        "  child 1 · Out [7] final 1.2s",
        "  child 1 · answered · 3 steps · 41 calls · $0.09 · forty⏎two",
        "  child 3 · started: what is in part 3?",
    ]


def test_how_children_stand_and_what_they_took_together() -> None:
    with Terminal(columns=100) as terminal:
        screen = Screen(terminal.console)
        for event in side_by_side():
            screen.show(event)
            terminal.clock.now_s += 1
        screen.tick()
        line = " 2/3 children · 1 running · 1 failed · 84 calls · 488k tok · $0.20 · ETA "
        assert terminal.shown[-1][1:].startswith(line)
        screen.show(child_finished(3))
        screen.show(call(1, 3, 3))
        screen.show(SubCallsFinished(batch=1, total=3, failed=1, duration_s=20.0))
        screen.show(cell())
        assert terminal.shown[-3:] == [
            "3 children of gpt-5-mini · 1 failed · 84 calls · 488k tok · $0.20 · 17s",
            "  first: No answer",
            "Out [7] ok 1.2s",
        ]


def test_a_child_of_a_child_stands_below_it_with_its_steps() -> None:
    below = replace(child_started("and in its middle?", 2), parent=1, batch=2, depth=2)
    events: list[Event] = [
        child_started("what is in part 1?"),
        reply("I ask.", "rlm_query('…')", child=1),
        below,
        replace(reply("It is dull.", None, child=2), depth=2),
        replace(child_finished(2), depth=2),
        child_finished(1),
        child_started("what is in part 2?", 3),
        child_finished(3),
    ]
    assert shown(events) == [
        "  child 1 · started: what is in part 1?",
        "  step 1",
        "    I ask.",
        "  In [7]",
        "    │ rlm_query('…')",
        "    child 2 · started: and in its middle?",
        "    step 1",
        "      It is dull.",
        "    child 2 · answered · 3 steps · 41 calls · $0.09 · forty⏎two",
        "  child 1 · answered · 3 steps · 41 calls · $0.09 · forty⏎two",
        "  child 3 · started: what is in part 2?",
        "  child 3 · answered · 3 steps · 41 calls · $0.09 · forty⏎two",
    ]


def test_children_that_were_stopped_do_not_count_as_running() -> None:
    stopped = SubCallsFinished(batch=1, total=2, failed=2, duration_s=1.0)
    events: list[Event] = [started(1, 2, recursive=True), child_started("a"), child_started("b", 2), stopped]
    later = replace(child_started("c", 3), batch=2)
    assert shown([*events, later, reply("I look.", None, child=3)])[-2:] == ["  step 1", "    I look."]


def test_a_log_gets_one_line_of_children_in_ten_seconds() -> None:
    assert logged([*side_by_side(), *[SubCallsProgress(batch=1, running=1)] * 10]) == [
        "step 1 · waiting for the model",
        "step 1 · 0/3 children · 2 running · 82 calls · 433k tok · $0.18",
        "step 1 · 2/3 children · 1 running · 1 failed · 84 calls · 488k tok · $0.20 · ETA 6s",
    ]


# -- the question before a dear batch


@pytest.mark.parametrize(
    ("price", "line"),
    [
        (
            PRICE,
            "900 calls to gpt-5-mini · about 12M tokens · about $3.10 (310% of the $1.00 left; 288 calls fit)"
            " · 40 already answered",
        ),
        (
            replace(PRICE, cost_usd=0.31, affordable=900, cached=0),
            "900 calls to gpt-5-mini · about 12M tokens · about $0.31 (31% of the $1.00 left)",
        ),
        (
            replace(PRICE, cost_usd=None, left_tokens=5_000_000, affordable=1, cached=0),
            "900 calls to gpt-5-mini · about 12M tokens · $?, its price is not known (240% of the 5M tokens "
            "left; 1 call fits)",
        ),
        (
            replace(PRICE, calls=1, left_usd=0.0, affordable=0, cached=0),
            "1 call to gpt-5-mini · about 12M tokens · about $3.10 ($0.00 is left; 0 calls fit)",
        ),
        (
            replace(PRICE, left_usd=None, affordable=900, cached=0),
            "900 calls to gpt-5-mini · about 12M tokens · about $3.10",
        ),
    ],
)
def test_how_a_price_reads(price: BatchPrice, line: str) -> None:
    assert list(ask.price_lines(ask_batch(price), None)) == [line]


@pytest.mark.parametrize("quiet", [False, True])
def test_the_price_is_shown_also_when_quiet(quiet: bool) -> None:
    text = " ".join(shown([started(1, 940), ask_batch(PRICE)], quiet=quiet))
    assert text.startswith("900 calls to gpt-5-mini · about 12M tokens · about $3.10 (310%")


def test_after_a_sample_its_price_is_told_and_the_wait_is_not_counted() -> None:
    with Terminal(columns=110) as terminal:
        screen = Screen(terminal.console)
        screen.show(started(1, 900))
        for done in range(1, 11):
            terminal.clock.now_s += 1
            usage = replace(CALL, cost_usd=0.034, estimated=True)
            screen.show(replace(call(1, done, 900, error="" if done > 1 else "no"), usage=usage))
        again = replace(
            ask_batch(replace(PRICE, calls=890, cost_usd=0.31, affordable=890, cached=0)), sampled=10
        )
        screen.show(again)
        assert terminal.shown == [
            "sample of 10: ~$0.034 each on average · ~275k tok · 1 failed",
            "890 more calls to gpt-5-mini · about 12M tokens · about $0.31 (31% of the $1.00 left)",
        ]
        terminal.clock.now_s += 600
        screen.answered(again)
        screen.tick()
        assert terminal.shown[-1].endswith(" 10/900 calls · 1 failed · ~275k tok · ~$0.34 · ETA 14m 50s")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("", BatchChoice(kind="cancel")),
        ("c", BatchChoice(kind="cancel")),
        (" Cancel ", BatchChoice(kind="cancel")),
        ("r", BatchChoice(kind="run")),
        ("RUN", BatchChoice(kind="run")),
        ("s", BatchChoice(kind="sample", calls=10)),
        ("sample", BatchChoice(kind="sample", calls=10)),
        ("s 25", BatchChoice(kind="sample", calls=25)),
        ("25", BatchChoice(kind="sample", calls=25)),
        ("900", BatchChoice(kind="run")),
        ("9" * 5000, BatchChoice(kind="run")),
        ("0", None),
        ("-1", None),
        ("²", None),
        ("y", None),
        ("r 25", None),
        ("s 2 5", None),
        ("s s", None),
    ],
)
def test_what_is_typed_means(typed: str, answer: BatchChoice | None) -> None:
    assert ask.choice(typed, PRICE) == answer


def test_a_sample_is_offered_where_something_is_left_after_it() -> None:
    assert ask.prompt(PRICE) == "[r]un  [s]ample 10  [c]ancel? (Enter cancels) "
    assert ask.prompt(replace(PRICE, calls=3)) == "[r]un  [s]ample 2  [c]ancel? (Enter cancels) "
    assert ask.prompt(replace(PRICE, calls=1)) == "[r]un  [c]ancel? (Enter cancels) "
    assert ask.choice("s", replace(PRICE, calls=1)) is None
