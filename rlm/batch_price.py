"""What a batch of sub-calls is expected to take, beside what is left: for the user to see before it is sent.

An estimate: prompts are counted, and replies taken to be as long as those of the question so far. It
reserves nothing and refuses nothing.
"""

from collections.abc import Sequence

from rlm.calls import SUB_OUTPUT_TOKENS, Call
from rlm.events import BatchPrice
from rlm.ledger import Ledger
from rlm.models import Model

GUESSED_REPLY_TOKENS = 400
CALLS_TO_MEASURE = 3
"""From so many calls of a model on, its replies are not guessed but measured."""


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
        cost_usd = price.cost_usd(input_tokens=input_tokens, output_tokens=output_tokens)
    left_usd, left_tokens = ledger.remaining_usd(), ledger.remaining_tokens(priced=price is not None)
    shares = [1.0]
    if cost_usd and left_usd is not None:
        shares.append(left_usd / cost_usd)
    if left_tokens is not None and (tokens := input_tokens + output_tokens):
        shares.append(left_tokens / tokens)
    affordable = int(len(calls) * min(shares) + 1e-9)
    if (left_calls := ledger.remaining_sub_calls()) is not None:
        affordable = min(affordable, left_calls)
    return BatchPrice(
        calls=len(calls),
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


def refusal(price: BatchPrice, *, left_calls: int | None) -> str:
    """Why a batch that does not fit is not sent, for the model to plan a smaller one."""
    wants = f"This batch of {price.calls:,} calls to {price.model} was not sent: it"
    if left_calls is not None and price.calls > left_calls:
        return f"{wants} is too long. {left_calls:,} sub-calls are left to this question. Plan fewer calls."
    tokens = price.input_tokens + price.output_tokens
    if price.left_tokens is not None and tokens > price.left_tokens:
        cost, left = f"take about {tokens:,} tokens", f"{price.left_tokens:,}"
    else:
        cost, left = f"cost about {_usd(price.cost_usd or 0.0)}", _usd(price.left_usd or 0.0)
    return (
        f"{wants} would {cost}, and {left} is left: enough for about {price.affordable:,} of these calls. "
        "Plan fewer or shorter calls: filter in Python first, or read a sample."
    )


def _usd(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.1 else f"${amount:.4f}"
