"""What one call used and cost, and how it ended: the provider's own numbers, or else an estimate.

It sums nothing up and bounds nothing: that is `rlm.ledger`'s business.
"""

import re
from dataclasses import replace
from typing import Any

from rlm.events import Usage
from rlm.ledger import Price

_CUT = re.compile(r"length|(max|limit).*token|token.*limit", re.IGNORECASE)


def text_tokens(text: str) -> int:
    """A quick guess: a token for four bytes of UTF-8."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def reported(usage: Any, price: Price | None, *, charged_usd: float | None) -> Usage:
    """`usage` as litellm has it; `charged_usd` is the cost that came with it and goes before `price`."""
    return _usage(usage.prompt_tokens, usage.completion_tokens or 0, usage, price, charged_usd)


def estimated(input_tokens: int, reply: str, *, price: Price | None, seen: Any = None) -> Usage:
    """`seen` is usage that the provider sent on the way: its input is final, its output is not."""
    output_tokens = max(text_tokens(reply), getattr(seen, "completion_tokens", None) or 0)
    return replace(_usage(input_tokens, output_tokens, seen, price, None), estimated=True)


def finish_reason(said: str, *, native: str, output_tokens: int, limit: int | None) -> str:
    """`length` for a reply that ended at its limit, else what litellm `said`: `stop`, `content_filter`, ….

    litellm calls every word that it does not know `stop`, so the provider's `native` word is looked at too,
    and then whether the reply took all the tokens of its `limit`.
    """
    cut = _CUT.search(f"{said} {native}") or (said == "stop" and limit is not None and output_tokens >= limit)
    return "length" if cut else said


def _usage(
    input_tokens: int, output_tokens: int, seen: Any, price: Price | None, charged_usd: float | None
) -> Usage:
    details = getattr(seen, "prompt_tokens_details", None)
    cached_tokens = getattr(details, "cached_tokens", None) or 0
    cache_write_tokens = getattr(details, "cache_write_tokens", None) or 0
    cost_usd = charged_usd
    if cost_usd is None and price is not None:
        cost_usd = price.cost_usd(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_tokens=cached_tokens,
            cache_write_tokens=cache_write_tokens,
        )
    return Usage(
        calls=1,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        cache_write_tokens=cache_write_tokens,
        cost_usd=cost_usd,
    )
