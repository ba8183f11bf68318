"""What one call used and cost: the provider's own numbers where there are any, an estimate elsewhere.

It sums nothing up and bounds nothing: that is `rlm.ledger`'s business.
"""

from dataclasses import replace
from typing import Any

from rlm.events import Usage
from rlm.ledger import Price


def text_tokens(text: str) -> int:
    """A quick guess: a token for four bytes of UTF-8."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def reported(usage: Any, price: Price | None, *, charged_usd: float | None) -> Usage:
    """`usage` as litellm has it; `charged_usd` is the cost that came with it and goes before `price`."""
    return _usage(usage.prompt_tokens, usage.completion_tokens or 0, _cached(usage), price, charged_usd)


def estimated(input_tokens: int, reply: str, *, price: Price | None, seen: Any = None) -> Usage:
    """`seen` is usage that the provider sent on the way: its input is final, its output is not."""
    output_tokens = max(text_tokens(reply), getattr(seen, "completion_tokens", None) or 0)
    return replace(_usage(input_tokens, output_tokens, _cached(seen), price, None), estimated=True)


def _cached(usage: Any) -> int:
    details = getattr(usage, "prompt_tokens_details", None)
    return getattr(details, "cached_tokens", None) or 0


def _usage(
    input_tokens: int, output_tokens: int, cached_tokens: int, price: Price | None, charged_usd: float | None
) -> Usage:
    cost_usd = charged_usd
    if cost_usd is None and price is not None:
        cost_usd = price.cost_usd(
            input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens
        )
    return Usage(
        calls=1,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        cost_usd=cost_usd,
    )
