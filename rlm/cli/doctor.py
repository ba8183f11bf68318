"""`rlm doctor`: what a run needs, each with the fix where it is missing."""

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlm.cli.options import Options, common
from rlm.errors import ConfigError

if TYPE_CHECKING:
    from rlm.checks.check import Check

MARKS = {"ok": "ok  ", "warning": "!   ", "failed": "FAIL"}
INDENT = " " * 5


@click.command(
    name="doctor",
    short_help="Check what a run needs.",
    epilog="\b\nExamples:\n  rlm doctor\n  rlm doctor --ping\n"
    "  rlm doctor --json | jq '.checks[] | select(.status == \"failed\")'",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--ping", is_flag=True, help="Ask each configured model one tiny question, which costs a little."
)
@common()
def command(options: Options, *, as_json: bool, ping: bool) -> int:
    """Check Docker, image, keys, models and disk; each failure comes with its fix."""
    from rlm.config import load_config
    from rlm.doctor import examine

    report = examine(
        lambda: load_config(
            cwd=Path.cwd(),
            config_file=options.config,
            environ=os.environ,
            flags={**options.flags, "yes": options.yes},
            confirm=_tell if options.interactive else None,
        ),
        options.state_dir,
        environ=os.environ,
        home=Path.home(),
        ping=ping,
    )
    console = options.console()
    if as_json:
        checks = [check.to_json() for check in report.checks]
        found = {"ok": report.ok, "checks": checks, "versions": report.versions}
        console.answer([json.dumps(found).encode() + b"\n"])
        return report.exit_code
    columns = console.width if sys.stdout.isatty() else None
    for check in report.checks:
        console.answer([f"{line}\n".encode("utf-8", "backslashreplace") for line in _lines(check, columns)])
    return report.exit_code


def _tell(question: str) -> bool:
    """Tells what a run would ask, in place of asking it."""
    what = question.removesuffix(" Allow it from now on?")
    raise ConfigError(what, hint="The next chat or run asks whether you allow it; --yes allows it.")


def _lines(check: "Check", columns: int | None) -> list[str]:
    """A line for what was found and one for the fix; folded where they are too long for the terminal."""
    lines = [f"{MARKS[check.status]} {check.name}: {check.detail}"]
    if check.fix:
        lines.append(f"{INDENT}fix: {check.fix}")
    if columns is None:
        return lines
    return [part for line in lines for part in _folded(line, columns)]


def _folded(line: str, columns: int) -> list[str]:
    return textwrap.wrap(
        line, columns, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
    )
