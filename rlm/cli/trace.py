"""`rlm trace`: what happened in a turn, step by step, from the events that were written."""

import json

import click

from rlm.cli.options import Options, common
from rlm.errors import UsageError


@click.command(name="trace", short_help="What happened in a turn.")
@click.argument("turn", type=int, required=False)
@click.option("--json", "as_json", is_flag=True, help="The events as JSON Lines.")
@common()
def command(options: Options, turn: int | None, *, as_json: bool) -> None:
    """What happened in a turn (the last one, or TURN), step by step."""
    from rlm.state import State
    from rlm.ui.trace import trace_text

    console = options.console()
    if not options.state_dir.exists():
        raise UsageError("There is no trace here.", "No question was asked yet.", hint='rlm run "…"')
    state = State.open(options.state_dir, create=False, ask=options.confirm)
    events = list(state.events.read())
    if as_json:
        wanted = turn if turn is not None else max((row.get("turn", 0) for row in events), default=0)
        rows = (row for row in events if row.get("turn") == wanted)
        console.answer(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        return
    lines = list(trace_text(events, turn, console_width=console.width))
    console.answer([f"{line}\n".encode("utf-8", "backslashreplace") for line in lines])
