"""The host's end of the stream against a container that lies, floods, stalls or hangs up.

The container is a scripted peer on the other end of a socket pair. Whatever it does ends in `lost`, with
a `SandboxLost` that says why, and with bounded memory; nothing waits for ever.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rlm import protocol
from rlm.box import wire
from rlm.box.wire import Sink, Wire
from rlm.errors import SandboxLost
from rlm.protocol import BODY_ID, CONTROL, DATA, HEADER, Message
from tests.box import MiB
from tests.box.peer import READY, STDERR, Link, control, data, engine_frame, whole

DONE = protocol.Done(request=1, body=1)


async def test_messages_and_bodies_arrive_whole_and_in_order(link: Link) -> None:
    await link.say(READY, control(DONE), data(b"abc"), READY, data(b"def"), data(b""), READY)
    await link.messages(4)
    assert link.delivered == [
        (1, protocol.Ready(), b""),
        (1, protocol.Ready(), b""),
        (1, DONE, b"abcdef"),
        (1, protocol.Ready(), b""),
    ]


async def test_any_cut_of_the_stream_is_the_same_stream(link: Link) -> None:
    stream = READY + engine_frame(b"warning\n", stream=STDERR) + control(DONE) + data(b"abc") + data(b"")
    for byte in stream:
        await link.say(bytes([byte]))
    await link.messages(2)
    assert [(message.tag, body) for _, message, body in link.delivered] == [("ready", b""), ("done", b"abc")]
    assert link.wire.stderr == b"warning\n"


async def test_short_body_comes_with_its_message(link: Link) -> None:
    await link.say(engine_frame(whole(protocol.Done(request=5), b"{}")))
    await link.messages(1)
    assert link.delivered == [(1, protocol.Done(request=5), b"{}")]


LIES = {
    "garbage": (b"\xff" * 64, "unknown frame kind"),
    "4 GiB frame": (HEADER.pack(CONTROL, 1, 2**32 - 1), "frame of 4294967295 bytes"),
    "2 MiB frame": (HEADER.pack(CONTROL, 1, 2 * MiB), "frame of 2097152 bytes"),
    "not JSON": (HEADER.pack(CONTROL, 1, 2) + b"{]", "not JSON"),
    "unknown message": (HEADER.pack(CONTROL, 1, 11) + b'{"t":"root"}'[:11], "not JSON"),
    "supervisor's on a worker's": (
        protocol.control_frame(1, protocol.Hello(version=1, python="3")),
        "unknown or illegal message 'hello'",
    ),
    "rolled back on a worker's": (
        protocol.control_frame(1, protocol.RolledBack(worker=1, reason="", detail="", restored=True)),
        "unknown or illegal message 'rolled_back'",
    ),
    "worker's on the supervisor's": (protocol.control_frame(0, protocol.Ready()), "illegal message 'ready'"),
    "host's own": (
        protocol.control_frame(0, protocol.Spawn(worker=2, memory_bytes=1)),
        "illegal message 'spawn'",
    ),
    "data for nothing": (HEADER.pack(DATA, 1, 5) + BODY_ID.pack(9) + b"x", "not announced"),
    "data of another channel": (
        protocol.control_frame(1, DONE) + HEADER.pack(DATA, 2, 5) + BODY_ID.pack(1) + b"x",
        "not announced",
    ),
    "data without a number": (HEADER.pack(DATA, 1, 3) + b"abc", "without a body id"),
    "a body where none can be": (protocol.control_frame(1, protocol.Ready(body=1)), "a body that cannot be"),
    "the same body twice": (protocol.control_frame(1, DONE) * 2, "a body that cannot be"),
    "4,097 bodies": (
        b"".join(protocol.control_frame(1, protocol.Done(request=1, body=n)) for n in range(1, 4098)),
        "too many bodies",
    ),
    "a body in the frame and one to come": (whole(DONE, b"{}"), "a body that cannot be"),
    "whole frame cut short": (
        HEADER.pack(protocol.WHOLE, 1, 4) + BODY_ID.pack(9),
        "shorter than its message",
    ),
}


@pytest.mark.parametrize(("lie", "why"), LIES.values(), ids=LIES.keys())
async def test_lie_ends_the_stream_and_is_told(link: Link, lie: bytes, why: str) -> None:
    await link.say(READY, engine_frame(lie))
    assert why in await link.why_lost()
    assert link.delivered[:1] == [(1, protocol.Ready(), b"")]


@pytest.mark.parametrize("tag", ["done", "cell_done", "snapshot_report", "restored"])
async def test_body_over_its_limit_ends_the_stream(link: Link, tag: str) -> None:
    announced: dict[str, Message] = {
        "done": protocol.Done(request=1, body=1),
        "cell_done": protocol.CellDone(
            cell=1, status="ok", error="", total_chars=0, kept_as="", checkpoint=True, active="", body=1
        ),
        "snapshot_report": protocol.SnapshotReport(request=1, ok=True, body=1),
        "restored": protocol.Restored(request=1, ok=True, body=1),
    }
    chunk = data(bytes(protocol.MAX_CHUNK_BYTES))
    chunks = wire.BODY_LIMITS[tag] // protocol.MAX_CHUNK_BYTES
    await link.say(control(announced[tag]), *[chunk] * chunks, data(b"x"))
    assert await link.why_lost() == f"The container broke the protocol: {tag}: body too large."


async def test_body_at_its_limit_is_delivered(link: Link) -> None:
    await link.say(control(DONE), *[data(bytes(protocol.MAX_CHUNK_BYTES))] * 16, data(b""))
    await link.messages(1)
    assert len(link.delivered[0][2]) == wire.BODY_LIMITS["done"]


@pytest.mark.parametrize("stream", [b"", READY[:5], READY[:-1], control(DONE), control(DONE) + data(b"abc")])
async def test_stream_that_ends_anywhere_is_a_lost_container(link: Link, stream: bytes) -> None:
    await link.say(stream)
    link.peer.close()
    assert await link.why_lost() == "The container ended."


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFF])
async def test_engine_frame_of_any_length_is_not_gathered_in_memory(link: Link, length: int) -> None:
    """The engine's own framing is trusted less than the engine: its length is not room to fill."""
    flood = bytes(MiB)

    def pour() -> Iterator[bytes]:
        yield struct.pack(">BxxxI", STDERR, length)
        for _ in range(64):
            yield flood

    with traced() as traced_bytes:
        await link.say(*pour())
        link.peer.close()
        await link.why_lost()
        assert traced_bytes() < 32 * MiB


@contextlib.contextmanager
def traced() -> Iterator["Peak"]:
    tracemalloc.start()
    try:
        yield Peak()
    finally:
        tracemalloc.stop()


class Peak:
    def __call__(self) -> int:
        return tracemalloc.get_traced_memory()[1]


async def test_flood_of_tiny_frames_is_held_back_not_piled_up(link: Link) -> None:
    frame = protocol.control_frame(1, protocol.Output(cell=1, text=""))
    block = engine_frame(frame * 1000)
    sender = threading.Thread(target=lambda: _pour(link.peer, block, times=200), daemon=True)
    with traced() as peak:
        sender.start()
        # The loop is busy meanwhile, as with a slow terminal: nothing is taken off its hands.
        for _ in range(200):
            sender.join(0.01)
        waiting_bytes = peak()
        link.delivered.clear()
    assert waiting_bytes < 16 * MiB
    assert sender.is_alive()
    await asyncio.to_thread(sender.join)
    assert len(await link.messages(200_000)) == 200_000


def _pour(peer: socket.socket, block: bytes, *, times: int) -> None:
    with contextlib.suppress(OSError):
        for _ in range(times):
            peer.sendall(block)


async def test_stderr_of_the_container_is_kept_to_its_end(link: Link) -> None:
    await link.say(
        *[engine_frame(b"x" * 1000, stream=STDERR)] * 50, engine_frame(b"the end", stream=STDERR), READY
    )
    await link.messages(1)
    assert link.wire.stderr.endswith(b"xthe end")
    assert len(link.wire.stderr) == wire.STDERR_BYTES


async def test_large_body_goes_where_it_is_told(link: Link) -> None:
    link.place = place = Counting()
    await link.say(control(protocol.Final(cell=1, format="text", body=1)))
    with traced() as peak:
        await link.say(*[data(bytes(protocol.MAX_CHUNK_BYTES))] * 640, data(b""))
        await link.messages(1)
        assert peak() < 16 * MiB
    assert place.size_bytes == 40 * MiB


@dataclass
class Counting:
    size_bytes: int = 0

    def write(self, data: bytes) -> None:
        self.size_bytes += len(data)


async def test_dead_worker_s_half_body_is_forgotten(link: Link) -> None:
    rolled_back = protocol.RolledBack(worker=1, reason="exit", detail="1", restored=True)
    await link.say(
        control(DONE),
        data(b"half"),
        control(rolled_back, channel=0),
        control(DONE),
        data(b"whole"),
        data(b""),
    )
    await link.messages(2)
    assert link.delivered[-1] == (1, DONE, b"whole")


async def test_consumer_that_objects_ends_the_stream() -> None:
    ours, theirs = socket.socketpair()

    def object_to(channel: int, message: Message, sink: Sink) -> None:
        raise protocol.ProtocolError("not now")

    stream = Wire(ours, deliver=object_to, open_sink=lambda channel, message: None)
    stream.start()
    theirs.sendall(READY)
    with pytest.raises(SandboxLost, match="The container broke the protocol: not now"):
        await asyncio.wait_for(asyncio.shield(stream.lost), 30)
    theirs.close()


async def test_closing_is_not_losing(link: Link) -> None:
    link.wire.close()
    await asyncio.wait_for(asyncio.shield(link.wire.lost), 30)
