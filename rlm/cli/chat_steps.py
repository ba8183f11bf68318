"""The steps of the last turn as `/steps` shows them: a list, or one of them in full.

They come from the recorded events. Steps of child RLMs are not among them: `/trace` tells those.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlm.errors import UsageError
from rlm.ui.console import Console
from rlm.ui.flow import Flow
from rlm.ui.numbers import duration
from rlm.ui.render import OUT_STYLE, code_block
from rlm.ui.sanitise import visible_line
from rlm.ui.trace import turns_kept

if TYPE_CHECKING:
    from rlm.records import SessionView

Row = dict[str, Any]


@dataclass(slots=True)
class Step:
    """`cell` is None when the reply held no block, and `status` empty when the cell did not end."""

    number: int
    prose: str = ""
    reasoning: str = ""
    cell: int | None = None
    code: str | None = None
    output: str = ""
    total_chars: int = 0
    status: str = ""
    error: str = ""
    duration_s: float = 0.0


def last_steps(events: Iterable[Row], view: "SessionView | None" = None) -> list[Step]:
    """The steps of the newest turn, finished or not, in order; earlier attempts at it are left out.

    With `view`, turns of other sessions, and those that were taken back, are passed over.
    """
    steps: dict[int, Step] = {}
    kept = turns_kept(view) if view else set()
    wanted = view is None
    for row in events:
        if row.get("depth") or row.get("child"):
            continue
        if row.get("event") == "TurnStarted":
            wanted = view is None or (row.get("session") == view.session and row.get("turn") in kept)
            if wanted:
                steps.clear()
            continue
        if not wanted:
            continue
        number = row.get("step", 0)
        if row.get("event") == "ReplyFinished":
            if number in steps:  # the last reply, asked for at once or out of steps
                number = max(steps) + 1
            steps[number] = Step(
                number=number,
                prose=row.get("prose", ""),
                reasoning=row.get("reasoning", ""),
                cell=row.get("cell"),
                code=row.get("code"),
            )
        elif row.get("event") == "CellFinished" and (step := _step_of_cell(steps, row)):
            step.output, step.total_chars = row.get("shown", ""), row.get("total_chars", 0)
            step.status, step.error = row.get("status", ""), row.get("error", "")
            step.duration_s = row.get("duration_s", 0.0)
    return list(steps.values())


def _step_of_cell(steps: dict[int, Step], row: Row) -> Step | None:
    """By the number of the cell, since the last reply has that of the step before it."""
    cell = row.get("cell")
    of_cell = [step for step in steps.values() if cell is not None and step.cell == cell]
    return of_cell[-1] if of_cell else steps.get(row.get("step", 0))


def show_list(steps: Sequence[Step], console: Console) -> None:
    """A line for each step: its number, its cell, how that ended, and what the model planned."""
    if not steps:
        console.line("no step was taken yet")
    for step in steps:
        head = [f"{step.number}"]
        if step.cell is not None:
            head.append(f"In [{step.cell}] {step.status.replace('_', ' ') or 'broken off'}".strip())
            head += [duration(step.duration_s)] if step.status else []
        else:
            head.append("no code")
        line = " · ".join(head)
        if words := (step.prose or step.code or "").strip():
            line += f" · {words}"
        console.line(visible_line(line, console.width))


def show_step(steps: Sequence[Step], argument: str, console: Console) -> None:
    """One step with all of its code and output. Raises `UsageError` when there is no such step."""
    step = next((step for step in steps if str(step.number) == argument), None)
    if step is None:
        there = f"The last turn has steps 1 to {steps[-1].number}." if steps else "No step was taken yet."
        raise UsageError(
            f"There is no step {argument}.", there, hint="/steps lists them, /trace N another turn's."
        )
    console.line(f"step {step.number}", style="bold")
    if step.reasoning:
        _prose(step.reasoning, console, style="dim")
    _prose(step.prose, console)
    if step.code is None:
        return
    console.line(f"In [{step.cell or step.number}]", style="green")
    console.print(code_block(step.code, console), indent="  │ ")
    for line in step.output.strip("\n").split("\n") if step.output.strip() else []:
        console.write(f"  {line}\n")
    if step.total_chars > len(step.output):
        whole = f"outputs[{step.cell or step.number}]"
        console.line(f"… {step.total_chars:,} characters in all, in {whole}", indent="  ", style="dim")
    ended = f"{step.status.replace('_', ' ')} {duration(step.duration_s)}" if step.status else "broken off"
    style = OUT_STYLE.get(step.status, "yellow")
    console.line(f"Out [{step.cell or step.number}] {ended}", style=style)
    if step.error:
        console.line(step.error.strip(), indent="  ")


def _prose(text: str, console: Console, *, style: str = "") -> None:
    flow = Flow(width=console.width)
    if laid := flow.feed(text) + flow.end():
        console.write(laid, style=style)
        console.end_line()
