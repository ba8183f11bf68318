"""One container: build its image if need be, start it, check that it is confined, talk to it, end it.

A container lives as long as the command that started it. Its stdin is ours: when this process dies,
however it dies, the supervisor reads the end of it and exits, and the container with it. Labels say whose
it is, so that `reap` can remove what a hostile container might leave behind.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rlm import protocol
from rlm.box import image
from rlm.box.confinement import Spec, check_config, check_facts, identity
from rlm.box.engine_api import LABEL, Engine
from rlm.box.namespace import Namespace, Serve
from rlm.box.wire import BytesSink, Sink, Wire
from rlm.errors import SandboxError
from rlm.protocol import Message, ProtocolError

T = TypeVar("T")

HELLO_S = 30.0
CALL_S = 35.0
NOBODY = 65534


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BoxConfig:
    """`mounts`: (source on the host, target in the container), read-only. `state_dir` names the owner."""

    base: str
    memory_bytes: int
    cpus: float
    pids: int
    runtime: str | None
    cell_timeout_s: float
    state_dir: Path
    mounts: Sequence[tuple[str, str]] = ()


async def with_deadline(call: Callable[..., T], *args: Any, seconds: float = CALL_S) -> T:
    """Run a blocking call to the engine in a thread; a hung daemon costs a thread, not the program.

    Raises `SandboxError` when it does not come back, and when the connection ends meanwhile.
    """
    try:
        return await asyncio.wait_for(_in_thread(call, *args), seconds)
    except TimeoutError:
        raise SandboxError(
            "Docker does not react.",
            f"A call to it has not come back within {seconds:.0f} s.",
            hint="Restart Docker, then: rlm doctor",
        ) from None
    except OSError as error:  # requests' errors are OSErrors: what a daemon that is stopped looks like
        raise SandboxError(
            "Docker went away while it was asked.",
            f"{str(error)[:200]}.",
            hint="Start Docker again, then: rlm doctor",
        ) from None


async def _in_thread(call: Callable[..., T], *args: Any) -> T:
    """`asyncio.to_thread`, but in a thread that the end of the program does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only if the call returned it

    def run() -> None:
        result, failure = None, None
        try:
            result = call(*args)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return await done


def ensure_image(
    engine: Engine, base: str, progress: Callable[[str], None], packages: Sequence[str] = ()
) -> str:
    """The tag of the sandbox image, which is built when it is not there. Blocking, may take minutes.

    `packages` are pip requirements that the image has beside its own. Raises `SandboxError` when it cannot
    be built, `ConfigError` when that is for these packages.
    """
    if found := find_image(engine, base, packages):
        return found
    files = image.inputs(packages)
    for candidate in _bases(base):
        progress(f"building the sandbox image from {candidate} (once)")
        if engine.has_image(candidate) or (candidate == base and engine.pull(candidate, progress)):
            tag = image.tag(files, candidate)
            engine.build(tag, candidate, files, progress)
            return tag
    raise SandboxError(
        f"The base image {base} cannot be had.",
        "It is not on this machine and could not be pulled.",
        hint="Go online once, or make a base from Debian's packages: scripts/make-base",
    )


def find_image(engine: Engine, base: str, packages: Sequence[str] = ()) -> str:
    """The tag of the sandbox image if it is built already, else empty. Blocking."""
    files = image.inputs(packages)
    tags = (image.tag(files, candidate) for candidate in _bases(base))
    return next((tag for tag in tags if engine.has_image(tag)), "")


def _bases(base: str) -> list[str]:
    return [base] if base == image.LOCAL_BASE else [base, image.LOCAL_BASE]


class Box:
    """A running container. Use `Box.start`; `close` ends it."""

    def __init__(self, engine: Engine, container: str, wire_socket: socket.socket, config: BoxConfig) -> None:
        self._engine = engine
        self.container = container
        self.config = config
        self._wire = Wire(wire_socket, deliver=self._deliver, open_sink=self._open_sink)
        self._namespaces: dict[int, Namespace] = {}
        self._hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.python = ""
        self.image = ""

    @classmethod
    async def start(cls, engine: Engine, config: BoxConfig, tag: str, *, session: str) -> "Box":
        """Create, attach, start and check a container. Raises `SandboxError`; leaves nothing behind."""
        spec = Spec(
            image=tag,
            user=_user(),
            memory_bytes=config.memory_bytes,
            cpus=config.cpus,
            pids=config.pids,
            runtime=config.runtime,
            mounts=config.mounts,
            labels=_labels(config.state_dir, session),
        )
        identities = {target: identity(source) for source, target in config.mounts}
        container = await with_deadline(engine.create, spec)
        box: Box | None = None
        try:
            sock = await with_deadline(engine.attach, container)
            box = cls(engine, container, sock, config)
            box.image = tag
            box._wire.start()
            await with_deadline(engine.start, container)
            facts = await box._within(box._hello, HELLO_S)
            check_config(await with_deadline(engine.inspect, container), spec)
            check_facts(facts, identities)
            box.python = str(facts["python"])
        except BaseException:
            if box:
                box._wire.close()
            with contextlib.suppress(SandboxError):
                await with_deadline(engine.remove, container)
            raise
        return box

    async def open_namespace(self, serve: Serve, *, memory_bytes: int | None = None) -> Namespace:
        """A fresh worker. `serve` answers what its cells ask of the host.

        `memory_bytes` is its share of the container's memory, all of it by default. Raises `SandboxError`
        when it cannot be started, and then nothing is left of it.
        """
        channel = next(number for number in itertools.count(1) if number not in self._namespaces)
        namespace = Namespace(channel, self._wire, serve=serve, cell_timeout_s=self.config.cell_timeout_s)
        self._namespaces[channel] = namespace
        share = self.config.memory_bytes if memory_bytes is None else memory_bytes
        self._wire.send(0, protocol.Spawn(worker=channel, memory_bytes=share))
        try:
            await namespace.ready()
        except BaseException:
            namespace.close()
            raise
        return namespace

    def close_namespace(self, namespace: Namespace) -> None:
        namespace.close()

    @property
    def lost(self) -> bool:
        return self._wire.lost.done()

    async def close(self) -> None:
        """Close the stream first: a container that floods it would make the engine hang on a kill."""
        self._wire.close()
        with contextlib.suppress(SandboxError):
            await with_deadline(self._engine.remove, self.container)

    # -- what arrives

    def _open_sink(self, channel: int, message: Message) -> Sink | None:
        namespace = self._namespaces.get(channel)
        return namespace.open_sink(message) if namespace else None

    def _deliver(self, channel: int, message: Message, sink: Sink) -> None:
        match message:
            case protocol.Hello():
                if self._hello.done() or message.version != protocol.VERSION:
                    raise ProtocolError(f"hello: version {message.version}, expected {protocol.VERSION}")
                facts = protocol.json_body(sink.data if isinstance(sink, BytesSink) else b"")
                if not isinstance(facts, dict):
                    raise ProtocolError("hello: not an object")
                self._hello.set_result(facts)
            case protocol.RolledBack(reason="closed"):
                self._namespace(message.worker).ended(message.detail[:200])
                del self._namespaces[message.worker]
            case protocol.RolledBack():
                self._namespace(message.worker).rolled_back(message)
            case _:
                self._namespace(channel).receive(message, sink)  # type: ignore[arg-type]

    def _namespace(self, channel: int) -> Namespace:
        if not self._hello.done() or channel not in self._namespaces:
            raise ProtocolError(f"nothing is open on channel {channel}")
        return self._namespaces[channel]

    async def _within(self, waiting: "asyncio.Future[T]", seconds: float) -> T:
        either: set[asyncio.Future[Any]] = {waiting, self._wire.lost}
        await asyncio.wait(either, timeout=seconds, return_when="FIRST_COMPLETED")
        if waiting.done():
            return waiting.result()
        said = self._wire.stderr.decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said else "It said nothing."
        raise SandboxError("The container did not start.", why, hint="rlm doctor") from None


def _user() -> str:
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{NOBODY}:{NOBODY}"


# -- whose container is it


def _labels(state_dir: Path, session: str) -> dict[str, str]:
    return {
        LABEL: "container",
        "rlm.session": session,
        "rlm.state": str(state_dir),
        "rlm.pid": str(os.getpid()),
        "rlm.started": _start_time(os.getpid()),
        "rlm.owner": _owner(),
    }


def _owner() -> str:
    """Whose processes can be seen from here: this boot of this machine, and this user and home."""
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        machine = socket.gethostname()
    return f"{machine} {os.getuid()} {Path.home()}"


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def orphans(engine: Engine) -> list[dict[str, Any]]:
    """Containers of this user on this machine whose command is dead. Others are not ours to judge."""
    found = []
    for container in engine.containers([f"{LABEL}=container", f"rlm.owner={_owner()}"]):
        labels = container["Labels"]
        pid = int(labels.get("rlm.pid", "0") or 0)
        if not _lives(pid, labels.get("rlm.started", "")):
            found.append(container)
    return found


def _lives(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0 and _start_time(pid) == started


def reap(engine: Engine) -> int:
    """Remove orphans; returns how many there were."""
    dead = orphans(engine)
    for container in dead:
        engine.remove(container["Id"])
    return len(dead)


def remove_of(state_dir: Path) -> int:
    """Remove containers of a state folder that is no more; returns how many there were."""
    engine = Engine()
    found = engine.containers([f"{LABEL}=container", f"rlm.state={state_dir}"])
    for container in found:
        engine.remove(container["Id"])
    engine.close()
    return len(found)
