"""Draws what happens: takes events one at a time and writes them to stderr through the console.

On a terminal a step is its prose as it streams in, the cell's code, its output and how it ended; elsewhere
there is a progress line now and then. Answers are not drawn here, and nothing flows back to the engine:
who asks the user about a path is whoever holds the keyboard.
"""

from typing import TYPE_CHECKING, assert_never

from rlm.events import (
    AskBatch,
    AskConsent,
    AskInterrupted,
    CellFinished,
    CellOutput,
    ChildFinished,
    ChildStarted,
    Compacted,
    Event,
    NamespaceSaved,
    Notice,
    Progress,
    Reminder,
    ReplyDelta,
    ReplyFinished,
    Resumed,
    Said,
    StepStarted,
    SubCallFinished,
    SubCallsFinished,
    SubCallsProgress,
    SubCallsStarted,
    TurnFinished,
    TurnStarted,
)
from rlm.protocol import AGREED
from rlm.ui import children
from rlm.ui.ask import RESUME_CHOICES, price_lines
from rlm.ui.batches import Batch, Batches
from rlm.ui.children import Children
from rlm.ui.console import Console
from rlm.ui.flow import Flow, Fold, hidden_lines
from rlm.ui.numbers import cost_text, count, duration, plural, size, usage_text
from rlm.ui.sanitise import columns, visible, visible_line

if TYPE_CHECKING:
    from rich.console import RenderableType

CODE_LINES = 12
OUTPUT_LINES = 8
LAST_LINE_COLUMNS = 8
"""With less for the last line that a cell printed, the status does not say that it runs."""
CHILD_LINES = 4
"""What a child RLM's prose, code and output each get."""

AGREED_SHOWN = "agreed; the file is there from the next step"
CELL_RUNNING = "cell running"
SAID = "the model is told: "
OUTCOMES = {
    "no_answer": "no answer",
    "budget": "budget reached",
    "interrupted": "interrupted",
    "error": "failed",
}
"""How the last line of a turn names the ways not to be answered."""

OUT_STYLE = {"ok": "green", "final": "green", "error": "red"}
"""The colour of a cell's end; yellow for what is not here."""


def code_block(code: str, console: Console) -> "RenderableType":
    """Python to print on `console`, highlighted in its colours, long lines wrapped."""
    from rich.syntax import Syntax

    text = visible(code).strip("\n")
    return Syntax(text, "python", theme=console.code_theme, background_color="default", word_wrap=True)


class Screen:
    """Shows the events of one command, in order. Call `tick` a few times a second while waiting.

    `more` is what shows a step in full, with `{step}` for its number: `/steps {step}`; empty for nothing.
    """

    def __init__(self, console: Console, *, more: str = "") -> None:
        self._console = console
        self._more = more
        # A log wants the steps only when it was asked for them.
        self._shows_steps = not console.quiet and (console.is_terminal or console.verbose)
        self._step = 0
        self._prose: Flow | None = None
        self._output: Fold | None = None
        self._children = Children()
        self._batches = Batches(self._children)
        self._asked_at_s = 0.0
        self._skipped: set[str] = set()

    def tick(self) -> None:
        """Bring the status line up to date."""
        if self._batches:
            self._status_of_batches()
        self._console.tick()

    def answered(self, event: AskConsent | AskBatch | AskInterrupted) -> None:
        """The question that `event` asked is closed: its time is not the batch's."""
        if isinstance(event, AskBatch):
            self._batches.waited(event.batch, self._console.clock() - self._asked_at_s)

    def show(self, event: Event) -> None:
        """Draw one event."""
        match event:
            case TurnStarted():
                self._turn_started(event)
            case Progress():
                self._console.status(event.text)
            case Notice():
                self._console.note(event.text, level=event.level)
            case StepStarted():
                self._step_started(event)
            case ReplyDelta():
                self._reply_delta(event)
            case ReplyFinished():
                self._reply_finished(event)
            case CellOutput():
                self._cell_output(event)
            case CellFinished():
                self._cell_finished(event)
            case SubCallsStarted():
                self._sub_calls_started(event)
            case SubCallFinished():
                self._sub_call_finished(event)
            case SubCallsFinished():
                self._sub_calls_finished(event)
            case Reminder():
                if self._shows(event.child):
                    text = "reminded: the reply held neither a cell nor an answer"
                    self._say(self._who(event.child) + text, depth=event.depth)
            case AskConsent():
                self._ask_consent(event)
            case NamespaceSaved():
                self._namespace_saved(event)
            case Compacted():
                self._compacted(event)
            case ChildStarted():
                self._child_started(event)
            case ChildFinished():
                self._child_finished(event)
            case SubCallsProgress():
                self._batches.update(event, now_s=self._console.clock())
                if self._batches:
                    self._status_of_batches()
            case AskBatch():
                self._ask_batch(event)
            case AskInterrupted():
                self._console.status("")
                self._console.line(RESUME_CHOICES)
            case Resumed():
                self._resumed(event)
            case Said():
                told = visible_line(event.text, self._room(0) - len(SAID))
                self._say(SAID + told)
            case TurnFinished():
                self._turn_finished(event)
            case _:
                assert_never(event)

    def _turn_started(self, event: TurnStarted) -> None:
        self._step = 0
        self._prose = self._output = None
        self._children = Children()
        self._batches = Batches(self._children)

    def _child_started(self, event: ChildStarted) -> None:
        self._children.start(event)
        self._say(children.started_line(event, self._room(event.depth)), depth=event.depth)

    def _child_finished(self, event: ChildFinished) -> None:
        self._children.end(event.child)
        outcome = OUTCOMES.get(event.status, "answered")
        self._say(children.finished_line(event, outcome, self._room(event.depth)), depth=event.depth)

    def _step_started(self, event: StepStarted) -> None:
        if event.depth:
            return
        self._step = event.step
        self._prose = self._output = None
        if self._shows_steps:
            self._console.line(f"step {event.step}/{event.max_steps}", style="bold")
        self._status("waiting for the model")

    def _reply_delta(self, event: ReplyDelta) -> None:
        # Children run side by side: their replies are drawn whole, or they would mix.
        if event.depth or not self._shows_steps:
            return
        if self._prose is None:
            self._prose = Flow(width=self._console.width)
        if text := self._prose.feed(event.text):
            self._console.write(text)

    def _reply_finished(self, event: ReplyFinished) -> None:
        self._children.use(event.child, event.usage)
        if self._shows(event.child):
            if event.depth:
                self._say(f"{self._who(event.child)}step {event.step}", depth=event.depth)
            self._draw_prose(event)
            if event.reasoning and self._console.verbose:
                self._draw_lines(event.reasoning, most_lines=OUTPUT_LINES, depth=event.depth, style="dim")
            if event.code is not None:
                self._draw_code(event.cell or event.step, event.code, depth=event.depth)
        if not event.depth:
            self._status(CELL_RUNNING if event.code is not None else "")

    def _draw_prose(self, event: ReplyFinished) -> None:
        if event.depth:
            self._draw_lines(event.prose, most_lines=CHILD_LINES, depth=event.depth)
            return
        rest = ""
        if self._prose is None:
            self._prose = Flow(width=self._console.width)
            rest = self._prose.feed(event.prose)
        if rest := rest + self._prose.end():
            self._console.write(rest)
        self._console.end_line()

    def _draw_code(self, cell: int, code: str, *, depth: int) -> None:
        indent = "  " * depth
        lines = visible(code).strip("\n").split("\n")
        most = CHILD_LINES if depth else CODE_LINES
        hidden = 0 if self._console.verbose else max(0, len(lines) - most)
        if hidden:
            lines = lines[:most]
        if not self._console.verbose:
            lines = [visible_line(line, 3 * self._room(depth)) for line in lines]
        self._console.line(f"In [{cell}]", indent=indent, style="green")
        self._console.print(code_block("\n".join(lines), self._console), indent=f"{indent}  │ ")
        if hidden:
            told = hidden_lines(hidden, self._how(depth), self._room(depth) - 2)
            self._console.line(told, indent=f"{indent}  ", style="dim")

    def _cell_output(self, event: CellOutput) -> None:
        if event.depth or not self._shows_steps:
            return
        if self._output is None:
            self._output = self._fold(OUTPUT_LINES, depth=0)
        if text := self._output.feed(event.text):
            self._console.write(text)
        if self._output.hidden and not self._batches:
            self._status(self._running())

    def _cell_finished(self, event: CellFinished) -> None:
        singles = self._batches.take_singles(event.child)
        if event.depth:
            if self._shows(event.child):
                self._draw_lines(event.shown, most_lines=CHILD_LINES, depth=event.depth)
                self._draw_batch(singles, event)
                self._draw_out(event)
            return
        self._console.status("")
        if self._shows_steps:
            output = self._output or self._fold(OUTPUT_LINES, depth=0)
            text = output.feed(event.shown) if output.empty else ""
            if text := text + output.end():
                self._console.write(text)
            self._draw_batch(singles, event)
            self._draw_out(event)
        self._prose = self._output = None  # a last reply may come without a step of its own

    def _draw_out(self, event: CellFinished) -> None:
        text = f"Out [{event.cell}] {event.status.replace('_', ' ')} {duration(event.duration_s)}"
        text = self._who(event.child) + text
        room = self._room(event.depth)
        if AGREED in event.error:
            self._say(f"{text.partition(' error ')[0]} {AGREED_SHOWN}", depth=event.depth)
            return
        # The last line of a traceback is the one that names the error.
        reason = event.error.strip().rpartition("\n")[2]
        if reason := visible_line(reason, None if self._console.verbose else 3 * room):
            text += f" · {reason}" if columns(f"{text} · {reason}") <= room else f"\n  {reason}"
        self._say(text, depth=event.depth, style=OUT_STYLE.get(event.status, "yellow"))

    def _sub_calls_started(self, event: SubCallsStarted) -> None:
        self._batches.start(event, now_s=self._console.clock())
        self._status_of_batches()

    def _sub_call_finished(self, event: SubCallFinished) -> None:
        self._batches.add(event, now_s=self._console.clock())
        if self._batches:
            self._status_of_batches()

    def _sub_calls_finished(self, event: SubCallsFinished) -> None:
        batch = self._batches.end(event.batch)
        if batch and batch.total > 1 and self._shows(event.child):
            self._draw_batch(batch, event)
        self._status_of_batches()

    def _status_of_batches(self) -> None:
        self._status(self._batches.progress(self._console.clock()) if self._batches else self._running())

    def _running(self) -> str:
        """`cell running · tick 23 · +15 lines`: what it prints beyond what is shown; less if narrow."""
        if not self._output or not (hidden := self._output.hidden):
            return CELL_RUNNING
        more = f"+{plural(hidden, 'line')}"
        room = self._room(0) - len(f"x {CELL_RUNNING} ·  · {more} ")
        if room >= LAST_LINE_COLUMNS:
            parts = [CELL_RUNNING, visible_line(self._output.last, room), more]
        else:
            parts = [visible_line(self._output.last, self._room(0) - len(f"x  · {more} ")), more]
        return " · ".join(part for part in parts if part)

    def _draw_batch(self, batch: Batch | None, event: SubCallsFinished | CellFinished) -> None:
        if batch is None:
            return
        depth, who = event.depth, self._who(event.child)
        self._say(who + batch.summary(self._console.clock()), depth=depth, style="dim")
        if batch.failed:
            reason = visible_line(batch.first_error, self._room(depth) - len("  first: "))
            self._say(f"  first: {reason}", depth=depth, style="yellow")

    def _ask_batch(self, event: AskBatch) -> None:
        self._console.status("")
        self._asked_at_s = self._console.clock()
        for line in price_lines(event, self._batches[event.batch]):
            self._console.line(line)

    def _ask_consent(self, event: AskConsent) -> None:
        self._console.status("")
        asked, real = visible_line(event.path), visible_line(event.real_path)
        self._console.line(f"The cell asks to read {real}" + (f" (as {asked})" if asked != real else ""))
        if event.reason:
            self._console.line(visible_line(event.reason), indent="  ")

    def _namespace_saved(self, event: NamespaceSaved) -> None:
        if self._console.verbose:
            self._say(f"namespace saved · {size(event.size_bytes)} · {duration(event.duration_s)}")
        # The same variable stays unsaved save after save: once is enough.
        fresh = [(name, reason) for name, reason in event.skipped if name not in self._skipped]
        self._skipped.update(name for name, _ in fresh)
        if fresh:
            listed = ", ".join(f"{visible_line(name)} ({visible_line(reason)})" for name, reason in fresh)
            self._console.note(f"not saved: {listed}")

    def _resumed(self, event: Resumed) -> None:
        self._prose = self._output = None  # what streams from here on is another reply
        if event.kind == "stop":
            return
        self._say("the model is asked for its best answer" if event.kind == "answer" else "going on")
        self._status("waiting for the model")

    def _compacted(self, event: Compacted) -> None:
        before, after = count(event.before_chars), count(event.after_chars)
        if event.what == "steps" and self._shows(event.child):
            text = f"earlier steps of this turn compacted · {before} to {after} characters"
            self._say(self._who(event.child) + text, depth=event.depth)
        elif event.what == "turn" and self._console.verbose:
            self._say(f"turn {event.turn} compacted · {before} to {after} characters")

    def _turn_finished(self, event: TurnFinished) -> None:
        self._console.status("")
        if self._console.quiet:
            return
        for broken_off in (self._prose, self._output):
            if broken_off and (text := broken_off.end()):
                self._console.write(text)
        self._console.end_line()
        parts = [plural(event.steps, "step"), usage_text(event.usage)]
        parts.append(f"session {cost_text(event.session_usage)}")
        if outcome := OUTCOMES.get(event.status):
            parts.insert(0, outcome)
        elif not self._console.is_terminal:
            parts.insert(0, "done")
        # What stood in the way is told by the command line, with what to do about it.
        self._console.line(" · ".join(parts), style="dim")

    def _shows(self, child: int) -> bool:
        """Whether the steps of an RLM are drawn: those of children side by side would mix."""
        return self._shows_steps and (not child or not self._children.several or self._console.verbose)

    def _who(self, child: int) -> str:
        return f"child {child} · " if child and self._children.several else ""

    def _say(self, text: str, *, depth: int = 0, style: str = "dim") -> None:
        if self._shows_steps:
            self._console.line(text, indent="  " * depth, style=style)

    def _draw_lines(self, text: str, *, most_lines: int, depth: int, style: str = "") -> None:
        fold = self._fold(most_lines, depth=depth)
        if shown := fold.feed(text.strip()) + fold.end():
            self._console.end_line()
            self._console.write(shown, style=style)

    def _fold(self, most_lines: int, *, depth: int) -> Fold:
        return Fold(
            most_lines=None if self._console.verbose else most_lines,
            width=self._console.width,
            indent="  " * (depth + 1),
            more=self._how(depth),
        )

    def _how(self, depth: int) -> str:
        """What shows all of what is folded here. The steps of children are in the trace only."""
        return "" if depth else self._more.format(step=self._step)

    def _room(self, depth: int) -> int:
        return max(10, self._console.width - 2 * depth)

    def _status(self, text: str) -> None:
        # The header of a step tells its number on a terminal; a log has no headers.
        prefix = f"step {self._step} · " if text and not self._shows_steps else ""
        self._console.status(prefix + text)
