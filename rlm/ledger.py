"""What a question and its session may cost, and what they have: every call reserves here before it is sent.

    reservation = ledger.reserve("gpt-5", input_tokens=900, output_tokens=4000, price=price)
    ...                                         # the call
    ledger.settle(reservation, usage)           # or ledger.release(reservation), when nothing was sent

One `Ledger` serves all depths of one question, so parallel calls cannot all pass a check made a cent below
the cap. It does not count tokens or look up prices (`rlm.models` does), and keeps nothing for the next
question. It is used from one event loop and never waits; no thread may share it.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from rlm.errors import BudgetReached
from rlm.events import Usage

TOKENS_PER_PRICE = 1_000_000
UNPRICED_TOKENS = 5_000_000
"""What models without a price may take for one question, in tokens, where nothing else was set."""
ANOTHER_SESSION = "or begin another session: rlm chat --new"
NOTHING = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD for a million tokens. Input read from a cache or written to it costs as other input if not known.

    `beyond` is (tokens, price): a call with more input than that is charged as a whole at that price.
    """

    input_per_mtok: float
    output_per_mtok: float
    cached_per_mtok: float | None = None
    cache_write_per_mtok: float | None = None
    beyond: "tuple[int, Price] | None" = None

    def cost_usd(
        self, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0, cache_write_tokens: int = 0
    ) -> float:
        """What one call costs. `cached_tokens` and `cache_write_tokens` are parts of `input_tokens`."""
        if self.beyond and input_tokens > self.beyond[0]:
            return self.beyond[1].cost_usd(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cached_tokens=cached_tokens,
                cache_write_tokens=cache_write_tokens,
            )
        cached_price = self.input_per_mtok if self.cached_per_mtok is None else self.cached_per_mtok
        write_price = self.input_per_mtok if self.cache_write_per_mtok is None else self.cache_write_per_mtok
        cached = min(cached_tokens, input_tokens)
        written = min(cache_write_tokens, input_tokens - cached)
        return (
            (input_tokens - cached - written) * self.input_per_mtok
            + cached * cached_price
            + written * write_price
            + output_tokens * self.output_per_mtok
        ) / TOKENS_PER_PRICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What calls may take at most, of US dollars, tokens (in and out), and sub-calls. None is no cap."""

    cost_usd: float | None = None
    tokens: int | None = None
    sub_calls: int | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reservation:
    """What one call may take at most. `cost_usd` is None when its model has no price."""

    model: str
    tokens: int
    cost_usd: float | None
    sub_call: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cap:
    """One cap of the question or session. Of `limit`, earlier questions took `before`.

    `kept` is set aside for the last answer. `setting` is what to raise.
    """

    of: str
    setting: str
    limit: float
    before: float
    kept: float

    def left(self, used: float, *, final: bool = False) -> float:
        return max(0.0, self.limit - self.before - used - (0.0 if final else self.kept))


class Ledger:
    """Caps and totals of one question, and what is left to it of its session.

    A call must fit both. `before` is what earlier questions of the session took; a cost in it that is not
    known counts as nothing. Where `question.tokens` is None, the tokens of unpriced calls are capped all the
    same, at `UNPRICED_TOKENS` together. Of money and tokens, the share `final_reserve` of what the question
    has at its beginning is kept for the call that asks for a last answer (`final=True`).
    """

    def __init__(
        self,
        question: Caps = Caps(),
        session: Caps = Caps(),
        *,
        before: Usage = NOTHING,
        final_reserve: float = 0.1,
    ) -> None:
        self.max_cost_usd = question.cost_usd
        self.refused = 0
        """How many sub-calls did not fit."""
        self._usd_caps = _caps(
            ("--max-cost", question.cost_usd),
            ("limits.session_cost_usd", session.cost_usd),
            before=before.cost_usd or 0.0,
            final_reserve=final_reserve,
        )
        self._token_caps = _caps(
            ("limits.max_tokens", question.tokens),
            ("limits.session_tokens", session.tokens),
            before=before.input_tokens + before.output_tokens,
            final_reserve=final_reserve,
        )
        self._unpriced_caps = _caps(
            ("limits.max_tokens", UNPRICED_TOKENS if question.tokens is None else None),
            ("", None),
            final_reserve=final_reserve,
        )
        self._sub_call_caps = _caps(
            ("limits.max_sub_calls", question.sub_calls),
            ("limits.session_sub_calls", session.sub_calls),
            before=before.sub_calls,
        )
        self._open: set[Reservation] = set()
        self._spent: defaultdict[str, Usage] = defaultdict(Usage)
        self._spent_by_sub_calls: defaultdict[str, Usage] = defaultdict(Usage)
        self._spent_usd = 0.0
        self._tokens = 0
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
        cost_usd = None if price is None else _most_usd(price, input_tokens, output_tokens)
        reservation = Reservation(model=model, tokens=tokens, cost_usd=cost_usd, sub_call=sub_call)
        try:
            self._require_room(reservation, final=final)
        except BudgetReached:
            self.refused += sub_call
            raise
        self._open.add(reservation)
        return reservation

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Replace a reservation by what the call took.

        A priced call whose cost stayed unknown counts against the cap with all that was reserved for it.
        """
        self._open.remove(reservation)
        usage = replace(usage, sub_calls=usage.calls if reservation.sub_call else 0)
        self._spent[reservation.model] += usage
        if reservation.sub_call:
            self._spent_by_sub_calls[reservation.model] += usage
        self._spent_usd += (reservation.cost_usd or 0.0) if usage.cost_usd is None else usage.cost_usd
        self._tokens += usage.input_tokens + usage.output_tokens
        if reservation.cost_usd is None:
            self._unpriced_tokens += usage.input_tokens + usage.output_tokens

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back: the call never happened."""
        self._open.remove(reservation)

    @property
    def usage(self) -> Usage:
        """All settled calls of the question together."""
        return sum(self._spent.values(), Usage())

    def by_model(self) -> dict[str, Usage]:
        """Settled calls, per model name as given to `reserve`."""
        return dict(self._spent)

    def usage_of(self, model: str) -> Usage:
        """The settled sub-calls to one model: how long its replies have been."""
        return self._spent_by_sub_calls.get(model, Usage())

    @property
    def under_way(self) -> int:
        """Calls that have reserved, and neither settled nor released."""
        return len(self._open)

    @property
    def any_under_way(self) -> bool:
        """Whether a call of anybody in the question has money set aside that may come back."""
        return bool(self._open)

    @property
    def reserved_usd(self) -> float:
        """Set aside for calls under way."""
        return sum(reservation.cost_usd or 0.0 for reservation in self._open)

    def remaining_usd(self, *, final: bool = False) -> float | None:
        """What further calls may cost (the final one, with `final`); None without a cap."""
        return min((cap.left(self._used_usd, final=final) for cap in self._usd_caps), default=None)

    def remaining_tokens(self, *, final: bool = False, priced: bool = False) -> int | None:
        """What further calls to a model without a price may take in tokens; None without a cap.

        With `priced`, to a model that has one: those are capped only where a token cap was set.
        """
        left = [cap.left(used, final=final) for cap, used in self._used_of_tokens(priced=priced)]
        return int(min(left)) if left else None

    def remaining_sub_calls(self) -> int | None:
        left = [cap.left(self._used_sub_calls) for cap in self._sub_call_caps]
        return int(min(left)) if left else None

    def affordable_output_tokens(
        self, limit: int, *, input_tokens: int, price: Price | None, final: bool = False
    ) -> int:
        """The longest reply, up to `limit` tokens, that a call with so much input may reserve; 0 if none."""
        tokens_left = self.remaining_tokens(final=final, priced=price is not None)
        if tokens_left is not None:
            limit = max(0, min(limit, tokens_left - input_tokens))
        usd_left = self.remaining_usd(final=final)
        if price is None or usd_left is None:
            return limit
        input_usd = _most_usd(price, input_tokens, 0)
        token_usd = _most_usd(price, input_tokens, 1) - input_usd
        if input_usd > usd_left:
            return 0
        tokens = limit if token_usd <= 0 else min(limit, int((usd_left - input_usd) / token_usd))
        # The division rounds; what is promised here has to pass the comparison in `reserve`.
        while tokens and _most_usd(price, input_tokens, tokens) > usd_left:
            tokens -= 1
        return tokens

    # -- what is used, those under way included

    @property
    def _used_usd(self) -> float:
        return self._spent_usd + self.reserved_usd

    @property
    def _used_sub_calls(self) -> int:
        made = sum(usage.sub_calls for usage in self._spent_by_sub_calls.values())
        return made + sum(reservation.sub_call for reservation in self._open)

    def _used_of_tokens(self, *, priced: bool) -> list[tuple[_Cap, int]]:
        """The caps that a call has to fit, each with what is used of it."""
        used = self._tokens + sum(reservation.tokens for reservation in self._open)
        rows = [(cap, used) for cap in self._token_caps]
        if not priced:
            unpriced = (reservation.tokens for reservation in self._open if reservation.cost_usd is None)
            used = self._unpriced_tokens + sum(unpriced)
            rows += [(cap, used) for cap in self._unpriced_caps]
        return rows

    # -- refusals

    def _require_room(self, wanted: Reservation, *, final: bool) -> None:
        """Raises `BudgetReached`."""
        priced = wanted.cost_usd is not None
        for cap in self._usd_caps if priced else ():
            left_usd = cap.left(self._used_usd, final=final)
            if (wanted.cost_usd or 0.0) > left_usd:
                raise _no_money(cap, wanted.cost_usd or 0.0, left_usd, final=final)
        for cap, used in self._used_of_tokens(priced=priced):
            if wanted.tokens > (left := int(cap.left(used, final=final))):
                raise _no_tokens(cap, wanted, left, final=final, any_price=cap in self._token_caps)
        for cap in self._sub_call_caps if wanted.sub_call else ():
            if cap.left(self._used_sub_calls) < 1:
                raise _no_sub_calls(cap)


def _caps(
    question: tuple[str, float | None],
    session: tuple[str, float | None],
    *,
    before: float = 0.0,
    final_reserve: float = 0.0,
) -> tuple[_Cap, ...]:
    """The caps that are set, of (setting, limit). What is kept is a share of the tighter one, in both."""
    rows = (("question", *question, 0.0), ("session", *session, before))
    known = [(of, setting, limit, used) for of, setting, limit, used in rows if limit is not None]
    kept = final_reserve * max(0.0, min((limit - used for _, _, limit, used in known), default=0.0))
    return tuple(
        _Cap(of=of, setting=setting, limit=limit, before=used, kept=kept)
        for of, setting, limit, used in known
    )


def _most_usd(price: Price, input_tokens: int, output_tokens: int) -> float:
    """What a call may cost: input may be written to the provider's cache, which often costs more."""
    plain = price.cost_usd(input_tokens=input_tokens, output_tokens=output_tokens)
    written = price.cost_usd(
        input_tokens=input_tokens, output_tokens=output_tokens, cache_write_tokens=input_tokens
    )
    return max(plain, written)


def _no_money(cap: _Cap, cost_usd: float, left_usd: float, *, final: bool) -> BudgetReached:
    kept = "" if final else f", {_usd(cap.kept)} being kept for the answer"
    return BudgetReached(
        f"The budget of this {cap.of} does not allow this call.",
        f"It may cost up to {_usd(cost_usd)}, and {_usd(left_usd)} of {_usd(cap.limit)} is left{kept}.",
        hint=_hint(cap, "Make fewer or shorter calls"),
    )


def _no_tokens(cap: _Cap, wanted: Reservation, left: int, *, final: bool, any_price: bool) -> BudgetReached:
    kept = "" if final else f", {int(cap.kept):,} being kept for the answer"
    what = f"The token budget of this {cap.of} does not allow this call."
    why = f"It may take {wanted.tokens:,} tokens, and {left:,} of {int(cap.limit):,} are left{kept}."
    if any_price:
        return BudgetReached(what, why, hint=_hint(cap, "Make fewer or shorter calls"))
    return BudgetReached(
        what,
        f"{wanted.model} has no known price, so its tokens are capped. {why}",
        hint="Give the model a price in config.json, or set limits.max_tokens.",
    )


def _no_sub_calls(cap: _Cap) -> BudgetReached:
    return BudgetReached(
        f"This {cap.of} may make no more sub-calls.",
        f"All {int(cap.limit):,} are used.",
        hint=_hint(cap, "Answer from what is known"),
    )


def _hint(cap: _Cap, instead: str) -> str:
    if cap.of == "question":
        return f"{instead}, or raise {cap.setting}."
    return f"Raise {cap.setting}, {ANOTHER_SESSION}"


def _usd(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.1 or amount == 0 else f"${amount:.4f}"
