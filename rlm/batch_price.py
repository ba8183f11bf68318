"""What a batch of sub-calls is expected to take, beside what is left: for the user to see before it is sent.

An estimate: prompts are counted, and replies taken to be as long as those of the question so far. It
reserves nothing and refuses nothing.
"""

from collections.abc import Sequence

from rlm.calls import SUB_OUTPUT_TOKENS, Call
from rlm.events import BatchPrice, Usage
from rlm.ledger import Ledger
from rlm.models import Model

GUESSED_REPLY_TOKENS = 400
CALLS_TO_MEASURE = 3
"""From so many calls of a model on, its replies are not guessed but measured."""
GUESSED_CHILD = Usage(calls=4, input_tokens=16_000, output_tokens=2_000)
"""What a child RLM takes, until one has come back."""


def price_of(calls: Sequence[Call], *, cached: int, model: Model, ledger: Ledger) -> BatchPrice:
    """The price of `calls` to `model`, none of them answered already; `cached` others are."""
    made = ledger.usage_of(model.name)
    measured = made.sub_calls >= CALLS_TO_MEASURE
    reply_tokens = made.output_tokens / made.sub_calls if measured else GUESSED_REPLY_TOKENS
    reply_tokens = min(reply_tokens, SUB_OUTPUT_TOKENS)
    input_tokens = sum(call.input_tokens for call in calls)
    output_tokens = round(len(calls) * reply_tokens)
    price = model.price
    cost_usd = None
    if price:
        # Each by itself: a long call may be charged at another price, and a batch is not one call.
        each = round(reply_tokens)
        cost_usd = sum(price.cost_usd(input_tokens=call.input_tokens, output_tokens=each) for call in calls)
    return _beside_what_is_left(
        len(calls),
        cached=cached,
        model=model,
        ledger=ledger,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=cost_usd,
        measured=measured,
    )


def price_of_children(count: int, *, model: Model, ledger: Ledger, taken: Usage, finished: int) -> BatchPrice:
    """The price of `count` child RLMs, when `finished` ones have `taken` so much together."""
    each, of = (taken, finished) if finished else (GUESSED_CHILD, 1)
    cost_usd: float | None = None
    if finished and taken.cost_usd is not None:
        cost_usd = taken.cost_usd * count / finished
    elif model.price and not finished:
        # By step, since each is a call of its own.
        step_usd = model.price.cost_usd(
            input_tokens=each.input_tokens // each.calls, output_tokens=each.output_tokens // each.calls
        )
        cost_usd = step_usd * each.calls * count
    return _beside_what_is_left(
        count,
        cached=0,
        model=model,
        ledger=ledger,
        input_tokens=each.input_tokens * count // of,
        output_tokens=each.output_tokens * count // of,
        cost_usd=cost_usd,
        measured=bool(finished),
        calls_each=max(1, each.calls) / of,
    )


def _beside_what_is_left(
    count: int,
    *,
    cached: int,
    model: Model,
    ledger: Ledger,
    input_tokens: int,
    output_tokens: int,
    cost_usd: float | None,
    measured: bool,
    calls_each: float = 1.0,
) -> BatchPrice:
    left_usd, left_tokens = ledger.remaining_usd(), ledger.remaining_tokens(priced=model.price is not None)
    shares = [1.0]
    if cost_usd and left_usd is not None:
        shares.append(left_usd / cost_usd)
    if left_tokens is not None and (tokens := input_tokens + output_tokens):
        shares.append(left_tokens / tokens)
    if (left_calls := ledger.remaining_sub_calls()) is not None and count:
        shares.append(left_calls / (count * calls_each))
    affordable = int(count * min(shares) + 1e-9)
    return BatchPrice(
        calls=count,
        cached=cached,
        model=model.name,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=cost_usd,
        left_usd=left_usd,
        left_tokens=left_tokens,
        affordable=affordable,
        measured=measured,
    )


def refusal(price: BatchPrice, *, left_calls: int | None, children: bool = False) -> str:
    """Why a batch that does not fit is not sent, for the model to plan a smaller one."""
    what = "child RLMs by" if children else "calls to"
    wants = f"This batch of {price.calls:,} {what} {price.model} was not sent: it"
    if left_calls is not None and price.affordable == left_calls < price.calls:
        return f"{wants} is too long. {left_calls:,} sub-calls are left to this question. Plan fewer calls."
    tokens = price.input_tokens + price.output_tokens
    if price.left_tokens is not None and tokens > price.left_tokens:
        cost, left = f"take about {tokens:,} tokens", f"{price.left_tokens:,}"
    elif price.left_usd is not None and (price.cost_usd or 0.0) > price.left_usd:
        cost, left = f"cost about {_usd(price.cost_usd or 0.0)}", _usd(price.left_usd)
    else:
        cost, left = "take several sub-calls each", f"room for {left_calls:,}"
    return (
        f"{wants} would {cost}, and {left} is left: enough for about {price.affordable:,} of them. "
        "Plan fewer or shorter calls: filter in Python first, or read a sample."
    )


def _usd(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.1 else f"${amount:.4f}"
