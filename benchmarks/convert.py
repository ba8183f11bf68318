"""Making text of files that are none: a compressed text beside `gzip`, a PDF beside its library alone.

Run: .venv/bin/python -m benchmarks.convert [--size 300MB] [--pages 1000]. `init` starts a container, has the
text made in it, checks, hashes and keeps it; an empty conversion shows what the container alone takes.
"""

import gzip
import sys
from pathlib import Path

from benchmarks.common import (
    Report,
    median_s,
    options,
    output_of,
    program,
    size_of,
    workplace,
    write_log,
)
from tests.guest.samples import make_pdf

PAGES = r"""
import sys
import pypdfium2
document = pypdfium2.PdfDocument(sys.argv[1])
print(sum(len(page.get_textpage().get_text_bounded()) for page in document))
"""
PAGE = "\n".join(f"{number}: the quick brown fox jumps over the lazy dog, again" for number in range(50))


def init_s(place: Path, path: Path) -> tuple[float, float]:
    """The first `init` of a file, and the next one."""
    with program(place / f"program-{path.name}") as ours:
        return ours.init(path).seconds, ours.init(path).seconds


def main() -> None:
    parser = options(__doc__, size="300MB")
    parser.add_argument("--pages", type=int, default=1000, help="of the PDF (default 1000)")
    arguments = parser.parse_args()
    report = Report(
        f"Making text of {arguments.size} of compressed text and of {arguments.pages:,} pages",
        "the tool alone, without a container",
        as_json=arguments.json,
    )
    with workplace(arguments.folder) as place:
        measure_empty(report, place)
        measure_gzip(report, place, size_of(arguments.size), runs=arguments.runs)
        measure_pdf(report, place, arguments.pages, runs=arguments.runs)
    report.print()


def measure_empty(report: Report, place: Path) -> None:
    path = place / "empty.log.gz"
    path.write_bytes(gzip.compress(b"one line\n"))
    path.chmod(0o644)
    first, again = init_s(place, path)
    report.add("init of almost nothing", first)
    report.add("init of it again", again)


def measure_gzip(report: Report, place: Path, size_bytes: int, *, runs: int) -> None:
    text = write_log(place / "data.log", size_bytes)
    path = place / "data.log.gz"
    path.write_bytes(output_of("gzip", "-1", "-c", text))
    path.chmod(0o644)
    text.unlink()
    gzip_s = median_s(runs, "gzip", "-dc", path)
    first, again = init_s(place, path)
    report.add("compressed text", first, "gzip -dc", gzip_s, limit=gzip_s)
    report.add("the same again", again, "gzip -dc", gzip_s, limit=gzip_s)
    report.add(
        "compressed text, µs/MB", first / size_bytes * 1e12, "gzip -dc", gzip_s / size_bytes * 1e12, unit="µs"
    )


def measure_pdf(report: Report, place: Path, pages: int, *, runs: int) -> None:
    path = place / "pages.pdf"
    path.write_bytes(make_pdf([PAGE] * pages))
    path.chmod(0o644)
    alone_s = median_s(runs, sys.executable, "-c", PAGES, path)
    first, again = init_s(place, path)
    report.add("PDF", first, "pypdfium2 alone", alone_s, limit=alone_s)
    report.add("the same again", again, "pypdfium2 alone", alone_s, limit=alone_s)
    report.add("PDF, µs/page", first / pages * 1e6, "pypdfium2 alone", alone_s / pages * 1e6, unit="µs")


if __name__ == "__main__":
    main()
