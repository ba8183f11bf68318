"""Draws what happens: takes events one at a time and writes them to stderr through the console.

On a terminal a step is its prose as it streams in, the cell's code, its output and how it ended; elsewhere
there is a progress line now and then. Answers are not drawn here, and nothing flows back to the engine:
who asks the user about a path is whoever holds the keyboard. Numbers are spelled for people here, too.
"""

import re
from dataclasses import dataclass, field
from typing import assert_never

from rlm.events import (
    AskConsent,
    CellFinished,
    CellOutput,
    Compacted,
    Event,
    NamespaceSaved,
    Notice,
    Progress,
    Reminder,
    ReplyDelta,
    ReplyFinished,
    StepStarted,
    SubCallFinished,
    SubCallsFinished,
    SubCallsStarted,
    TurnFinished,
    TurnStarted,
    Usage,
)
from rlm.ui.console import Console
from rlm.ui.sanitise import columns, visible, visible_line

CODE_LINES = 12
OUTPUT_LINES = 8
CHILD_LINES = 4
"""What a child RLM's prose, code and output each get."""

OUTCOMES = {
    "no_answer": "no answer",
    "budget": "budget reached",
    "interrupted": "interrupted",
    "error": "failed",
}
"""How the last line of a turn names the ways not to be answered."""

_OUT_STYLE = {"ok": "green", "final": "green", "error": "red"}


def count(number: int) -> str:
    """A count in three digits: `999`, `1.2k`, `210k`, `1.1M`."""
    value = float(number)
    for unit in ("", "k", "M", "G"):
        if value < 999.5 or unit == "G":
            break
        value /= 1000
    digits = f"{value:.1f}" if unit and value < 9.95 else f"{value:.0f}"
    return digits.removesuffix(".0") + unit


def size(size_bytes: int) -> str:
    """Decimal bytes: `999 B`, `1.3 GB`, `412 MB`."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.1f} {unit}" if unit != "B" and value < 9.95 else f"{value:.0f} {unit}"


def money(cost_usd: float | None) -> str:
    """`$0.09`, `$0.0004` below a cent, `$?` when it is not known."""
    if cost_usd is None:
        return "$?"
    if cost_usd == 0 or cost_usd >= 0.00995:
        return f"${cost_usd:,.2f}"
    return f"${cost_usd:.4f}" if cost_usd >= 0.00005 else "<$0.0001"


def duration(duration_s: float) -> str:
    """`12ms`, `1.2s`, `38s`, `2m 05s`, `1h 02m`."""
    if duration_s < 0.0995:
        return f"{duration_s * 1000:.0f}ms"
    if duration_s < 9.95:
        return f"{duration_s:.1f}s"
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes}m {seconds:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


def plural(number: int, noun: str) -> str:
    """`1 step`, `3 steps`, `1.2k calls`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def usage_text(usage: Usage) -> str:
    """`41 calls · 210k in / 6k out (90k cached) · $0.09`."""
    return f"{plural(usage.calls, 'call')} · {tokens_text(usage)} · {cost_text(usage)}"


def tokens_text(usage: Usage) -> str:
    """`210k in / 6k out (90k cached)`; `~` marks what was counted here, not reported."""
    about = "~" if usage.estimated else ""
    text = f"{about}{count(usage.input_tokens)} in / {about}{count(usage.output_tokens)} out"
    return f"{text} ({about}{count(usage.cached_tokens)} cached)" if usage.cached_tokens else text


def cost_text(usage: Usage) -> str:
    """The cost of `usage`: `$0.09`, `~$0.09` when estimated, `$?` when unpriced."""
    about = "~" if usage.estimated and usage.cost_usd is not None else ""
    return about + money(usage.cost_usd)


class Flow:
    """Wraps prose at `width` columns while it streams in, and makes it visible.

    A word is held back until it is whole. White space at both ends is dropped, and so are empty lines
    beyond the first.
    """

    _WORD = re.compile(r"([ \t\n]*)([^ \t\n]+)(?=[ \t\n])")
    _LONGEST_WORD = 1000

    def __init__(self, *, width: int, indent: str = "") -> None:
        self._width = width
        self._indent = indent
        self._held = ""
        self._column = 0

    def feed(self, text: str) -> str:
        """What can be written once `text` has arrived."""
        text = (self._held + text).replace("\r\n", "\n")
        placed: list[str] = []
        end = 0
        for match in self._WORD.finditer(text):
            placed.append(self._place(match[1], match[2]))
            end = match.end()
        self._held = text[end:]
        if len(self._held) > self._LONGEST_WORD:
            placed.append(self.end())
        return "".join(placed)

    def end(self) -> str:
        """The last word."""
        word = self._held.lstrip(" \t\n")
        space = self._held[: len(self._held) - len(word)]
        self._held = ""
        return self._place(space, word.rstrip(" \t\n")) if word else ""

    def _place(self, space: str, word: str) -> str:
        word = visible(word)
        breaks, _, blank = space.expandtabs(4).rpartition("\n")
        if not self._column:
            lead = self._indent
        elif "\n" in space:
            lead = "\n" * min(2, 1 + breaks.count("\n")) + self._indent + blank
        elif self._column + len(blank) + columns(word) <= self._width:
            self._column += len(blank) + columns(word)
            return blank + word
        else:
            lead = "\n" + self._indent
        self._column = len(lead.lstrip("\n")) + columns(word)
        return lead + word


class Fold:
    """Lets the first lines of a text through as they arrive, cut to `width` columns, and counts the rest.

    With `most_lines` None everything passes, uncut. What comes out is visible and made of whole lines, so
    that a status line has a place of its own while a cell prints.
    """

    def __init__(self, *, most_lines: int | None, width: int, indent: str = "") -> None:
        self._most_lines = most_lines
        self._width = None if most_lines is None else width - len(indent)
        self._indent = indent
        self._partial = ""
        self._lines = 0

    @property
    def empty(self) -> bool:
        return not self._lines and not self._partial

    def feed(self, text: str) -> str:
        """The lines that `text` completes, as far as they are shown."""
        *lines, self._partial = (self._partial + text).split("\n")
        return "".join([self._line(line) for line in lines])

    def end(self) -> str:
        """The last line, if it had no end, and how many were left out."""
        last = self._line(self._partial) if self._partial else ""
        self._partial = ""
        if self._most_lines is None or self._lines <= self._most_lines:
            return last
        return f"{last}{self._indent}… +{plural(self._lines - self._most_lines, 'line')}\n"

    def _line(self, line: str) -> str:
        self._lines += 1
        if self._most_lines is not None and self._lines > self._most_lines:
            return ""
        line = visible_line(line.removesuffix("\r"), self._width)
        return f"{self._indent}{line}\n"


@dataclass(slots=True)
class _Batch:
    """Sub-calls under way, or a tally of single ones."""

    total: int
    model: str
    started_s: float
    estimate_usd: float | None = None
    done: int = 0
    failed: int = 0
    first_error: str = ""
    usage: Usage = field(default_factory=Usage)

    def add(self, event: SubCallFinished) -> None:
        self.done += 1
        self.usage += event.usage
        if event.error:
            self.failed += 1
            self.first_error = self.first_error or event.error


class Screen:
    """Shows the events of one command, in order. Call `tick` a few times a second while waiting."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # A log wants the steps only when it was asked for them.
        self._shows_steps = not console.quiet and (console.is_terminal or console.verbose)
        self._step = 0
        self._prose: Flow | None = None
        self._output: Fold | None = None
        self._batches: dict[int, _Batch] = {}
        self._singles: _Batch | None = None
        self._skipped: set[str] = set()

    def tick(self) -> None:
        """Bring the status line up to date."""
        self._console.tick()

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
                self._say("reminded: the reply held neither a cell nor an answer", depth=event.depth)
            case AskConsent():
                self._ask_consent(event)
            case NamespaceSaved():
                self._namespace_saved(event)
            case Compacted():
                self._compacted(event)
            case TurnFinished():
                self._turn_finished(event)
            case _:
                assert_never(event)

    def _turn_started(self, event: TurnStarted) -> None:
        if event.depth:
            self._say(
                f"rlm_query: {visible_line(event.question, self._room(event.depth) - 11)}", depth=event.depth
            )
            return
        self._step = 0
        self._prose = self._output = self._singles = None
        self._batches.clear()

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
        if self._shows_steps:
            if event.depth:
                self._say(f"step {event.step}", depth=event.depth)
            self._draw_prose(event)
            if event.reasoning and self._console.verbose:
                self._draw_lines(event.reasoning, most_lines=OUTPUT_LINES, depth=event.depth, style="dim")
            if event.code is not None:
                self._draw_code(event.step, event.code, depth=event.depth)
        if not event.depth:
            self._status("cell running" if event.code is not None else "")

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

    def _draw_code(self, step: int, code: str, *, depth: int) -> None:
        from rich.syntax import Syntax

        indent = "  " * depth
        lines = visible(code).strip("\n").split("\n")
        most = CHILD_LINES if depth else CODE_LINES
        hidden = 0 if self._console.verbose else max(0, len(lines) - most)
        if hidden:
            lines = lines[:most]
        if not self._console.verbose:
            lines = [visible_line(line, 3 * self._room(depth)) for line in lines]
        self._console.line(f"In [{step}]", indent=indent, style="green")
        self._console.print(
            Syntax(
                "\n".join(lines),
                "python",
                theme=self._console.code_theme,
                background_color="default",
                word_wrap=True,
            ),
            indent=f"{indent}  │ ",
        )
        if hidden:
            self._console.line(f"… +{plural(hidden, 'line')}", indent=f"{indent}  ", style="dim")

    def _cell_output(self, event: CellOutput) -> None:
        if event.depth or not self._shows_steps:
            return
        if self._output is None:
            self._output = self._fold(OUTPUT_LINES, depth=0)
        if text := self._output.feed(event.text):
            self._console.write(text)

    def _cell_finished(self, event: CellFinished) -> None:
        if event.depth:
            if self._shows_steps:
                self._draw_lines(event.shown, most_lines=CHILD_LINES, depth=event.depth)
                self._draw_out(event)
            return
        self._console.status("")
        if self._shows_steps:
            output = self._output or self._fold(OUTPUT_LINES, depth=0)
            text = output.feed(event.shown) if output.empty else ""
            if text := text + output.end():
                self._console.write(text)
            if self._singles:
                self._draw_batch(self._singles, depth=0)
            self._draw_out(event)
        self._output = self._singles = None

    def _draw_out(self, event: CellFinished) -> None:
        text = f"Out [{event.step}] {event.status.replace('_', ' ')} {duration(event.duration_s)}"
        room = self._room(event.depth)
        # The last line of a traceback is the one that names the error.
        reason = event.error.strip().rpartition("\n")[2]
        if reason := visible_line(reason, None if self._console.verbose else 3 * room):
            text += f" · {reason}" if columns(f"{text} · {reason}") <= room else f"\n  {reason}"
        self._say(text, depth=event.depth, style=_OUT_STYLE.get(event.status, "yellow"))

    def _sub_calls_started(self, event: SubCallsStarted) -> None:
        if event.total == 1:
            self._singles = self._singles or _Batch(0, event.model, self._console.clock())
            self._singles.total += 1
        batch = _Batch(event.total, event.model, self._console.clock(), event.estimate_usd)
        self._batches[event.batch] = batch
        self._batch_status()

    def _sub_call_finished(self, event: SubCallFinished) -> None:
        batch = self._batches.get(event.batch)
        if batch is None:
            return
        batch.add(event)
        if batch.total == 1 and self._singles:
            self._singles.add(event)
        self._batch_status()

    def _sub_calls_finished(self, event: SubCallsFinished) -> None:
        batch = self._batches.pop(event.batch, None)
        if batch and batch.total > 1 and self._shows_steps:
            self._draw_batch(batch, depth=event.depth)
        if not self._batches:
            self._status("cell running")

    def _batch_status(self) -> None:
        batches = [batch for batch in self._batches.values() if batch.total > 1]
        if not batches and self._singles:
            done, usage = self._singles.done, self._singles.usage
            self._status(f"{plural(done, 'call')} · {count(_tokens(usage))} tok · {cost_text(usage)}")
            return
        done, total = sum(batch.done for batch in batches), sum(batch.total for batch in batches)
        parts = [f"{done}/{total} calls"]
        if failed := sum(batch.failed for batch in batches):
            parts.append(f"{failed} failed")
        if done:
            usage = sum((batch.usage for batch in batches), Usage())
            elapsed_s = self._console.clock() - min(batch.started_s for batch in batches)
            parts += [f"{count(_tokens(usage))} tok", cost_text(usage)]
            parts.append(f"ETA {duration(round(elapsed_s / done * (total - done)))}")
        elif all(batch.estimate_usd is not None for batch in batches):
            parts.append(f"about {money(sum(batch.estimate_usd or 0.0 for batch in batches))}")
        self._status(" · ".join(parts))

    def _draw_batch(self, batch: _Batch, *, depth: int) -> None:
        parts = [f"{plural(batch.total, 'call')} to {visible_line(batch.model)}"]
        if batch.failed:
            parts.append(f"{batch.failed} failed")
        parts += [f"{count(_tokens(batch.usage))} tok", cost_text(batch.usage)]
        parts.append(duration(self._console.clock() - batch.started_s))
        self._say(" · ".join(parts), depth=depth, style="dim")
        if batch.failed:
            reason = visible_line(batch.first_error, self._room(depth) - len("  first: "))
            self._say(f"  first: {reason}", depth=depth, style="yellow")

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

    def _compacted(self, event: Compacted) -> None:
        if self._console.verbose:
            before, after = count(event.before_chars), count(event.after_chars)
            self._say(f"turn {event.turn} compacted · {before} to {after} characters")

    def _turn_finished(self, event: TurnFinished) -> None:
        if event.depth:
            parts = [
                OUTCOMES.get(event.status, "answered"),
                plural(event.steps, "step"),
                usage_text(event.usage),
            ]
            self._say(" · ".join(parts), depth=event.depth)
            return
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
        # An error comes with a sentence of its own, from the command line.
        if event.message and event.status != "error":
            self._console.note(event.message)
        self._console.line(" · ".join(parts), style="dim")

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
        )

    def _room(self, depth: int) -> int:
        return max(10, self._console.width - 2 * depth)

    def _status(self, text: str) -> None:
        # The header of a step tells its number on a terminal; a log has no headers.
        prefix = f"step {self._step} · " if text and not self._shows_steps else ""
        self._console.status(prefix + text)


def _tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens
