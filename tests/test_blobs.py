"""Blobs come whole, as their names say and no more of them than agreed, or not at all."""

import asyncio
import hashlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlm import protocol
from rlm.blobs import Arriving
from rlm.box.namespace import Namespace, serve_nobody
from rlm.box.results import SnapshotResult
from rlm.box.wire import BytesSink, Sink, Wire
from rlm.errors import SandboxLost, StateError
from rlm.protocol import HEADER, Message, ProtocolError
from rlm.state import State
from tests.box.peer import READY, control, data

LIMIT_BYTES = 10_000_000


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path / "state", create=True, key_path=tmp_path / "key")
    with opened.lock():
        yield opened


def digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def send(arriving: Arriving, blob: bytes) -> None:
    sink = arriving.sink(digest(blob))
    for start in range(0, len(blob), 3):
        sink.write(blob[start : start + 3])
    sink.check()


def files(state: State) -> list[str]:
    return sorted(os.listdir(state.path / "blobs"))


def test_a_blob_is_there_once_all_of_them_are_put_in_place(state: State) -> None:
    arriving = state.new_blobs(limit_bytes=LIMIT_BYTES)
    send(arriving, b"first")
    send(arriving, b"second")
    assert state.blobs.sizes() == {}
    assert arriving.commit({digest(b"first"), digest(b"second")}) == 11
    assert state.blobs.sizes() == {digest(b"first"): 5, digest(b"second"): 6}
    assert (state.path / "blobs" / digest(b"first")).read_bytes() == b"first"


def test_the_user_of_the_container_can_read_them_and_other_users_cannot(state: State) -> None:
    arriving = state.new_blobs(limit_bytes=LIMIT_BYTES)
    send(arriving, b"blob")
    arriving.commit({digest(b"blob")})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state.path, *state.path.rglob("*"))}
    assert (modes["blobs"], modes[digest(b"blob")], modes["state"]) == (0o755, 0o644, 0o700)


def test_bytes_that_are_not_those_of_the_digest_are_a_breach_of_the_protocol(state: State) -> None:
    arriving = state.new_blobs(limit_bytes=LIMIT_BYTES)
    sink = arriving.sink(digest(b"promised"))
    sink.write(b"sent")
    with pytest.raises(ProtocolError, match="not those of its digest"):
        sink.check()
    arriving.commit({digest(b"promised")})
    assert files(state) == []


@pytest.mark.parametrize("name", ["", "a" * 63, "A" * 64, "a" * 64 + "\n", "../" + "a" * 61, "g" * 64])
def test_a_blob_under_another_kind_of_name_is_a_breach_of_the_protocol(state: State, name: str) -> None:
    with pytest.raises(ProtocolError, match="not a digest"):
        state.new_blobs(limit_bytes=LIMIT_BYTES).sink(name)
    assert files(state) == []


def test_more_bytes_than_agreed_are_a_breach_of_the_protocol(state: State) -> None:
    arriving = state.new_blobs(limit_bytes=10)
    send(arriving, b"12345")
    sink = arriving.sink(digest(b"123456"))
    sink.write(b"12345")
    with pytest.raises(ProtocolError, match="more than was asked for"):
        sink.write(b"6")
    arriving.abort()
    assert files(state) == []


def test_what_is_not_needed_not_whole_or_sent_twice_leaves_nothing_behind(state: State) -> None:
    arriving = state.new_blobs(limit_bytes=LIMIT_BYTES)
    failed = arriving.sink(digest(b"failed at first"))
    failed.write(b"failed")
    send(arriving, b"not needed")
    send(arriving, b"failed at first")
    send(arriving, b"failed at first")
    failed.write(b"late")
    arriving.sink(digest(b"never ends")).write(b"never")
    assert arriving.commit({digest(b"failed at first"), digest(b"never ends")}) == 15
    assert files(state) == [digest(b"failed at first")]


def test_nothing_is_left_of_what_was_given_up_and_what_comes_late_is_dropped(state: State) -> None:
    arriving = state.new_blobs(limit_bytes=LIMIT_BYTES)
    send(arriving, b"whole")
    sink = arriving.sink(digest(b"half and half"))
    sink.write(b"half")
    arriving.abort()
    sink.write(b" and half")
    sink.check()
    send(arriving, b"later")
    assert files(state) == []


def test_only_what_is_ours_is_collected(state: State, tmp_path: Path) -> None:
    folder = state.blobs_folder()
    for name in ("a" * 64, "b" * 64, f"{'a' * 64}.corrupt", "notes.txt", "c" * 63):
        (folder / name).write_bytes(b"x")
    (folder / ("d" * 64)).mkdir()
    (folder / ("e" * 64)).symlink_to(tmp_path)
    state.blobs.collect({"a" * 64})
    assert files(state) == sorted(["a" * 64, "notes.txt", "c" * 63, "d" * 64, "e" * 64])


def test_a_planted_link_to_a_folder_is_neither_read_nor_written_nor_emptied(
    state: State, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / digest(b"mine")).write_bytes(b"mine")
    (state.path / "blobs").symlink_to(elsewhere)
    assert state.blobs.sizes() == {}
    state.blobs.collect(())
    with pytest.raises(StateError, match="Not a directory"):
        state.new_blobs(limit_bytes=LIMIT_BYTES)
    assert os.listdir(elsewhere) == [digest(b"mine")]


def test_what_a_killed_writer_left_is_gone_with_the_next_lock(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state", create=True, key_path=tmp_path / "key")
    with state.lock():
        arriving = state.new_blobs(limit_bytes=LIMIT_BYTES)
        send(arriving, b"whole")
        arriving.sink(digest(b"half")).write(b"ha")
        assert len(files(state)) == 2
    with state.lock():
        assert files(state) == []


FULL = """
import hashlib, resource, sys
from pathlib import Path
from rlm.errors import StateError
from rlm.state import State
state = State.open(Path(sys.argv[1]), create=False, key_path=Path(sys.argv[2]))
with state.lock():
    arriving = state.new_blobs(limit_bytes=10_000_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    for blob in (b"small", b"a" * 200_000, b"another"):
        sink = arriving.sink(hashlib.sha256(blob).hexdigest())
        for start in range(0, len(blob), 10_000):
            sink.write(blob[start : start + 10_000])
        sink.check()
    print(len(list((state.path / "blobs").iterdir())))
    try:
        arriving.commit({hashlib.sha256(b"small").hexdigest()})
    except StateError as error:
        print(error, "|", error.hint)
"""


def test_a_full_disk_is_told_and_leaves_room_at_once(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state", create=True, key_path=tmp_path / "key")
    with state.lock():
        arriving = state.new_blobs(limit_bytes=LIMIT_BYTES)
        send(arriving, b"before")
        arriving.commit({digest(b"before")})
    command = [sys.executable, "-c", FULL, str(state.path), str(tmp_path / "key")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines() == [
        "1",
        f"Could not write {state.path}/blobs/{digest(b'a' * 200_000)}. File too large. | "
        "Free some space, then run the command again; what was saved before is intact.",
    ]
    assert files(state) == [digest(b"before")]


def test_a_folder_that_is_gone_is_told(state: State) -> None:
    arriving = state.new_blobs(limit_bytes=LIMIT_BYTES)
    send(arriving, b"first")
    for path in (state.path / "blobs").iterdir():
        path.unlink()
    (state.path / "blobs").rmdir()
    send(arriving, b"second")
    with pytest.raises(StateError, match=r"Could not write .*blobs/[0-9a-f]{64}\. No such file"):
        arriving.commit({digest(b"first")})


# Over the stream


@dataclass
class Peer:
    """A worker that says what a test wants it to say, and the namespace that the host sees."""

    socket: socket.socket
    namespace: Namespace
    wire: Wire
    blobs: dict[str, BytesSink] = field(default_factory=dict)

    async def say(self, *pieces: bytes) -> None:
        await asyncio.to_thread(self.socket.sendall, b"".join(pieces))

    async def asked(self) -> tuple[protocol.TakeSnapshot, bytes]:
        """The message that asks for a snapshot, and the digests that come with it."""
        header = await self._read(HEADER.size)
        kind, _, length = HEADER.unpack(header)
        payload = await self._read(length)
        told, body = protocol.split_whole(payload) if kind == protocol.WHOLE else (payload, b"")
        message = protocol.decode(told, protocol.TO_WORKER)
        assert isinstance(message, protocol.TakeSnapshot)
        return message, body

    async def _read(self, size_bytes: int) -> bytes:
        return await asyncio.to_thread(self.socket.recv, size_bytes, socket.MSG_WAITALL)


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    ours, theirs = socket.socketpair()
    reached: list[Namespace] = []

    def deliver(channel: int, message: Message, sink: Sink) -> None:
        reached[0].receive(message, sink)  # type: ignore[arg-type]

    wire = Wire(ours, deliver=deliver, open_sink=lambda channel, message: reached[0].open_sink(message))
    reached.append(Namespace(1, wire, serve=serve_nobody, cell_timeout_s=10))
    wire.start()
    found = Peer(theirs, reached[0], wire)
    try:
        await found.say(READY)
        await found.namespace.ready()
        yield found
    finally:
        wire.close()
        theirs.close()


def blob_frames(request: int, name: str, blob: bytes, *, number: int = 5) -> bytes:
    announced = control(protocol.Blob(request=request, sha256=name, body=number))
    return announced + data(blob, body=number) + data(b"", body=number)


def snapshot_frames(request: int, stream: bytes, report: bytes) -> bytes:
    announced = control(protocol.Snapshot(request=request, body=6))
    told = control(protocol.SnapshotReport(request=request, ok=True, body=7))
    bodies = [data(stream, body=6), data(b"", body=6), told, data(report, body=7), data(b"", body=7)]
    return announced + b"".join(bodies)


async def test_the_worker_is_told_what_the_host_has_and_the_rest_arrives() -> None:
    async with peer() as worker:
        there: dict[str, BytesSink] = {}
        worker.namespace.blob_sink = lambda name: there.setdefault(name, BytesSink())
        saving = asyncio.ensure_future(worker.namespace.snapshot(have=["ab" * 32, "cd" * 32], max_bytes=77))
        asked, known = await worker.asked()
        assert (asked.max_bytes, known) == (77, b"\xab" * 32 + b"\xcd" * 32)
        report = f'{{"sha256": "x", "blobs": [["{"ab" * 32}", 9], ["{digest(b"new")}", 3]], "took_s": 1}}'
        await worker.say(
            blob_frames(asked.request, digest(b"new"), b"new"),
            snapshot_frames(asked.request, b"stream", report.encode()),
        )
        result, sink = await asyncio.wait_for(saving, 30)
        assert isinstance(result, SnapshotResult) and isinstance(sink, BytesSink)
        assert (result.blobs, sink.data) == ((("ab" * 32, 9), (digest(b"new"), 3)), b"stream")
        assert {name: sink.data for name, sink in there.items()} == {digest(b"new"): b"new"}


async def test_a_blob_that_lies_ends_the_container(state: State) -> None:
    arriving = state.new_blobs(limit_bytes=LIMIT_BYTES)
    async with peer() as worker:
        worker.namespace.blob_sink = arriving.sink
        saving = asyncio.ensure_future(worker.namespace.snapshot())
        asked, _ = await worker.asked()
        await worker.say(blob_frames(asked.request, digest(b"promised"), b"sent"))
        with pytest.raises(SandboxLost, match="its bytes are not those of its digest"):
            await asyncio.wait_for(saving, 30)
    assert files(state) == []


async def test_a_blob_that_nobody_asked_for_ends_the_container() -> None:
    async with peer() as worker:
        await worker.say(blob_frames(1, digest(b"x"), b"x"))
        with pytest.raises(SandboxLost, match="blob: nobody asked"):
            await asyncio.wait_for(asyncio.shield(worker.wire.lost), 30)


BAD_REPORTS = [
    '{"blobs": [["short", 1]]}',
    f'{{"blobs": [["{"a" * 64}", -1]]}}',
    f'{{"blobs": [["{"a" * 64}", "1"]]}}',
    f'{{"blobs": [["{"a" * 64}"]]}}',
    '{"blobs": 7}',
    '{"took_s": "long"}',
]


@pytest.mark.parametrize("report", BAD_REPORTS)
async def test_a_report_of_another_shape_ends_the_container(report: str) -> None:
    async with peer() as worker:
        saving = asyncio.ensure_future(worker.namespace.snapshot())
        asked, _ = await worker.asked()
        await worker.say(snapshot_frames(asked.request, b"stream", report.encode()))
        with pytest.raises(SandboxLost, match="an answer of another shape"):
            await asyncio.wait_for(saving, 30)


async def test_a_snapshot_that_nobody_waits_for_any_more_does_no_harm() -> None:
    async with peer() as worker:
        abandoned = asyncio.ensure_future(worker.namespace.snapshot())
        first, _ = await worker.asked()
        abandoned.cancel()
        mine: list[BytesSink] = []

        def sink() -> Sink:
            mine.append(BytesSink())
            return mine[-1]

        worker.namespace.snapshot_sink = sink
        saving = asyncio.ensure_future(worker.namespace.snapshot())
        second, _ = await worker.asked()
        await worker.say(snapshot_frames(first.request, b"theirs", b'{"sha256": "1"}'))
        await worker.say(snapshot_frames(second.request, b"mine", b'{"sha256": "2"}'))
        result, _ = await asyncio.wait_for(saving, 30)
        assert (result.sha256, [one.data for one in mine]) == ("2", [b"mine"])
        assert not worker.wire.lost.done()
