"""What a question may cost, and what it has: every model call reserves here before it is sent.

    reservation = ledger.reserve("gpt-5", input_tokens=900, output_tokens=4000, price=price)
    ...                                         # the call
    ledger.settle(reservation, usage)           # or ledger.release(reservation), when nothing was sent

One `Ledger` serves all depths of one question, so parallel calls cannot all pass a check made a cent below
the cap. It does not count tokens or look up prices (`rlm.models` does), and knows nothing of sessions. It
is used from one event loop and never waits; no thread may share it.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from rlm.errors import BudgetReached
from rlm.events import Usage

TOKENS_PER_PRICE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD for a million tokens. Cached input costs as much as other input when its price is not known.

    `beyond` is (tokens, price): a call with more input than that is charged as a whole at that price.
    """

    input_per_mtok: float
    output_per_mtok: float
    cached_per_mtok: float | None = None
    beyond: "tuple[int, Price] | None" = None

    def cost_usd(self, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float:
        """What one call costs. `cached_tokens` are a part of `input_tokens`."""
        if self.beyond and input_tokens > self.beyond[0]:
            return self.beyond[1].cost_usd(
                input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens
            )
        cached_price = self.input_per_mtok if self.cached_per_mtok is None else self.cached_per_mtok
        cached_tokens = min(cached_tokens, input_tokens)
        return (
            (input_tokens - cached_tokens) * self.input_per_mtok
            + cached_tokens * cached_price
            + output_tokens * self.output_per_mtok
        ) / TOKENS_PER_PRICE


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reservation:
    """What one call may take at most. `cost_usd` is None when its model has no price."""

    model: str
    tokens: int
    cost_usd: float | None
    sub_call: bool


class Ledger:
    """Caps and totals of one question.

    `max_cost_usd` caps priced calls; `max_tokens` caps the tokens, in and out, of all unpriced calls
    together; `max_sub_calls` the number of sub-calls. None means no cap. Of the first two, the share
    `final_reserve` is kept for the call that asks for a last answer (`final=True`).
    """

    def __init__(
        self,
        *,
        max_cost_usd: float | None = None,
        max_tokens: int | None = None,
        max_sub_calls: int | None = None,
        final_reserve: float = 0.1,
    ) -> None:
        self.max_cost_usd = max_cost_usd
        self.max_tokens = max_tokens
        self.max_sub_calls = max_sub_calls
        self._final_reserve = final_reserve
        self._open: set[Reservation] = set()
        self._spent: defaultdict[str, Usage] = defaultdict(Usage)
        self._spent_usd = 0.0
        self._unpriced_tokens = 0

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
        """Set aside what a call may take at most: its input as estimated, its output limit.

        Raises `BudgetReached`, and sets nothing aside, when it does not fit what is left.
        """
        tokens = input_tokens + output_tokens
        cost_usd = None
        if price is not None:
            cost_usd = price.cost_usd(input_tokens=input_tokens, output_tokens=output_tokens)
            self._refuse_unless_affordable(cost_usd, final=final)
        elif (tokens_left := self.remaining_tokens(final=final)) is not None and tokens > tokens_left:
            raise BudgetReached(
                "The token budget of this question does not allow this call.",
                f"{model} has no known price, the call may take {tokens:,} tokens, "
                f"and {tokens_left:,} of {self.max_tokens:,} are left.",
                hint="Give the model a price in config.json, or raise limits.max_tokens.",
            )
        if sub_call and self.remaining_sub_calls() == 0:
            raise BudgetReached(
                "This question may make no more sub-calls.",
                f"All {self.max_sub_calls:,} are used.",
                hint="Answer from what is known, or raise limits.max_sub_calls.",
            )
        reservation = Reservation(model=model, tokens=tokens, cost_usd=cost_usd, sub_call=sub_call)
        self._open.add(reservation)
        return reservation

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Replace a reservation by what the call took.

        A priced call whose cost stayed unknown counts against the cap with all that was reserved for it.
        """
        self._open.remove(reservation)
        self._spent[reservation.model] += replace(usage, sub_calls=usage.calls if reservation.sub_call else 0)
        self._spent_usd += (reservation.cost_usd or 0.0) if usage.cost_usd is None else usage.cost_usd
        if reservation.cost_usd is None:
            self._unpriced_tokens += usage.input_tokens + usage.output_tokens

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back: the call never happened."""
        self._open.remove(reservation)

    @property
    def usage(self) -> Usage:
        """All settled calls together."""
        return sum(self._spent.values(), Usage())

    def by_model(self) -> dict[str, Usage]:
        """Settled calls, per model name as given to `reserve`."""
        return dict(self._spent)

    @property
    def reserved_usd(self) -> float:
        """Set aside for calls under way."""
        return sum(reservation.cost_usd or 0.0 for reservation in self._open)

    def remaining_usd(self, *, final: bool = False) -> float | None:
        """What further calls may cost (the final one, with `final`); None without a cap."""
        if self.max_cost_usd is None:
            return None
        kept = 0.0 if final else self.max_cost_usd * self._final_reserve
        return max(0.0, self.max_cost_usd - kept - self._spent_usd - self.reserved_usd)

    def remaining_tokens(self, *, final: bool = False) -> int | None:
        """What further unpriced calls may take in tokens; None without a cap."""
        if self.max_tokens is None:
            return None
        kept = 0 if final else int(self.max_tokens * self._final_reserve)
        reserved = sum(reservation.tokens for reservation in self._open if reservation.cost_usd is None)
        return max(0, self.max_tokens - kept - self._unpriced_tokens - reserved)

    def remaining_sub_calls(self) -> int | None:
        if self.max_sub_calls is None:
            return None
        made = self.usage.sub_calls + sum(reservation.sub_call for reservation in self._open)
        return max(0, self.max_sub_calls - made)

    def affordable_output_tokens(
        self, limit: int, *, input_tokens: int, price: Price | None, final: bool = False
    ) -> int:
        """The longest reply, up to `limit` tokens, that a call with so much input may reserve; 0 if none."""
        if price is None:
            tokens_left = self.remaining_tokens(final=final)
            return limit if tokens_left is None else max(0, min(limit, tokens_left - input_tokens))
        usd_left = self.remaining_usd(final=final)
        if usd_left is None:
            return limit
        input_usd = price.cost_usd(input_tokens=input_tokens, output_tokens=0)
        token_usd = price.cost_usd(input_tokens=input_tokens, output_tokens=1) - input_usd
        if input_usd > usd_left:
            return 0
        tokens = limit if token_usd <= 0 else min(limit, int((usd_left - input_usd) / token_usd))
        # The division rounds; what is promised here has to pass the comparison in `reserve`.
        while tokens and price.cost_usd(input_tokens=input_tokens, output_tokens=tokens) > usd_left:
            tokens -= 1
        return tokens

    def _refuse_unless_affordable(self, cost_usd: float, *, final: bool) -> None:
        left_usd = self.remaining_usd(final=final)
        if left_usd is None or cost_usd <= left_usd:
            return
        assert self.max_cost_usd is not None
        kept = "" if final else f", {_usd(self.max_cost_usd * self._final_reserve)} being kept for the answer"
        raise BudgetReached(
            "The budget of this question does not allow this call.",
            f"It may cost up to {_usd(cost_usd)}, and {_usd(left_usd)} of {_usd(self.max_cost_usd)} "
            f"is left{kept}.",
            hint="Make fewer or shorter calls, or raise --max-cost.",
        )


def _usd(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.1 or amount == 0 else f"${amount:.4f}"
