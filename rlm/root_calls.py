"""What a call of the root model may take: how long its reply, and for the last one how much goes with it.

It sends nothing. What was reserved here is settled or released by whoever makes the call.
"""

from collections.abc import Sequence

from rlm.ledger import Ledger, Reservation
from rlm.models import ChatMessage, Model, estimate_tokens

ROOT_OUTPUT_TOKENS = 16_384
LEAST_OUTPUT_TOKENS = 256


def reserve(
    root: Model, messages: Sequence[ChatMessage], ledger: Ledger, *, final: bool = False
) -> tuple[Reservation, int]:
    """Money for a call, and how long its reply may be, in tokens. Raises `BudgetReached`."""
    input_tokens = estimate_tokens(messages)
    limit = ledger.affordable_output_tokens(
        min(ROOT_OUTPUT_TOKENS, root.max_output_tokens or ROOT_OUTPUT_TOKENS),
        input_tokens=input_tokens,
        price=root.price,
        final=final,
    )
    limit = max(limit, LEAST_OUTPUT_TOKENS)
    reservation = ledger.reserve(
        root.name, input_tokens=input_tokens, output_tokens=limit, price=root.price, final=final
    )
    return reservation, limit


def what_can_be_paid(
    root: Model, messages: list[ChatMessage], ledger: Ledger, *, opening: int
) -> list[ChatMessage]:
    """The conversation to send for the last answer.

    When the whole of it is too dear: the system prompt, the question (number `opening`), and as many of the
    newest messages as can be paid. With none that can, all of it.
    """
    head, rest = [messages[0], messages[opening]], messages[opening + 1 :]
    shorter = ([*head, *rest[start:]] for start in range(len(rest)))
    return next((part for part in (messages, *shorter) if _affordable(root, part, ledger)), messages)


def _affordable(root: Model, messages: Sequence[ChatMessage], ledger: Ledger) -> bool:
    affordable = ledger.affordable_output_tokens(
        LEAST_OUTPUT_TOKENS, input_tokens=estimate_tokens(messages), price=root.price, final=True
    )
    return affordable >= LEAST_OUTPUT_TOKENS
