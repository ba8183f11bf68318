"""Counting lines: by the program before a question, and by a cell with `context.line_count`, beside `wc -l`.

Run: .venv/bin/python -m benchmarks.lines [--size 1GB].
"""

import asyncio
import statistics
from pathlib import Path

from benchmarks.common import (
    Report,
    guest_of,
    large,
    median_s,
    options,
    read_s,
    size_of,
    timed,
    workplace,
    write_log,
)
from rlm.line_counts import count_lines


def check(path: Path, counted: int | None) -> None:
    if counted != path.read_bytes().count(b"\n"):
        raise SystemExit(f"{counted} is not the number of lines")


async def measure(report: Report, path: Path, kind: str, *, runs: int) -> None:
    read_s(path)
    limit = min(read_s(path) for _ in range(runs))
    wc_s = median_s(runs, "wc", "-l", path)
    ours = statistics.median(timed(lambda: count_lines(path, "utf-8")) for _ in range(runs))
    report.add(f"{kind}: the program", ours, "wc -l", wc_s, limit=limit)
    async with guest_of(path.parent, path) as guest:
        first, again = await guest.first_and_again("context.line_count", runs=runs)
        report.add(f"{kind}: line_count, first", first, "wc -l", wc_s, limit=limit)
        report.add(f"{kind}: line_count, again", again, "wc -l", wc_s)
        middle = await guest.value("print(context.line_count // 2)")
        first, again = await guest.first_and_again(f"lines({middle}, {middle + 1})", runs=runs)
        report.add(f"{kind}: lines near the middle, first", first, "wc -l", wc_s)
        report.add(f"{kind}: lines near the middle, again", again, "wc -l", wc_s)
    check(path, count_lines(path, "utf-8"))


async def main() -> None:
    arguments = options(__doc__, size="1GB").parse_args()
    size_bytes = large(size_of(arguments.size))
    report = Report(
        f"Counting the lines of {arguments.size}", "reading the cached file once", as_json=arguments.json
    )
    with workplace(arguments.folder) as folder:
        for kind in ("ASCII", "UTF-8"):
            path = write_log(folder / f"{kind.lower()}.log", size_bytes, wide=kind == "UTF-8")
            await measure(report, path, kind, runs=arguments.runs)
            path.unlink()
    report.print()


if __name__ == "__main__":
    asyncio.run(main())
