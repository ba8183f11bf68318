"""What the root model is told between its replies: a cell's output, or what was wrong with a reply.

It decides nothing: what counts as an answer, and when a turn ends, is the engine's business.
"""

from rlm import prompts
from rlm.box.results import CellResult
from rlm.ledger import Ledger
from rlm.models import Model, ReplyStream
from rlm.parse import Reply

SHOWN_CHARS = 21_000
"""What a cell's output may add to the conversation; the sandbox cuts to 20,000 and a note already."""


def output(
    result: CellResult, *, note: str, step: int, max_steps: int, root: Model, ledger: Ledger, refused: int
) -> str:
    """How a cell ended and what it printed. `refused` of its sub-calls did not fit the budget."""
    return prompts.fill(
        "output",
        cell=result.number,
        step=step,
        status=note,
        seconds=f"{result.duration_s:.1f}",
        max_steps=max_steps,
        left=_left(root, ledger),
        refused=f" {refused:,} of its sub-calls did not fit the budget and were not sent." if refused else "",
        output=result.shown[:SHOWN_CHARS] or "(no output)",
    )


def cut_off(reply: Reply, stream: ReplyStream) -> str:
    """For a reply that ended at its length limit, inside a block or before one ended."""
    where = "before a repl block ended" if reply.code is None else "inside the block"
    return prompts.fill("cut", where=where, tokens=_tokens(stream))


def without_block(reply: Reply, stream: ReplyStream) -> str:
    """For a reply without a block: it was cut off, or empty, or prose."""
    if reply.prose:
        return cut_off(reply, stream) if stream.finish_reason == "length" else prompts.fill("reminder")
    if stream.finish_reason == "length":
        spent = "in your thinking" if stream.reasoning else "before you said anything"
        return prompts.fill("empty", why=f": its limit of {_tokens(stream)} tokens was used up {spent}")
    return prompts.fill("empty", why=": all of it was thinking" if stream.reasoning else "")


def _left(root: Model, ledger: Ledger) -> str:
    priced = root.price is not None
    left_usd = ledger.remaining_usd() if priced else None
    left_tokens = ledger.remaining_tokens(priced=priced)
    left = [f"${left_usd:.2f}"] if left_usd is not None else []
    left += [f"{left_tokens:,} tokens"] if left_tokens is not None else []
    return f", {' and '.join(left)} left" if left else ""


def _tokens(stream: ReplyStream) -> str:
    return f"{'about ' if stream.usage.estimated else ''}{stream.usage.output_tokens:,}"
