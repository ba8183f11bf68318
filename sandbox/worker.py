"""One namespace and the loop that serves it: take a message, act, answer.

After each message the worker forks. The original goes on; its twin, the checkpoint, waits. When the next
cell is done there is a new twin and the old one is killed; when the original dies instead, however it dies,
the supervisor wakes the twin, which goes on from the namespace of before. Snapshots are written by a forked
child too, so that the next cell need not wait for them.
"""

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from rlm import protocol
from sandbox import blobs, builtin_names, cell, snapshot
from sandbox.blobs import BlobReader, BlobWriter, Pins
from sandbox.interrupts import Interrupts
from sandbox.link import BodyWriter, Link
from sandbox.output import Capture, Output, shorten
from sandbox.workspace import Workspace

WAKE = signal.SIGUSR2
"""From the supervisor to a checkpoint: the original is dead, go on in its place."""

SAVED, REPORTED = b"s", b"r"
SNAPSHOT_SECONDS = 300
SNAPSHOT_RECURSION = 10_000
"""Of the C pickler: two or more for each level of nesting. A stack of 8 MB holds it."""
THREAD_STACK_BYTES = 2 * 1024 * 1024
CELL_FILES, ALL_FILES = 768, 1024
LISTED_VARIABLES = 500
FILE_BYTES = 256 * 1024 * 1024
CHECKPOINT_SHARE = 0.45
"""Above this share of the memory limit a second copy of the namespace could itself exhaust it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`memory_bytes` is the worker's share of the container's; a cell gets three quarters of it, the worker a
    little more.

    Where the container's memory runs out nevertheless, a child RLM's worker is the one to end, and a
    checkpoint after all workers.
    """

    memory_bytes: int
    is_child: bool = False

    @property
    def cell_bytes(self) -> int:
        return self.memory_bytes * 3 // 4

    @property
    def worker_bytes(self) -> int:
        return self.memory_bytes * 17 // 20

    @property
    def oom_score(self) -> int:
        return 1000 if self.is_child else 450

    @property
    def twin_oom_score(self) -> int:
        return 750 if self.is_child else 150


class Worker:
    def __init__(self, sock: socket.socket, limits: Limits, main_module: ModuleType) -> None:
        self._limits = limits
        self._interrupts = Interrupts()
        self._link = Link(sock, self._interrupts)
        self._capture = Capture()
        self._workspace = Workspace(
            self._link,
            main_module.__dict__,
            str_limit_bytes=limits.memory_bytes // 16,
            memory_bytes=limits.memory_bytes,
        )
        self._builtins = builtin_names.save()
        self._pins = Pins()
        self._twin = 0

    def run(self) -> NoReturn:
        signal.pthread_sigmask(signal.SIG_BLOCK, {WAKE})
        self._interrupts.ignore()
        _set_oom_score(self._limits.oom_score)
        threading.stack_size(THREAD_STACK_BYTES)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        os.chdir("/tmp")  # noqa: S108 - the only writable place there is
        self._set_limits(in_cell=False)
        self._link.send(protocol.Ready())
        while True:
            self._pins.drop_unused()
            self._renew_twin()
            message, data = self._link.next()
            match message:
                case protocol.RunCell():
                    self._run_cell(message.cell, data.decode())
                case protocol.SetDocuments():
                    problems = self._workspace.set_documents(json.loads(data), message.active)
                    self._link.send(protocol.Done(request=message.request), _json(problems))
                case protocol.SetContext():
                    problem = self._set_context(data.decode(), is_piece=message.piece)
                    self._link.send(protocol.Done(request=message.request), _json({"problem": problem}))
                case protocol.ListVariables():
                    variables = self._workspace.describe_variables()[:LISTED_VARIABLES]
                    self._link.send(protocol.Done(request=message.request), _json(variables))
                case protocol.TakeSnapshot():
                    self._take_snapshot(message, data)
                case protocol.Restore():
                    self._restore(message.request, data)
                case protocol.Convert():
                    self._convert(message.request, data)
                case protocol.KeepAnswer():
                    self._workspace.keep_answer(None if message.final else data.decode())
                case _:
                    raise protocol.ProtocolError(f"unexpected {message.tag}")

    def _set_context(self, text: str, *, is_piece: bool) -> str:
        """Returns what is wrong, empty for nothing."""
        try:
            if is_piece:
                self._workspace.set_piece(text)
            else:
                self._workspace.set_context(text)
        except (OSError, MemoryError, LookupError, ValueError) as error:
            return str(error)[:1000] or type(error).__name__
        return ""

    # -- the checkpoint

    def _renew_twin(self) -> None:
        """Fork a twin of the present state; the one of the state before is killed after that.

        It is done while the host is busy, so that a cell need not wait for it. There is no twin when
        another copy of the namespace could exhaust the memory: then the death of this process loses it.
        """
        old, self._twin = self._twin, 0
        enough = _private_bytes() <= self._limits.memory_bytes * CHECKPOINT_SHARE
        # Each time round in a twin that was woken: it needs one of its own.
        while enough and not self._twin and self._fork_twin():
            continue
        if old:
            # In a twin that was woken it is not a child, and somebody else reaps it.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(old, signal.SIGKILL)
                os.waitpid(old, 0)

    def _fork_twin(self) -> bool:
        """Returns in the original with the twin's pid in `_twin`; in the twin when it is woken, with 0.

        False when the process cannot be forked.
        """
        try:
            twin = _fork()
        except OSError:
            return False
        if twin:
            self._twin = twin
            self._link.note(twin=twin)
            return True
        os.setsid()
        _set_oom_score(self._limits.twin_oom_score)
        signal.sigwait({WAKE})
        _set_oom_score(self._limits.oom_score)
        self._link.after_fork()
        self._link.note(took_over=os.getpid())
        # A cell can wake it too; then it is killed here, and nothing comes of it.
        signal.sigwait({WAKE})
        return True

    # -- cells

    def _run_cell(self, number: int, source: str) -> None:
        output = Output(lambda text: self._link.send(protocol.Output(cell=number, text=text)))
        workspace = self._workspace
        workspace.begin_cell()
        self._link.note(running=True)
        with self._model_code(output):
            outcome = cell.run_cell(source, workspace.namespace, number, show=workspace.show)
        kept_as = workspace.end_cell(number, output)
        final = workspace.take_final() if outcome.status == "final" else None
        if final is not None:
            self._link.send(protocol.Final(cell=number, format=final.format), final.pieces())
        elif outcome.status == "final":
            outcome = cell.Outcome("ok")
        shown = shorten(output.whole(), kept_as, output.total_chars)
        done = protocol.CellDone(
            cell=number,
            status=outcome.status,
            error=outcome.error,
            total_chars=output.total_chars,
            kept_as=kept_as,
            checkpoint=bool(self._twin),
            active=workspace.active or "",
        )
        self._link.send_last(done, shown.encode("utf-8", "backslashreplace"))

    @contextlib.contextmanager
    def _model_code(self, output: Output) -> Iterator[None]:
        """Set the stage for code of the model's, and put everything back that it may have moved."""
        pid = os.getpid()
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = output  # type: ignore[assignment,misc]
        self._capture.clear()
        self._set_limits(in_cell=True)
        self._interrupts.arm()
        try:
            yield
        finally:
            self._builtins.restore()
            self._interrupts.ignore()
            if os.getpid() != pid:
                os._exit(0)  # a copy that the cell forked and let run on
            self._set_limits(in_cell=False)
            _reset_process()
            self._capture.move_to(output)
            if moved := self._workspace.restore_reserved():
                names = ", ".join(moved[:10])
                output.write(f"(reserved, and put back as before: {names}; use other names)\n")
            output.flush()

    def _set_limits(self, *, in_cell: bool) -> None:
        soft = self._limits.cell_bytes if in_cell else self._limits.worker_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (soft, self._limits.worker_bytes))
        resource.setrlimit(resource.RLIMIT_NOFILE, (CELL_FILES if in_cell else ALL_FILES, ALL_FILES))

    # -- snapshots

    def _take_snapshot(self, message: protocol.TakeSnapshot, have: bytes) -> None:
        """Fork a process that saves; `have` are the digests of the blobs that the host has."""
        values, references = self._workspace.to_save()
        pins = self._pins.take(values.values(), but={id(obj) for obj, _ in references})
        alive, told = os.pipe()
        digests = os.memfd_create("digests")
        try:
            child = _fork()
        except OSError as error:
            for descriptor in (alive, told, digests):
                os.close(descriptor)
            self._report_failure(message.request, f"no process could be made to write it: {error}")
            return
        if child == 0:
            self._become_saver(message.request)
            try:
                writer = self._blob_writer(message.request, have)
                self._write_snapshot(message, values, references, writer)
                os.pwrite(digests, blobs.hashed(pins), len(SAVED))
                os.pwrite(digests, SAVED, 0)
            finally:
                os._exit(0)
        os.close(told)
        self._link.note(helper=child)

        def ended() -> None:
            # The checkpoint of this worker watches too, and looks once more when it takes over: how it ended
            # stands where both can read it, and a failure that was reported is marked there.
            how = os.pread(digests, len(SAVED), 0)
            if how == SAVED:
                blobs.learn(pins, os.pread(digests, os.fstat(digests).st_size, len(SAVED)))
                with contextlib.suppress(ChildProcessError):  # it belongs to a life before a rollback
                    os.waitpid(child, 0)
            elif how != REPORTED:
                os.pwrite(digests, REPORTED, 0)
                self._report_failure(message.request, f"the process that wrote it {_end_of(child)}")
            os.close(alive)
            os.close(digests)

        self._link.watch(alive, ended)

    def _become_saver(self, request: int) -> None:
        os.setsid()
        gc.disable()
        sys.setrecursionlimit(SNAPSHOT_RECURSION)
        self._link.number_bodies_apart(request)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SNAPSHOT_SECONDS)

    def _blob_writer(self, request: int, have: bytes) -> BlobWriter:
        def send(sha256: str, pieces: Iterable[bytes]) -> None:
            self._link.send(protocol.Blob(request=request, sha256=sha256), pieces)

        return BlobWriter(have, self._pins, send)

    def _write_snapshot(
        self,
        message: protocol.TakeSnapshot,
        values: dict[str, Any],
        references: list[tuple[object, snapshot.Reference]],
        writer: BlobWriter,
    ) -> None:
        started = time.monotonic()
        body: BodyWriter | None = None

        def begin() -> Callable[[bytes], None]:
            nonlocal body
            if body is not None:
                body.close()  # an attempt that met something unpicklable; the next one replaces it
            body = self._link.open_body(protocol.Snapshot(request=message.request))
            return body.write

        try:
            saved = snapshot.save(values, references, begin=begin, writer=writer, max_bytes=message.max_bytes)
            if body is not None:
                body.close()
            report = {
                "sha256": saved.sha256,
                "blobs": list(writer.needed.items()),
                "skipped": saved.skipped[:200],
                "variables": self._workspace.describe_variables()[:LISTED_VARIABLES],
                "took_s": round(time.monotonic() - started, 3),
            }
            self._link.send(protocol.SnapshotReport(request=message.request, ok=True), _json(report))
        except Exception as error:
            self._report_failure(message.request, f"{type(error).__name__}: {error}"[:300])

    def _report_failure(self, request: int, reason: str) -> None:
        body = _json(
            {"sha256": "", "blobs": [], "skipped": [], "variables": [], "took_s": 0.0, "reason": reason}
        )
        self._link.send(protocol.SnapshotReport(request=request, ok=False), body)

    def _restore(self, request: int, data: bytes) -> None:
        report: dict[str, object] = {"reason": "interrupted"}
        ok = False
        self._link.note(running=True)
        with self._model_code(Output(lambda text: None)):
            try:
                restored, lost = self._workspace.restore(data, BlobReader(protocol.BLOBS))
                report = {"restored": restored[:LISTED_VARIABLES], "lost": lost[:LISTED_VARIABLES]}
                ok = True
            except BaseException as error:
                report = {"reason": f"{type(error).__name__}: {error}"[:300]}
        self._link.send_last(protocol.Restored(request=request, ok=ok), json.dumps(report).encode())

    # -- conversion

    def _convert(self, request: int, items: bytes) -> None:
        from sandbox import conversion  # late: only converters need it

        self._link.note(running=True)
        with self._model_code(Output(lambda text: None)):
            conversion.convert_all(json.loads(items), self._link, request)
        self._link.send_last(protocol.Converted(request=request), b"")


_WARNING_FILTERS = list(warnings.filters)


def _fork() -> int:
    """Fork, threads or not: the copies that are made here run none of the cell's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return os.fork()


def _end_of(child: int) -> str:
    """How a process that saved came to its end, for the user to read."""
    try:
        _, status = os.waitpid(child, 0)
    except ChildProcessError:
        return "ended"
    if not os.WIFSIGNALED(status):
        return f"crashed (exit status {os.WEXITSTATUS(status)})"
    number = os.WTERMSIG(status)
    if number == signal.SIGALRM:
        return f"took more than {SNAPSHOT_SECONDS} s"
    if number == signal.SIGKILL:
        return "was killed, probably for lack of memory"
    return f"crashed ({signal.strsignal(number)})"


def _json(value: object) -> list[bytes]:
    return [json.dumps(value).encode()]


def _reset_process() -> None:
    """Undo what a cell can do to the process rather than to the namespace."""
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, {WAKE})
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    sys.settrace(None)
    sys.setprofile(None)
    sys.setrecursionlimit(1000)
    sys.excepthook = sys.__excepthook__
    gc.enable()
    os.chdir("/tmp")  # noqa: S108
    warnings.filters[:] = _WARNING_FILTERS  # type: ignore[index]


def _private_bytes() -> int:
    """Memory that a fork would have to copy once it is touched: resident, less what files back."""
    with open("/proc/self/statm", encoding="ascii") as numbers:
        _, resident, shared, *_ = (int(number) for number in numbers.read().split())
    return (resident - shared) * resource.getpagesize()


def _set_oom_score(score: int) -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(score))
