"""`sql` over a large CSV in the container, beside DuckDB alone on this machine with as many threads.

Run: .venv/bin/python -m benchmarks.sql [--size 4GB]. The container has the memory that it has by default.
"""

import asyncio
import json
import random
import sys
from pathlib import Path

from benchmarks.common import (
    MB,
    Report,
    guest_of,
    options,
    output_of,
    read_s,
    size_of,
    workplace,
)

QUERIES = (
    ("count(*)", "select count(*) from {table}"),
    ("group by", "select city, count(*), avg(amount) from {table} group by city order by city"),
    ("filter", "select count(*) from {table} where amount > 9990 and item like '%7%'"),
)
ALONE = r"""
import json, re, sys, time
import duckdb
path, *queries = sys.argv[1:]
duckdb.execute("set threads = 2; set enable_progress_bar = false")
times = []
for query in queries:
    started = time.perf_counter()
    duckdb.sql(query).fetchall()
    times.append(time.perf_counter() - started)
peak = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024
print(json.dumps([times, peak]))
"""


def write_csv(path: Path, size_bytes: int) -> Path:
    """Rows of an id, a day, a city, an item and an amount: a block of 1 MB again and again."""
    rng = random.Random(7)
    cities = ["Berlin", "Paris", "Zürich", "東京", "São Paulo", "Oslo", "Wien", "Roma", "Lima", "Kyiv"]
    rows: list[str] = []
    while len(rows) < 20_000:
        day = f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
        amount = rng.randrange(1_000_000) / 100
        rows.append(f"{len(rows)},{day},{rng.choice(cities)},item {rng.randrange(100_000)},{amount}\n")
    block = "".join(rows).encode()
    with path.open("wb") as file:
        file.write(b"id,day,city,item,amount\n")
        for _ in range(max(size_bytes // len(block), 1)):
            file.write(block)
    path.chmod(0o644)
    return path


async def measure(report: Report, path: Path) -> None:
    read_s(path)
    limit = read_s(path)
    peak_alone = 0
    async with guest_of(path.parent, path) as guest:
        for name, query in QUERIES:
            own = query.format(table=f"'{path}'")
            alone, peak = json.loads(output_of(sys.executable, "-c", ALONE, path, own, own))
            peak_alone = max(peak_alone, peak)
            for turn, alone_s in zip(("first", "again"), alone, strict=True):
                took = await guest.seconds(f"sql({query.format(table='doc')!r})")
                report.add(f"{name}, {turn}", took, "DuckDB alone", alone_s, limit=limit)
        report.add("memory", await guest.peak_bytes(), "DuckDB alone", peak_alone, unit="bytes")


async def main() -> None:
    arguments = options(__doc__, size="4GB").parse_args()
    size_bytes = size_of(arguments.size)
    report = Report(
        f"SQL over a CSV file of {arguments.size}", "reading the cached file once", as_json=arguments.json
    )
    with workplace(arguments.folder) as folder:
        await measure(report, write_csv(folder / "sales.csv", max(size_bytes, MB)))
    report.print()


if __name__ == "__main__":
    asyncio.run(main())
