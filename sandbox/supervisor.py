"""PID 1 of the container: owns the stream to the host, starts workers, passes frames on, cleans up.

It runs no model code and unpickles nothing. Frames on a worker's channel go through unread. What it does
itself: confine everything (`sandbox.seccomp`), tell the host what it measured (`sandbox.probe`), signal and
kill cells, wake a checkpoint when its original dies, sweep away what a cell leaves running, and end, and
with it the container, when the host's end of the stream is gone.

Workers tell it in notes: `running`, `idle`, and the pids of `twin`, `helper` and of a twin that `took_over`.
To `idle` it answers with an empty note, when what the cell left behind is gone.
"""

import ctypes
import dataclasses
import json
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from itertools import islice
from types import ModuleType
from typing import NoReturn

from rlm import protocol
from rlm.protocol import HEADER, FrameReader, Message
from sandbox import probe, seccomp
from sandbox.link import LAST, NOTE, PACKET_BYTES
from sandbox.processes import (
    Process,
    all_pids,
    all_processes,
    oom_kills,
    process_of,
    send_signal,
    signal_group,
    wait_for,
)
from sandbox.worker import WAKE, Limits, Worker

READ_BYTES = 256 * 1024
OUTBOX_BYTES = 1024 * 1024
"""With so much waiting for the host, workers are not listened to until it has read some."""
FRAMES_AT_ONCE = 16
SOCKET_BYTES = 512 * 1024
"""More than the socket of a worker holds."""
SWEEPS = 200

_PR_SET_DUMPABLE = 4


@dataclasses.dataclass(slots=True)
class Child:
    """A worker as the supervisor sees it."""

    channel: int
    pid: int
    sock: socket.socket
    limits: Limits
    twin: int = 0
    running: bool = False
    killed: bool = False
    dying: str = ""
    detail: str = ""
    helpers: set[int] = dataclasses.field(default_factory=set)
    inbox: deque[bytes] = dataclasses.field(default_factory=deque)
    outbox: deque[bytes] = dataclasses.field(default_factory=deque)


class Supervisor:
    def __init__(self, limits: Limits, main_module: ModuleType) -> None:
        self._limits = limits
        self._main_module = main_module
        self._children: dict[int, Child] = {}
        self._reader = FrameReader()
        self._outbox: deque[bytes | memoryview] = deque()
        self._outbox_bytes = 0
        self._oom_kills = oom_kills()
        # The stream moves to descriptors that no child keeps; 0, 1 and 2 lead nowhere.
        self._stdin, self._stdout = os.dup(0), os.dup(1)
        nowhere = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def run(self, hello: dict[str, object]) -> NoReturn:
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        message = protocol.Hello(version=protocol.VERSION, python=str(hello["python"]))
        body = json.dumps(hello).encode()
        if (whole := protocol.whole_frame(0, message, [body])) is not None:
            self._put(whole)
        else:
            self._send(0, dataclasses.replace(message, body=1))
            self._put(*protocol.data_frames(0, 1, body), protocol.end_frame(0, 1))
        while True:
            self._flush()
            self._wait()

    # -- the loop

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._stdin, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        if self._outbox:
            poll.register(self._stdout, select.POLLOUT)
        for child in self._children.values():
            events = select.POLLOUT if child.outbox else 0
            if self._outbox_bytes < OUTBOX_BYTES:
                events |= select.POLLIN
            if events:
                poll.register(child.sock, events)
        # What a sweep has taken in already makes no descriptor ready.
        heard = self._outbox_bytes < OUTBOX_BYTES and any(child.inbox for child in self._children.values())
        ready = dict(poll.poll(0 if heard else None))
        for child in list(self._children.values()):
            events = ready.get(child.sock.fileno(), 0)
            if events & select.POLLOUT:
                self._feed(child)
            if events & (select.POLLIN | select.POLLHUP) or child.inbox:
                self._listen(child)
        if self._stdin in ready:
            self._hear_host()
        if self._wake_read in ready:
            self._reap()

    def _hear_host(self) -> None:
        try:
            data = os.read(self._stdin, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            os._exit(0)
        for frame in self._reader.feed(data):
            if frame.channel:
                if child := self._children.get(frame.channel):
                    child.outbox.append(frame.kind + frame.payload)
                    self._feed(child)
                continue
            message = protocol.decode(frame.payload, protocol.TO_SUPERVISOR)
            match message:
                case protocol.Spawn():
                    self._start(message)
                case protocol.Interrupt():
                    self._interrupt(message.worker)
                case protocol.Kill():
                    self._kill(message.worker)
                case protocol.Close():
                    self._close(message.worker)

    def _feed(self, child: Child) -> None:
        try:
            while child.outbox:
                child.sock.send(child.outbox[0], socket.MSG_DONTWAIT)
                child.outbox.popleft()
        except BlockingIOError:
            pass
        except OSError:
            child.outbox.clear()  # the worker is gone; SIGCHLD tells the rest

    def _drain(self, child: Child) -> None:
        """Take in what lies in the worker's socket. Which processes are its own is known from that moment."""
        taken = 0
        while taken < SOCKET_BYTES:
            try:
                packet = child.sock.recv(PACKET_BYTES, socket.MSG_DONTWAIT)
            except OSError:
                return
            if not packet:
                return
            taken += len(packet)
            if packet[:1] == NOTE:
                note: dict[str, int] = json.loads(packet[1:])
                if "twin" in note:
                    child.twin = note["twin"]
                child.helpers |= {note["helper"]} if "helper" in note else set()
            child.inbox.append(packet)

    def _listen(self, child: Child) -> None:
        """Pass on what the worker has sent, in its order, until the host falls behind."""
        if not child.inbox:
            self._drain(child)
        while child.inbox and self._outbox_bytes < OUTBOX_BYTES:
            packet = child.inbox.popleft()
            kind, payload = packet[:1], packet[1:]
            if kind == NOTE:
                self._heed(child, json.loads(payload))
            elif kind == LAST:
                self._heed(child, {"idle": 1})
                self._put(HEADER.pack(protocol.WHOLE, child.channel, len(payload)) + payload)
            elif kind in protocol.KINDS and payload:
                self._put(HEADER.pack(kind, child.channel, len(payload)) + payload)

    def _heed(self, child: Child, note: dict[str, int]) -> None:
        if "running" in note:
            child.running, child.killed = True, False
            self._oom_kills = oom_kills()
        elif "idle" in note:
            child.running = False
            self._sweep(child)
            child.outbox.append(NOTE)
            self._feed(child)
        elif "took_over" in note:
            if child.dying and note["took_over"] == child.pid:
                send_signal(child.pid, WAKE)  # it waits for this before it does anything
                self._rolled_back(child, restored=True)
            else:  # something else woke it: there must not be two of it
                send_signal(note["took_over"], signal.SIGKILL)
                child.twin = 0

    def _send(self, channel: int, message: Message) -> None:
        self._put(protocol.control_frame(channel, message))

    def _put(self, *frames: bytes) -> None:
        """Queue frames for the host; the loop writes them, several at once."""
        for frame in frames:
            self._outbox.append(frame)
            self._outbox_bytes += len(frame)

    def _flush(self) -> None:
        """Write what the pipe takes, without copying what it does not take yet."""
        while self._outbox:
            try:
                written = os.writev(self._stdout, list(islice(self._outbox, FRAMES_AT_ONCE)))
            except BlockingIOError:
                return
            except OSError:
                os._exit(0)
            self._outbox_bytes -= written
            while written:
                first = self._outbox.popleft()
                if written < len(first):
                    self._outbox.appendleft(memoryview(first)[written:])
                    break
                written -= len(first)

    # -- workers

    def _start(self, message: protocol.Spawn) -> None:
        """Start a worker, if there may be one more process; if not, its channel is closed at once."""
        whole = self._limits.memory_bytes
        limits = Limits(memory_bytes=message.memory_bytes, is_child=message.memory_bytes < whole)
        try:
            self._spawn(message.worker, limits)
        except OSError as error:
            self._send_closed(message.worker, f"no process could be made for it: {error}")

    def _spawn(self, channel: int, limits: Limits) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.close()
            self._become_worker(theirs, limits)
        theirs.close()
        self._children[channel] = Child(channel, pid, ours, limits)

    def _become_worker(self, sock: socket.socket, limits: Limits) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._stdin, self._stdout, self._wake_read, self._wake_write):
                os.close(descriptor)
            for child in self._children.values():
                child.sock.close()
            os.setsid()
            # Dumpable again, else this process could not even read its own /proc entry.
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
            Worker(sock, limits, self._main_module).run()
        finally:
            os._exit(70)

    def _interrupt(self, channel: int) -> None:
        child = self._children.get(channel)
        if child and child.running:
            signal_group(child.pid, signal.SIGINT)

    def _kill(self, channel: int) -> None:
        child = self._children.get(channel)
        if child and child.running:
            child.killed = True
            send_signal(child.pid, signal.SIGKILL)

    def _close(self, channel: int) -> None:
        if child := self._children.pop(channel, None):
            # The worker first: then there is no twin or helper but those it told of, and orphans.
            send_signal(child.pid, signal.SIGKILL)
            wait_for(child.pid)
            self._drain(child)
            child.sock.close()
            others = {other.pid for other in self._children.values()}
            # What lost its parent is a stray of this worker's, unless it is in the session of another.
            self._kill_all(
                lambda process: (
                    process.session == child.pid or (process.parent == 1 and process.session not in others)
                )
            )
            self._send_closed(channel, "")

    def _send_closed(self, channel: int, why: str) -> None:
        """Tell the host that nothing more comes on a channel."""
        self._send(0, protocol.RolledBack(worker=channel, reason="closed", detail=why[:200], restored=False))

    def _reap(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in list(self._children.values()):
                if pid == child.pid:
                    self._died(child, status)
                elif pid == child.twin:
                    child.twin = 0
                child.helpers.discard(pid)

    def _died(self, child: Child, status: int) -> None:
        for helper in child.helpers:
            send_signal(helper, signal.SIGKILL)
        child.helpers.clear()
        # What it sent before it died comes first, so that the host hears things in their order.
        self._drain(child)
        self._listen(child)
        child.dying, child.detail = self._cause(child, status)
        self._sweep(child)
        if child.twin and process_of(child.twin):
            child.pid, child.twin = child.twin, 0
            send_signal(child.pid, WAKE)
        else:
            self._rolled_back(child, restored=False)

    def _cause(self, child: Child, status: int) -> tuple[str, str]:
        if child.killed:
            return "killed", "it did not react to an interrupt"
        kills, self._oom_kills = self._oom_kills, oom_kills()
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGKILL and self._oom_kills > kills:
                return "memory", f"{child.limits.memory_bytes}"
            return "signal", signal.Signals(number).name if number in set(signal.Signals) else str(number)
        return "exit", str(os.WEXITSTATUS(status))

    def _rolled_back(self, child: Child, *, restored: bool) -> None:
        reason, detail = child.dying, child.detail
        child.dying = child.detail = ""
        child.running = child.killed = False
        self._send(
            0, protocol.RolledBack(worker=child.channel, reason=reason, detail=detail, restored=restored)
        )
        if not restored:
            child.sock.close()
            del self._children[child.channel]
            self._spawn(child.channel, child.limits)

    # -- stray processes

    def _sweep(self, child: Child) -> None:
        """Kill what the cell of `child` left behind; when no other cell runs, everything unknown."""
        others = [other for other in self._children.values() if other is not child]
        if any(other.running for other in others):
            self._kill_all(lambda process: process.session == child.pid)
            return
        # An idle worker has no children but a twin or a helper that it has yet to tell of.
        idle = {other.pid for other in others}
        self._kill_all(lambda process: process.parent not in idle)

    def _kill_all(self, is_stray: Callable[[Process], bool]) -> None:
        """Kill until there is nothing left to kill: a fork bomb makes more in the meantime."""
        for _ in range(SWEEPS):
            # In this order: what lost its parent since then has been told of by it.
            pids = all_pids()
            processes = [] if pids <= self._known() else all_processes()
            known = self._known()
            strays = [process.pid for process in processes if process.pid not in known and is_stray(process)]
            if not strays:
                return
            for pid in strays:
                send_signal(pid, signal.SIGKILL)
            self._collect(strays)

    def _known(self) -> set[int]:
        """Every process that belongs to a worker, as far as the workers have told."""
        known = {1}
        for child in self._children.values():
            self._drain(child)
            known |= {child.pid, child.twin} | child.helpers
        return known

    @staticmethod
    def _collect(pids: list[int]) -> None:
        for pid in pids:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # its parent, a worker, reaps it


def main() -> NoReturn:
    """Confine, measure, then serve until the stream ends. Arguments: memory in bytes, mounted paths."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The workers' namespace is the real `__main__`: only then do restored functions see its globals.
    main_module = ModuleType("__main__")
    sys.modules["__main__"] = main_module
    import dill

    dill._dill._main_module = main_module
    supervisor = Supervisor(Limits(memory_bytes=int(sys.argv[1])), main_module)
    seccomp.install()
    supervisor.run(probe.measure(sys.argv[2:]))
