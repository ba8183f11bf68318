"""Many small files, in a folder and in an archive: `init`, the first cell, reading and searching them.

Run: .venv/bin/python -m benchmarks.many [--files 10000]. Beside it stand `find` with `cat`, ripgrep on the
folder, and `unzip -t`, which unpacks to nowhere.
"""

import asyncio
import statistics
import zipfile
from pathlib import Path

from benchmarks.common import (
    NEEDLE,
    Report,
    guest_of,
    median_s,
    options,
    program,
    workplace,
    write_many,
)

READ_ALL = "sum(len(files[name]) for name in files)"
CAT_ALL = 'find "$1" -type f -print0 | xargs -0 cat > /dev/null'


def write_archive(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(folder.rglob("*.log")):
            archive.write(file, file.relative_to(folder))
    path.chmod(0o644)
    return path


async def measure_folder(report: Report, place: Path, folder: Path, *, runs: int) -> None:
    cat_s = median_s(runs, "sh", "-c", CAT_ALL, "sh", folder)
    with program(place / "program-folder") as ours:
        init = ours.init(folder)
        report.add("init of the folder", init.seconds, "find, cat", cat_s, limit=cat_s)
        report.add("init again", ours.init(folder).seconds, "find, cat", cat_s, limit=cat_s)
        ran, first_s = ours.first_cell()
        report.add("run, to the end of the first cell", first_s, "find, cat", cat_s, limit=cat_s)
        report.add("memory of init", init.peak_bytes, unit="bytes")
        report.add("memory of run", ran.peak_bytes, unit="bytes")
    async with guest_of(place, folder) as guest:
        first, again = await guest.first_and_again(READ_ALL, runs=runs)
        report.add("every text read, first", first, "find, cat", cat_s, limit=cat_s)
        report.add("every text read, again", again, "find, cat", cat_s, limit=cat_s)
        for what, code, arguments in (
            ("a rare literal", f"len(grep({NEEDLE!r}, files='all'))", ("-c", NEEDLE)),
            ("a frequent word, counted", "count('INFO', files='all')", ("-c", "INFO")),
            (
                "a frequent regex, counted",
                r"count(r'status=5\d\d', files='all')",
                ("-c", r"status=5\d\d"),
            ),
        ):
            rg_s = median_s(runs, "rg", "--no-config", *arguments, folder)
            took = statistics.median([await guest.seconds(code) for _ in range(runs)])
            report.add(what, took, "rg -c", rg_s, limit=cat_s)
        report.add("memory of the cells", await guest.peak_bytes(), unit="bytes")


def measure_archive(report: Report, place: Path, folder: Path, *, runs: int) -> None:
    path = write_archive(place / "many.zip", folder)
    test_s = median_s(runs, "unzip", "-q", "-t", path)
    with program(place / "program-archive") as ours:
        init = ours.init(path)
        report.add("init of the archive", init.seconds, "unzip -t", test_s, limit=test_s)
        report.add("init again", ours.init(path).seconds, "unzip -t", test_s, limit=test_s)
        for turn in ("first", "second"):
            ran, first_s = ours.first_cell()
            what = f"{turn} run, to the end of its first cell"
            report.add(what, first_s, "unzip -t", test_s, limit=test_s)
        report.add("memory of init", init.peak_bytes, unit="bytes")
        report.add("memory of run", ran.peak_bytes, unit="bytes")


async def main() -> None:
    arguments = options(__doc__, files=10_000).parse_args()
    report = Report(
        f"{arguments.files:,} small files",
        "reading all cached files once; of an archive, unpacking it to nowhere",
        as_json=arguments.json,
    )
    with workplace(arguments.folder) as place:
        folder = write_many(place / "many", arguments.files)
        await measure_folder(report, place, folder, runs=arguments.runs)
        measure_archive(report, place, folder, runs=arguments.runs)
    report.print()


if __name__ == "__main__":
    asyncio.run(main())
