"""`rlm doctor`: what a run needs, each with the fix where it is missing."""

import json
from typing import Any

import click

from rlm.cli.options import Options, common


@click.command(name="doctor", short_help="Check what a run needs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--ping", is_flag=True, help="Ask each configured model one tiny question, which costs a little."
)
@common()
def command(options: Options, *, as_json: bool, ping: bool) -> int:
    """Check Docker, image, keys, models and disk; each failure comes with its fix."""
    from rlm.doctor import examine

    console = options.console()
    checks = examine(lambda: options.load_config(console), options.state_dir, ping=ping)
    if as_json:
        rows: list[dict[str, Any]] = [check.to_json() for check in checks]
        console.answer(
            [json.dumps({"ok": not any(c.failed for c in checks), "checks": rows}).encode() + b"\n"]
        )
    else:
        marks = {"ok": "ok  ", "warning": "!   ", "failed": "FAIL"}
        for check in checks:
            lines = [f"{marks[check.status]} {check.name}: {check.found}"]
            if check.fix:
                lines.append(f"       fix: {check.fix}")
            console.answer([f"{line}\n".encode() for line in lines])
    return max(check.exit_code for check in checks)
