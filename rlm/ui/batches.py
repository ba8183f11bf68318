"""Sub-calls under way: what came back, what it cost, and how that reads in a line.

Takes the events of sub-calls and gives text. It draws nothing, and the time is handed in: `now_s` is that
of the console's clock.
"""

from dataclasses import dataclass, field

from rlm.events import SubCallFinished, SubCallsStarted, Usage
from rlm.ui.numbers import cost_text, count, duration, money, plural
from rlm.ui.sanitise import visible_line


@dataclass(slots=True)
class Batch:
    """Sub-calls under way, or a tally of single ones."""

    total: int
    model: str
    started_s: float
    estimate_usd: float | None = None
    done: int = 0
    cached: int = 0
    failed: int = 0
    first_error: str = ""
    usage: Usage = field(default_factory=Usage)

    def add(self, event: SubCallFinished) -> None:
        self.done += 1
        self.usage += event.usage
        self.cached += event.cached
        if event.error:
            self.failed += 1
            self.first_error = self.first_error or event.error

    def summary(self, now_s: float) -> str:
        """`40 calls to gpt-5-mini · 12 cached · 2 failed · 210k tok · $0.09 · 12s`."""
        parts = [f"{plural(self.total, 'call')} to {visible_line(self.model)}"]
        if self.cached:
            parts.append(f"{count(self.cached)} cached")
        if self.failed:
            parts.append(f"{self.failed} failed")
        parts += [_tokens_text(self.usage), cost_text(self.usage), duration(now_s - self.started_s)]
        return " · ".join(parts)


class Batches:
    """The batches that run side by side; `singles` is the tally of a cell's calls of one prompt."""

    def __init__(self) -> None:
        self._running: dict[int, Batch] = {}
        self.singles: Batch | None = None

    def __bool__(self) -> bool:
        """Whether any runs."""
        return bool(self._running)

    def start(self, event: SubCallsStarted, *, now_s: float) -> None:
        if event.total == 1:
            self.singles = self.singles or Batch(0, event.model, now_s)
            self.singles.total += 1
        self._running[event.batch] = Batch(event.total, event.model, now_s, event.estimate_usd)

    def add(self, event: SubCallFinished) -> bool:
        """Count one that came back; False when its batch is not known."""
        batch = self._running.get(event.batch)
        if batch is None:
            return False
        batch.add(event)
        if batch.total == 1 and self.singles:
            self.singles.add(event)
        return True

    def end(self, batch: int) -> Batch | None:
        return self._running.pop(batch, None)

    def progress(self, now_s: float) -> str:
        """`12/40 calls · 63k tok · $0.03 · ETA 28s`, or the tally when only single calls run."""
        batches = [batch for batch in self._running.values() if batch.total > 1]
        if not batches and self.singles:
            done, usage = self.singles.done, self.singles.usage
            return f"{plural(done, 'call')} · {_tokens_text(usage)} · {cost_text(usage)}"
        done, total = sum(batch.done for batch in batches), sum(batch.total for batch in batches)
        cached = sum(batch.cached for batch in batches)
        parts = [f"{done}/{total} calls"]
        if cached:
            parts.append(f"{count(cached)} cached")
        if failed := sum(batch.failed for batch in batches):
            parts.append(f"{failed} failed")
        if done:
            usage = sum((batch.usage for batch in batches), Usage())
            elapsed_s = now_s - min(batch.started_s for batch in batches)
            parts += [_tokens_text(usage), cost_text(usage)]
            if sent := done - cached:  # those that were not sent say nothing about the time
                parts.append(f"ETA {duration(max(1, round(elapsed_s / sent * (total - done))))}")
        elif all(batch.estimate_usd is not None for batch in batches):
            parts.append(f"about {money(sum(batch.estimate_usd or 0.0 for batch in batches))}")
        return " · ".join(parts)


def _tokens_text(usage: Usage) -> str:
    return f"{count(usage.input_tokens + usage.output_tokens)} tok"
