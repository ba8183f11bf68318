"""Searching one large text with `grep` and `count`, beside ripgrep on the same file.

Run: .venv/bin/python -m benchmarks.grep [--size 1GB]. "first" is in a fresh container, where the index of the
text is made on the way; "again" comes after it. Ripgrep runs on this machine, and once as a cell runs it.
"""

import asyncio
import glob
import json
from pathlib import Path

from benchmarks.common import (
    NEEDLE,
    Guest,
    Report,
    guest_of,
    median_s,
    options,
    read_s,
    size_of,
    workplace,
    write_log,
)

REGEX = r"[A-Z]{3}-\d{6}"
CASES = (
    ("a rare literal", f"len(grep({NEEDLE!r}))", ("-n", "-b", NEEDLE)),
    ("a rare regex", f"len(grep({REGEX!r}))", ("-n", "-b", REGEX)),
    ("a frequent word, counted", "count('INFO')", ("--count-matches", "INFO")),
    ("a frequent regex, counted", r"count(r'status=5\d\d')", ("--count-matches", r"status=5\d\d")),
    ("the first match of a word", "len(grep('INFO', 1))", ("-m1", "INFO")),
    ("the first match, half-way", f"len(grep({NEEDLE!r}, 2))", ("-m2", NEEDLE)),
)


async def measure(report: Report, path: Path, kind: str, *, runs: int) -> None:
    read_s(path)
    limit = min(read_s(path) for _ in range(runs))
    for what, code, arguments in CASES:
        rg_s = median_s(runs, "rg", "--no-config", *arguments, path)
        async with guest_of(path.parent, path) as guest:
            first, again = await guest.first_and_again(code, runs=runs)
            inside = await ripgrep_inside(guest, path, arguments)
        through = limit if "first" not in what else None
        report.add(f"{kind}: {what}, first", first, "rg", rg_s, limit=through)
        report.add(f"{kind}: {what}, again", again, "rg", rg_s, limit=through)
        report.add(f"{kind}: {what}, rg in a cell", inside, "rg", rg_s, limit=through)


async def ripgrep_inside(guest: Guest, path: Path, arguments: tuple[str, ...]) -> float:
    """The time of ripgrep itself, run by a cell on the mounted file, with what starting it takes."""
    pattern = f"/data/*/{glob.escape(path.name)}"
    command = json.dumps(["rg", "--no-config", *arguments])
    return await guest.seconds(
        f"import glob, subprocess\n"
        f"done = subprocess.run({command} + glob.glob({pattern!r}), stdout=subprocess.DEVNULL)\n"
        "assert done.returncode == 0"
    )


async def main() -> None:
    arguments = options(__doc__, size="1GB").parse_args()
    size_bytes = size_of(arguments.size)
    report = Report(
        f"Searching a text of {arguments.size}", "reading the cached file once", as_json=arguments.json
    )
    with workplace(arguments.folder) as folder:
        for kind in ("ASCII", "UTF-8"):
            path = write_log(folder / f"{kind.lower()}.log", size_bytes, wide=kind == "UTF-8")
            await measure(report, path, kind, runs=arguments.runs)
            path.unlink()
    report.print()


if __name__ == "__main__":
    asyncio.run(main())
