"""Saving and restoring a namespace: a large text, many small objects, an array, functions, beside plain dill.

Run: .venv/bin/python -m benchmarks.persist [--size 1GB]. dill dumps the same values to a file on the same
disk, synced, and loads them in a new process, both in the session's image and without its limits.
"""

import asyncio
import os
import socket
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker

from benchmarks.common import MB, Guest, Report, options, read_s, size_of, timed, timed_async, workplace
from rlm.box.container import ensure_image
from rlm.box.engine_api import Engine
from rlm.box.namespace import serve_nobody
from rlm.records import SessionStarted, SnapshotSaved
from rlm.sandbox import SLOW_CELL_S, Sandbox
from rlm.settings import Config, Limits, ModelConfig, SandboxConfig
from rlm.state import State

STRINGS = 10
KEEP_BYTES = 16 * 1024**3
UNDER_WAY_S = 0.02
"""How long after a save began the next cell is sent, and how long after a cell the one after it."""
BLOCK_BYTES = 1024 * 1024
SMALL_BYTES = MB
"""A limit of less than that would be noise."""

FUNCTION = r"""
    exec(f"def f{n}(x):\n    total = x + {n}\n    return [total * k for k in range(3)]")
    values[n] = globals()[f"f{n}"]
"""
DILL = r"""
import os, time
import dill
def took(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
def dump():
    with open("/place/plain.dill", "wb") as file:
        dill.dump(values, file, protocol=5)
        os.fsync(file.fileno())
def load():
    with open("/place/plain.dill", "rb") as file:
        dill.load(file)
"""

STREAM = r"""
import os
os.write(1, b"ready")
os.read(0, 2)
block = memoryview(bytes(65536))
while size_bytes > 0:
    size_bytes -= os.write(1, block[:size_bytes])
"""


@dataclass(frozen=True, slots=True)
class Case:
    """Code that makes `values`, changes one of them, and changes all of them to what they never were."""

    what: str
    make: str
    change_one: str
    change_all: str


@dataclass(frozen=True, slots=True)
class Plain:
    """What dill alone takes for the same values."""

    dump_s: float
    load_s: float
    size_bytes: int


def cases(*, text_bytes: int, array_bytes: int, dicts: int, functions: int) -> list[Case]:
    each = text_bytes // STRINGS
    return [
        Case(
            f"{STRINGS} strings",
            f"values = [chr(97 + n) * {each} for n in range({STRINGS})]",
            "values[0] = 'z' + values[0][1:]",
            "values = [text[1:] + '.' for text in values]",
        ),
        Case(
            f"{dicts:,} dicts",
            f"values = [{{'id': n, 'name': f'item {{n}}', 'price': n / 7}} for n in range({dicts})]",
            "values[0]['price'] = -1",
            "for row in values: row['price'] += 1",
        ),
        Case(
            "a bytearray",
            f"values = bytearray(b'0123456789' * {array_bytes // 10})",
            "values[0] += 1",
            "values = values.translate(bytes([*range(1, 256), 0]))",
        ),
        Case(
            f"{functions:,} functions",
            f"values = {{}}\nfor n in range({functions}):\n{FUNCTION}",
            f"n = 0\nif True:\n{FUNCTION.replace('x +', 'x -')}",
            f"for n in range({functions}):\n{FUNCTION.replace('x +', 'x *')}",
        ),
    ]


# -- beside what


def plain_dill(folder: Path, tag: str, case: Case, *, runs: int) -> Plain:
    """Medians of dumping once each process, and of loading in a process that holds nothing else."""
    dumps, loads = [], []
    for _ in range(runs):
        dumps.append(_in_image(folder, tag, f"{DILL}\n{case.make}\nprint(took(dump))"))
        loads.append(_in_image(folder, tag, f"{DILL}\nprint(took(load))"))
    path = folder / "plain.dill"
    size_bytes = path.stat().st_size
    path.unlink()
    return Plain(statistics.median(dumps), statistics.median(loads), size_bytes)


def _in_image(folder: Path, tag: str, code: str) -> float:
    """What a Python in the image prints, run on `folder`."""
    client = docker.from_env(timeout=3600)
    try:
        printed = client.containers.run(
            tag,
            entrypoint=["python3", "-c", code],
            volumes=[f"{folder}:/place"],
            user=str(os.getuid()),
            network_mode="none",
            remove=True,
        )
    finally:
        client.close()
    return float(printed.split()[-1])


def stream_s(tag: str, size_bytes: int) -> float:
    """Carrying so many bytes out of a container, over its bare output."""
    api = docker.from_env(timeout=3600).api
    host = api.create_host_config(network_mode="none", log_config={"Type": "none"})
    entrypoint = ["python3", "-c", f"size_bytes = {size_bytes}\n{STREAM}"]
    container = api.create_container(tag, entrypoint=entrypoint, host_config=host, stdin_open=True)["Id"]
    wrapped = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stream": 1})
    stream: socket.socket = wrapped._sock
    stream.settimeout(None)
    try:
        api.start(container)
        stream.recv(BLOCK_BYTES)
        return timed(lambda: _drain(stream, size_bytes))
    finally:
        stream.close()
        api.remove_container(container, force=True)
        api.close()


def _drain(stream: socket.socket, size_bytes: int) -> None:
    stream.sendall(b"go")
    while size_bytes > 0:
        size_bytes -= len(stream.recv(BLOCK_BYTES))


# -- ours


@contextmanager
def empty_state(folder: Path) -> Iterator[State]:
    """A state folder with a session that has no turns yet, locked."""
    with tempfile.TemporaryDirectory(prefix="state-", dir=folder) as place:
        state = State.open(Path(place) / ".rlm_state", create=True, key_path=Path(place) / "key")
        with state.lock():
            state.append(SessionStarted(session="benchmark", created="2026-01-01T00:00:00+00:00"))
            yield state


@asynccontextmanager
async def session(state: State, memory_bytes: int) -> AsyncIterator[Guest]:
    """A container of the session of `state`, not started yet."""
    config = Config(
        root=ModelConfig(model="none"),
        sub=ModelConfig(model="none"),
        limits=Limits(cell_timeout_s=3600),
        sandbox=SandboxConfig(memory_bytes=memory_bytes, keep_bytes=KEEP_BYTES),
    )
    sandbox = Sandbox(config=config, state=state, emit=lambda event: None, serve=serve_nobody)
    engine = Engine()
    try:
        yield Guest(sandbox, engine)
    finally:
        await sandbox.close()
        engine.close()


@dataclass(slots=True)
class Turns:
    """The saves of a session, each after a cell."""

    guest: Guest
    turn: int = 0

    async def save(self, code: str) -> tuple[float, SnapshotSaved]:
        """Run a cell, then save: the seconds of the save, and what is recorded of it."""
        await self.guest.run(code)
        seconds = await timed_async(self._save)
        return seconds, self._saved()

    async def save_while_cells_run(self, code: str) -> list[float]:
        """Run a cell, then save while others run: the seconds of each of those, in order."""
        await self.guest.run(code)
        saving = asyncio.create_task(self._save())
        waited = []
        await asyncio.sleep(UNDER_WAY_S)
        while not saving.done():
            waited.append(await self.guest.seconds("pass"))
            await asyncio.sleep(UNDER_WAY_S)
        await saving
        self._saved()
        return waited

    async def _save(self) -> None:
        self.turn += 1
        await self.guest.sandbox.save(self.turn)

    def _saved(self) -> SnapshotSaved:
        saved = self.guest.sandbox.state.view().snapshots
        if len(saved) > self.turn:
            raise SystemExit(f"a cell took over {SLOW_CELL_S} s, so that it was saved twice: take less data")
        if len(saved) < self.turn or saved[-1].skipped:
            raise SystemExit(f"turn {self.turn} was not saved, or not all of it")
        return saved[-1]


async def measure(report: Report, folder: Path, tag: str, case: Case, *, memory: int, runs: int) -> None:
    plain = plain_dill(folder, tag, case, runs=runs)
    with empty_state(folder) as state:
        async with session(state, memory) as guest:
            await measure_saves(report, tag, case, plain, Turns(guest), runs=runs)
        newest = state.snapshots(state.view())[0]
        stored = [newest.path, *(state.blobs.folder / digest for digest, _ in newest.blobs)]
        large = sum(path.stat().st_size for path in stored) >= SMALL_BYTES
        reading = sum(map(read_s, stored)) if large else None
        times = [await first_cell_s(state, memory, "assert len(values)") for _ in range(runs)]
    what = f"{case.what}: restored, to the end of the first cell"
    report.add(what, statistics.median(times), "dill.load", plain.load_s, limit=reading)


async def measure_saves(
    report: Report, tag: str, case: Case, plain: Plain, turns: Turns, *, runs: int
) -> None:
    await turns.guest.sandbox.start()

    async def save(what: str, code: str, *, times: int = 1) -> None:
        saves = [await turns.save(code) for _ in range(times)]
        seconds = statistics.median(seconds for seconds, _ in saves)
        written = saves[-1][1].written_bytes
        limit = stream_s(tag, written) if written >= SMALL_BYTES else None
        report.add(f"{case.what}: saved, {what}", seconds, "dill.dump", plain.dump_s, limit=limit)
        report.add(f"{case.what}: written, {what}", written, "dill.dump", plain.size_bytes, unit="bytes")

    await save("all new", case.make)
    await save("nothing changed", "pass", times=runs)
    await save("one changed", case.change_one)
    await save("all changed", case.change_all)
    idle = statistics.median([await turns.guest.seconds("pass") for _ in range(20)])
    waited = await turns.save_while_cells_run(case.change_all)
    report.add(f"{case.what}: next cell, while all is saved", waited[0], "idle", idle)
    report.add(f"{case.what}: slowest of {len(waited):,} such cells", max(waited), "idle", idle)


async def empty_s(folder: Path, memory: int) -> float:
    with empty_state(folder) as state:
        return await first_cell_s(state, memory, "pass")


async def first_cell_s(state: State, memory: int, code: str) -> float:
    """A new container, with what is restored, until its first cell has run."""
    async with session(state, memory) as guest:
        return await guest.seconds(code)


async def main() -> None:
    parser = options(__doc__, size="1GB")
    parser.add_argument("--array", default="500MB", help="size of the bytearray (default 500MB)")
    parser.add_argument("--dicts", type=int, default=1_000_000, help="how many (default 1,000,000)")
    parser.add_argument("--functions", type=int, default=1000, help="how many (default 1,000)")
    parser.add_argument("--memory", default="6GB", help="of the container (default 6GB)")
    arguments = parser.parse_args()
    memory_bytes = size_of(arguments.memory)
    report = Report(
        f"Saving and restoring a namespace, in a container of {arguments.memory}",
        "of a save, as many bytes over the container's bare output; of a restore, reading what is stored",
        as_json=arguments.json,
    )
    engine = Engine()
    tag = ensure_image(engine, SandboxConfig().image, lambda text: None)
    engine.close()
    measured = cases(
        text_bytes=size_of(arguments.size),
        array_bytes=size_of(arguments.array),
        dicts=arguments.dicts,
        functions=arguments.functions,
    )
    with workplace(arguments.folder) as folder:
        report.add("nothing restored, to the end of the first cell", await empty_s(folder, memory_bytes))
        for case in measured:
            await measure(report, folder, tag, case, memory=memory_bytes, runs=arguments.runs)
    report.print()


if __name__ == "__main__":
    asyncio.run(main())
