"""Child RLMs of a turn: which of them run, what they have used, and how that reads in a line.

Takes events and gives text. It draws nothing, and does not decide where a line stands.
"""

from collections import Counter, defaultdict

from rlm.events import ChildFinished, ChildStarted, Usage
from rlm.ui.numbers import cost_text, plural
from rlm.ui.sanitise import columns, visible_line

FEWEST_WORDS = 20
"""Columns that the words of a question or an answer get, however narrow the terminal is."""


class Children:
    """`several` is True from when two ran side by side until none runs: their steps would mix."""

    def __init__(self) -> None:
        self._known: dict[int, ChildStarted] = {}
        self._running: set[int] = set()
        self._usage: defaultdict[int, Usage] = defaultdict(Usage)
        self.several = False

    def start(self, event: ChildStarted) -> None:
        self._known[event.child] = event
        self._running.add(event.child)
        # A child that waits for its own child is not beside it: it is one less deep.
        at_depth = Counter(self._known[child].depth for child in self._running)
        self.several = self.several or max(at_depth.values()) > 1

    def end(self, number: int) -> None:
        self._running.discard(number)
        self.several = self.several and bool(self._running)

    def end_all_of(self, batch: int) -> None:
        """The batch is over: children that were stopped have no end of their own."""
        for child in [child for child in self._running if self._known[child].batch == batch]:
            self.end(child)

    def use(self, number: int, usage: Usage) -> None:
        """Count what child `number` used, also as a part of what those above it used."""
        while child := self._known.get(number):
            self._usage[child.batch] += usage
            number = child.parent

    def usage(self, batch: int) -> Usage:
        """What the children that a batch asked for have used so far, with all below them."""
        return self._usage[batch]

    def running(self, batch: int) -> int:
        """How many of the children that a batch asked for run at the moment."""
        return sum(self._known[child].batch == batch for child in self._running)


def started_line(event: ChildStarted, room: int) -> str:
    """`child 3 · started: first words of the question`, in about `room` columns."""
    head = f"child {event.child} · started: "
    return head + visible_line(event.question, max(FEWEST_WORDS, room - len(head)))


def finished_line(event: ChildFinished, outcome: str, room: int) -> str:
    """`child 3 · answered · 4 steps · 12 calls · $0.02 · first words`, in about `room` columns.

    The words are those of the answer, or of why there is none.
    """
    parts = [f"child {event.child}", outcome, plural(event.steps, "step")]
    parts += [plural(event.usage.calls, "call"), cost_text(event.usage)]
    line = " · ".join(parts)
    words = event.answer if event.status == "ok" else event.message or event.answer
    if words := visible_line(words.strip(), max(FEWEST_WORDS, room - columns(line) - len(" · "))):
        line += f" · {words}"
    return line
