"""What litellm's map of models says: which there are, and what they cost in `rlm.ledger`'s terms.

The map, or an entry of it, is handed in by `rlm.models`. Nothing is loaded, and no cost is summed up here.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlm.ledger import TOKENS_PER_PRICE, Price
from rlm.providers import LOCAL


def chat_models(model_map: Mapping[str, Any]) -> list[str]:
    """Names of the models that one can talk to, sorted."""
    return sorted(name for name, entry in model_map.items() if entry.get("mode") in ("chat", "responses"))


def near_names(model: str, model_map: Mapping[str, Any]) -> list[str]:
    """Up to three of those whose names look like this one."""
    return difflib.get_close_matches(model, chat_models(model_map), n=3, cutoff=0.6)


def map_price(entry: Mapping[str, Any], *, provider: str) -> Price | None:
    """The price of an entry. Zero means free for what runs locally, unknown for anything else."""
    if tiers := entry.get("tiered_pricing"):
        return _table_price(tiers)
    if "input_cost_per_token" not in entry or "output_cost_per_token" not in entry:
        return None
    beyond = None
    for key in entry:
        if (tier := re.fullmatch(r"input_cost_per_token(_above_(\d+)k_tokens)", key)) and beyond is None:
            beyond = (int(tier[2]) * 1000, _tier_price(entry, tier[1], beyond=None))
    price = _tier_price(entry, "", beyond=beyond)
    free = not price.input_per_mtok and not price.output_per_mtok
    return None if free and provider not in LOCAL else price


def _table_price(tiers: Sequence[Mapping[str, Any]]) -> Price | None:
    """The price of a table: each row is for prompts of a `range` of tokens, and holds for all of the call."""
    price: Price | None = None
    start = 0
    for tier in sorted(tiers, key=lambda tier: float(tier["range"][0]), reverse=True):
        price = _tier_price(tier, "", beyond=(start, price) if price else None)
        start = int(tier["range"][0])
    return price


def _tier_price(entry: Mapping[str, Any], suffix: str, *, beyond: tuple[int, Price] | None) -> Price:
    def per_mtok(key: str) -> float | None:
        value = entry.get(key + suffix, entry.get(key))
        return None if value is None else float(value) * TOKENS_PER_PRICE

    return Price(
        input_per_mtok=per_mtok("input_cost_per_token") or 0.0,
        output_per_mtok=per_mtok("output_cost_per_token") or 0.0,
        cached_per_mtok=per_mtok("cache_read_input_token_cost"),
        cache_write_per_mtok=per_mtok("cache_creation_input_token_cost"),
        beyond=beyond,
    )
