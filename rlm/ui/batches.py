"""Sub-calls under way: what came back, what it cost, and how that reads in a line.

Takes the events of sub-calls and gives text. It draws nothing, and the time is handed in: `now_s` is that
of the console's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlm.events import SubCallFinished, SubCallsProgress, SubCallsStarted, Usage
from rlm.ui.children import Children
from rlm.ui.numbers import cost_text, count, duration, money, plural, total_tokens_text, wait
from rlm.ui.sanitise import visible_line


@dataclass(slots=True)
class Batch:
    """Sub-calls under way, or a tally of single ones. With `recursive`, each is a child RLM.

    The model has no known price when `estimate_usd` is None. `running` and `retrying` are those of the
    moment; the soonest retry is at `retry_at_s`, and the last call came back at `back_at_s`.
    """

    total: int
    model: str
    started_s: float
    estimate_usd: float | None = None
    recursive: bool = False
    depth: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    retried: int = 0
    running: int = 0
    retrying: int = 0
    retry_at_s: float = 0.0
    back_at_s: float = 0.0
    first_error: str = ""
    usage: Usage = field(default_factory=Usage)

    def add(self, event: SubCallFinished, *, now_s: float) -> None:
        self.done += 1
        self.back_at_s = now_s
        if not self.recursive:  # what a child used is counted as it is used
            self.usage += event.usage
        self.cached += event.cached
        self.retried += event.retries > 0
        if event.error:
            self.failed += 1
            self.first_error = self.first_error or event.error

    def summary(self, now_s: float) -> str:
        """`40 calls to gpt-5-mini · 2 failed · 12 cached · 210k tok · $0.09 · 12s`.

        `15 of 40 calls …` when the others did not come back.
        """
        model = visible_line(self.model)
        came_back = f"{self.done:,} of " if self.done < self.total else ""
        if self.recursive:
            parts = [f"{came_back}{_of_children(self.total)} of {model}"]
        else:
            parts = [f"{came_back}{plural(self.total, 'call')} to {model}"]
        counts = {"failed": self.failed, "cached": self.cached, "retried": self.retried}
        parts += [f"{count(number)} {name}" for name, number in counts.items() if number]
        if self.recursive:
            parts.append(plural(self.usage.calls, "call"))
        parts += [*_taken(self.usage, [self]), duration(now_s - self.started_s)]
        return " · ".join(parts)


class Batches:
    """The batches that run side by side; calls of one prompt are tallied, for each RLM apart."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._running: dict[int, Batch] = {}
        self._singles: dict[int, Batch] = {}

    def __bool__(self) -> bool:
        """Whether any runs."""
        return bool(self._running)

    def __getitem__(self, number: int) -> Batch | None:
        """A batch that runs; None when its number is not known."""
        return self._running.get(number)

    def start(self, event: SubCallsStarted, *, now_s: float) -> None:
        batch = Batch(event.total, event.model, now_s, event.estimate_usd, event.recursive, event.depth)
        if event.total == 1 and not event.recursive:
            fresh = Batch(0, event.model, now_s, event.estimate_usd, depth=event.depth)
            tally = self._singles.setdefault(event.child, fresh)
            tally.total += 1
        self._running[event.batch] = batch

    def update(self, event: SubCallsProgress, *, now_s: float) -> None:
        if batch := self._running.get(event.batch):
            batch.running, batch.retrying = event.running, event.retrying
            batch.retry_at_s = now_s + event.retry_in_s

    def add(self, event: SubCallFinished, *, now_s: float) -> None:
        batch = self._running.get(event.batch)
        if batch is None:
            return
        batch.add(event, now_s=now_s)
        if not batch.recursive:
            self._children.use(event.child, event.usage)
            # A call may come back when its cell is over, and told.
            if batch.total == 1 and (tally := self._singles.get(event.child)):
                tally.add(event, now_s=now_s)

    def end(self, number: int) -> Batch | None:
        """The batch as it ended; None when its number is not known."""
        batch = self._running.pop(number, None)
        if batch and batch.recursive:
            batch.usage = self._children.usage(number)
            self._children.end_all_of(number)
        return batch

    def take_singles(self, child: int) -> Batch | None:
        """The tally of an RLM's calls of one prompt, which begins anew; None when there were none."""
        return self._singles.pop(child, None)

    def waited(self, number: int, waited_s: float) -> None:
        """Leave out of a batch's time what it waited for an answer of the user."""
        if batch := self._running.get(number):
            batch.started_s += waited_s
            batch.back_at_s += waited_s

    def progress(self, now_s: float) -> str:
        """All that runs, added up; what matters most comes first, since a narrow terminal cuts at the right.

        `128/400 calls · 64 running · 3 retrying in 4s · 2 failed · 12 cached · 1.2M tok · $0.21 · ETA 28s`,
        and `3/12 children · 4 running · …` while child RLMs run: those that the least deep RLM asked for.
        """
        if parents := {number: batch for number, batch in self._running.items() if batch.recursive}:
            least = min(batch.depth for batch in parents.values())
            return self._of_parents(
                {number: batch for number, batch in parents.items() if batch.depth == least}, now_s
            )
        if batches := [batch for batch in self._running.values() if batch.total > 1]:
            return self._of_calls(batches, now_s)
        return self._of_singles(now_s)

    def _of_calls(self, batches: Sequence[Batch], now_s: float) -> str:
        done, total = _sums(batches)
        running = sum(batch.running for batch in batches)
        parts = [f"{done:,}/{total:,} calls"]
        parts += [f"{count(running)} running"] if running else []
        parts += [*_retrying(batches, now_s), *_failed_and_cached(batches)]
        if done:
            usage = sum((batch.usage for batch in batches), Usage())
            parts += [*_taken(usage, batches), *_eta(batches, now_s)]
        elif all(batch.estimate_usd is not None for batch in batches):
            parts.append(f"about {money(sum(batch.estimate_usd or 0.0 for batch in batches))}")
        return " · ".join(parts)

    def _of_parents(self, parents: dict[int, Batch], now_s: float) -> str:
        batches = list(parents.values())
        done, total = _sums(batches)
        usage = sum((self._children.usage(number) for number in parents), Usage())
        running = sum(self._children.running(number) for number in parents)
        parts = [f"{done:,}/{_of_children(total)}"]
        parts += [f"{count(running)} running"] if running else []
        below = [batch for batch in self._running.values() if not batch.recursive]
        parts += [*_retrying(below, now_s), *_failed_and_cached(batches)]
        if usage.calls:
            parts += [plural(usage.calls, "call"), total_tokens_text(usage), cost_text(usage)]
        return " · ".join([*parts, *_eta(batches, now_s)])

    def _of_singles(self, now_s: float) -> str:
        batches = list(self._running.values())
        tallies = list(self._singles.values())
        usage = sum((tally.usage for tally in tallies), Usage())
        running = sum(batch.running for batch in batches)
        parts = [plural(sum(tally.done for tally in tallies), "call")]
        parts += [f"{count(running)} running"] if running > 1 else []
        parts += [*_retrying(batches, now_s), *_failed_and_cached(tallies)]
        return " · ".join([*parts, *_taken(usage, tallies)])


def _of_children(number: int) -> str:
    return f"{number:,} child" if number == 1 else f"{number:,} children"


def _sums(batches: Sequence[Batch]) -> tuple[int, int]:
    return sum(batch.done for batch in batches), sum(batch.total for batch in batches)


def _taken(usage: Usage, batches: Sequence[Batch]) -> list[str]:
    """Tokens and cost; nothing while no call was made and a model has no known price."""
    if not usage.calls and any(batch.estimate_usd is None for batch in batches):
        return []
    return [total_tokens_text(usage), cost_text(usage)]


def _retrying(batches: Sequence[Batch], now_s: float) -> list[str]:
    waiting = [batch for batch in batches if batch.retrying]
    if not waiting:
        return []
    soonest_s = min(batch.retry_at_s for batch in waiting) - now_s
    return [f"{count(sum(batch.retrying for batch in waiting))} retrying in {wait(soonest_s)}"]


def _failed_and_cached(batches: Sequence[Batch]) -> list[str]:
    counts = {
        "failed": sum(batch.failed for batch in batches),
        "cached": sum(batch.cached for batch in batches),
    }
    return [f"{count(number)} {name}" for name, number in counts.items() if number]


def _eta(batches: Sequence[Batch], now_s: float) -> list[str]:
    """By the rate at which those came back that were sent: cached ones say nothing about the time."""
    done, total = _sums(batches)
    sent = done - sum(batch.cached for batch in batches)
    if not sent or done >= total:
        return []
    back_at_s = max(batch.back_at_s for batch in batches)
    elapsed_s = back_at_s - min(batch.started_s for batch in batches)
    return [f"ETA {wait(elapsed_s / sent * (total - done) - (now_s - back_at_s))}"]
