"""What the questions of a session have taken so far, beside the caps of the session.

Sums of what is on record. It refuses nothing: that is done by `rlm.ledger`, and by `rlm.caps` for time.
"""

from rlm.records import SessionView
from rlm.settings import Limits


def spent_usd(view: SessionView) -> float:
    """In US dollars, of the models whose cost is known."""
    return sum(usage.cost_usd or 0.0 for usage in view.by_model.values())


def beside_caps(limits: Limits, view: SessionView) -> list[tuple[str, float, float]]:
    """(name of the setting, spent, cap) for each cap of the session that is set."""
    rows = [
        ("session_cost_usd", spent_usd(view), limits.session_cost_usd),
        ("session_tokens", view.usage.input_tokens + view.usage.output_tokens, limits.session_tokens),
        ("session_sub_calls", view.usage.sub_calls, limits.session_sub_calls),
        ("session_timeout_s", view.seconds, limits.session_timeout_s),
    ]
    return [(name, spent, cap) for name, spent, cap in rows if cap is not None]
