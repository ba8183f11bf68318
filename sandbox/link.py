"""The worker's end of the wire: packets to and from the supervisor over one SOCK_SEQPACKET socket.

A packet is a frame without its header: kind, then payload. The kernel keeps packets whole, so a worker
that is killed while it writes never leaves half a frame behind for its checkpoint to trip over, and
threads may send at once. Threads that wait for a reply take turns at reading: there is no reader thread,
because a thread would not survive the fork that makes the checkpoint.
"""

import dataclasses
import itertools
import json
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable

from rlm import protocol
from rlm.protocol import BODY_ID, CONTROL, DATA, MAX_CHUNK_BYTES, WHOLE, Message, Reply
from sandbox.interrupts import Interrupts

NOTE = b"S"
"""Kind of a packet between worker and supervisor alone: JSON, see `sandbox.supervisor`."""
LAST = b"L"
"""Kind of the packet that ends a cell: a whole frame, before which the supervisor sweeps up."""

HELPER_BODIES = 1 << 31
PACKET_BYTES = MAX_CHUNK_BYTES + 1024


class RequestFailed(Exception):
    """The host said no; the text is its reason."""


@dataclasses.dataclass(slots=True)
class _Arriving:
    message: Message
    data: bytearray
    unacknowledged: int = 0


@dataclasses.dataclass(slots=True)
class _Waiting:
    reply: Reply | None = None
    data: bytes = b""


class BodyWriter:
    """The body of a message that was announced, written in pieces of any size."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self._sock = sock
        self._head = DATA + BODY_ID.pack(number)

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        for start in range(0, len(view), MAX_CHUNK_BYTES):
            self._sock.sendmsg((self._head, view[start : start + MAX_CHUNK_BYTES]))

    def close(self) -> None:
        self._sock.send(self._head)


class Link:
    """Messages with their bodies, in both directions. Safe to use from several threads."""

    def __init__(self, sock: socket.socket, interrupts: Interrupts) -> None:
        self._sock = sock
        self._interrupts = interrupts
        self._turn = threading.Condition()
        self._reading = False
        self._inbox: deque[tuple[Message, bytes]] = deque()
        self._arriving: dict[int, _Arriving] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._bodies = itertools.count(1)
        self._watched: dict[int, Callable[[], None]] = {}
        self._swept = True

    def after_fork(self) -> None:
        """This process is a copy: of the threads that may have been reading, only this one is left."""
        self._turn = threading.Condition()
        self._reading = False
        self._waiting.clear()

    def number_bodies_apart(self, request: int) -> None:
        """This process is a helper that sends beside its worker: their bodies must not share numbers."""
        self._bodies = itertools.count(HELPER_BODIES + request % 2**11 * 2**20)

    def note(self, **fields: object) -> None:
        """Tell the supervisor something; it goes no further."""
        self._sock.send(NOTE + json.dumps(fields).encode())

    def send(self, message: Message, body: Iterable[bytes] | None = None) -> None:
        """Send a message; `body`, of any number of pieces of any size, follows in data packets."""
        if body is None:
            self._sock.send(CONTROL + protocol.encode(message))
            return
        if isinstance(body, list) and (whole := protocol.whole_payload(message, body)) is not None:
            self._sock.send(WHOLE + whole)
            return
        writer = self.open_body(message)
        for piece in body:
            writer.write(piece)
        writer.close()

    def send_last(self, message: Message, body: bytes) -> None:
        """Send what ends a cell. The supervisor first kills whatever the cell left running."""
        self._swept = False
        if (whole := protocol.whole_payload(message, [body])) is not None:
            self._sock.send(LAST + whole)
        else:
            self.note(idle=True)
            self.send(message, [body])
        # A twin forked before the sweep would be swept up with the rest.
        self._read_until(lambda: self._swept)

    def open_body(self, message: Message) -> "BodyWriter":
        """Send a message whose body is written piece by piece."""
        number = next(self._bodies)
        self._sock.send(CONTROL + protocol.encode(dataclasses.replace(message, body=number)))
        return BodyWriter(self._sock, number)

    def watch(self, descriptor: int, ended: Callable[[], None]) -> None:
        """Call `ended` once, from whoever is reading, when `descriptor` is readable or hung up."""
        self._watched[descriptor] = ended

    @staticmethod
    def new_request() -> int:
        """A number that no earlier request had, not even one of a life before a rollback."""
        return int.from_bytes(os.urandom(6))

    def ask(self, message: Message, request: int, body: Iterable[bytes] | None = None) -> bytes:
        """Send a request and wait for its reply's body. Raises `RequestFailed` with the host's reason."""
        waiting = self._waiting[request] = _Waiting()
        try:
            self.send(message, body)
            self._read_until(lambda: waiting.reply is not None)
        finally:
            self._waiting.pop(request, None)
        reply = waiting.reply
        if reply is None or not reply.ok:
            raise RequestFailed(waiting.data.decode("utf-8", "replace"))
        return waiting.data

    def next(self) -> tuple[Message, bytes]:
        """The next message that is not a reply, with its body. Ends the process when the wire is cut."""
        self._read_until(lambda: bool(self._inbox))
        return self._inbox.popleft()

    def _read_until(self, done: Callable[[], bool]) -> None:
        while True:
            with self._turn:
                while self._reading and not done():
                    self._turn.wait()
                if done():
                    return
                self._reading = True
            try:
                while not done():
                    self._read_packet()
            finally:
                with self._turn:
                    self._reading = False
                    self._turn.notify_all()

    def _read_packet(self) -> None:
        """Wait for one packet and deliver it. An interrupt may end the wait, never split the delivery."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        for descriptor in self._watched:
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll()
        self._interrupts.hold()
        try:
            for descriptor, _ in ready:
                if ended := self._watched.pop(descriptor, None):
                    ended()
            try:
                packet = self._sock.recv(PACKET_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not packet:
                os._exit(0)
            self._take(packet[:1], packet[1:])
        finally:
            self._interrupts.release()

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == NOTE:
            self._swept = True
            return
        if kind == DATA:
            self._take_chunk(payload)
            return
        control, body = protocol.split_whole(payload) if kind == WHOLE else (payload, b"")
        message = protocol.decode(control, protocol.TO_WORKER)
        if message.body:
            self._arriving[message.body] = _Arriving(message, bytearray())
        else:
            self._deliver(message, body)

    def _take_chunk(self, payload: bytes) -> None:
        number, chunk = protocol.split_chunk(payload)
        arriving = self._arriving.get(number)
        if arriving is None:
            return  # the rest of a body that was meant for a life before a rollback
        if not chunk:
            del self._arriving[number]
            self._deliver(arriving.message, bytes(arriving.data))
            return
        arriving.data += chunk
        arriving.unacknowledged += len(chunk)
        if arriving.unacknowledged >= protocol.WINDOW_BYTES // 2:
            self.send(protocol.Ack(stream=number, size=arriving.unacknowledged))
            arriving.unacknowledged = 0

    def _deliver(self, message: Message, data: bytes) -> None:
        if isinstance(message, Reply):
            if waiting := self._waiting.get(message.request):
                waiting.data = data
                waiting.reply = message
        else:
            self._inbox.append((message, data))
        with self._turn:
            self._turn.notify_all()
