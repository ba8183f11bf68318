"""Sub-calls by the hundred and the thousand: time over the ideal, CPU and memory, beside litellm and rlms.

Run: .venv/bin/python -m benchmarks.subcalls [--calls 1000]. The ideal is the time of the model alone, asked
by so many at once. The model is a process of its own, so that its CPU does not count, and so is each
measurement. Nothing is answered from the cache, but for the rows that say so.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import Report, machine, options, workplace
from benchmarks.subcalls_peers import FILLER, Meter, Taken
from rlm.box.container import ensure_image
from rlm.box.engine_api import Engine
from rlm.choose import models_of
from rlm.events import CellFinished, TurnFinished
from rlm.kinds import PriceConfig
from rlm.models import close_models
from rlm.scripted import ScriptedModel, in_order
from rlm.session import Session
from rlm.settings import Config, Limits, ModelConfig, SandboxConfig
from rlm.state import State

HERE = Path(__file__).parent
REFERENCE = "rlms==0.1.3"
REFERENCE_PARALLEL = 16
"""What its `RLM` always takes; more can be had only by making its handler oneself."""
LONG_BATCH = 1_000
"""Larger ones are made of quicker calls, or they would take minutes."""

WARM = """
```repl
import os
warm = llm_query(f"warm {os.urandom(8).hex()}")
```"""
BATCH = """
```repl
import time
def used():
    ticks = sum(map(int, open("/proc/1/stat").read().rpartition(")")[2].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")
filler = {filler!r} * ({chars} // {filler_chars} + 1)
prompts = [f"{{number}}\\n{{filler}}"[:{chars}] for number in range({calls})]
cpu_s, began = used(), time.perf_counter()
replies = llm_query_batched(prompts)
took = {{"wall_s": time.perf_counter() - began, "guest_cpu_s": used() - cpu_s}}
wrong = [reply for number, reply in enumerate(replies) if reply != str(number)]
FINAL({{**took, "replies": len(replies), "wrong": [str(reply) for reply in wrong[:3]]}})
```"""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """So many calls, each of which takes so long, at most so many of them at once."""

    calls: int
    latency_s: float
    parallel: int
    chars: int

    @property
    def ideal_s(self) -> float:
        return math.ceil(self.calls / self.parallel) * self.latency_s

    def __str__(self) -> str:
        return f"{self.calls:,} of {self.latency_s:g} s"


# -- what is measured, each in a process of its own


async def product(url: str, load: Load, state_dir: Path) -> Taken:
    """A question whose second cell makes the batch: container, host, ledger, cache and trace as always."""
    state = State.open(state_dir, create=True, key_path=state_dir.parent / "key")
    price = PriceConfig(input_per_mtok=0.1, output_per_mtok=0.4)
    config = Config(
        root=ModelConfig(model="openai/root", api_base=url),
        sub=ModelConfig(model="openai/sub", api_base=url, price=price),
        limits=Limits(
            max_cost_usd=1000,
            max_sub_calls=load.calls + 1,
            parallel=load.parallel,
            confirm_above_usd=1000,
            timeout_s=3600,
        ),
    )
    batch = BATCH.format(filler=FILLER, filler_chars=len(FILLER), chars=load.chars, calls=load.calls)
    root = ScriptedModel("openai/root", in_order([WARM, batch]))
    models = dataclasses.replace(models_of(config), root=root)
    taken: list[Taken] = []
    finished: TurnFinished | None = None
    with state.lock():
        session = Session(config=config, state=state, models=models, cwd=state_dir.parent)
        meter: Meter | None = None
        try:
            async for event in session.ask("How long does it take?"):
                if isinstance(event, CellFinished):
                    if event.error:
                        raise SystemExit(f"the cell failed: {event.error}\n{event.shown}")
                    taken += [meter.read()] if meter else []
                    meter = Meter()
                elif isinstance(event, TurnFinished):
                    finished = event
        finally:
            await session.close()
            await close_models()
    if not (finished and finished.answer and taken):
        raise SystemExit(f"the question was not answered: {finished and finished.message}")
    said = json.loads(finished.answer.text)
    if said["wrong"] or said["replies"] != load.calls:
        raise SystemExit(f"not all calls were answered: {said}")
    return dataclasses.replace(taken[0], wall_s=said["wall_s"], guest_cpu_s=said["guest_cpu_s"])


@contextlib.contextmanager
def model(latency_s: float) -> Iterator[str]:
    """The address of a model that takes so long."""
    command = [sys.executable, str(HERE / "model_stub.py"), str(latency_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.stdin.close()


def in_process(*command: str | Path) -> Taken:
    """What a command says that it took. It runs in another folder, where no package is in the way."""
    ended = subprocess.run(
        [str(part) for part in command], cwd=tempfile.gettempdir(), stdout=subprocess.PIPE, check=True
    )
    return Taken(**json.loads(ended.stdout.splitlines()[-1]))


def measure_product(url: str, load: Load, state_dir: Path) -> Taken:
    command = [sys.executable, "-m", "benchmarks.subcalls", "--product", url, str(state_dir)]
    command += [str(value) for value in dataclasses.astuple(load)]
    ended = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, check=True)
    return Taken(**json.loads(ended.stdout.splitlines()[-1]))


def measure_peer(python: str | Path, peer: str, url: str, load: Load, *, parallel: int) -> Taken:
    script = HERE / "subcalls_peers.py"
    return in_process(python, script, peer, url, str(load.calls), str(parallel), str(load.chars))


def reference_python(folder: Path) -> Path | None:
    """The Python of an environment with the reference library, made if need be; None if it cannot be."""
    python = folder / "bin" / "python"
    if python.exists():
        return python
    print(f"… installing {REFERENCE} in {folder}", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", REFERENCE], check=True, stdout=sys.stderr)
    except subprocess.CalledProcessError:
        python.unlink(missing_ok=True)
        print(f"{REFERENCE} cannot be installed here: its rows are left out.", file=sys.stderr)
        return None
    return python


# -- the table


def medians(measured: list[Taken]) -> Taken:
    rows = [dataclasses.astuple(taken) for taken in measured]
    wall_s, cpu_s, peak, guest_cpu_s = map(statistics.median, zip(*rows, strict=True))
    return Taken(wall_s=wall_s, cpu_s=cpu_s, peak_growth_bytes=int(peak), guest_cpu_s=guest_cpu_s)


def add_rows(report: Report, load: Load, ours: Taken, peers: dict[str, Taken]) -> None:
    for name, peer in peers.items():
        tool = f"{name}, {peer.wall_s / load.ideal_s:.2f} of the limit"
        report.add(f"{load}", ours.wall_s, tool, peer.wall_s, limit=load.ideal_s)
    for name, peer in peers.items():
        mine, theirs = (taken.cpu_s / load.calls * 1000 for taken in (ours, peer))
        report.add(f"{load}: CPU for a call", mine, name, theirs, unit="ms")
    report.add(f"{load}: CPU of the container", ours.guest_cpu_s / load.calls * 1000, unit="ms")
    for name, peer in peers.items():
        report.add(f"{load}: memory", ours.peak_growth_bytes, name, peer.peak_growth_bytes, unit="bytes")


def measure(report: Report, load: Load, folder: Path, *, runs: int, reference: Path | None) -> None:
    ways: dict[str, Callable[[str, Path], Taken]] = {
        "": lambda url, state: measure_product(url, load, state),
        "again": lambda url, state: measure_product(url, load, state),
        "litellm": lambda url, state: measure_peer(
            sys.executable, "litellm", url, load, parallel=load.parallel
        ),
    }
    if reference:
        for parallel in (load.parallel, REFERENCE_PARALLEL):
            ways[f"rlms at {parallel}"] = lambda url, state, parallel=parallel: measure_peer(  # type: ignore[misc]
                reference, "rlms", url, load, parallel=parallel
            )
    measured: dict[str, list[Taken]] = {name: [] for name in ways}
    for run in range(runs):
        with model(load.latency_s) as url, workplace(folder) as place:
            for name, way in ways.items():
                measured[name].append(way(url, place / f"state-{run}"))
    ours, again, *peers = (medians(each) for each in measured.values())
    add_rows(report, load, ours, dict(zip([*measured][2:], peers, strict=True)))
    report.add(f"{load}, all kept", again.wall_s)
    report.add(f"{load}, all kept: CPU for a call", again.cpu_s / load.calls * 1000, unit="ms")


def main() -> None:
    if sys.argv[1:2] == ["--product"]:
        url, state_dir, calls, latency_s, parallel, chars = sys.argv[2:]
        load = Load(int(calls), float(latency_s), int(parallel), int(chars))
        print(json.dumps(dataclasses.asdict(asyncio.run(product(url, load, Path(state_dir))))))
        return
    args = _arguments()
    engine = Engine()
    ensure_image(engine, SandboxConfig().image, lambda text: None)
    engine.close()
    reference = reference_python(args.reference)
    facts = machine() | {"litellm": importlib.metadata.version("litellm"), "rlms": REFERENCE[6:]}
    limit = f"the model's own time at {args.parallel} calls at once"
    report = Report("Sub-calls", limit, args.json, facts)
    for calls in args.calls:
        load = Load(calls, args.latency or (1.0 if calls <= LONG_BATCH else 0.2), args.parallel, args.chars)
        measure(report, load, args.folder, runs=args.runs, reference=reference)
    report.print()


def _arguments() -> argparse.Namespace:
    parser = options(__doc__, runs=1)
    parser.add_argument("--calls", type=int, nargs="+", default=[100, 1_000, 10_000], help="in a batch")
    parser.add_argument("--latency", type=float, help="seconds of each (default 1, 0.2 for over 1,000)")
    parser.add_argument("--parallel", type=int, default=64, help="calls at once (default 64)")
    parser.add_argument("--chars", type=int, default=2_000, help="of each prompt (default 2,000)")
    where = Path(sys.prefix) / "benchmark-rlms"
    parser.add_argument("--reference", type=Path, default=where, help=f"environment of {REFERENCE}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
