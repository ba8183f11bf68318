"""What a question may take: its own limits, and what earlier questions left of those of the session.

It counts nothing itself: `rlm.ledger` does, and `rlm.engine` keeps the time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from rlm import root_calls
from rlm.engine import Bounds
from rlm.errors import NoAnswer
from rlm.ledger import ANOTHER_SESSION, Caps, Ledger
from rlm.models import ChatMessage, Model
from rlm.records import SessionView
from rlm.settings import Limits
from rlm.spend import spent_usd


def ledger_for(limits: Limits, view: SessionView) -> Ledger:
    """The ledger of the next question of a session."""
    return Ledger(
        Caps(cost_usd=limits.max_cost_usd, tokens=limits.max_tokens, sub_calls=limits.max_sub_calls),
        Caps(
            cost_usd=limits.session_cost_usd,
            tokens=limits.session_tokens,
            sub_calls=limits.session_sub_calls,
        ),
        before=replace(view.usage, cost_usd=spent_usd(view)),
    )


def bounds_for(limits: Limits, view: SessionView) -> Bounds:
    """Steps and time of the next question. Raises `NoAnswer` when the session has no time left."""
    bounds = Bounds(max_steps=limits.max_steps, timeout_s=limits.timeout_s)
    if limits.session_timeout_s is None:
        return bounds
    left_s = limits.session_timeout_s - view.seconds
    if left_s <= 0:
        raise NoAnswer(
            "The time of this session is used up.",
            f"Its questions have taken the {limits.session_timeout_s:,.0f} s that they may.",
            hint=f"Raise limits.session_timeout_s, {ANOTHER_SESSION}",
        )
    return replace(bounds, timeout_s=left_s, of_session=True) if left_s < bounds.timeout_s else bounds


async def require_first_reply(
    limits: Limits, root: Model, question: str, ledger: Ledger, *, beginning: Callable[[], list[ChatMessage]]
) -> None:
    """Refuse a question when the session cannot even pay a first reply to it. Raises `BudgetReached`.

    `beginning` gives the messages that go before the question; it is called only where there is a cap.
    """
    if limits.session_cost_usd is None and limits.session_tokens is None:
        return
    await asyncio.to_thread(lambda: root.price)  # the first look at it waits for litellm
    messages = [*beginning(), ChatMessage(role="user", content=question)]
    reservation, _ = root_calls.reserve(root, messages, ledger)
    ledger.release(reservation)
