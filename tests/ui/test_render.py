"""Whole screens of a turn, as a user sees them on a wide and a narrow terminal, in a log, and when quiet."""

import asyncio
import string
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.events import (
    AskConsent,
    AskInterrupted,
    CellOutput,
    Compacted,
    Event,
    NamespaceSaved,
    Notice,
    Progress,
    Reminder,
    ReplyDelta,
    Resume,
    Resumed,
    Said,
    StepStarted,
    SubCallsFinished,
    TurnStarted,
    Usage,
)
from rlm.ui.flow import Flow, Fold
from rlm.ui.numbers import count, duration, money, plural, size, usage_text
from rlm.ui.render import Screen

from . import ALL_HOSTILE, HOSTILE, Terminal
from .samples import (
    CODE,
    PRICE,
    USAGE,
    ask_batch,
    call,
    cell,
    child_finished,
    child_started,
    finished,
    logged,
    reply,
    shown,
    started,
)


def turn() -> Iterator[Event]:
    """One question, two steps."""
    yield TurnStarted(turn=1, question="which endpoints got slower?")
    yield Progress(text="starting the sandbox")
    yield StepStarted(step=1, max_steps=30)
    for piece in ("I look at ", "the sha", "pe of the li", "nes first.\n", "\n- one\n  - two\n\n"):
        yield ReplyDelta(text=piece)
    yield reply("I look at …", CODE)
    for number in range(20):
        yield CellOutput(text=f"line {number}\n")
    yield cell()
    yield StepStarted(step=2, max_steps=30)
    yield reply("Now the answer.", "FINAL(y)", step=2)
    yield cell("error", error="Traceback …\nNameError: name 'y' is not defined", step=2)
    yield Compacted(turn=1, before_chars=40_000, after_chars=900)
    yield NamespaceSaved(size_bytes=5, skipped=(), duration_s=1.0)
    yield finished()


def test_a_turn_on_a_wide_terminal() -> None:
    assert shown(turn()) == [
        "step 1/30",
        "I look at the shape of the lines first.",
        "",
        "- one",
        "  - two",
        "In [7]",
        "  │ import re",
        "  │ sample = context[:20_000]",
        *[f"  │ x{n} = {n}" for n in range(10)],
        "  … +37 lines",
        *[f"  line {n}" for n in range(8)],
        "  … +12 lines",
        "Out [7] ok 1.2s",
        "step 2/30",
        "Now the answer.",
        "In [8]",
        "  │ FINAL(y)",
        "Out [8] error 1.2s · NameError: name 'y' is not defined",
        "3 steps · 41 calls · 210k in / 6k out (90k cached) · $0.09 · session $0.84",
    ]


def test_a_turn_on_a_narrow_terminal() -> None:
    lines = shown(turn(), columns=20)
    assert lines[:9] == [
        "step 1/30",
        "I look at the shape",
        "of the lines first.",
        "",
        "- one",
        "  - two",
        "In [7]",
        "  │ import re",
        "  │ sample =",
    ]
    assert lines[-8:] == [
        "  │ FINAL(y)",
        "Out [8] error 1.2s",
        "  NameError: name",
        "'y' is not defined",
        "3 steps · 41 calls ·",
        "210k in / 6k out",
        "(90k cached) · $0.09",
        "· session $0.84",
    ]


def test_what_is_folded_tells_how_to_see_it() -> None:
    lines = shown(turn(), more="/steps {step}")
    assert "  … +37 lines (/steps 1)" in lines
    assert "  … +12 lines (/steps 1)" in lines
    narrow = shown(turn(), columns=20, more="/steps {step}")
    assert "  … +37: /steps 1" in narrow and "  … +12: /steps 1" in narrow
    assert "  … +12: rlm trace" in shown(turn(), columns=20, more="rlm trace")


def test_a_cell_that_prints_more_shows_its_last_line_in_the_status() -> None:
    for columns, status in ((80, "cell running · tick 22 · +15 lines"), (20, "tick… · +15 lines")):
        with Terminal(columns=columns) as terminal:
            screen = Screen(terminal.console)
            for event in (StepStarted(step=1, max_steps=2), reply()):
                screen.show(event)
            for number in range(23):
                screen.show(CellOutput(text=f"tick {number}\n"))
                terminal.clock.now_s += 1
            assert terminal.shown[-1][2:] == status
            assert terminal.shown[-2] == "  tick 7"
            screen.show(cell())
            assert terminal.shown[-2:] == ["  … +15 lines", "Out [7] ok 1.2s"]


def test_a_last_reply_without_a_step_of_its_own_begins_anew() -> None:
    streamed: list[Event] = [ReplyDelta(text="I look "), ReplyDelta(text="first."), reply("I look first.")]
    last = reply("Best so far.", None, step=2)
    for further in ([last], [ReplyDelta(text="Best so "), ReplyDelta(text="far."), last]):
        lines = shown([StepStarted(step=1, max_steps=1), *streamed, cell(), *further], columns=18)
        assert lines[1] == "I look first." and lines[-2:] == ["Out [7] ok 1.2s", "Best so far."]


def test_a_file_that_was_agreed_to_is_no_failure() -> None:
    error = "PermissionError: /a b/may.txt: agreed, and there from the next step on. Call load_file again."
    assert shown([reply(), cell("error", error=error)])[-1] == (
        "Out [7] agreed; the file is there from the next step"
    )


async def test_an_interrupted_turn_goes_on() -> None:
    answer: asyncio.Future[Resume] = asyncio.get_running_loop().create_future()
    events: list[Event] = [
        StepStarted(step=1, max_steps=30),
        reply(code="x = 1"),
        cell("interrupted"),
        AskInterrupted(step=1, answer=answer),
        Resumed(kind="continue", hint="only May", waited_s=3.0),
        Said(text="and\nJune " + "x" * 80),
        Compacted(turn=1, before_chars=90_000, after_chars=9_000, what="steps"),
        Resumed(kind="answer", hint="", waited_s=3.0),
        Resumed(kind="stop", hint="", waited_s=3.0),
    ]
    assert shown(events, columns=60)[3:] == [
        "Out [7] interrupted 1.2s",
        "[a]nswer now, [c]ontinue, [s]top, or type a hint for the",
        "model; Ctrl-C again abandons",
        "going on",
        f"the model is told: and⏎June {'x' * 31}…",
        "earlier steps of this turn compacted · 90k to 9k characters",
        "the model is asked for its best answer",
    ]
    assert not answer.done()


def test_verbose_shows_everything() -> None:
    lines = shown(turn(), verbose=True)
    assert "  │ x46 = 46" in lines
    assert "  line 19" in lines
    assert "turn 1 compacted · 40k to 900 characters" in lines
    assert "namespace saved · 5 B · 1.0s" in lines
    assert not any("…" in line for line in lines)


def test_a_log_gets_progress_and_the_cost() -> None:
    assert logged(turn()) == [
        "starting the sandbox",
        "step 1 · cell running",
        "step 2 · waiting for the model",
        "done · 3 steps · 41 calls · 210k in / 6k out (90k cached) · $0.09 · session $0.84",
    ]


def test_a_log_gets_the_steps_when_verbose() -> None:
    lines = logged(turn(), verbose=True)
    assert lines[1] == "step 1/30"
    assert "  │ x46 = 46" in lines
    assert "  line 19" in lines


def test_quiet_shows_warnings_only() -> None:
    events = [*turn(), Notice(text="by the way", level="info"), Notice(text="the model is unpriced")]
    assert shown(events, quiet=True) == ["warning: the model is unpriced"]
    assert logged(events, quiet=True) == ["warning: the model is unpriced"]


def test_prose_is_on_the_screen_while_it_streams() -> None:
    with Terminal() as terminal:
        screen = Screen(terminal.console)
        screen.show(StepStarted(step=1, max_steps=2))
        screen.show(ReplyDelta(text="First look at the sh"))
        assert terminal.shown == ["step 1/2", "First look at the"]
        screen.show(ReplyDelta(text="ape of it."))
        assert terminal.shown == ["step 1/2", "First look at the shape of"]
        screen.show(reply("First look at the shape of it."))
        assert terminal.shown[1] == "First look at the shape of it."


def test_output_is_on_the_screen_while_the_cell_runs() -> None:
    with Terminal() as terminal:
        screen = Screen(terminal.console)
        for event in (StepStarted(step=1, max_steps=2), reply(), CellOutput(text="one\ntwo\nthr")):
            screen.show(event)
            terminal.clock.now_s += 1
        screen.tick()
        *above, status = terminal.shown
        assert above == ["step 1/2", "In [7]", "  │ x = 1", "  one", "  two"]
        assert status[1:] == " cell running"
        screen.show(CellOutput(text="ee"))
        screen.show(cell())
        assert terminal.shown == [*above, "  three", "Out [7] ok 1.2s"]


def test_what_was_under_way_is_on_the_screen_when_a_turn_breaks_off() -> None:
    step = StepStarted(step=1, max_steps=2)
    assert shown([step, ReplyDelta(text="First look"), finished("interrupted")])[1] == "First look"
    assert (
        shown([step, reply(), CellOutput(text="half a line"), finished("interrupted")])[3] == "  half a line"
    )


def test_reasoning_is_shown_after_the_prose_when_verbose() -> None:
    events: list[Event] = [ReplyDelta(text="First look"), replace(reply("First look"), reasoning="hm\nyes")]
    assert shown(events, verbose=True)[:4] == ["First look", "  hm", "  yes", "In [7]"]
    assert shown(events)[:2] == ["First look", "In [7]"]


@pytest.mark.parametrize("verbose", [False, True])
def test_code_is_laid_out_as_it_is_seen(verbose: bool) -> None:
    lines = shown([reply(code='x = "\x07\u202e"')], verbose=verbose, columns=19)
    assert lines[1:] == ["  │ x =", '  │ "\\x07\\u202e"']


def test_a_long_output_line_is_cut() -> None:
    lines = shown(
        [StepStarted(step=1, max_steps=2), reply(), CellOutput(text="漢" * 10_000), cell()], columns=20
    )
    assert lines[3] == "  " + "漢" * 8 + "…"
    assert lines[4] == "Out [7] ok 1.2s"


def test_output_that_was_not_streamed_is_shown() -> None:
    assert "  42" in shown([StepStarted(step=1, max_steps=2), reply(), cell(shown="42")])


@pytest.mark.parametrize("status", ["interrupted", "rolled_back", "final"])
def test_how_a_cell_ended(status: str) -> None:
    assert shown([reply(), cell(status)])[-1] == f"Out [7] {status.replace('_', ' ')} 1.2s"


def test_what_could_not_be_saved_is_told_once() -> None:
    saved = NamespaceSaved(size_bytes=5, skipped=(("conn", "sqlite3.Connection"),), duration_s=0.1)
    more = replace(saved, skipped=(*saved.skipped, ("lock", "_thread.lock")))
    told = ["note: not saved: conn (sqlite3.Connection)", "note: not saved: lock (_thread.lock)"]
    assert shown([saved, saved, more]) == told
    assert logged([saved, saved, more]) == told


def test_a_reminder_is_shown() -> None:
    assert shown([Reminder(step=1)]) == ["reminded: the reply held neither a cell nor an answer"]


@pytest.mark.parametrize(
    ("status", "first"),
    [
        ("no_answer", "no answer"),
        ("budget", "budget reached"),
        ("interrupted", "interrupted"),
        ("error", "failed"),
    ],
)
def test_an_unanswered_turn_says_so(status: str, first: str) -> None:
    cost = f"{first} · 3 steps · 41 calls · 210k in / 6k out (90k cached) · $0.09 · session $0.84"
    lines = shown([finished(status, message="The step limit came first.")], columns=120)
    assert lines == [cost]


async def test_a_path_is_shown_as_it_really_is() -> None:
    ask = AskConsent(
        path="notes",
        real_path="/home/x\n\x1b[2J/" + "very long/" * 20,
        reason="load_file",
        answer=asyncio.get_running_loop().create_future(),
    )
    for quiet in (False, True):
        text = " ".join(shown([Progress(text="x"), ask], quiet=quiet))
        assert text.startswith("The cell asks to read")
        assert "/home/x⏎\\x1b[2J/very" in text
        assert "(as notes)" in text
        assert text.endswith("load_file")
    assert not ask.answer.done()


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("text", [*HOSTILE.values(), ALL_HOSTILE], ids=[*HOSTILE, "all"])
async def test_nothing_hostile_reaches_terminal_or_log(text: str, verbose: bool) -> None:
    future = asyncio.get_running_loop().create_future()
    lines = f"{text}\n  {text}\r\n{text}"
    events: list[Event] = [
        Progress(text=text),
        Notice(text=lines),
        StepStarted(step=1, max_steps=3),
        *[ReplyDelta(text=character) for character in lines],
        replace(reply(lines, lines), reasoning=lines, model=text),
        *[CellOutput(text=character) for character in lines],
        replace(started(1, 2), model=text),
        call(1, 1, 2, error=lines),
        SubCallsFinished(batch=1, total=2, failed=1, duration_s=1.0),
        cell(text, error=lines),
        started(3, 2, recursive=True),
        child_started(lines),
        child_started(lines, 2),
        reply(lines, lines, child=1),
        cell(shown=lines, error=lines, child=1),
        replace(child_finished(), answer=lines),
        child_finished(2, status="error", message=lines),
        ask_batch(replace(PRICE, model=text)),
        AskConsent(path=text, real_path=lines, reason=lines, answer=future),
        Said(text=lines),
        NamespaceSaved(size_bytes=1, skipped=((text, lines),), duration_s=0.1),
        finished("budget", message=lines),
    ]
    assert shown(events, columns=30, verbose=verbose)
    assert logged(events, verbose=verbose)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (1_234, "1.2k"),
        (6_012, "6k"),
        (9_960, "10k"),
        (210_344, "210k"),
        (999_600, "1M"),
        (1_100_000, "1.1M"),
        (103_000_000, "103M"),
        (25_000_000_000, "25G"),
    ],
)
def test_count(number: int, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (2_000, "2.0 kB"), (412_000_000, "412 MB"), (1_300_000_000, "1.3 GB")],
)
def test_size(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


@pytest.mark.parametrize(
    ("cost_usd", "text"),
    [
        (None, "$?"),
        (0.0, "$0.00"),
        (0.00001, "<$0.0001"),
        (0.0004, "$0.0004"),
        (0.00996, "$0.01"),
        (0.09, "$0.09"),
        (1234.5, "$1,234.50"),
    ],
)
def test_money(cost_usd: float | None, text: str) -> None:
    assert money(cost_usd) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.0, "0ms"),
        (0.012, "12ms"),
        (1.23, "1.2s"),
        (9.96, "10s"),
        (59.6, "1m 00s"),
        (125, "2m 05s"),
        (3720, "1h 02m"),
    ],
)
def test_duration(duration_s: float, text: str) -> None:
    assert duration(duration_s) == text


def test_plural() -> None:
    assert [plural(number, "step") for number in (0, 1, 2, 1200)] == [
        "0 steps",
        "1 step",
        "2 steps",
        "1.2k steps",
    ]


def test_what_is_unknown_or_estimated_is_marked() -> None:
    assert usage_text(USAGE) == "41 calls · 210k in / 6k out (90k cached) · $0.09"
    assert usage_text(replace(USAGE, cost_usd=None)) == "41 calls · 210k in / 6k out (90k cached) · $?"
    estimated = Usage(calls=1, input_tokens=10, output_tokens=2, cost_usd=0.5, estimated=True)
    assert usage_text(estimated) == "1 call · ~10 in / ~2 out · ~$0.50"
    assert usage_text(replace(estimated, cost_usd=None)) == "1 call · ~10 in / ~2 out · $?"


PROSE = st.text(string.ascii_lowercase[:3] + "漢\x1b\r \n\t", max_size=60)


@given(st.lists(PROSE, max_size=5), st.integers(4, 30))
def test_prose_flows_the_same_however_it_is_cut(pieces: list[str], width: int) -> None:
    def flowed(pieces: list[str]) -> str:
        flow = Flow(width=width, indent=" ")
        return "".join([*map(flow.feed, pieces), flow.end()])

    text = flowed(pieces)
    assert text == flowed(["".join(pieces)])
    assert "\r" not in text
    assert "\n\n\n" not in text
    assert not text.endswith((" ", "\n"))


def test_prose_wraps_at_words() -> None:
    flow = Flow(width=12, indent="  ")
    text = flow.feed("\n\n one two three\n\n\n\n  - four five six averyverylongwordindeed ") + flow.end()
    assert text.split("\n") == [
        "  one two",
        "  three",
        "",
        "    - four",
        "  five six",
        "  averyverylongwordindeed",
    ]


def test_a_word_without_end_is_not_held_back_for_ever() -> None:
    flow = Flow(width=80)
    assert len(flow.feed("x" * 5000)) == 5000


@given(st.lists(st.text("ab\r\n", max_size=20), max_size=6), st.none() | st.integers(0, 4))
def test_a_fold_counts_what_it_hides_however_it_is_cut(pieces: list[str], most_lines: int | None) -> None:
    fold = Fold(most_lines=most_lines, width=100, indent=">")
    out = "".join([*map(fold.feed, pieces), fold.end()]).splitlines()
    text = "".join(pieces)
    total = text.count("\n") + (not text.endswith("\n") and text != "")
    if most_lines is None or total <= most_lines:
        assert len(out) == total
        return
    assert len(out) == most_lines + 1
    assert out[-1] == f">… +{plural(total - most_lines, 'line')}"
