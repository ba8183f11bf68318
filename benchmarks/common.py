"""What the benchmarks share: data of any size, commands and containers to measure, and tables of ratios.

It measures nothing by itself. Everything is timed from outside, as whoever waits for it sees it.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rlm.box.container import ensure_image
from rlm.box.engine_api import Engine
from rlm.box.namespace import serve_nobody
from rlm.register import register
from rlm.sandbox import Sandbox
from rlm.settings import Config, Limits, ModelConfig, SandboxConfig
from rlm.state import State
from tests.e2e import Project, cell
from tests.model_server import ModelServer

KB, MB, GB = 1000, 1000**2, 1000**3
UNITS = {"": 1, "B": 1, "KB": KB, "MB": MB, "GB": GB}
BLOCK_BYTES = MB
NEEDLE = "ABC-123456"
"""Stands in three lines of a log, whatever its size."""
PATIENCE_S = 3600.0
LARGE_BYTES = 300 * MB
"""More than twice what a container of the default size holds as one `str`."""


# -- the command line of a benchmark


def options(doc: str | None, *, size: str = "", files: int = 0, runs: int = 3) -> argparse.ArgumentParser:
    """The options that benchmarks have in common; the others are defaults. Those without one are absent."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if size:
        parser.add_argument("--size", default=size, help=f"of the data, as in 100MB (default {size})")
    if files:
        parser.add_argument("--files", type=int, default=files, help=f"how many (default {files})")
    parser.add_argument("--runs", type=int, default=runs, help=f"of which medians are taken (default {runs})")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where data is made")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def size_of(text: str) -> int:
    """Bytes of a size such as `4GB`. Raises `SystemExit` for what is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?B|)", text.strip().upper())
    if not found:
        raise SystemExit(f"{text!r} is not a size: write 100MB or 4GB.")
    return int(float(found[1]) * UNITS[found[2]])


def large(size_bytes: int) -> int:
    """The size of a text that is a `Document` in a container of the default size. Raises `SystemExit`."""
    if size_bytes < LARGE_BYTES:
        raise SystemExit(
            f"A text of less than {human(LARGE_BYTES)} is a str in its container: take a larger --size."
        )
    return size_bytes


def human(size_bytes: float) -> str:
    for unit, factor in (("GB", GB), ("MB", MB), ("KB", KB)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.4g} {unit}"
    return f"{size_bytes:,.0f} B"


@contextlib.contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """A folder for the data, removed afterwards. The user of the container may look into it."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=parent) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


# -- data


def log_block(*, wide: bool) -> bytes:
    """About 1 MB of log lines, the same each time. `wide` mixes in characters of two to four bytes."""
    rng = random.Random(7)
    words = ["cart", "login", "search", "checkout", "profile", "invoice", "upload", "health"]
    if wide:
        words += ["Grüße", "поиск", "検索結果", "résumé", "🦀 crab", "בדיקה", "café"]
    lines: list[bytes] = []
    size = 0
    while size < BLOCK_BYTES - 200:
        level = rng.choices(("INFO", "WARN", "ERROR"), (90, 8, 2))[0]
        status = rng.choices((200, 302, 404, 500), (85, 7, 6, 2))[0]
        line = (
            f"2026-01-01T{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02} {level} "
            f"user={rng.randrange(100_000)} path=/{rng.choice(words)}/{rng.choice(words)} status={status} "
            f"ms={rng.randrange(2000)}\n"
        ).encode()
        lines.append(line)
        size += len(line)
    return b"".join(lines)


def write_log(path: Path, size_bytes: int, *, wide: bool = False) -> Path:
    """A log of about that size: one block again and again, each with its number in front of it."""
    block = log_block(wide=wide)
    blocks = max(size_bytes // (len(block) + 16), 3)
    needles = {blocks // 10, blocks // 2, blocks * 9 // 10}
    with path.open("wb") as file:
        for number in range(blocks):
            mark = f" {NEEDLE}" if number in needles else ""
            file.write(f"# block {number:07}{mark}\n".encode())
            file.write(block)
    path.chmod(0o644)
    return path


def write_many(folder: Path, count: int, *, file_bytes: int = 4 * KB) -> Path:
    """So many small logs in folders of a hundred; one of them holds the needle."""
    block = log_block(wide=False)
    for number in range(count):
        place = folder / f"{number // 100:04}"
        if number % 100 == 0:
            place.mkdir(parents=True)
        start = number * file_bytes % (len(block) - file_bytes)
        mark = f" {NEEDLE}" if number == count * 9 // 10 else ""
        data = f"# file {number:07}{mark}\n".encode() + block[start : start + file_bytes]
        (place / f"{number:07}.log").write_bytes(data + b"\n")
    return folder


# -- time and memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A process that has ended well. `peak_bytes` is the most memory that it held (VmHWM)."""

    seconds: float
    peak_bytes: int


def watch(start: "Callable[[], subprocess.Popen[bytes]]") -> Ended:
    """Start a process and measure it until it has ended. Raises `SystemExit` when it fails."""
    started = time.perf_counter()
    process = start()
    peak = [0]
    watcher = threading.Thread(target=_watch_memory, args=(process, peak), daemon=True)
    watcher.start()
    _, err = process.communicate(timeout=PATIENCE_S)
    seconds = time.perf_counter() - started
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{process.args!r} failed: {(err or b'').decode()}")
    return Ended(seconds=seconds, peak_bytes=peak[0])


def _watch_memory(process: "subprocess.Popen[bytes]", peak: list[int]) -> None:
    # What getrusage says of a child includes what this process held when it was forked.
    while process.returncode is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                peak[0] = max(peak[0], int(found[1]) * 1024)
        time.sleep(0.02)


def command_s(*argv: str | Path) -> float:
    """How long a command takes; its output is thrown away. Raises when it fails."""
    arguments = [str(part) for part in argv]
    return timed(
        lambda: subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    )


def output_of(*argv: str | Path) -> bytes:
    """What a command prints. Raises when it fails."""
    arguments = [str(part) for part in argv]
    return subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout


def median_s(runs: int, *argv: str | Path) -> float:
    """The median time of a command over so many runs, its files in the page cache."""
    return statistics.median(command_s(*argv) for _ in range(runs))


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


async def timed_async(call: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await call()
    return time.perf_counter() - started


def read_s(path: Path) -> float:
    """Reading a file into one buffer: what memory (or, when it is not cached, the disk) allows."""
    buffer = memoryview(bytearray(256 * 1024))

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    return timed(read)


def drop_caches() -> bool:
    """Have the kernel forget all files; False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


# -- the program


@dataclass(slots=True)
class Program:
    """The command line, in a folder of its own, with a model on this machine that says what it was given."""

    project: Project
    server: ModelServer

    def init(self, *paths: str | Path) -> Ended:
        return watch(lambda: self._start("init", "--replace", *map(str, paths)))

    def first_cell(self, code: str = "len(files)") -> tuple[Ended, float]:
        """`rlm run` of a question that is answered by one cell, and the seconds until that cell had run."""
        self.server.reply("root", cell(f"{code}\nFINAL('done')"))
        began = time.time()
        ended = watch(lambda: self._start("run", "Go."))
        rows = [row for row in self.project.events() if row["event"] == "CellFinished"]
        return ended, datetime.fromisoformat(rows[-1]["ts"]).timestamp() - began

    def _start(self, *args: str) -> "subprocess.Popen[bytes]":
        return self.project.popen(*args, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def program(folder: Path) -> Iterator[Program]:
    engine = Engine()
    ensure_image(engine, SandboxConfig().image, lambda text: None)  # building it is not what is measured
    engine.close()
    home, project = folder / "home", folder / "project"
    for new in (home, project):
        new.mkdir(parents=True)
    with ModelServer() as server:
        yield Program(Project(project, home=home, server=server), server)


@dataclass(slots=True)
class Guest:
    """A container with documents, as a question has it."""

    sandbox: Sandbox
    engine: Engine

    async def seconds(self, code: str) -> float:
        """How long a cell takes, with the way there and back."""
        return await timed_async(lambda: self.run(code))

    async def first_and_again(self, code: str, *, runs: int) -> tuple[float, float]:
        """The first run of a cell, and the median of those after it."""
        first = await self.seconds(code)
        return first, statistics.median([await self.seconds(code) for _ in range(runs)])

    async def run(self, code: str) -> str:
        """What a cell shows. Raises when it does not end well."""
        result = await self.sandbox.run_cell(code, lambda text: None)
        if result.status != "ok":
            raise SystemExit(f"the cell {code!r} ended with {result.status}: {result.error} {result.shown}")
        return result.shown

    async def value(self, code: str) -> Any:
        """What a cell prints last, as JSON."""
        return json.loads((await self.run(code)).splitlines()[-1])

    async def peak_bytes(self) -> int:
        """The most memory that the process of the cells has held."""
        return int(
            await self.value(r"""
import re
print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024)
""")
        )

    def used_bytes(self) -> int:
        """What the engine says that the container uses, with the files in its share of the page cache."""
        rows = self.engine.containers([f"rlm.state={self.sandbox.state.path}"])
        return self.engine.memory_used_bytes(rows[0]["Id"]) or 0


@contextlib.asynccontextmanager
async def guest_of(folder: Path, *paths: Path) -> AsyncIterator[Guest]:
    """A fresh container with these files and folders as its documents."""
    with tempfile.TemporaryDirectory(prefix="state-", dir=folder) as place:
        state = State.open(Path(place) / ".rlm_state", create=True, key_path=Path(place) / "key")
        with state.lock():
            registered = register(state, [str(path) for path in paths], cwd=folder, environ={})
            config = Config(
                root=ModelConfig(model="none"),
                sub=ModelConfig(model="none"),
                limits=Limits(cell_timeout_s=3600),
            )
            sandbox = Sandbox(
                config=config,
                state=state,
                emit=lambda event: None,
                serve=serve_nobody,
                documents=registered.documents,
                active=registered.documents[0].name,
            )
            engine = Engine()
            try:
                await sandbox.start()
                yield Guest(sandbox, engine)
            finally:
                await sandbox.close()
                engine.close()


# -- what is printed


def machine() -> dict[str, str]:
    """What the figures depend on."""
    cpu = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    engine = Engine()
    docker = str(engine.info().get("ServerVersion", "?"))
    engine.close()
    rg = output_of("rg", "--version").decode().split("\n")[0] if shutil.which("rg") else "none"
    return {
        "CPU": f"{cpu[1] if cpu else platform.processor()}, {os.cpu_count()} cores",
        "memory": human(int(memory[1]) * 1024) if memory else "?",
        "kernel": platform.release(),
        "Docker": docker,
        "Python": platform.python_version(),
        "ripgrep": rg.removeprefix("ripgrep "),
        "load": f"{os.getloadavg()[0]:.2f} at the start",
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, that of the tool it is compared with, and what the hardware would allow.

    Less is better; `unit` is s, ms, µs or bytes. What is not known, or has no meaning, is None.
    """

    what: str
    ours: float
    unit: str = "s"
    tool: str = ""
    reference: float | None = None
    limit: float | None = None

    def cells(self) -> tuple[str, ...]:
        return (
            self.what,
            _quantity(self.ours, self.unit),
            self.tool,
            _quantity(self.reference, self.unit),
            _ratio(self.ours, self.reference),
            _ratio(self.ours, self.limit),
        )


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "bytes":
        return human(value)
    if unit == "s" and value < 1:
        return f"{value * 1000:,.3g} ms" if value < 0.1 else f"{value * 1000:,.0f} ms"
    return f"{value:,.4g} {unit}"


def _ratio(value: float, other: float | None) -> str:
    return f"{value / other:,.2f}" if other else ""


@dataclass(slots=True)
class Report:
    """A table of figures and the machine they are from."""

    title: str
    limit: str
    """What the last column is a multiple of."""
    as_json: bool
    facts: dict[str, str] = field(default_factory=machine)
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        what: str,
        ours: float,
        tool: str = "",
        reference: float | None = None,
        *,
        limit: float | None = None,
        unit: str = "s",
    ) -> None:
        self.rows.append(Row(what, ours, unit, tool, reference, limit))
        if not self.as_json:
            print(f"… {what}: {_quantity(ours, unit)}", file=sys.stderr, flush=True)

    def print(self) -> None:
        if self.as_json:
            rows = [asdict(row) for row in self.rows]
            print(
                json.dumps(
                    {"benchmark": self.title, "limit": self.limit, "machine": self.facts, "rows": rows}
                )
            )
            return
        print(f"{self.title}\n")
        print(", ".join(f"{name} {value}" for name, value in self.facts.items()))
        print(f"limit: {self.limit}\n")
        table: Sequence[tuple[str, ...]] = [
            ("", "ours", "beside", "", "ratio", "/ limit"),
            *(row.cells() for row in self.rows),
        ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            left = (0, 2)
            parts = [
                text.ljust(width) if at in left else text.rjust(width)
                for at, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  ".join(parts).rstrip())
