"""What a turn asks its user: how the questions read, what can be answered, and what an answer means.

They are asked before a dear batch, when code wants to read a path, and after Ctrl-C. Text in, text out:
nothing is drawn or read here, and whoever holds the keyboard asks.
"""

from collections.abc import Iterator
from typing import Literal

from rlm.events import AskBatch, BatchChoice, BatchPrice, Resume
from rlm.ui.batches import Batch
from rlm.ui.numbers import count, money, price_each, total_tokens_text
from rlm.ui.sanitise import visible_line

Agreement = Literal["once", "folder", "no"]
"""To the path that was asked for, to all that is in its folder, or to nothing."""

RESUME_CHOICES = "[a]nswer now, [c]ontinue, [s]top, or type a hint for the model; Ctrl-C again abandons"
RESUME_PROMPT = "> "

SAMPLE_CALLS = 10
"""How many calls a sample is, unless a number is typed."""


def price_lines(event: AskBatch, batch: Batch | None) -> Iterator[str]:
    """What the user should know before the answer. `batch` is how far it has come, None when unknown.

    `900 calls to gpt-5-mini · about 12M tokens · about $3.10 (310% of the $1.00 left; 288 calls fit) · 40
    already answered`, and after a sample a line before it that says what those calls cost.
    """
    if event.sampled and batch:
        yield _sample_line(event.sampled, batch)
    price = event.price
    tokens = price.input_tokens + price.output_tokens
    more = "more " if event.sampled else ""
    parts = [f"{price.calls:,} {more}call{'s' * (price.calls != 1)} to {visible_line(price.model)}"]
    parts.append(f"about {count(tokens)} tokens")
    if price.cost_usd is None:
        parts.append(f"{money(None)}, its price is not known")
    else:
        parts.append(f"about {money(price.cost_usd)}")
    notes = []
    if price.cost_usd is not None and price.left_usd is not None:
        notes.append(_share(price.cost_usd, price.left_usd, money(price.left_usd)))
    elif price.left_tokens is not None:
        notes.append(_share(tokens, price.left_tokens, f"{count(price.left_tokens)} tokens"))
    if price.affordable < price.calls:
        notes.append(f"{price.affordable:,} call{' fits' if price.affordable == 1 else 's fit'}")
    if notes:
        parts[-1] += f" ({'; '.join(notes)})"
    if price.cached:
        parts.append(f"{price.cached:,} already answered")
    yield " · ".join(parts)


def prompt(price: BatchPrice) -> str:
    """The line that waits for an answer."""
    sample = _sample_size(price)
    choices = ["[r]un", *([f"[s]ample {sample}"] if sample else []), "[c]ancel"]
    return f"{'  '.join(choices)}? (Enter cancels) "


def choices_text(price: BatchPrice) -> str:
    """What to type, for somebody who typed something else."""
    if not _sample_size(price):
        return "Type r to run it, or c to cancel it."
    return "Type r to run all of it, s or a number to send so many first, or c to cancel it."


def choice(text: str, price: BatchPrice) -> BatchChoice | None:
    """What was typed means this; None when it means nothing. An empty line spends nothing: it cancels."""
    calls = 0
    match text.lower().split():
        case [] | ["c" | "cancel"]:
            return BatchChoice(kind="cancel")
        case ["r" | "run"]:
            return BatchChoice(kind="run")
        case ["s" | "sample"]:
            calls = _sample_size(price)
        case ["s" | "sample", number] | [number] if number.isascii() and number.isdecimal():
            calls = int(number[:9])
    if not calls:
        return None
    return BatchChoice(kind="sample", calls=calls) if calls < price.calls else BatchChoice(kind="run")


def consent_prompt(folder: str) -> str:
    """The line that waits for a consent. Without a `folder` only the path itself can be agreed to."""
    whole = f"yes for this [f]older ({visible_line(folder)}), " if folder else ""
    return f"May it? [y]es once, {whole}[n]o (Enter: no) "


def consent_choices_text(folder: str) -> str:
    """What to type, for somebody who typed something else."""
    return "Type y, f or n." if folder else "Type y or n."


def agreement(text: str, folder: str) -> Agreement | None:
    """What was typed means this; None when it means nothing. An empty line is a no."""
    match text.strip().lower():
        case "" | "n" | "no":
            return "no"
        case "y" | "yes" | "once":
            return "once"
        case "f" | "folder" if folder:
            return "folder"
    return None


def resume(text: str) -> Resume | None:
    """What was typed after Ctrl-C means this: whatever is no choice is a hint, as is `//x`, for `/x`.

    None for an empty line, and for a command of the chat.
    """
    text = text.strip()
    if not text or (text.startswith("/") and not text.startswith("//")):
        return None
    match text.lower():
        case "a" | "answer" | "answer now":
            return Resume(kind="answer")
        case "c" | "continue":
            return Resume(kind="continue")
        case "s" | "stop" | "n" | "no" | "q" | "quit":
            return Resume(kind="stop")
    return Resume(kind="continue", hint=text.removeprefix("/"))


def _sample_size(price: BatchPrice) -> int:
    """0 where nothing would be left after a sample."""
    return min(SAMPLE_CALLS, price.calls - 1)


def _sample_line(sampled: int, batch: Batch) -> str:
    parts = [f"sample of {count(sampled)}"]
    if sent := batch.usage.calls:
        cost = batch.usage.cost_usd
        about = "~" if batch.usage.estimated and cost is not None else ""
        each = None if cost is None else cost / sent
        parts[0] += f": {about}{price_each(each)} each on average"
        parts.append(total_tokens_text(batch.usage))
    parts += [f"{count(batch.failed)} failed"] if batch.failed else []
    parts += [f"{count(batch.cached)} cached"] if batch.cached else []
    return " · ".join(parts)


def _share(amount: float, left: float, left_text: str) -> str:
    if left <= 0:
        return f"{left_text} is left"
    return f"{max(1, round(100 * amount / left)):,}% of the {left_text} left"
