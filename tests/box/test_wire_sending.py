"""What the host sends: a window ahead of what the worker took in, and never waiting for a dead one."""

import asyncio

import pytest

from rlm import protocol
from rlm.errors import SandboxLost
from rlm.protocol import BODY_ID, DATA, FrameReader
from tests.box import MiB
from tests.box.peer import READY, Link, control


async def _hear(link: Link, reader: FrameReader, *, bytes_at_least: int) -> list[protocol.Frame]:
    """Read as the peer until so much of bodies has come."""
    heard: list[protocol.Frame] = []
    while sum(len(frame.payload) - BODY_ID.size for frame in heard if frame.kind == DATA) < bytes_at_least:
        heard += reader.feed(await asyncio.to_thread(link.peer.recv, 256 * 1024))
    return heard


async def test_body_is_sent_a_window_ahead_and_no_further(link: Link) -> None:
    body = [bytes(MiB)] * 3
    sending = asyncio.ensure_future(link.wire.send_body(1, protocol.Restore(request=1), body))
    reader = FrameReader()
    first = await _hear(link, reader, bytes_at_least=protocol.WINDOW_BYTES)
    number = protocol.decode(first[0].payload, protocol.TO_WORKER).body
    link.peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        link.peer.recv(1)
    link.peer.setblocking(True)
    assert not sending.done()

    await link.say(control(protocol.Ack(stream=number, size=MiB // 2)))
    await _hear(link, reader, bytes_at_least=MiB // 2)
    assert not sending.done()
    await link.say(control(protocol.Ack(stream=number, size=2 * MiB)))
    last = await _hear(link, reader, bytes_at_least=3 * MiB // 2)
    await sending
    if protocol.split_chunk(last[-1].payload)[1]:
        last += reader.feed(await asyncio.to_thread(link.peer.recv, 1024))
    assert last[-1].payload == BODY_ID.pack(number)


async def test_acknowledgement_of_nothing_does_nothing(link: Link) -> None:
    await link.say(control(protocol.Ack(stream=77, size=2**40)), READY)
    assert len(await link.messages(2)) == 2
    assert not link.wire.lost.done()


async def test_sender_that_waits_for_a_window_is_told_when_the_container_is_lost(link: Link) -> None:
    sending = asyncio.ensure_future(
        link.wire.send_body(1, protocol.Restore(request=1), iter([bytes(MiB)] * 3))
    )
    await _hear(link, FrameReader(), bytes_at_least=protocol.WINDOW_BYTES)
    link.peer.close()
    assert await link.why_lost() == "The container ended."
    with pytest.raises(SandboxLost):
        await asyncio.wait_for(sending, 5)


async def test_container_that_does_not_read_does_not_block_the_program(link: Link) -> None:
    for _ in range(1000):
        link.wire.send(1, protocol.RunCell(cell=1))
    await link.say(READY)
    assert await link.messages(1) == [protocol.Ready()]
