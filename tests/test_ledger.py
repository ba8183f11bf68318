"""The ledger: what is refused, what is kept back, and that no order of calls gets past a cap."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.errors import BudgetReached
from rlm.events import Usage
from rlm.ledger import Ledger, Price, Reservation

PRICE = Price(input_per_mtok=1.0, output_per_mtok=10.0, cached_per_mtok=0.1)


def used(input_tokens: int, output_tokens: int, cost_usd: float | None) -> Usage:
    return Usage(calls=1, input_tokens=input_tokens, output_tokens=output_tokens, cost_usd=cost_usd)


def test_price_counts_cached_input_at_its_own_price() -> None:
    cost = PRICE.cost_usd(input_tokens=1_000_000, output_tokens=100_000, cached_tokens=500_000)
    assert cost == pytest.approx(0.5 + 0.05 + 1.0)


def test_cached_input_without_a_price_costs_as_other_input() -> None:
    price = Price(input_per_mtok=2.0, output_per_mtok=0.0)
    assert price.cost_usd(input_tokens=1_000_000, output_tokens=0, cached_tokens=900_000) == 2.0


def test_long_input_is_charged_as_a_whole_at_the_price_beyond() -> None:
    long_price = Price(input_per_mtok=2.0, output_per_mtok=20.0)
    price = Price(input_per_mtok=1.0, output_per_mtok=10.0, beyond=(200_000, long_price))
    assert price.cost_usd(input_tokens=200_000, output_tokens=0) == pytest.approx(0.2)
    assert price.cost_usd(input_tokens=300_000, output_tokens=100_000) == pytest.approx(0.6 + 2.0)


def test_parallel_calls_cannot_all_pass_the_same_check() -> None:
    ledger = Ledger(max_cost_usd=1.0, final_reserve=0.0)
    for _ in range(4):
        ledger.reserve("m", input_tokens=0, output_tokens=24_000, price=PRICE)
    with pytest.raises(BudgetReached):
        ledger.reserve("m", input_tokens=0, output_tokens=24_000, price=PRICE)


def test_refusal_names_what_the_call_may_cost_and_what_is_left() -> None:
    ledger = Ledger(max_cost_usd=1.0)
    with pytest.raises(BudgetReached) as refused:
        ledger.reserve("m", input_tokens=0, output_tokens=200_000, price=PRICE)
    assert refused.value.why == (
        "It may cost up to $2.00, and $0.90 of $1.00 is left, $0.10 being kept for the answer."
    )
    assert ledger.reserved_usd == 0.0


def test_only_the_final_call_may_use_what_is_kept_back() -> None:
    ledger = Ledger(max_cost_usd=1.0, final_reserve=0.1)
    first = ledger.reserve("m", input_tokens=0, output_tokens=85_000, price=PRICE)
    ledger.settle(first, used(0, 85_000, 0.85))
    with pytest.raises(BudgetReached):
        ledger.reserve("m", input_tokens=0, output_tokens=14_000, price=PRICE)
    final = ledger.reserve("m", input_tokens=0, output_tokens=14_000, price=PRICE, final=True)
    assert final.cost_usd == pytest.approx(0.14)


def test_settling_gives_back_what_the_call_did_not_take() -> None:
    ledger = Ledger(max_cost_usd=1.0, final_reserve=0.0)
    reservation = ledger.reserve("m", input_tokens=0, output_tokens=100_000, price=PRICE)
    assert ledger.remaining_usd() == 0.0
    ledger.settle(reservation, used(100, 1_000, 0.25))
    assert ledger.remaining_usd() == pytest.approx(0.75)


def test_released_call_leaves_no_trace() -> None:
    ledger = Ledger(max_cost_usd=1.0, max_sub_calls=1, final_reserve=0.0)
    ledger.release(ledger.reserve("m", input_tokens=0, output_tokens=9, price=PRICE, sub_call=True))
    assert ledger.remaining_usd() == 1.0
    assert ledger.remaining_sub_calls() == 1
    assert ledger.usage == Usage()
    assert ledger.by_model() == {}


def test_reservation_is_settled_once() -> None:
    ledger = Ledger()
    reservation = ledger.reserve("m", input_tokens=1, output_tokens=1, price=PRICE)
    ledger.settle(reservation, used(1, 1, 0.1))
    with pytest.raises(KeyError):
        ledger.settle(reservation, used(1, 1, 0.1))


def test_unpriced_calls_are_capped_by_tokens_all_together() -> None:
    ledger = Ledger(max_cost_usd=1.0, max_tokens=1_000, final_reserve=0.0)
    first = ledger.reserve("local", input_tokens=500, output_tokens=300, price=None)
    ledger.settle(first, used(500, 100, None))
    ledger.reserve("other", input_tokens=200, output_tokens=100, price=None)
    with pytest.raises(BudgetReached) as refused:
        ledger.reserve("local", input_tokens=60, output_tokens=60, price=None)
    assert "120 tokens, and 100 of 1,000 are left" in refused.value.why
    assert ledger.usage.cost_usd is None


def test_priced_calls_do_not_use_up_the_token_cap() -> None:
    ledger = Ledger(max_tokens=100)
    reservation = ledger.reserve("m", input_tokens=5_000, output_tokens=5_000, price=PRICE)
    ledger.settle(reservation, used(5_000, 5_000, 0.055))
    assert ledger.remaining_tokens(final=True) == 100


def test_priced_call_of_unknown_cost_counts_with_its_reservation() -> None:
    ledger = Ledger(max_cost_usd=1.0, final_reserve=0.0)
    reservation = ledger.reserve("m", input_tokens=0, output_tokens=40_000, price=PRICE)
    ledger.settle(reservation, used(0, 10, None))
    assert ledger.remaining_usd() == pytest.approx(0.6)
    assert ledger.usage.cost_usd is None


def test_sub_calls_are_counted_and_capped_also_while_under_way() -> None:
    ledger = Ledger(max_sub_calls=2)
    first = ledger.reserve("m", input_tokens=1, output_tokens=1, price=PRICE, sub_call=True)
    ledger.reserve("m", input_tokens=1, output_tokens=1, price=PRICE, sub_call=True)
    ledger.settle(first, used(1, 1, 0.0))
    with pytest.raises(BudgetReached, match="All 2 are used"):
        ledger.reserve("m", input_tokens=1, output_tokens=1, price=PRICE, sub_call=True)
    ledger.reserve("m", input_tokens=1, output_tokens=1, price=PRICE)
    assert ledger.usage.sub_calls == 1


def test_longest_affordable_reply_can_be_reserved_and_one_more_token_cannot() -> None:
    ledger = Ledger(max_cost_usd=1.0)
    longest = ledger.affordable_output_tokens(1_000_000, input_tokens=100_000, price=PRICE)
    assert longest == pytest.approx(80_000, abs=1)
    with pytest.raises(BudgetReached):
        ledger.reserve("m", input_tokens=100_000, output_tokens=longest + 2, price=PRICE)
    ledger.reserve("m", input_tokens=100_000, output_tokens=longest - 1, price=PRICE)
    assert ledger.affordable_output_tokens(50, input_tokens=1_000_000, price=PRICE) == 0


def test_longest_affordable_reply_of_an_unpriced_model_is_what_the_token_cap_leaves() -> None:
    ledger = Ledger(max_tokens=1_000, final_reserve=0.1)
    assert ledger.affordable_output_tokens(8_000, input_tokens=400, price=None) == 500
    assert ledger.affordable_output_tokens(8_000, input_tokens=400, price=None, final=True) == 600
    assert Ledger().affordable_output_tokens(8_000, input_tokens=400, price=None) == 8_000


@dataclass(frozen=True)
class Step:
    """A call: what it asks for, how much of that it takes, and what becomes of an older one before."""

    model: str
    input_tokens: int
    output_tokens: int
    priced: bool
    sub_call: bool
    final: bool
    taken: float
    close: str


STEPS = st.lists(
    st.builds(
        Step,
        model=st.sampled_from(["root", "sub", "other"]),
        input_tokens=st.integers(0, 300_000),
        output_tokens=st.integers(0, 50_000),
        priced=st.booleans(),
        sub_call=st.booleans(),
        final=st.booleans(),
        taken=st.floats(0, 1),
        close=st.sampled_from(["settle", "release", "keep"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_no_order_of_calls_gets_past_a_cap_and_totals_are_sums(steps: list[Step]) -> None:
    ledger = Ledger(max_cost_usd=1.0, max_tokens=500_000, max_sub_calls=10)
    under_way: list[tuple[Reservation, Step]] = []
    settled: list[tuple[str, Usage]] = []
    for step in steps:
        if under_way and step.close != "keep":
            reservation, asked = under_way.pop(0)
            if step.close == "release":
                ledger.release(reservation)
            else:
                tokens_in, tokens_out = int(asked.input_tokens * asked.taken), asked.output_tokens
                cost = None
                if asked.priced:
                    cost = PRICE.cost_usd(input_tokens=tokens_in, output_tokens=tokens_out)
                ledger.settle(reservation, used(tokens_in, tokens_out, cost))
                usage = Usage(
                    calls=1,
                    sub_calls=int(asked.sub_call),
                    input_tokens=tokens_in,
                    output_tokens=tokens_out,
                    cost_usd=cost,
                )
                settled.append((asked.model, usage))
        try:
            reservation = ledger.reserve(
                step.model,
                input_tokens=step.input_tokens,
                output_tokens=step.output_tokens,
                price=PRICE if step.priced else None,
                sub_call=step.sub_call,
                final=step.final,
            )
        except BudgetReached:
            pass
        else:
            under_way.append((reservation, step))

        spent_usd = sum(usage.cost_usd or 0.0 for _, usage in settled)
        assert spent_usd + ledger.reserved_usd <= 1.0 + 1e-9
        unpriced = sum(u.input_tokens + u.output_tokens for _, u in settled if u.cost_usd is None)
        unpriced += sum(r.tokens for r, asked in under_way if not asked.priced)
        assert unpriced <= 500_000
        assert sum(u.sub_calls for _, u in settled) + sum(r.sub_call for r, _ in under_way) <= 10

    total = ledger.usage
    assert total.calls == len(settled)
    assert total.input_tokens == sum(usage.input_tokens for _, usage in settled)
    assert total.output_tokens == sum(usage.output_tokens for _, usage in settled)
    if any(usage.cost_usd is None for _, usage in settled):
        assert total.cost_usd is None
    else:
        assert total.cost_usd == pytest.approx(sum(usage.cost_usd or 0.0 for _, usage in settled))
    assert sum(ledger.by_model().values(), Usage()) == total
    for model, usage in ledger.by_model().items():
        assert usage.calls == sum(name == model for name, _ in settled)
