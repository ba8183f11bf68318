"""What it takes to load one text: `init`, the first cell, and the memory of both sides, by size.

Run: .venv/bin/python -m benchmarks.load [--size 10MB,1GB,10GB]. Beside it stands `cat`, which reads the whole
file; that is not needed to begin. The memory is that of the program on this machine and of the process that
runs the cells, before and after it has gone through the whole text.
"""

import asyncio
from pathlib import Path

from benchmarks.common import (
    LARGE_BYTES,
    NEEDLE,
    Report,
    command_s,
    drop_caches,
    guest_of,
    human,
    median_s,
    options,
    program,
    read_s,
    size_of,
    workplace,
    write_log,
)

THROUGH = f"len(context), context.line_count, count('INFO'), len(grep({NEEDLE!r}))"


async def measure(report: Report, folder: Path, size_bytes: int, *, runs: int) -> None:
    path = write_log(folder / "data.log", size_bytes)
    size = human(size_bytes)
    is_cold = drop_caches()
    cold_read_s = command_s("cat", path) if is_cold else None
    read_s(path)
    cat_s = median_s(runs, "cat", path)
    limit = min(read_s(path) for _ in range(runs))
    with program(folder / f"program-{size_bytes}") as ours:
        init = ours.init(path)
        if is_cold:
            drop_caches()
            report.add(f"{size}: init, cold", ours.init(path).seconds, "cat, cold", cold_read_s)
            read_s(path)
        report.add(f"{size}: init", init.seconds, "cat", cat_s, limit=limit)
        ran, first_s = ours.first_cell("print(context[:80])")
        report.add(f"{size}: run, to the end of the first cell", first_s, "cat", cat_s, limit=limit)
        report.add(f"{size}: memory of init", init.peak_bytes, unit="bytes")
        report.add(f"{size}: memory of run", ran.peak_bytes, unit="bytes")
    async with guest_of(folder, path) as guest:
        await guest.run("context[:80]")
        report.add(f"{size}: memory of the cells", await guest.peak_bytes(), unit="bytes")
        await guest.run(THROUGH if size_bytes >= LARGE_BYTES else "len(context)")
        report.add(f"{size}: the same, all gone through", await guest.peak_bytes(), unit="bytes")
        report.add(f"{size}: the container, with its cache", guest.used_bytes(), unit="bytes")
    path.unlink()


async def main() -> None:
    arguments = options(__doc__, size="10MB,1GB,10GB").parse_args()
    report = Report("Loading one text", "reading the cached file once", as_json=arguments.json)
    with workplace(arguments.folder) as folder:
        for size in arguments.size.split(","):
            await measure(report, folder, size_of(size), runs=arguments.runs)
    report.print()


if __name__ == "__main__":
    asyncio.run(main())
