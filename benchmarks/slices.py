"""Slices of a large text at random offsets, and the index of characters that they need.

Run: .venv/bin/python -m benchmarks.slices [--size 1GB]. Beside a slice stand a `pread` and a decoding of as
many bytes, which have no offsets in characters to find; beside the index, the file read and decoded once.
"""

import asyncio
import codecs
import statistics
from pathlib import Path

from benchmarks.common import (
    Report,
    guest_of,
    large,
    options,
    read_s,
    size_of,
    timed,
    workplace,
    write_log,
)

SLICES = """
import glob, json, os, random, time
rng = random.Random(1)
width = {width}
offsets = [rng.randrange(len(context) - width) for _ in range({count})]
if {in_order}:
    offsets.sort()

started = time.perf_counter()
texts = [context[at : at + width] for at in offsets]
ours = (time.perf_counter() - started) / len(offsets)

file = os.open(glob.glob("/data/*/*.log")[0], os.O_RDONLY)
sizes = [len(text.encode()) for text in texts]
places = [rng.randrange(os.fstat(file).st_size - width * 4) for _ in offsets]
started = time.perf_counter()
for place, size in zip(places, sizes):
    os.pread(file, size, place).decode("utf-8", "replace")
plain = (time.perf_counter() - started) / len(offsets)
os.close(file)
print(json.dumps([ours * 1e6, plain * 1e6]))
"""


def decode_all(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb", buffering=0) as file:
        while data := file.read(256 * 1024):
            len(decoder.decode(data))


async def measure(report: Report, path: Path, kind: str, *, runs: int) -> None:
    read_s(path)
    limit = min(read_s(path) for _ in range(runs))
    decode_s = statistics.median(timed(lambda: decode_all(path)) for _ in range(runs))
    indexing = []
    for _ in range(runs):
        async with guest_of(path.parent, path) as guest:
            indexing.append(await guest.seconds("len(context)"))
    report.add(
        f"{kind}: index, len(context)", statistics.median(indexing), "read and decoded", decode_s, limit=limit
    )
    async with guest_of(path.parent, path) as guest:
        await guest.run("len(context)")
        for width in (200, 100_000):
            for in_order in (False, True):
                code = SLICES.format(width=width, count=1000 if width < 1000 else 100, in_order=in_order)
                ours, plain = await guest.value(code)
                order = "in order" if in_order else "at random"
                report.add(
                    f"{kind}: {width:,} characters {order}",
                    ours,
                    "pread, decode",
                    plain,
                    limit=plain,
                    unit="µs",
                )


async def main() -> None:
    arguments = options(__doc__, size="1GB").parse_args()
    size_bytes = large(size_of(arguments.size))
    report = Report(
        f"Slices of a text of {arguments.size}",
        "reading the cached file once; for a slice, its own bytes",
        as_json=arguments.json,
    )
    with workplace(arguments.folder) as folder:
        for kind in ("ASCII", "UTF-8"):
            path = write_log(folder / f"{kind.lower()}.log", size_bytes, wide=kind == "UTF-8")
            await measure(report, path, kind, runs=arguments.runs)
            path.unlink()
    report.print()


if __name__ == "__main__":
    asyncio.run(main())
