"""A scripted container: the other end of a socket pair, which says what a test wants it to say."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

import pytest

from rlm import protocol
from rlm.box.wire import BytesSink, Sink, Wire
from rlm.errors import SandboxLost
from rlm.protocol import BODY_ID, DATA, HEADER, Message

STDOUT, STDERR = 1, 2


def engine_frame(data: bytes, *, stream: int = STDOUT) -> bytes:
    """As the engine multiplexes what a container writes."""
    return struct.pack(">BxxxI", stream, len(data)) + data


def control(message: Message, *, channel: int = 1) -> bytes:
    return engine_frame(protocol.control_frame(channel, message))


def whole(message: Message, body: bytes) -> bytes:
    """A message on channel 1 with its body, in the supervisor's framing alone."""
    frame = protocol.whole_frame(1, message, [body])
    assert frame is not None
    return frame


def data(chunk: bytes, *, body: int = 1, channel: int = 1) -> bytes:
    return engine_frame(HEADER.pack(DATA, channel, BODY_ID.size + len(chunk)) + BODY_ID.pack(body) + chunk)


@dataclass
class Link:
    """A `Wire`, what it delivered, and the socket of the peer."""

    peer: socket.socket
    delivered: list[tuple[int, Message, bytes]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    opened: list[Message] = field(default_factory=list)
    place: Sink | None = None

    def connect(self, sock: socket.socket) -> Wire:
        self.wire = Wire(sock, deliver=self._deliver, open_sink=self._open_sink)
        self.wire.start()
        return self.wire

    def _open_sink(self, channel: int, message: Message) -> Sink | None:
        self.opened.append(message)
        return self.place

    def _deliver(self, channel: int, message: Message, sink: Sink) -> None:
        if isinstance(message, protocol.Ack):
            self.wire.acknowledged(channel, message)
        self.delivered.append((channel, message, sink.data if isinstance(sink, BytesSink) else b""))
        self.changed.set()

    async def say(self, *pieces: bytes) -> None:
        """Send as the peer; it is no error when the other side hangs up first."""

        def send() -> None:
            with contextlib.suppress(OSError):
                for piece in pieces:
                    self.peer.sendall(piece)

        await asyncio.to_thread(send)

    async def messages(self, count: int) -> list[Message]:
        while len(self.delivered) < count:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 30)
        return [message for _, message, _ in self.delivered]

    async def why_lost(self) -> str:
        """The reason that a user reads."""
        async with asyncio.timeout(30):
            with pytest.raises(SandboxLost) as lost:
                await asyncio.shield(self.wire.lost)
        return lost.value.why


READY = control(protocol.Ready())
