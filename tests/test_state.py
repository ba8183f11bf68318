"""The state folder survives kills, damage, other users and other commands; records add up to a session."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm import memory
from rlm.documents import look
from rlm.errors import StateError, StateLocked
from rlm.events import Usage
from rlm.records import (
    ConsentGiven,
    DocumentsSet,
    MessageAdded,
    Record,
    SessionStarted,
    SessionView,
    SnapshotSaved,
    TurnBegan,
    TurnEnded,
    TurnUndone,
    Variable,
    from_json,
    to_json,
)
from rlm.scripted import ScriptedModel
from rlm.session import Models, Session
from rlm.settings import Config, ModelConfig
from rlm.snapshots import SnapshotInfo
from rlm.state import State


def usage(cost_usd: float | None = 0.5) -> Usage:
    return Usage(calls=2, input_tokens=10, cost_usd=cost_usd)


def ended(turn: int, *, cost_usd: float | None = 0.5) -> TurnEnded:
    return TurnEnded(
        turn=turn,
        status="ok",
        steps=3,
        answer=f"{turn:04d}.txt",
        answer_format="text",
        answer_bytes=5,
        summary="learned",
        usage=usage(cost_usd),
        by_model={"big": usage(cost_usd)},
        duration_s=1.5,
    )


def saved(info: SnapshotInfo) -> SnapshotSaved:
    return SnapshotSaved(
        generation=info.header.generation,
        turn=info.header.turn,
        size_bytes=info.size_bytes,
        sha256=info.sha256,
        skipped=(("lock", "cannot be pickled"),),
        variables=(Variable(name="x", type="int", size="28 bytes"),),
    )


def turn(number: int) -> list[Record]:
    return [
        TurnBegan(turn=number, question=f"question {number}?"),
        MessageAdded(turn=number, role="user", content="look"),
        MessageAdded(turn=number, role="assistant", content="found"),
        ended(number),
    ]


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "state.key"


@pytest.fixture
def state(tmp_path: Path, key_path: Path) -> State:
    return State.open(tmp_path / "project" / ".rlm_state", create=True, key_path=key_path)


@pytest.fixture
def held(state: State) -> Iterator[State]:
    with state.lock(command="rlm chat"):
        yield state


def snap(state: State, payload: bytes = b"namespace", *, turn: int = 1, keep: int = 10) -> SnapshotInfo:
    writer = state.new_snapshot(turn, python="3.11", image="rlm:abc", protocol=1, dill="0.4.0", keep=keep)
    for start in range(0, len(payload), 7):
        writer.write(payload[start : start + 7])
    info = writer.commit()
    state.append(saved(info))
    return info


def payloads(state: State) -> list[bytes]:
    """Every snapshot that reads back, newest first: what a restore would try in turn."""
    found = []
    for info in state.snapshots():
        try:
            found.append(b"".join(state.read_snapshot(info)))
        except StateError:
            continue
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def child(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# Whose it is


def test_a_state_folder_is_the_users_alone_and_stays_out_of_git(state: State) -> None:
    with state.lock():
        state.append(ConsentGiven(path="/data"))
        with state.new_answer(1) as file:
            file.write(b"42")
        snap(state)
    for path in [state.path, *state.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert (state.path / ".gitignore").read_text() == "*\n"


def test_what_was_made_here_opens_again_without_a_question(state: State, key_path: Path) -> None:
    State.open(state.path, create=False, key_path=key_path)
    State.open(state.path, create=True, key_path=key_path)


def test_a_missing_folder_is_made_only_when_asked_for(tmp_path: Path, key_path: Path) -> None:
    with pytest.raises(StateError, match="There is no state folder") as caught:
        State.open(tmp_path / "state", create=False, key_path=key_path)
    assert "rlm init" in caught.value.hint
    assert names(tmp_path) == []


@pytest.mark.parametrize("arrival", ["other user's key", "no mark", "copied", "forged mark"])
def test_a_folder_from_elsewhere_needs_a_yes(state: State, key_path: Path, arrival: str) -> None:
    path = state.path
    match arrival:
        case "other user's key":
            key_path.write_bytes(b"k" * 32)
        case "no mark":
            (path / "owner").unlink()
        case "copied":
            path = Path(shutil.copytree(path, path.with_name("clone")))
        case "forged mark":
            (path / "owner").write_text("0" * 64)
    questions: list[str] = []

    def no(question: str) -> bool:
        questions.append(question)
        return False

    for ask in (None, no):
        with pytest.raises(StateError, match="carries no mark of yours"):
            State.open(path, create=True, ask=ask, key_path=key_path)
    assert str(path) in questions[0]

    State.open(path, create=True, ask=lambda _: True, key_path=key_path)
    State.open(path, create=True, key_path=key_path)


def test_a_folder_that_others_can_write_to_needs_a_yes_and_is_closed_then(
    state: State, key_path: Path
) -> None:
    state.path.chmod(0o777)
    with pytest.raises(StateError, match=r"can be written to by others \(mode 777\)"):
        State.open(state.path, create=True, key_path=key_path)
    State.open(state.path, create=True, ask=lambda _: True, key_path=key_path)
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


def test_a_damaged_key_is_replaced_and_says_so_by_a_question(state: State, key_path: Path) -> None:
    key_path.write_bytes(b"short")
    State.open(state.path, create=True, ask=lambda _: True, key_path=key_path)
    assert len(key_path.read_bytes()) == 32
    State.open(state.path, create=True, key_path=key_path)


@pytest.mark.parametrize("plant", ["symlink", "file", "other folder"])
def test_what_is_no_state_folder_is_left_alone(tmp_path: Path, key_path: Path, plant: str) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "state"
    elsewhere.mkdir()
    (elsewhere / "letter.txt").write_text("dear")
    match plant:
        case "symlink":
            path.symlink_to(elsewhere)
        case "file":
            path.write_text("x")
        case "other folder":
            path = elsewhere
    with pytest.raises(StateError, match=r"cannot be the state folder|is not a state folder"):
        State.open(path, create=True, ask=lambda _: True, key_path=key_path)
    assert names(elsewhere) == ["letter.txt"]


def test_a_folder_left_half_made_is_completed(tmp_path: Path, key_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(0o700)
    (path / ".gitignore").write_text("*\n")
    (path / "format.0123abcd.tmp").write_text("")
    State.open(path, create=True, key_path=key_path)
    State.open(path, create=False, key_path=key_path)


@pytest.mark.parametrize(
    ("content", "message"), [("3\n", "later version"), ("", "not given"), ("one", "not given")]
)
def test_another_format_is_refused(state: State, key_path: Path, content: str, message: str) -> None:
    (state.path / "format").write_text(content)
    with pytest.raises(StateError, match=message):
        State.open(state.path, create=True, ask=lambda _: True, key_path=key_path)


POWERLESS = """
import os, sys
from pathlib import Path
from rlm.errors import StateError
from rlm.state import State
folder, key_path = Path(sys.argv[1]), Path(sys.argv[2])
state = State.open(folder, create=True, key_path=key_path)
folder.chmod(0o500)
if os.getuid() == 0:  # root may write anywhere
    for path in (folder, *folder.iterdir(), key_path):
        os.chown(path, 65534, -1)
    os.setuid(65534)
state = State.open(folder, create=False, key_path=key_path)
print(state.view().next_turn)
try:
    with state.lock():
        pass
except StateError as error:
    print(error, "|", error.hint)
"""


def test_a_folder_of_the_format_before_opens_and_is_marked_once_it_holds_more(
    state: State, key_path: Path
) -> None:
    (state.path / "format").write_text("1\n")
    older = State.open(state.path, create=False, key_path=key_path)
    with older.lock():
        older.append(ConsentGiven(path="/data"))
        assert (state.path / "format").read_text() == "1\n"
        snap(older)
    assert (state.path / "format").read_text() == "2\n"
    assert older.view().consents == {"/data"}


def test_a_read_only_folder_can_be_read_and_says_why_it_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        folder = Path(root, "state")
        out, _ = child(POWERLESS, folder, Path(root, "key")).communicate()
    assert out.splitlines() == [
        "1",
        f"Could not write {folder}/lock. Permission denied. | "
        "Give yourself access to it, or name another folder with --state-dir.",
    ]


# Who holds it

HOLDER = """
import subprocess, sys
from pathlib import Path
from rlm.state import State
state = State.open(Path(sys.argv[1]), create=False, key_path=Path(sys.argv[2]))
with state.lock(command="rlm chat"):
    heir = subprocess.Popen(["sleep", "60"], close_fds=False)
    print(heir.pid, flush=True)
    sys.stdin.read()
heir.kill()
"""


def test_a_second_command_learns_who_holds_the_folder(state: State, key_path: Path) -> None:
    assert state.holder() is None
    with child(HOLDER, state.path, key_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with (
            pytest.raises(StateLocked, match=rf'"rlm chat" \(pid {process.pid}, since 2') as caught,
            state.lock(),
        ):
            pass
        assert "--state-dir" in caught.value.hint
        with pytest.raises(StateLocked):
            state.reset()
        holder = state.holder()
        assert holder is not None
        assert (holder.pid, holder.command) == (process.pid, "rlm chat")
        process.communicate("")
    with state.lock():
        pass
    assert state.holder() is None


def test_a_killed_holder_lets_go_at_once_whatever_its_children_do(state: State, key_path: Path) -> None:
    for _ in range(5):
        with child(HOLDER, state.path, key_path) as process:
            assert process.stdout is not None
            heir = int(process.stdout.readline())
            process.kill()
            process.wait()
            try:
                os.kill(heir, 0)
                assert state.holder() is None
                with state.lock():
                    pass
            finally:
                os.kill(heir, signal.SIGKILL)


def test_a_reused_pid_is_not_taken_for_the_holder(held: State) -> None:
    assert held.holder() is not None
    lock = held.path / "lock"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"started": "1"}))
    assert held.holder() is None


@pytest.mark.parametrize("content", ["", "rubbish", "[1]", '{"pid": "x"}', "\0" * 5000])
def test_a_lock_file_with_rubbish_is_still_a_lock(held: State, key_path: Path, content: str) -> None:
    (held.path / "lock").write_text(content)
    other = State.open(held.path, create=False, key_path=key_path)
    with pytest.raises(StateLocked, match="Another command holds it"), other.lock():
        pass


def test_writing_takes_the_lock(state: State) -> None:
    for write in (
        lambda: state.append(ConsentGiven(path="/data")),
        lambda: state.new_answer(1),
        lambda: snap(state),
    ):
        with pytest.raises(RuntimeError, match="needs its lock"):
            write()


def test_a_folder_replaced_under_a_command_is_not_written_to(held: State, key_path: Path) -> None:
    shutil.rmtree(held.path)
    with pytest.raises(StateError, match="removed while it was in use"):
        held.append(ConsentGiven(path="/data"))
    other = State.open(held.path, create=True, key_path=key_path)
    with other.lock():
        with pytest.raises(StateError, match="removed while it was in use"):
            held.append(ConsentGiven(path="/data"))
        assert list(other.session.read()) == []


# Answers and snapshots


def test_an_answer_is_there_whole_or_not_at_all(held: State) -> None:
    with held.new_answer(7) as file:
        file.write(b"forty-")
        assert not held.answer_path(7).exists()
        file.write(b"two")
    assert held.answer_path(7).read_bytes() == b"forty-two"
    with pytest.raises(KeyError), held.new_answer(8) as file:
        file.write(b"half")
        raise KeyError
    assert names(held.path / "answers") == ["0007.txt"]


def test_a_snapshot_comes_back_as_it_was(held: State) -> None:
    payload = bytes(range(256)) * 10
    info = snap(held, payload, turn=4)
    assert held.snapshots() == [info]
    assert b"".join(held.read_snapshot(info)) == payload
    assert info.size_bytes == len(payload)
    assert (info.header.generation, info.header.turn, info.header.python) == (1, 4, "3.11")
    assert (info.header.image, info.header.protocol, info.header.dill) == ("rlm:abc", 1, "0.4.0")


def test_an_aborted_snapshot_leaves_nothing(held: State) -> None:
    snap(held, b"one")
    writer = held.new_snapshot(2, python="3.11", image="i", protocol=1, dill="0.4.0")
    writer.write(b"half")
    writer.abort()
    assert names(held.path / "snapshots") == ["000001.snap"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    position=st.integers(0, 100_000), change=st.sampled_from(["flip", "cut", "insert"]), bit=st.integers(0, 7)
)
def test_damage_anywhere_falls_back_to_the_snapshot_before(
    held: State, position: int, change: str, bit: int
) -> None:
    shutil.rmtree(held.path / "snapshots", ignore_errors=True)
    snap(held, b"older" * 20)
    path = snap(held, b"newer" * 20).path
    data = bytearray(path.read_bytes())
    position %= len(data)
    match change:
        case "flip":
            data[position] ^= 1 << bit
        case "cut":
            del data[position:]
        case "insert":
            data.insert(position, 0)
    path.write_bytes(data)
    assert payloads(held) == [b"older" * 20]


def test_a_damaged_snapshot_is_set_aside_by_the_holder_only(state: State, key_path: Path) -> None:
    with state.lock():
        snap(state, b"one")
        snap(state, b"two").path.write_bytes(b"")
    State.open(state.path, create=False, key_path=key_path).snapshots()
    assert names(state.path / "snapshots") == ["000001.snap", "000002.snap"]
    with state.lock():
        state.snapshots()
        assert names(state.path / "snapshots") == ["000001.snap", "000002.snap.corrupt"]
        assert snap(state, b"three").header.generation == 3


def test_no_chunk_of_a_damaged_payload_is_handed_out(held: State) -> None:
    info = snap(held, b"x" * 100)
    data = bytearray(info.path.read_bytes())
    data[info.offset + 99] ^= 1
    info.path.write_bytes(data)
    with pytest.raises(StateError, match="does not match its checksum"):
        held.read_snapshot(info)
    assert names(held.path / "snapshots") == ["000001.snap.corrupt"]


@pytest.mark.parametrize("plant", ["symlink", "fifo", "folder", "renamed"])
def test_a_planted_snapshot_is_neither_followed_nor_waited_for(held: State, plant: str) -> None:
    older = snap(held, b"older")
    path = held.path / "snapshots" / "000009.snap"
    match plant:
        case "symlink":
            path.symlink_to(older.path)
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "renamed":
            shutil.copy(older.path, path)
    assert payloads(held) == [b"older"]
    assert names(held.path / "snapshots") == ["000001.snap", "000009.snap.corrupt"]


@pytest.mark.parametrize("name", ["answers", "snapshots"])
def test_a_planted_link_to_a_folder_is_not_written_through(held: State, tmp_path: Path, name: str) -> None:
    (held.path / name).symlink_to(tmp_path)
    before = names(tmp_path)
    with pytest.raises(StateError, match="Not a directory"):
        held.new_answer(1) if name == "answers" else snap(held)
    assert held.snapshots() == []
    assert names(tmp_path) == before


def test_a_snapshot_of_a_later_version_is_left_out_and_kept(held: State) -> None:
    later = snap(held).path
    later.write_bytes(later.read_bytes().replace(b"rlm-snapshot 2", b"rlm-snapshot 3"))
    for number in range(4):
        snap(held, turn=number, keep=2)
    assert [info.header.generation for info in held.snapshots()] == [5, 4]
    assert later.exists()


def test_generations_are_ordered_by_number_whatever_the_clock_says(held: State) -> None:
    infos = [snap(held, payload, turn=len(payload)) for payload in (b"first", b"second", b"last")]
    for days, info in enumerate(infos):
        os.utime(info.path, (1e9, 2e9 - 86_400 * days))
    assert payloads(held) == [b"last", b"second", b"first"]


def test_generations_rise_by_count_even_when_the_files_are_gone(state: State, key_path: Path) -> None:
    with state.lock():
        for _ in range(3):
            snap(state)
        shutil.rmtree(state.path / "snapshots")
        assert snap(state).header.generation == 4
        shutil.rmtree(state.path / "snapshots")
    later = State.open(state.path, create=False, key_path=key_path)
    with later.lock():
        assert snap(later).header.generation == 5


def test_the_last_ten_are_kept_and_a_long_turn_counts_as_one(held: State) -> None:
    for number in range(1, 13):
        snap(held, turn=number)
    assert [info.header.turn for info in held.snapshots()] == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3]
    for _ in range(20):
        snap(held, turn=13)
    assert [info.header.turn for info in held.snapshots()] == [13, 13, 12, 11, 10, 9, 8, 7, 6, 5]


def test_retries_do_not_push_out_the_snapshot_they_start_from(held: State) -> None:
    first = snap(held, b"start", turn=1)
    for number in range(2, 20):
        snap(held, turn=number)
        held.append(TurnUndone(turn=number))
    assert held.snapshots(held.view()) == [first]


def test_a_snapshot_counts_for_the_session_that_recorded_it(held: State) -> None:
    snap(held, b"other session")
    held.append(SessionStarted(session="b", created="2026-01-02T03:04:05+00:00"))
    assert held.snapshots(held.view()) == []
    mine = snap(held, b"mine", turn=2)
    unrecorded = held.new_snapshot(2, python="3.11", image="i", protocol=1, dill="0.4.0")
    unrecorded.commit()
    assert held.snapshots(held.view()) == [mine]
    assert len(held.snapshots()) > 1


SAVER = """
import hashlib, sys
from pathlib import Path
from rlm.state import State
state = State.open(Path(sys.argv[1]), create=False, key_path=Path(sys.argv[2]))
with state.lock():
    for turn in range(1, 1000):
        with state.new_answer(turn) as answer:
            answer.write(b"a" * 100_000)
        needed, arriving = [], state.new_blobs(limit_bytes=10_000_000)
        for blob in (b"shared" * 10_000, b"of turn %d" % turn * 10_000):
            digest = hashlib.sha256(blob).hexdigest()
            needed.append((digest, len(blob)))
            if digest not in state.blobs.sizes():
                sink = arriving.sink(digest)
                sink.write(blob)
                sink.check()
        arriving.commit({digest for digest, _ in needed})
        writer = state.new_snapshot(turn, python="3.11", image="i", protocol=1, dill="0.4.0")
        for _ in range(40):
            writer.write(b"x" * 8000)
        print(writer.commit(needed).header.generation, flush=True)
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_saved(state: State, key_path: Path) -> None:
    newest = 0
    for saves_before_kill in [0, 1, 2, 3] * 6:
        with child(SAVER, state.path, key_path) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline()) for _ in range(saves_before_kill)]
            process.kill()
            acknowledged += [int(line) for line in process.stdout]
        assert all(generation > newest for generation in acknowledged)
        with state.lock():
            assert list(state.path.rglob("*.tmp")) == []
            assert set(payloads(state)) <= {b"x" * 320_000}
            assert [state.set_aside_damaged_blobs(info) for info in state.snapshots()] == [0] * len(
                state.snapshots()
            )
            newest = max((info.header.generation for info in state.snapshots()), default=0)
        assert newest >= max(acknowledged, default=0)
        assert {path.stat().st_size for path in state.path.glob("answers/*")} <= {100_000}
    assert newest > 0


FULL = """
import resource, sys
from pathlib import Path
from rlm.errors import StateError
from rlm.state import State
state = State.open(Path(sys.argv[1]), create=False, key_path=Path(sys.argv[2]))
with state.lock():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        with state.new_answer(2) as answer:
            answer.write(b"a" * 200_000)
    except StateError as error:
        print(error)
    writer = state.new_snapshot(2, python="3.11", image="i", protocol=1, dill="0.4.0")
    try:
        for _ in range(100):
            writer.write(b"x" * 8000)
    except StateError as error:
        print(error, "|", error.hint)
"""


def test_a_full_disk_leaves_what_was_saved_and_nothing_else(state: State, key_path: Path) -> None:
    with state.lock():
        snap(state, b"before")
    out, _ = child(FULL, state.path, key_path).communicate()
    assert out.splitlines() == [
        f"Could not write {state.path}/answers/0002.txt. File too large.",
        f"Could not write {state.path}/snapshots/000002.snap. File too large. | "
        "Free some space, then run the command again; what was saved before is intact.",
    ]
    assert payloads(state) == [b"before"]
    assert [path.name for path in state.path.rglob("000*")] == ["000001.snap"]


# Reset


def test_reset_removes_the_folder(state: State) -> None:
    with state.lock():
        for name in ("a" * 64, f"{'b' * 64}.corrupt", f"{'c' * 64}.0123abcd.tmp"):
            (state.blobs_folder() / name).write_bytes(b"x")
        state.append(ConsentGiven(path="/data"))
        state.events.append({"event": "Notice"})
        state.history_path.write_text("+hello\n")
        Path(f"{state.cache_path}-wal").write_text("")
        with state.new_answer(1) as file:
            file.write(b"42")
        snap(state)
        (state.path / "snapshots" / "000002.snap.corrupt").write_text("")
    assert state.reset() == ()
    assert not state.path.exists()


def test_reset_spares_what_is_not_ours(state: State, key_path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "0001.txt").write_text("mine")
    (state.path / "notes.txt").write_text("mine")
    (state.path / "answers").symlink_to(precious)
    (precious / ("d" * 64)).write_text("mine")
    (state.path / "blobs").symlink_to(precious)
    assert state.reset() == ("answers", "blobs", "notes.txt")
    (precious / ("d" * 64)).unlink()
    (state.path / "blobs").unlink()
    assert names(precious) == ["0001.txt"]
    State.open(state.path, create=False, key_path=key_path)
    (state.path / "notes.txt").unlink()
    (state.path / "answers").unlink()
    assert state.reset() == ()
    assert names(precious) == ["0001.txt"]


# Records and what they add up to

ALL: list[Record] = [
    SessionStarted(session="a1b2", created="2026-01-02T03:04:05+00:00"),
    DocumentsSet(documents=({"name": "log", "size_bytes": 3},), active="log"),
    ConsentGiven(path="/data/log"),
    *turn(1),
    TurnUndone(turn=1),
    ended(2, cost_usd=None),
    SnapshotSaved(
        generation=1,
        turn=2,
        size_bytes=9,
        sha256="00",
        skipped=(("lock", "why"),),
        variables=(Variable(name="x", type="int", size="28 bytes"),),
        written_bytes=5,
        waited_s=0.25,
        created="2026-01-02T03:04:06+00:00",
    ),
]


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_from_json_as_it_was(record: Record) -> None:
    fields = json.loads(json.dumps(to_json(record)))
    assert from_json(fields) == record
    assert from_json(fields | {"added_later": 1}) == record


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"record": "AddedLater"},
        {"record": ["TurnUndone"]},
        {"record": "TurnUndone"},
        {"record": "TurnUndone", "turn": "1"},
        {"record": "TurnUndone", "turn": True},
        {"record": "DocumentsSet", "documents": {}, "active": None},
        {"record": "DocumentsSet", "documents": ["x"], "active": None},
        to_json(ended(1)) | {"usage": []},
        to_json(ended(1)) | {"by_model": {"big": {"calls": "2"}}},
        to_json(ALL[-1]) | {"skipped": [["only a name"]]},
    ],
)
def test_a_record_of_another_kind_or_shape_is_skipped(fields: dict[str, Any]) -> None:
    assert from_json(fields) is None


def test_a_snapshot_that_an_earlier_version_recorded_is_read() -> None:
    fields = json.loads(json.dumps(to_json(ALL[-1])))
    for name in ("written_bytes", "waited_s", "created"):
        del fields[name]
    record = from_json(fields)
    assert isinstance(record, SnapshotSaved)
    assert (record.generation, record.written_bytes, record.created) == (1, 0, "")


def test_the_view_survives_the_disk(held: State, key_path: Path) -> None:
    for record in ALL:
        held.append(record)
    held.session.append({"record": "AddedLater", "turn": 99})
    reader = State.open(held.path, create=False, key_path=key_path)
    assert reader.view() == SessionView.fold(ALL)


def test_turns_and_what_they_cost() -> None:
    view = SessionView.fold([*ALL[:3], *turn(1), *turn(2)])
    assert (view.session, view.active, view.consents) == ("a1b2", "log", {"/data/log"})
    assert view.documents == ({"name": "log", "size_bytes": 3},)
    assert [t.question for t in view.turns] == ["question 1?", "question 2?"]
    assert [message.content for message in view.turns[1].messages] == ["look", "found"]
    assert view.usage == view.by_model["big"] == usage() + usage()
    assert (view.interrupted, view.next_turn) == (None, 3)
    view.add(ended(3, cost_usd=None))
    assert view.usage.cost_usd is None


def test_a_turn_without_an_end_is_interrupted_until_the_next_begins() -> None:
    view = SessionView.fold([*turn(1), *turn(2)[:2]])
    assert view.interrupted == TurnBegan(turn=2, question="question 2?")
    assert [t.ended.turn for t in view.turns] == [1]
    view = SessionView.fold([*turn(1), *turn(2)[:2], *turn(3)])
    assert view.interrupted is None
    assert [len(t.messages) for t in view.turns] == [2, 2]
    assert view.next_turn == 4


def test_a_turn_whose_beginning_was_damaged_still_counts() -> None:
    view = SessionView.fold([*turn(1), *turn(2)[1:]])
    assert [(t.question, len(t.messages)) for t in view.turns] == [("question 1?", 2), ("", 2)]


def test_undo_takes_turns_and_snapshots_away_but_neither_money_nor_numbers(held: State) -> None:
    for number in (1, 2, 3):
        for record in turn(number):
            held.append(record)
        snap(held, turn=number)
    held.append(TurnUndone(turn=2))
    view = held.view()
    assert [t.ended.turn for t in view.turns] == [1]
    assert [info.header.turn for info in held.snapshots(view)] == [1]
    assert view.usage.calls == 6
    assert (view.next_turn, view.last_generation) == (4, 3)


def test_a_fresh_session_keeps_documents_and_consents_only() -> None:
    view = SessionView.fold([*ALL, *turn(3), TurnBegan(turn=4, question="?")])
    view.add(SessionStarted(session="c3d4", created="2026-02-02T00:00:00+00:00"))
    assert (view.session, view.active, view.consents) == ("c3d4", "log", {"/data/log"})
    assert (view.turns, view.snapshots, view.interrupted) == ([], [], None)
    assert (view.usage, view.by_model) == (Usage(), {})
    assert view.next_turn == 5


# Taking a turn back


def documents(*names: str, active: str | None = None) -> DocumentsSet:
    rows = tuple({"name": name, "path": f"/data/{name}"} for name in names)
    return DocumentsSet(documents=rows, active=active or next(iter(names), None))


@pytest.mark.parametrize(
    ("records", "taken_back"),
    [
        ([], []),
        ([documents("a")], []),
        ([documents("a"), *turn(1)], [TurnUndone(turn=1)]),
        ([*turn(1), *turn(2), TurnUndone(turn=2)], [TurnUndone(turn=1)]),
        ([*turn(1), TurnUndone(turn=1)], []),
        # Not finished: it is the last one all the same.
        ([*turn(1), TurnBegan(turn=2, question="?")], [TurnUndone(turn=2)]),
        # Documents that came with the turn go with it, as do those that it left out.
        (
            [documents("a"), turn(1)[0], documents("a", "b", active="b"), *turn(1)[1:]],
            [documents("a"), TurnUndone(turn=1)],
        ),
        (
            [documents("a", "b"), turn(1)[0], documents("b"), *turn(1)[1:]],
            [documents("a", "b"), TurnUndone(turn=1)],
        ),
        (
            [documents("a"), turn(1)[0], documents("a", "b")],
            [documents("a"), TurnUndone(turn=1)],
        ),
        # What the user loaded since then stays.
        ([documents("a"), *turn(1), documents("a", "b")], [TurnUndone(turn=1)]),
        (
            [documents("a"), turn(1)[0], documents("a", "b"), *turn(1)[1:], documents("a", "b", "c")],
            [documents("a", "c"), TurnUndone(turn=1)],
        ),
        (
            [documents("a"), turn(1)[0], documents("a", "b"), *turn(1)[1:], documents("b", "c")],
            [documents("c"), TurnUndone(turn=1)],
        ),
    ],
)
def test_what_it_takes_to_take_the_last_turn_back(records: list[Record], taken_back: list[Record]) -> None:
    view = SessionView.fold(records)
    assert list(view.to_take_back()) == taken_back
    for record in taken_back:
        view.add(record)
    assert (view.interrupted, view.to_take_back() == tuple(taken_back)) == (None, not taken_back)


@pytest.fixture
def session(held: State) -> Session:
    model = ScriptedModel("scripted", lambda messages: "")
    config = Config(root=ModelConfig(model="scripted"), sub=ModelConfig(model="scripted"))
    models = Models(root=model, sub=model, choose=lambda name: model)
    return Session(config=config, state=held, models=models, cwd=held.path.parent)


def test_undo_goes_back_turn_by_turn_to_documents_variables_and_messages(
    session: Session, held: State, tmp_path: Path
) -> None:
    (tmp_path / "before.txt").write_text("before")
    (tmp_path / "during.txt").write_text("during")
    session.load([str(tmp_path / "before.txt")])
    for record in turn(1):
        held.append(record)
    snap(held, turn=1)
    held.append(turn(2)[0])
    session.load([str(tmp_path / "during.txt")])
    for record in turn(2)[1:]:
        held.append(record)
    held.append(ConsentGiven(path="/data/allowed"))
    snap(held, turn=2)
    spent = held.view().usage

    assert session.undo() == 2
    view = held.view()
    assert [document.name for document in session.documents] == ["before.txt"]
    assert (view.active, session.sandbox.active) == ("before.txt", "before.txt")
    assert [Path(row["path"]) for row in view.documents] == [look(tmp_path / "before.txt").path]
    assert {row["turn"] for row in memory.history(view)} == {1}
    assert len(memory.conversation(view, compaction=True)) == 1
    assert [info.header.turn for info in held.snapshots(view)] == [1]
    assert [row.name for row in session.sandbox.variables] == ["x"]
    assert (view.usage, "/data/allowed" in view.consents, view.next_turn) == (spent, True, 3)

    assert session.undo() == 1
    assert (held.view().turns, session.sandbox.variables) == ([], ())
    assert [document.name for document in session.documents] == ["before.txt"]
    assert session.undo() is None


def test_retry_takes_back_the_last_turn_and_gives_its_question(session: Session, held: State) -> None:
    assert session.retry() is None
    for record in (*turn(1), TurnBegan(turn=2, question="and what else?")):
        held.append(record)
    assert session.retry() == "and what else?"
    assert held.view().interrupted is None
    assert session.retry() == "question 1?"
    assert held.view().turns == []
    assert session.retry() is None


def test_undo_that_cannot_be_written_takes_nothing_back(session: Session, held: State) -> None:
    for record in turn(1):
        held.append(record)
    log = held.path / "session.jsonl"
    log.rename(log.with_name("away"))
    log.mkdir()
    with pytest.raises(StateError):
        session.undo()
    log.rmdir()
    log.with_name("away").rename(log)
    assert [past.ended.turn for past in held.view().turns] == [1]
    assert session.undo() == 1
