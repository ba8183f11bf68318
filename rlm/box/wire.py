"""The host's end of the stream: two threads between a socket and the event loop.

The reading thread cuts the stream into frames, checks them, gathers bodies (in memory, or straight into a
file for the large ones) and hands whole messages to the loop. The writing thread sends what the loop
queues, so that a container that does not read cannot block the program. Everything that arrives is taken
for hostile: the first violation ends the stream. It decides nothing about meaning; `rlm.box.namespace` does.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from rlm import protocol
from rlm.errors import SandboxLost
from rlm.protocol import DATA, WHOLE, Frame, FrameReader, Message, ProtocolError

READ_BYTES = 256 * 1024
FRAME_SECONDS = 20.0
"""A frame that has begun must be whole by then."""
MESSAGES_AHEAD = 256
"""So many messages may wait for the loop; then the stream is not read until it has caught up."""
STDERR_BYTES = 4096

_STREAM_HEADER = struct.Struct(">BxxxI")
_STDERR = 2

MiB = 1024 * 1024
BODY_LIMITS: dict[str, int] = {
    protocol.Hello.tag: MiB,
    protocol.Done.tag: MiB,
    protocol.CellDone.tag: MiB,
    protocol.SnapshotReport.tag: 16 * MiB,  # it lists up to `protocol.MAX_BLOBS` blobs
    protocol.Restored.tag: MiB,
    protocol.SubCalls.tag: 256 * MiB,
    protocol.Final.tag: 4096 * MiB,
    protocol.Snapshot.tag: 16384 * MiB,
    protocol.Blob.tag: 16384 * MiB,
    protocol.Part.tag: 16 * 1024 * 1024 * MiB,  # what is kept of it, the sink decides
}
MEMORY_BYTES = 512 * MiB
"""All bodies together that are gathered in memory at one moment."""


class Sink(Protocol):
    """Where a large body goes. Called from the reading thread; `write` keeps its errors to itself."""

    def write(self, data: bytes) -> None: ...


@runtime_checkable
class CheckingSink(Sink, Protocol):
    """A sink that is told, on the reading thread, when all has come.

    `check` raises `ProtocolError` when that is not what was announced.
    """

    def check(self) -> None: ...


class BytesSink:
    """A body gathered in memory."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    @property
    def data(self) -> bytes:
        return b"".join(self._parts)


@dataclasses.dataclass(slots=True)
class _Body:
    message: Message
    sink: Sink
    size_bytes: int = 0


@dataclasses.dataclass(slots=True)
class _Way:
    """A body on its way to a worker. `cut`: nobody takes it in any more."""

    acknowledged: int = 0
    cut: bool = False
    moved: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


Deliver = Callable[[int, Message, Sink], None]
OpenSink = Callable[[int, Message], Sink | None]


class Wire:
    """`deliver(channel, message, body)` runs on the loop for every message, in order.

    `open_sink` runs on the reading thread when a body is announced and may name a place for it. `lost`
    is a future that fails with `SandboxLost` when the stream ends, for whatever reason.
    """

    def __init__(self, sock: socket.socket, *, deliver: Deliver, open_sink: OpenSink) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._open_sink = open_sink
        self._room = threading.Semaphore(MESSAGES_AHEAD)
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._body_numbers = itertools.count(1)
        self._ways: dict[tuple[int, int], _Way] = {}
        self._bodies: dict[tuple[int, int], _Body] = {}
        self._in_memory = 0
        self.held_bytes = 0
        """Bodies of requests that are being answered; `rlm.box.namespace` counts them."""
        self._closing = False
        self._kind = self._left = 0
        self.stderr = b""
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._threads = [
            threading.Thread(target=self._read, name="rlm-read", daemon=True),
            threading.Thread(target=self._write, name="rlm-write", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    # -- sending

    def send(self, channel: int, message: Message) -> None:
        """Queue a message without a body."""
        self._outgoing.put(protocol.control_frame(channel, message))

    async def send_body(self, channel: int, message: Message, body: Iterable[bytes]) -> None:
        """Send a message and its body, never more than a window ahead of what the worker took in."""
        whole = protocol.whole_frame(channel, message, body) if isinstance(body, Sequence) else None
        if whole is not None:
            self._outgoing.put(whole)
            return
        number = next(self._body_numbers)
        first = [protocol.control_frame(channel, dataclasses.replace(message, body=number))]
        key, sent = (channel, number), 0
        way = self._ways[key] = _Way()
        try:
            for piece in body:
                for start in range(0, len(piece), protocol.MAX_CHUNK_BYTES):
                    chunk = piece[start : start + protocol.MAX_CHUNK_BYTES]
                    while sent + len(chunk) - way.acknowledged > protocol.WINDOW_BYTES:
                        await self._room_on(way)
                        if way.cut:
                            return
                    # The beginning goes out with the first chunk, and for a small body with its end.
                    self._outgoing.put(b"".join([*first, *protocol.data_frames(channel, number, chunk)]))
                    first.clear()
                    sent += len(chunk)
            self._outgoing.put(b"".join([*first, protocol.end_frame(channel, number)]))
        finally:
            del self._ways[key]

    async def _room_on(self, way: "_Way") -> None:
        """Wait until something was acknowledged, or the worker has died. Raises `SandboxLost`."""
        way.moved.clear()
        moved = asyncio.ensure_future(way.moved.wait())
        either: set[asyncio.Future[Any]] = {moved, self.lost}
        try:
            await asyncio.wait(either, return_when="FIRST_COMPLETED")
        finally:
            moved.cancel()
        if self.lost.done():
            self.lost.result()
            way.cut = True

    def acknowledged(self, channel: int, ack: protocol.Ack) -> None:
        if way := self._ways.get((channel, ack.stream)):
            way.acknowledged += ack.size
            way.moved.set()

    def cut_off(self, channel: int) -> None:
        """The worker died: what was being sent to it is not sent on."""
        for (to, _), way in self._ways.items():
            if to == channel:
                way.cut = True
                way.moved.set()

    def _forget(self, channel: int) -> None:
        """Drop half-gathered bodies of a worker that died."""
        for key in [key for key in self._bodies if key[0] == channel]:
            self._drop(key)

    def close(self) -> None:
        """End the stream. The container ends with it."""
        self._closing = True
        self._outgoing.put(None)
        with contextlib.suppress(OSError):  # the other side may have been first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    # -- the threads

    def _write(self) -> None:
        try:
            while (data := self._outgoing.get()) is not None:
                self._sock.sendall(data)
        except OSError as error:
            self._fail(f"writing to the container failed: {error}")

    def _read(self) -> None:
        try:
            self._read_stream()
        except ProtocolError as error:
            self._fail(f"the container broke the protocol: {error}")
        except (OSError, ValueError) as error:
            self._fail(f"reading from the container failed: {error}")

    def _read_stream(self) -> None:
        raw = bytearray()
        frames = FrameReader()
        frame_since: float | None = None
        while True:
            if not self._readable():
                if frame_since is not None and time.monotonic() - frame_since > FRAME_SECONDS:
                    raise ProtocolError("a frame did not end in time")
                continue
            data = self._sock.recv(READ_BYTES)
            if not data:
                self._fail("the container ended")
                return
            raw += data
            for stdout in self._demultiplex(raw):
                for frame in frames.feed(stdout):
                    self._take(frame)
            if not frames.partial:
                frame_since = None
            elif frame_since is None:
                frame_since = time.monotonic()
            elif time.monotonic() - frame_since > FRAME_SECONDS and len(data) < 1024:
                raise ProtocolError("a frame did not end in time")

    def _readable(self) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(1000))

    def _demultiplex(self, raw: bytearray) -> Iterable[bytes]:
        """Undo the engine's framing of stdout and stderr. What there is of a payload is passed on at once."""
        pieces = []
        while raw:
            if not self._left:
                if len(raw) < _STREAM_HEADER.size:
                    break
                self._kind, self._left = _STREAM_HEADER.unpack_from(raw)
                del raw[: _STREAM_HEADER.size]
                continue
            piece = bytes(raw[: self._left])
            del raw[: self._left]
            self._left -= len(piece)
            if self._kind == _STDERR:
                self.stderr = (self.stderr + piece)[-STDERR_BYTES:]
            else:
                pieces.append(piece)
        return pieces

    def _take(self, frame: Frame) -> None:
        if frame.kind == DATA:
            self._take_chunk(frame)
            return
        control, inline = frame.payload, b""
        if frame.kind == WHOLE:
            control, inline = protocol.split_whole(frame.payload)
        legal = protocol.FROM_WORKER if frame.channel else protocol.FROM_SUPERVISOR
        message = protocol.decode(control, legal)
        if not message.body:
            sink = (self._open_sink(frame.channel, message) if frame.kind == WHOLE else None) or BytesSink()
            sink.write(inline)
            self._hand_over(frame.channel, message, sink)
            return
        key = (frame.channel, message.body)
        if frame.kind == WHOLE or key in self._bodies or message.tag not in BODY_LIMITS:
            raise ProtocolError(f"{message.tag}: a body that cannot be")
        if len(self._bodies) >= 4096:
            raise ProtocolError("too many bodies at once")
        self._bodies[key] = _Body(message, self._open_sink(frame.channel, message) or BytesSink())

    def _take_chunk(self, frame: Frame) -> None:
        number, chunk = protocol.split_chunk(frame.payload)
        key = (frame.channel, number)
        body = self._bodies.get(key)
        if body is None:
            raise ProtocolError("data for a body that was not announced")
        if not chunk:
            self._drop(key)
            self._hand_over(frame.channel, body.message, body.sink)
            return
        body.size_bytes += len(chunk)
        if isinstance(body.sink, BytesSink):
            self._in_memory += len(chunk)
        if body.size_bytes > BODY_LIMITS[body.message.tag] or self._in_memory > MEMORY_BYTES:
            raise ProtocolError(f"{body.message.tag}: body too large")
        body.sink.write(bytes(chunk))

    def _drop(self, key: tuple[int, int]) -> None:
        body = self._bodies.pop(key, None)
        if body and isinstance(body.sink, BytesSink):
            self._in_memory -= body.size_bytes

    def _hand_over(self, channel: int, message: Message, sink: Sink) -> None:
        if isinstance(sink, CheckingSink):
            sink.check()
        if isinstance(message, protocol.RolledBack):
            # In the reading thread, so that no later frame of the same number meets a dead one's remains.
            self._forget(message.worker)
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._on_loop, channel, message, sink)

    def _on_loop(self, channel: int, message: Message, sink: Sink) -> None:
        self._room.release()
        if self.lost.done():
            return
        try:
            self._deliver(channel, message, sink)
        except ProtocolError as error:
            self._set_lost(f"the container broke the protocol: {error}")

    def _fail(self, why: str) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set_lost, why)

    def _set_lost(self, why: str) -> None:
        if self.lost.done():
            return
        if self._closing:
            self.lost.set_result(None)
            return
        self.lost.set_exception(
            SandboxLost(
                "The container was lost.", f"{why[:1].upper()}{why[1:]}.", hint="It is started again."
            )
        )
        self.lost.exception()  # whoever waits is told; nobody need be waiting
        self.close()
