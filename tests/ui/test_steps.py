"""The steps of the last turn as `/steps` shows them, and what `/memory` counts."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from rlm import memory
from rlm.cli.chat_steps import Row, last_steps, show_list, show_step
from rlm.errors import UsageError
from rlm.events import Event, TurnStarted, Usage
from rlm.records import MessageAdded, SessionStarted, SessionView, TurnBegan, TurnEnded, TurnUndone

from . import Terminal
from .samples import cell, reply
from .trace_rows import rows

SESSION = "k3f9"
"""Of the rows that `rows` makes."""


def turn_rows(number: int, events: Iterable[Event]) -> list[Row]:
    made = rows([TurnStarted(turn=number, question=f"question {number}"), *events])
    return [row | {"turn": number} for row in made]


def one_step(number: int) -> list[Row]:
    return turn_rows(number, [reply(f"I answer question {number}."), cell()])


def began(number: int) -> TurnBegan:
    return TurnBegan(turn=number, question=f"question {number}")


def ended(number: int) -> TurnEnded:
    return TurnEnded(
        turn=number,
        status="ok",
        steps=1,
        answer=None,
        answer_format="text",
        answer_bytes=0,
        summary="",
        usage=Usage(),
        by_model={},
        duration_s=1.0,
    )


def session_of(*turns: int) -> SessionView:
    view = SessionView.fold([SessionStarted(session=SESSION, created="2026-03-12T10:00:00+00:00")])
    for number in turns:
        view.add(began(number))
        view.add(ended(number))
    return view


def test_the_last_reply_does_not_replace_the_step_before_it() -> None:
    """It has the number of that step, asked for at once or out of steps."""
    first: list[Event] = [replace(reply("I look."), cell=7), cell(status="interrupted")]
    last: list[Event] = [
        replace(reply("This is all.", "FINAL(1)"), cell=8),
        replace(cell(status="final"), cell=8),
    ]
    steps = last_steps(turn_rows(1, [*first, *last]))
    assert [(step.number, step.prose, step.cell, step.status) for step in steps] == [
        (1, "I look.", 7, "interrupted"),
        (2, "This is all.", 8, "final"),
    ]
    with Terminal() as terminal:
        show_list(steps, terminal.console)
        show_step(steps, "1", terminal.console)
        assert terminal.shown[0].startswith("1 · In [7] interrupted")
        assert terminal.shown[1].startswith("2 · In [8] final")
        assert "I look." in terminal.shown[3]


def test_a_last_reply_after_one_that_was_broken_off_has_its_number() -> None:
    steps = last_steps(turn_rows(1, [reply("I look."), cell(), reply("All.", None, step=2)]))
    assert [step.number for step in steps] == [1, 2]


def test_a_turn_that_was_taken_back_has_no_steps() -> None:
    events = [*one_step(1), *one_step(2)]
    view = session_of(1, 2)
    assert [step.prose for step in last_steps(events, view)] == ["I answer question 2."]
    view.add(TurnUndone(turn=2))
    assert [step.prose for step in last_steps(events, view)] == ["I answer question 1."]
    view.add(TurnUndone(turn=1))
    assert last_steps(events, view) == []


def test_a_turn_under_way_or_broken_off_has_steps() -> None:
    view = session_of(1)
    view.add(began(2))
    steps = last_steps([*one_step(1), *one_step(2)], view)
    assert [step.prose for step in steps] == ["I answer question 2."]


def test_a_new_session_has_no_steps() -> None:
    view = session_of(1)
    view.add(SessionStarted(session="other", created="2026-03-12T11:00:00+00:00"))
    steps = last_steps(one_step(1), view)
    with Terminal() as terminal:
        show_list(steps, terminal.console)
        assert terminal.shown == ["no step was taken yet"]
        with pytest.raises(UsageError, match="There is no step 1"):
            show_step(steps, "1", terminal.console)


def test_one_message_is_not_messages() -> None:
    view = session_of()
    view.add(began(1))
    view.add(MessageAdded(turn=1, role="user", content="question 1"))
    view.add(ended(1))
    told = memory.rows(view, compaction=True, variables=())
    assert [row.text for row in told if row.title == "history"] == ["1 message of 1 turn"]
