"""The cells of a spreadsheet as text, made in a process of its own. It evaluates no formulas.

The library lays a sheet out as a full grid and ends the process when memory does not suffice, so a single
cell in the far corner of a sheet would be the end of the worker that asked.
"""

import datetime
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum

from sandbox.convert.output import ConvertError, Write

Value = int | float | str | bool | datetime.time | datetime.date | datetime.datetime | datetime.timedelta

PIECE_CHARS = 64 * 1024
WHOLE = 2.0**53
"""Whole numbers up to here are exact; above, the digits of a float mean nothing."""
MAX_DATA_BYTES = 4 * 1024**3
"""What the process may fill where it inherits no limit: the system would lend it more than there is."""
REFUSED = 3
"""Exit code of the process when the file cannot be read; it says why on stderr."""
ENCRYPTED = "is encrypted: remove the password and load it again"
_ROOT = Path(__file__).resolve().parents[2]
_BREAKS = str.maketrans("\t\n\r\v\f\0", "      ")


def write_sheets(path: str, write: Write) -> None:
    """Write each sheet: a line `[sheet "Budget", 120 rows]`, then its rows, the cells separated by tabs.

    Raises `ConvertError` when the file is encrypted or damaged, and when a sheet does not fit in memory.
    """
    command = [sys.executable, "-E", "-s", "-m", "sandbox.convert.sheets", os.path.abspath(path)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        try:
            with io.TextIOWrapper(process.stdout, encoding="utf-8", newline="") as text:
                while piece := text.read(PIECE_CHARS):
                    write(piece)
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        errors.seek(0)
        said = errors.read(1000).decode("utf-8", "replace")
    if code == REFUSED:
        raise ConvertError(said)
    if code in (-signal.SIGABRT, -signal.SIGKILL):
        raise ConvertError(
            "needs more memory than the sandbox has: a sheet is too large, perhaps for a single cell far "
            "away from the others; save the sheets as CSV"
        )
    if code:
        raise ConvertError("cannot be read as a spreadsheet: it may be damaged; save the sheets as CSV")


def _write_workbook(path: str, write: Callable[[str], object]) -> None:
    held, found = "", False
    with CalamineWorkbook.from_path(path) as book:
        for number, described in enumerate(book.sheets_metadata):
            if described.typ not in (SheetTypeEnum.WorkSheet, SheetTypeEnum.MacroSheet):
                continue
            sheet = book.get_sheet_by_index(number)
            rows = sheet.end[0] + 1 if sheet.end else 0
            left = "\t" * (sheet.start[1] if sheet.start else 0)
            name = described.name.translate(_BREAKS)
            held += f'[sheet "{name}", {rows:,} {"row" if rows == 1 else "rows"}]\n'
            found = found or rows > 0
            if found:  # until then nothing is written, so that an empty workbook leaves nothing behind
                write(held)
                held = ""
            for row in sheet.iter_rows():
                line = "\t".join(map(cell_text, row)).rstrip("\t")
                write(f"{left}{line}\n" if line else "\n")
    if not found:
        raise ConvertError("holds no text: every sheet is empty")


def cell_text(value: Value) -> str:
    """A cell as text without tabs and line ends: dates as in ISO 8601, whole numbers without a fraction."""
    match value:
        case str():
            return value.translate(_BREAKS)
        case bool():
            return "TRUE" if value else "FALSE"
        case float() if value.is_integer() and abs(value) < WHOLE:
            return str(int(value))
        case datetime.datetime():
            return value.isoformat(" ")
        case _:
            return str(value)


def main() -> int:
    """Write the text of the workbook named on the command line to stdout, as UTF-8."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, hard))
    out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", errors="replace", newline="")
    try:
        _write_workbook(sys.argv[1], out.write)
        out.flush()
    except PasswordError:
        sys.stderr.write(ENCRYPTED)
        return REFUSED
    except ConvertError as error:
        sys.stderr.write(str(error))
        return REFUSED
    except CalamineError as error:
        reason = " ".join(str(error).split())[:200]
        sys.stderr.write(f"cannot be read as a spreadsheet: it is damaged or cut off ({reason})")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
