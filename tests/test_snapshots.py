"""A snapshot counts when all blobs that it needs are there, and only those that are needed stay."""

import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlm.errors import StateError
from rlm.events import Event, Notice, TurnFinished
from rlm.models import ChatMessage
from rlm.protocol import ProtocolError
from rlm.records import SnapshotSaved
from rlm.scripted import ScriptedModel
from rlm.session import Models, Session
from rlm.settings import Config, ModelConfig, SandboxConfig
from rlm.snapshots import SnapshotInfo
from rlm.state import SnapshotSizes, State

MB = 1_000_000


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path / "state", create=True, key_path=tmp_path / "key")
    with opened.lock():
        yield opened


def digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def snap(state: State, *blobs: bytes, turn: int = 1, payload: bytes = b"stream") -> SnapshotInfo:
    """A snapshot that needs these blobs; those that are there already do not come again."""
    arriving, there = state.new_blobs(limit_bytes=2**40), state.blobs.sizes()
    for blob in blobs:
        if digest(blob) not in there:
            sink = arriving.sink(digest(blob))
            sink.write(blob)
            sink.check()
    arriving.commit({digest(blob) for blob in blobs})
    writer = state.new_snapshot(turn, python="3.12", image="rlm:abc", protocol=1, dill="0.4.0")
    writer.write(payload)
    return record(state, writer.commit([(digest(blob), len(blob)) for blob in blobs]))


def record(state: State, info: SnapshotInfo) -> SnapshotInfo:
    state.append(
        SnapshotSaved(
            generation=info.header.generation,
            turn=info.header.turn,
            size_bytes=info.size_bytes,
            sha256=info.sha256,
            skipped=(),
            variables=(),
        )
    )
    return info


def generations(state: State) -> list[int]:
    return [info.header.generation for info in state.snapshots()]


def test_a_snapshot_knows_the_blobs_it_needs(state: State) -> None:
    info = snap(state, b"one", b"two" * 100)
    assert state.snapshots() == [info]
    assert info.blobs == ((digest(b"one"), 3), (digest(b"two" * 100), 300))
    assert b"".join(state.read_snapshot(info)) == b"stream"


def test_a_value_of_several_snapshots_is_kept_once(state: State) -> None:
    for number in range(1, 4):
        snap(state, b"same", f"other {number}".encode(), turn=number)
    files = sum(path.stat().st_size for path in (state.path / "snapshots").iterdir())
    assert state.snapshot_sizes() == SnapshotSizes(
        snapshots=3, snapshots_bytes=files, blobs=4, blobs_bytes=4 + 3 * 7
    )


def test_sizes_of_a_folder_without_snapshots_are_zero(state: State) -> None:
    assert state.snapshot_sizes() == SnapshotSizes(snapshots=0, snapshots_bytes=0, blobs=0, blobs_bytes=0)


@pytest.mark.parametrize("how", ["missing", "short", "long", "folder", "symlink"])
def test_a_snapshot_that_lacks_a_blob_does_not_count_until_it_is_back(
    state: State, tmp_path: Path, how: str
) -> None:
    snap(state, b"older", turn=1)
    snap(state, b"older", b"newer", turn=2)
    path = state.path / "blobs" / digest(b"newer")
    path.unlink()
    match how:
        case "short":
            path.write_bytes(b"new")
        case "long":
            path.write_bytes(b"newer and more")
        case "folder":
            path.mkdir()
        case "symlink":
            (tmp_path / "newer").write_bytes(b"newer")
            path.symlink_to(tmp_path / "newer")
    assert generations(state) == [1]
    path.rmdir() if how == "folder" else path.unlink(missing_ok=True)
    path.write_bytes(b"newer")
    assert generations(state) == [2, 1]


def test_a_snapshot_that_lacks_a_blob_is_whole_again_when_a_later_save_brings_it(state: State) -> None:
    snap(state, b"shared", turn=1)
    snap(state, b"shared", turn=2)
    (state.path / "blobs" / digest(b"shared")).unlink()
    assert generations(state) == []
    snap(state, b"other", turn=3)
    assert generations(state) == [3]
    snap(state, b"shared", b"other", turn=4)
    assert generations(state) == [4, 3, 2, 1]
    assert set(state.blobs.sizes()) == {digest(b"shared"), digest(b"other")}


def test_blobs_go_with_the_last_snapshot_that_needs_them(state: State) -> None:
    for number in range(1, 15):
        snap(state, b"always", f"only {number:02}".encode(), turn=number)
    assert generations(state) == list(range(14, 4, -1))
    assert set(state.blobs.sizes()) == {
        digest(b"always"),
        *(digest(f"only {number:02}".encode()) for number in range(5, 15)),
    }


def test_blobs_of_a_snapshot_that_cannot_be_read_yet_stay(state: State) -> None:
    later = snap(state, b"theirs").path
    later.write_bytes(later.read_bytes().replace(b"rlm-snapshot 2", b"rlm-snapshot 3"))
    snap(state, b"ours")
    assert set(state.blobs.sizes()) == {digest(b"theirs"), digest(b"ours")}


def test_blobs_that_nobody_came_to_need_go_with_the_next_save(state: State) -> None:
    arriving = state.new_blobs(limit_bytes=100)
    sink = arriving.sink(digest(b"orphan"))
    sink.write(b"orphan")
    sink.check()
    arriving.commit({digest(b"orphan")})
    snap(state, b"mine")
    assert set(state.blobs.sizes()) == {digest(b"mine")}


def test_damage_in_the_list_of_blobs_sets_the_snapshot_aside(state: State) -> None:
    older = snap(state, b"older")
    info = snap(state, b"newer")
    sound = info.path.read_bytes()
    for position in range(info.offset + info.size_bytes, len(sound)):
        damaged = bytearray(sound)
        damaged[position] ^= 0x10
        info.path.write_bytes(damaged)
        assert state.snapshots() == [older], position
        info.path.with_name(f"{info.path.name}.corrupt").unlink()


def test_damaged_blobs_are_set_aside_and_brought_again(state: State) -> None:
    info = snap(state, b"sound", b"rotten", turn=1)
    path = state.path / "blobs" / digest(b"rotten")
    path.write_bytes(b"rotted")
    assert generations(state) == [1]
    assert state.set_aside_damaged_blobs(info) == 1
    assert generations(state) == []
    assert set(state.blobs.sizes()) == {digest(b"sound")}
    snap(state, b"sound", b"rotten", turn=2)
    assert generations(state)[0] == 2
    assert path.read_bytes() == b"rotten"
    assert not path.with_name(f"{path.name}.corrupt").exists()


def write_version_1(path: Path, payload: bytes, **header: object) -> None:
    """A snapshot as the version before wrote it."""
    known = {"python": "3.12", "image": "rlm:abc", "protocol": 1, "dill": "0.4.0"}
    head = b"rlm-snapshot 1\n" + json.dumps({**known, **header}).encode() + b"\n"
    footer = struct.pack(">8sQ32s", b"\nrlm-end", len(payload), hashlib.sha256(payload).digest())
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(head + payload + footer + struct.pack(">I", zlib.crc32(head + footer)))


def test_snapshots_of_the_version_before_are_read_beside_present_ones(state: State) -> None:
    path = state.path / "snapshots" / "000001.snap"
    write_version_1(path, b"old", generation=1, created="2099-01-01T00:00:00+00:00", turn=1)
    (old,) = state.snapshots()
    assert (old.header.turn, old.blobs, b"".join(state.read_snapshot(old))) == (1, (), b"old")
    assert snap(state, b"blob", turn=2).header.generation == 2
    assert generations(state) == [2, 1], "by number, not by the time in it"
    sound = path.read_bytes()
    for end in range(len(sound)):
        path.write_bytes(sound[:end])
        assert generations(state) == [2], end
        path.with_name(f"{path.name}.corrupt").unlink()


def test_more_than_was_asked_for_is_a_breach_of_the_protocol(state: State) -> None:
    writer = state.new_snapshot(1, python="3", image="i", protocol=1, dill="0", limit_bytes=10)
    writer.write(b"12345")
    writer.write(b"12345")
    with pytest.raises(ProtocolError, match="more than was asked for"):
        writer.write(b"6")
    writer.abort()
    assert os.listdir(state.path / "snapshots") == []


def test_what_comes_after_an_abort_is_dropped(state: State) -> None:
    writer = state.new_snapshot(1, python="3", image="i", protocol=1, dill="0")
    writer.abort()
    writer.write(b"late")
    assert os.listdir(state.path / "snapshots") == []


def test_a_snapshot_is_not_for_blobs_that_are_not_there(state: State) -> None:
    snap(state, b"there")
    state.blobs.require([(digest(b"there"), 5)])
    with pytest.raises(StateError, match="2 values are missing"):
        state.blobs.require([(digest(b"there"), 4), (digest(b"gone"), 4), (digest(b"there"), 5)])


# With a real container: what a session saves and brings back


@dataclass
class Asked:
    """What came of a question."""

    events: list[Event] = field(default_factory=list)

    @property
    def end(self) -> TurnFinished:
        return next(event for event in self.events if isinstance(event, TurnFinished))

    @property
    def answer(self) -> str:
        assert self.end.answer is not None, self.end
        return self.end.answer.text

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


class Talk:
    """A session whose root model runs the cell that a test gives it. `openings` is what it was told first."""

    def __init__(self, state: State, *, keep: int) -> None:
        self.openings: list[str] = []
        self._cell = ""
        self._meanwhile: Callable[[], object] = lambda: None
        model = ScriptedModel("scripted", self._reply)
        config = Config(
            root=ModelConfig(model="scripted"),
            sub=ModelConfig(model="scripted"),
            sandbox=SandboxConfig(keep_bytes=keep),
        )
        models = Models(root=model, sub=model, choose=lambda name: model)
        self.session = Session(config=config, state=state, models=models, cwd=state.path)

    def _reply(self, messages: object) -> str:
        assert isinstance(messages, list)
        last: ChatMessage = messages[-1]
        self.openings.append(last["content"])
        self._meanwhile()
        return f"Now.\n\n```repl\n{self._cell}\n```"

    async def ask(
        self, cell: str, *, question: str = "And?", meanwhile: Callable[[], object] = lambda: None
    ) -> Asked:
        self._cell, self._meanwhile = cell, meanwhile
        asked = Asked()
        async for event in self.session.ask(question):
            asked.events.append(event)
        return asked


@asynccontextmanager
async def talk(state: State, *, keep: int = 8 * 1024**3) -> AsyncIterator[Talk]:
    opened = Talk(state, keep=keep)
    try:
        yield opened
    finally:
        await opened.session.close()


async def test_what_did_not_change_is_not_written_again_and_comes_back(state: State) -> None:
    async with talk(state) as first:
        await first.ask(f"text = 'x' * {5 * MB}; numbers = [1]; FINAL('saved')")
        await first.ask("numbers.append(2); FINAL('saved')")
    big, small = state.view().snapshots
    assert big.written_bytes == big.size_bytes > 5 * MB
    assert small.written_bytes < 10_000 < 5 * MB < small.size_bytes
    assert small.created >= big.created and small.waited_s > 0
    assert state.snapshot_sizes().blobs_bytes == 5 * MB
    async with talk(state) as later:
        asked = await later.ask("FINAL([len(text), numbers])")
        assert asked.answer.split() == "[ 5000000, [ 1, 2 ] ]".split()
        assert asked.notices == []


async def test_an_undone_turn_is_gone_from_variables_answers_and_messages(state: State) -> None:
    async with talk(state) as here:
        await here.ask("names = ['kept']; FINAL('first')")
        await here.ask("names.append('undone'); FINAL('second')")
        assert here.session.undo() == 2
        asked = await here.ask("FINAL([names, answers, sorted({said['turn'] for said in history})])")
        assert "".join(asked.answer.split()) == '[["kept"],["first"],[1,3]]'
        assert state.view().turns[-1].ended.turn == 3
    async with talk(state) as later:
        assert later.session.undo() == 3
        asked = await later.ask("FINAL([names, answers])")
        assert "".join(asked.answer.split()) == '[["kept"],["first"]]'


async def test_a_question_after_undo_that_cannot_begin_saves_nothing_of_the_undone_turn(
    state: State, tmp_path: Path
) -> None:
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)))
    async with talk(state) as here:
        await here.ask("names = ['kept']; FINAL('first')")
        await here.ask("names.append('undone'); FINAL('second')")
        here.session.undo()
        failed = await here.ask("", question=f"What is in @{tmp_path}/binary.bin?")
        assert "binary, not text" in failed.end.message
        assert [row.name for row in here.session.sandbox.variables] == ["names"]
        assert (await here.ask("FINAL(len(names))")).answer.split() == ["1"]
    assert [saved.turn for saved in state.view().snapshots] == [1, 4]


async def test_damage_costs_one_generation_and_is_mended_by_the_next_save(state: State) -> None:
    async with talk(state) as here:
        await here.ask(f"text = 'x' * {MB}; FINAL('first')")
        await here.ask(f"more = 'y' * {MB}; FINAL('second')")
    newest, before = state.snapshots()
    (only,) = {digest for digest, _ in newest.blobs} - {digest for digest, _ in before.blobs}
    path = state.path / "blobs" / only
    path.write_bytes(b"z" + path.read_bytes()[1:])
    async with talk(state) as here:
        asked = await here.ask("FINAL([len(text), 'more' in globals()])")
        assert asked.answer.split() == "[ 1000000, false ]".split()
        told = [
            f"Snapshot {newest.header.generation} (turn 2) could not be restored: 1 of the values that it "
            "needs were damaged on the disk. Going back to the one before it.",
            "The variables are those of turn 1, as no later snapshot is there to restore.",
        ]
        assert asked.notices == told
        assert all(f"Note: {text}" in here.openings[0] for text in told)
        await here.ask(f"more = 'y' * {MB}; FINAL('again')")
        assert path.read_bytes() == b"y" * MB
    async with talk(state) as here:
        asked = await here.ask("FINAL(len(more))")
        assert (asked.answer.split(), asked.notices) == (["1000000"], [])


async def test_nothing_left_to_restore_is_told(state: State) -> None:
    async with talk(state) as here:
        await here.ask("names = ['kept']; FINAL('first')")
    shutil.rmtree(state.path / "snapshots")
    async with talk(state) as here:
        asked = await here.ask("FINAL('names' in globals())")
        assert asked.notices == ["The variables are gone, as no snapshot is there to restore."]
        assert "The namespace holds no variables yet." in here.openings[0]


async def test_snapshots_of_another_python_are_left_out_with_one_sentence(state: State) -> None:
    async with talk(state) as here:
        for number in (1, 2, 3):
            path = state.path / "snapshots" / f"{number:06d}.snap"
            made = {"created": "2020-01-01T00:00:00+00:00", "python": "2.7"}
            write_version_1(path, b"old", generation=number, turn=number, **made)
            record(state, state.snapshots()[0])
        (notice,) = (await here.ask("FINAL('first')")).notices
    assert notice.startswith("Snapshot 3 (turn 3) could not be restored: it was made by Python 2.7, and the")


async def test_what_is_not_kept_is_told_to_the_model_once_and_again_when_it_is_lost(state: State) -> None:
    async with talk(state, keep=MB) as here:
        await here.ask(f"letters = (c for c in 'ab'); large = 'x' * {2 * MB}; small = 1; FINAL('first')")
        skipped = dict(state.view().snapshots[-1].skipped)
        assert skipped.keys() == {"letters", "large"}
        assert "more than is kept (sandbox.keep in config.json)" in skipped["large"]
        for _ in range(2):
            await here.ask("FINAL('next')")
        about = ["Note: not saved with the namespace" in text for text in here.openings]
        assert about == [False, True, False]
    async with talk(state, keep=MB) as later:
        asked = await later.ask("FINAL([small, 'large' in globals()])")
        assert asked.answer.split() == "[ 1, false ]".split()
        (notice,) = asked.notices
        assert notice.startswith("Not restored: ") and "letters (" in notice and "large (" in notice
        assert "- large" not in later.openings[0], "it is not listed as a variable"


async def test_a_save_that_fails_costs_the_snapshot_and_nothing_else(state: State, tmp_path: Path) -> None:
    folders = [state.path / name for name in ("snapshots", "blobs")]
    async with talk(state) as here:
        await here.ask("names = ['first']; FINAL('first')")
        for folder in folders:
            folder.rename(tmp_path / folder.name)
            folder.symlink_to(tmp_path / folder.name)
            asked = await here.ask(f"text = 'x' * {MB}; names.append('more'); FINAL(names)")
            assert asked.end.status == "ok"
            assert asked.notices == [
                f"The namespace was not saved. Could not write {folder}. Not a directory."
            ]
            folder.unlink()
            (tmp_path / folder.name).rename(folder)
        assert [saved.turn for saved in state.view().snapshots] == [1]
        assert sorted(path.name for path in state.path.rglob("*.tmp")) == []
        assert (await here.ask("FINAL(len(names))")).notices == []
        assert [saved.turn for saved in state.view().snapshots] == [1, 4]


async def test_a_session_that_cannot_be_written_to_is_told_and_goes_on_later(state: State) -> None:
    log = state.path / "session.jsonl"

    def block() -> None:
        if log.is_file():
            log.rename(log.with_name("away"))
            log.mkdir()

    async with talk(state) as here:
        await here.ask("names = ['first']; FINAL('first')")
        failed = await here.ask("names.append('second'); FINAL('second')", meanwhile=block)
        assert failed.end.status == "error"
        assert failed.end.message == f"Could not write {log}. It is not a regular file."
        log.rmdir()
        log.with_name("away").rename(log)
        assert (await here.ask("FINAL(len(names))")).answer.split() == ["1"]


async def test_a_folder_that_is_removed_meanwhile_ends_the_turn_with_a_sentence(state: State) -> None:
    async with talk(state) as here:
        failed = await here.ask("FINAL('first')", meanwhile=lambda: shutil.rmtree(state.path))
        assert failed.end.status == "error"
        assert failed.end.message == f"The state folder {state.path} was removed while it was in use."
        with pytest.raises(StateError, match="was removed while it was in use"):
            await here.ask("FINAL('second')")
    assert not state.path.exists()
