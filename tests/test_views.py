"""The session as the holder of the lock sees it: up to date with what is recorded, and the caller's own."""

from pathlib import Path

from rlm.events import Usage
from rlm.records import (
    ConsentGiven,
    DocumentsSet,
    MessageAdded,
    Record,
    SessionStarted,
    TurnBegan,
    TurnEnded,
    TurnsCompacted,
    TurnUndone,
    from_json,
    to_json,
)
from rlm.state import State


def turn(number: int) -> list[Record]:
    ended = TurnEnded(
        turn=number,
        status="ok",
        steps=1,
        answer=None,
        answer_format="text",
        answer_bytes=0,
        summary="in some words",
        usage=Usage(calls=1, cost_usd=0.5),
        by_model={"big": Usage(calls=1, cost_usd=0.5)},
        duration_s=1.0,
        brief="in a line",
    )
    return [
        TurnBegan(turn=number, question="what?"),
        MessageAdded(turn=number, role="user", content="look"),
        ended,
    ]


RECORDS: list[Record] = [
    SessionStarted(session="s", created=""),
    ConsentGiven(path="/data"),
    DocumentsSet(documents=({"name": "a.txt", "path": "/data/a.txt"},), active="a.txt"),
    *turn(1),
    *turn(2),
    TurnsCompacted(turn=2),
    *turn(3),
    TurnUndone(turn=3),
    TurnBegan(turn=4, question="and?"),
    MessageAdded(turn=4, role="user", content="look again"),
]


def opened(tmp_path: Path) -> State:
    return State.open(tmp_path / "state", create=True, key_path=tmp_path / "key")


def test_a_view_under_the_lock_is_what_a_reader_finds_after_each_record(tmp_path: Path) -> None:
    state, reader = opened(tmp_path), opened(tmp_path)
    with state.lock():
        for record in RECORDS:
            state.append(record)
            assert state.view() == reader.view()
    assert state.view() == reader.view()
    assert (state.view().compacted_to, len(state.view().turns)) == (2, 2)


def test_a_view_is_the_callers_own(tmp_path: Path) -> None:
    state = opened(tmp_path)
    with state.lock():
        for record in RECORDS[:6]:
            state.append(record)
        before = state.view()
        for record in RECORDS[6:]:
            state.append(record)
        assert (len(before.turns), before.usage.calls, before.interrupted) == (1, 1, None)
        before.add(TurnUndone(turn=1))
        before.consents.clear()
        assert len(state.view().turns) == 2 and state.view().consents == {"/data"}


def test_a_session_of_another_command_in_between_is_seen(tmp_path: Path) -> None:
    ours, theirs = opened(tmp_path), opened(tmp_path)
    for number, state in enumerate((ours, theirs, ours), start=1):
        with state.lock():
            assert len(state.view().turns) == number - 1
            for record in turn(number):
                state.append(record)


def test_what_is_new_in_records_comes_back_and_may_be_missing() -> None:
    compacted = TurnsCompacted(turn=7)
    assert from_json(to_json(compacted)) == compacted
    ended = turn(1)[-1]
    older = {name: value for name, value in to_json(ended).items() if name != "brief"}
    read = from_json(older)
    assert isinstance(read, TurnEnded) and (read.brief, read.summary) == ("", "in some words")
