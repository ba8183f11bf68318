"""`rlm trace`: what happened in a turn, as text, as rows, as a page; or the cells of it, as a script."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlm.cli.options import Options, common
from rlm.errors import UsageError

if TYPE_CHECKING:
    from rlm.state import State
    from rlm.trace.rows import Row
    from rlm.ui.console import Console

STDOUT = "-"
TARGET = click.Path(readable=False, allow_dash=True)
"""A file or a folder, so that completion offers them."""


@click.command(
    name="trace",
    short_help="What happened in a turn.",
    epilog="\b\nExamples:\n  rlm trace\n  rlm trace 3 --html turn.html\n  rlm trace --script cells.py\n"
    "  rlm trace --json | jq -r .event | sort | uniq -c",
)
@click.argument("turn", type=int, required=False)
@click.option("--json", "as_json", is_flag=True, help="The events as JSON Lines.")
@click.option(
    "--html",
    type=TARGET,
    metavar="FILE",
    help="Write one page for a browser: here, into this folder, or - for stdout.",
)
@click.option(
    "--script",
    type=TARGET,
    is_flag=False,
    flag_value=STDOUT,
    metavar="[FILE]",
    help="The cells as a plain Python script: on stdout, in FILE, or into a folder.",
)
@common()
def command(
    options: Options, turn: int | None, *, as_json: bool, html: str | None, script: str | None
) -> None:
    """What happened in a turn (the last one, or TURN), step by step."""
    from rlm.state import State
    from rlm.trace.rows import turn_rows
    from rlm.ui.trace import trace_text

    console = options.console()
    if sum(map(bool, (as_json, html, script))) > 1:
        raise UsageError("--json, --html and --script do not go together.", "Each is a form of its own.")
    if script and script.isdecimal():
        raise UsageError(
            f"--script would write to a file called {script}.",
            "What follows it is the name of the file.",
            hint=f"rlm trace {script} --script",
        )
    if not options.state_dir.exists():
        raise UsageError("There is no trace here.", "No question was asked yet.", hint='rlm run "…"')
    state = State.open(options.state_dir, create=False, ask=options.confirm)
    rows = turn_rows(state.events.read(), turn)
    if as_json:
        console.answer(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    elif html:
        from rlm.trace.page import page

        _give(page(rows), html, f"{_name(rows)}.html", console)
    elif script:
        _give(_script(rows, state), script, f"{_name(rows)}.py", console)
    else:
        lines = list(trace_text(rows, console_width=console.width, view=state.view()))
        console.answer([f"{line}\n".encode("utf-8", "backslashreplace") for line in lines])


def _script(rows: "Iterable[Row]", state: "State") -> str:
    """With the documents that the turn had; those of now for one that is of the session no more."""
    from rlm.documents import Document
    from rlm.trace.script import script

    rows = list(rows)
    view = state.view()
    number = rows[0].get("turn")
    turn = next((turn for turn in view.turns if turn.ended.turn == number), None)
    documents, active = (turn.after.documents, turn.before.active) if turn else (view.documents, view.active)
    return script(rows, [Document.from_json(row) for row in documents], active=active)


def _name(rows: "list[Row]") -> str:
    return f"turn-{rows[0].get('turn', 0):04}"


def _give(text: str, where: str, name: str, console: "Console") -> None:
    """Write `text` to stdout, to a file, or under `name` into a folder. Raises `UsageError`."""
    from rlm.ui.numbers import size

    data = text.encode("utf-8", "backslashreplace")
    if where == STDOUT:
        console.answer([data])
        return
    path = Path(where).expanduser()
    if path.is_dir():
        path /= name
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(
            f"{path} could not be written.", f"{error.strerror}.", hint="Name another file."
        ) from None
    console.note(f"{path} ({size(len(data))}) is written.")
