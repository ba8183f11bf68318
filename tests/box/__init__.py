"""A real container for tests: one for each module, and in it a namespace for each test.

`Guest` runs cells as a user's question would; `Host` is what answers their requests, scripted. Nothing
here stands in for code of the program itself.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlm.box.container import Box, BoxConfig
from rlm.box.engine_api import LABEL, Engine
from rlm.box.namespace import Namespace, Request, RequestRefused
from rlm.box.results import CellResult
from rlm.box.wire import BytesSink
from rlm.protocol import SubCalls, pack_strings, unpack_strings

MiB = 1024 * 1024
MEMORY_BYTES = 384 * MiB
PUBLIC_BASE = "python:3.12-slim-bookworm"

STRAYS = """
def _strays(most):
    import os, time
    for _ in range(500):
        found = []
        for pid in os.listdir('/proc'):
            try:
                stat = open(f'/proc/{pid}/stat').read() if pid.isdigit() else ''
            except OSError:
                continue
            if stat and stat.rpartition(')')[2].split()[0] != 'Z':
                found.append(stat[:80])
        if len(found) <= most:
            return []
        time.sleep(0.01)
    return found
"""


@dataclass
class Host:
    """Answers the requests of cells: a sub-call by what `reply` makes of its prompt, all else by a no.

    While `gate` is not set, answers wait for it.
    """

    reply: Callable[[str], str] = lambda prompt: f"re: {prompt}"
    status: str = "ok"
    prompts: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    dropped: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.gate.set()

    async def has_been_asked(self, times: int) -> None:
        async with self.asked:
            await self.asked.wait_for(lambda: len(self.requests) >= times)

    async def serve(self, request: Request, body: bytes) -> bytes:
        async with self.asked:
            self.requests.append(request)
            self.asked.notify_all()
        if not isinstance(request, SubCalls):
            raise RequestRefused(f"{request.tag}: not here")
        if request.kind == "rlm":
            prompts = unpack_strings(body, 3 * request.count)[::3]
        else:
            prompts = unpack_strings(body, 1 + request.count)[1:]
        self.prompts += prompts
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        return pack_strings(text for prompt in prompts for text in (self.status, self.reply(prompt)))


@dataclass
class Guest:
    """One namespace of a box, with what it printed live in `live`."""

    box: Box
    namespace: Namespace
    host: Host
    live: list[str] = field(default_factory=list)

    async def run(self, code: str, *, interrupt_at: str = "") -> CellResult:
        """Run a cell. It is interrupted as soon as it has printed `interrupt_at`."""
        self.live.clear()
        pressed = False

        def on_output(text: str) -> None:
            nonlocal pressed
            self.live.append(text)
            if interrupt_at and not pressed and interrupt_at in "".join(self.live):
                pressed = True
                self.namespace.interrupt()

        return await self.namespace.run_cell(code, on_output)

    async def shows(self, code: str) -> str:
        """What a cell that must end well shows."""
        result = await self.run(code)
        assert result.status == "ok", result
        return result.shown

    async def remember(self) -> None:
        assert await self.shows(f"keep = ['kept']\n{STRAYS}") == ""

    async def is_intact(self, *, siblings: int = 0) -> None:
        """The container lives, the next cell works, what was remembered is there, and nothing runs on.

        Nothing but the supervisor, and this worker and those of `siblings`, each with its checkpoint.
        """
        assert not self.box.lost
        shown = await self.shows(f"keep, sum(range(10)), _strays({3 + 2 * siblings})")
        assert shown == "(['kept'], 45, [])\n", shown


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Starts containers from the image of the present tree."""

    engine: Engine
    tag: str
    config: BoxConfig

    async def open(
        self, *, cell_timeout_s: float | None = None, mounts: tuple[tuple[str, str], ...] = ()
    ) -> Box:
        config = self.config_with(cell_timeout_s=cell_timeout_s, mounts=mounts)
        return await Box.start(self.engine, config, self.tag, session="test")

    def config_with(
        self, *, cell_timeout_s: float | None = None, mounts: tuple[tuple[str, str], ...] = ()
    ) -> BoxConfig:
        return dataclasses.replace(
            self.config, cell_timeout_s=cell_timeout_s or self.config.cell_timeout_s, mounts=mounts
        )

    async def exists(self, container: str) -> bool:
        """Whether the engine knows it, other than as being removed."""
        found = await asyncio.to_thread(self.engine.containers, [LABEL])
        return any(row["Id"] == container and row["State"] != "removing" for row in found)

    async def is_gone(self, container: str) -> bool:
        """Wait for the end of a container that is about to end."""
        for _ in range(500):
            if not await self.exists(container):
                return True
            await asyncio.sleep(0.02)
        return False

    @asynccontextmanager
    async def start(self) -> AsyncIterator[Box]:
        box = await self.open()
        try:
            yield box
        finally:
            await box.close()


@dataclass
class Shared:
    """One container for many tests; another one once a test has cost it."""

    boxes: Boxes
    cell_timeout_s: float | None = None
    mounts: tuple[tuple[str, str], ...] = ()
    _box: Box | None = None

    async def box(self) -> Box:
        if self._box is None or self._box.lost:
            await self.close()
            self._box = await self.boxes.open(cell_timeout_s=self.cell_timeout_s, mounts=self.mounts)
        return self._box

    async def close(self) -> None:
        if self._box:
            await self._box.close()


@asynccontextmanager
async def guest_of(box: Box) -> AsyncIterator[Guest]:
    """A fresh namespace that remembers something."""
    host = Host()
    namespace = await box.open_namespace(host.serve)
    guest = Guest(box, namespace, host)
    await guest.remember()
    try:
        yield guest
    finally:
        box.close_namespace(namespace)


def config_of(state_dir: Path) -> BoxConfig:
    return BoxConfig(
        base=PUBLIC_BASE,
        memory_bytes=MEMORY_BYTES,
        cpus=2.0,
        pids=128,
        runtime=None,
        cell_timeout_s=60.0,
        state_dir=state_dir,
    )


def final_text(result: CellResult) -> str:
    """What FINAL was given, as the user gets it."""
    assert isinstance(result.final, BytesSink), result
    return result.final.data.decode()
