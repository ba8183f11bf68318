"""What one RLM of a question takes: a view of the ledger that all of them share.

Every call still reserves and settles there, so that no child RLM can lift a cap; here it is added up besides.
It has no caps of its own.
"""

from rlm.errors import BudgetReached
from rlm.events import Usage
from rlm.ledger import Ledger, Price, Reservation


class Tally(Ledger):
    """In front of `shared`, which may be a `Tally` itself: that of the RLM which asked.

    What is left is what is left of `shared`, but for what that keeps for its own last answer; what was taken,
    refused and is under way is what went through here.
    """

    def __init__(self, shared: Ledger) -> None:
        super().__init__()
        self.max_cost_usd = shared.max_cost_usd
        self._shared = shared

    def reserve(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int,
        price: Price | None,
        sub_call: bool = False,
        final: bool = False,
    ) -> Reservation:
        try:
            reservation = self._shared.reserve(
                model,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                price=price,
                sub_call=True,  # what a child says itself is one, too
            )
        except BudgetReached:
            self.refused += sub_call
            raise
        self._open.add(reservation)
        return reservation

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        self._shared.settle(reservation, usage)
        super().settle(reservation, usage)

    def release(self, reservation: Reservation) -> None:
        self._shared.release(reservation)
        super().release(reservation)

    def usage_of(self, model: str) -> Usage:
        return self._shared.usage_of(model)

    @property
    def any_under_way(self) -> bool:
        return self._shared.any_under_way

    def remaining_usd(self, *, final: bool = False) -> float | None:
        return self._shared.remaining_usd()

    def remaining_tokens(self, *, final: bool = False, priced: bool = False) -> int | None:
        return self._shared.remaining_tokens(priced=priced)

    def remaining_sub_calls(self) -> int | None:
        return self._shared.remaining_sub_calls()

    def affordable_output_tokens(
        self, limit: int, *, input_tokens: int, price: Price | None, final: bool = False
    ) -> int:
        return self._shared.affordable_output_tokens(limit, input_tokens=input_tokens, price=price)
