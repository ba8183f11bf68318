"""Cells that find the worker's own socket and write to it: forged messages, garbage, floods.

What a worker says is never trusted: the most that it can forge is its own output, and the first message
that cannot be ends the container. The state folder and the session are the host's and are not reached.
"""

import asyncio
import contextlib
from dataclasses import dataclass

import pytest

from rlm import protocol
from rlm.box import wire
from rlm.box.namespace import Request
from rlm.errors import SandboxLost
from rlm.protocol import Message
from tests.box import Guest, Shared

pytestmark = pytest.mark.asyncio(loop_scope="session")

WIRE = """
import os, socket, time
def sockets():
    for descriptor in map(int, os.listdir('/proc/self/fd')):
        try:
            yield socket.socket(fileno=os.dup(descriptor))
        except OSError:
            pass
*_, wire = sockets()
"""
WAIT = "\ntime.sleep(60)"


def control(message: Message) -> bytes:
    return protocol.CONTROL + protocol.encode(message)


def done(cell: int) -> protocol.CellDone:
    return protocol.CellDone(
        cell=cell, status="ok", error="", total_chars=0, kept_as="", checkpoint=True, active=""
    )


FORGED = {
    "W1-garbage": b"C" + b"\xff" * 4096,
    "W1-data": b"D" + b"\xff\xff\xff\xff" + b"x" * 100,
    "W1-short": b"D\x01",
    "W1-note": b"S{",
    "W1-note-number": b"S5",
    "W2-snapshot": control(protocol.Snapshot(request=1)),
    "W2-final-twice": control(protocol.Final(cell=99, format="text")),
    "W2-other-cell": control(done(99)),
    "W2-rolled-back": control(protocol.RolledBack(worker=1, reason="exit", detail="", restored=True)),
    "W2-hello": control(protocol.Hello(version=1, python="3")),
    "W2-ready": control(protocol.Ready()),
    "W2-spawn": control(protocol.Spawn(worker=9, memory_bytes=1)),
    "W2-huge-body": control(protocol.Ready(body=1)),
    "W4-replay": control(protocol.Done(request=1)),
    "L5-long": b"C" + b" " * 150_000,
}


@pytest.mark.parametrize("packet", FORGED.values(), ids=FORGED.keys())
async def test_forged_message_ends_the_container(guest: Guest, packet: bytes) -> None:
    with pytest.raises(SandboxLost):
        await guest.run(f"{WIRE}\nwire.send({packet!r}){WAIT}")
    assert guest.box.lost


async def test_garbage_of_no_known_kind_goes_nowhere(guest: Guest) -> None:
    result = await guest.run(f"{WIRE}\nwire.send(b'\\xff' * 60_000); print('sent')")
    assert "sent" in result.shown
    await guest.is_intact()


async def test_message_of_two_mebibytes_does_not_leave_the_worker(guest: Guest) -> None:
    result = await guest.run(f"{WIRE}\nwire.send(b'C' + bytes(2 << 20))")
    assert "Message too long" in result.error
    await guest.is_intact()


async def test_forged_end_of_a_cell_is_worth_its_own_output_and_then_the_container(guest: Guest) -> None:
    number = guest.namespace.cells_run + 1
    forged = await guest.run(f"{WIRE}\nwire.send({control(done(number))!r})")
    assert (forged.status, forged.shown, forged.final) == ("ok", "", None)
    with pytest.raises(SandboxLost, match="not running"):
        await guest.run("1")


async def test_flood_of_output_is_cut_and_can_be_interrupted(guest: Guest) -> None:
    packet = control(protocol.Output(cell=guest.namespace.cells_run + 1, text="flood " * 100))
    result = await guest.run(f"{WIRE}\nwhile True: wire.send({packet!r})", interrupt_at="flood")
    assert result.status in ("interrupted", "rolled_back")
    assert sum(map(len, guest.live)) < 256 * 1024
    await guest.is_intact()


SPAM = f"""{WIRE}
import struct
def ask(number, size):
    fields = {{'t': 'sub_calls', 'body': number, 'request': number, 'kind': 'llm', 'count': 1}}
    wire.send(b'C' + json.dumps(fields | {{'model': None}}).encode())
    head = b'D' + struct.pack('>I', number)
    wire.send(head + struct.pack('>Q', size))
    for _ in range(size // 60_000): wire.send(head + bytes(60_000))
    wire.send(head)
import json
for number in range(1, 13): ask(number, 60_000_000)
print('sent')
time.sleep(60)
"""


@dataclass
class Keeper:
    """Holds every request that it is asked until the cell ends, as a slow provider does."""

    held_bytes: int = 0
    most_bytes: int = 0

    async def serve(self, request: Request, body: bytes) -> bytes:
        self.held_bytes += len(body)
        self.most_bytes = max(self.most_bytes, self.held_bytes)
        try:
            await asyncio.Event().wait()
        finally:
            self.held_bytes -= len(body)
        return b""


async def test_unanswered_requests_take_bounded_memory_of_the_host(shared: Shared) -> None:
    """The container has 384 MiB; what it makes the host hold is not bounded by that."""
    box, keeper = await shared.box(), Keeper()
    namespace = await box.open_namespace(keeper.serve)

    def on_output(text: str) -> None:
        namespace.interrupt()

    with contextlib.suppress(SandboxLost):
        await namespace.run_cell(SPAM, on_output)
    box.close_namespace(namespace)
    assert 0 < keeper.most_bytes <= wire.MEMORY_BYTES


async def test_worker_holds_its_own_end_of_the_socket_only(guest: Guest) -> None:
    """With the supervisor's end it could read what others are told, and forge what the host says."""
    assert (
        await guest.shows(f"{WIRE}\nlen({{os.fstat(wire.fileno()).st_ino for wire in sockets()}})") == "1\n"
    )
