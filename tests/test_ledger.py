"""The ledger: what is refused, what is kept back, and that no order of calls gets past a cap."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.errors import BudgetReached
from rlm.events import Usage
from rlm.ledger import UNPRICED_TOKENS, Caps, Ledger, Price, Reservation

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
    ledger = Ledger(Caps(cost_usd=1.0), final_reserve=0.0)
    for _ in range(4):
        ledger.reserve("m", input_tokens=0, output_tokens=24_000, price=PRICE)
    with pytest.raises(BudgetReached):
        ledger.reserve("m", input_tokens=0, output_tokens=24_000, price=PRICE)


def test_refusal_names_what_the_call_may_cost_and_what_is_left() -> None:
    ledger = Ledger(Caps(cost_usd=1.0))
    with pytest.raises(BudgetReached) as refused:
        ledger.reserve("m", input_tokens=0, output_tokens=200_000, price=PRICE)
    assert refused.value.why == (
        "It may cost up to $2.00, and $0.90 of $1.00 is left, $0.10 being kept for the answer."
    )
    assert ledger.reserved_usd == 0.0


def test_input_is_reserved_at_the_price_of_writing_it_to_the_cache() -> None:
    price = Price(input_per_mtok=1.0, output_per_mtok=10.0, cache_write_per_mtok=1.25)
    ledger = Ledger(Caps(cost_usd=1.0), final_reserve=0.0)
    assert ledger.affordable_output_tokens(10**6, input_tokens=400_000, price=price) == 50_000
    reservation = ledger.reserve("m", input_tokens=400_000, output_tokens=0, price=price)
    assert reservation.cost_usd == pytest.approx(0.5)


def test_only_the_final_call_may_use_what_is_kept_back() -> None:
    ledger = Ledger(Caps(cost_usd=1.0), final_reserve=0.1)
    first = ledger.reserve("m", input_tokens=0, output_tokens=85_000, price=PRICE)
    ledger.settle(first, used(0, 85_000, 0.85))
    with pytest.raises(BudgetReached):
        ledger.reserve("m", input_tokens=0, output_tokens=14_000, price=PRICE)
    final = ledger.reserve("m", input_tokens=0, output_tokens=14_000, price=PRICE, final=True)
    assert final.cost_usd == pytest.approx(0.14)


def test_settling_gives_back_what_the_call_did_not_take() -> None:
    ledger = Ledger(Caps(cost_usd=1.0), final_reserve=0.0)
    reservation = ledger.reserve("m", input_tokens=0, output_tokens=100_000, price=PRICE)
    assert ledger.remaining_usd() == 0.0
    ledger.settle(reservation, used(100, 1_000, 0.25))
    assert ledger.remaining_usd() == pytest.approx(0.75)


def test_released_call_leaves_no_trace() -> None:
    ledger = Ledger(Caps(cost_usd=1.0, sub_calls=1), final_reserve=0.0)
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


def test_a_token_cap_holds_for_all_calls_together() -> None:
    ledger = Ledger(Caps(cost_usd=1.0, tokens=1_000), final_reserve=0.0)
    first = ledger.reserve("local", input_tokens=500, output_tokens=200, price=None)
    ledger.settle(first, used(500, 100, None))
    ledger.reserve("m", input_tokens=200, output_tokens=100, price=PRICE)
    assert ledger.remaining_tokens() == ledger.remaining_tokens(priced=True) == 100
    for price in (PRICE, None):
        with pytest.raises(BudgetReached) as refused:
            ledger.reserve("m", input_tokens=60, output_tokens=60, price=price)
        assert "It may take 120 tokens, and 100 of 1,000 are left" in refused.value.why
        assert "raise limits.max_tokens" in refused.value.hint
    assert ledger.usage.cost_usd is None


def test_without_a_token_cap_only_unpriced_calls_are_capped() -> None:
    ledger = Ledger(final_reserve=0.0)
    priced = ledger.reserve("m", input_tokens=UNPRICED_TOKENS, output_tokens=9, price=PRICE)
    ledger.settle(priced, used(UNPRICED_TOKENS, 9, 0.5))
    assert (ledger.remaining_tokens(), ledger.remaining_tokens(priced=True)) == (UNPRICED_TOKENS, None)
    ledger.reserve("local", input_tokens=UNPRICED_TOKENS - 100, output_tokens=0, price=None)
    with pytest.raises(BudgetReached) as refused:
        ledger.reserve("local", input_tokens=100, output_tokens=1, price=None)
    assert refused.value.why.startswith("local has no known price, so its tokens are capped.")
    assert "Give the model a price in config.json" in refused.value.hint


@dataclass(frozen=True)
class Refusal:
    """A session that is nearly used up, and what is said of a call that does not fit."""

    session: Caps
    before: Usage
    priced: bool
    what: str
    why: str
    hint: str


REFUSALS = [
    Refusal(
        Caps(cost_usd=5.0),
        Usage(calls=9, cost_usd=4.5),
        True,
        "The budget of this session does not allow this call.",
        "It may cost up to $1.00, and $0.45 of $5.00 is left, $0.0500 being kept for the answer.",
        "Raise limits.session_cost_usd, or begin another session: rlm chat --new",
    ),
    Refusal(
        Caps(tokens=10_000),
        Usage(calls=9, input_tokens=8_000, output_tokens=1_000, cost_usd=None),
        False,
        "The token budget of this session does not allow this call.",
        "It may take 100,000 tokens, and 900 of 10,000 are left, 100 being kept for the answer.",
        "Raise limits.session_tokens, or begin another session: rlm chat --new",
    ),
    Refusal(
        Caps(sub_calls=7),
        Usage(calls=9, sub_calls=7),
        True,
        "This session may make no more sub-calls.",
        "All 7 are used.",
        "Raise limits.session_sub_calls, or begin another session: rlm chat --new",
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.what)
def test_a_call_has_to_fit_the_session_too(case: Refusal) -> None:
    ledger = Ledger(Caps(cost_usd=2.0, sub_calls=100), case.session, before=case.before)
    price = PRICE if case.priced else None
    with pytest.raises(BudgetReached) as refused:
        ledger.reserve("m", input_tokens=0, output_tokens=100_000, price=price, sub_call=True)
    assert (refused.value.what, refused.value.why, refused.value.hint) == (case.what, case.why, case.hint)
    assert (ledger.under_way, ledger.refused) == (0, 1)


def test_a_session_with_more_left_does_not_narrow_the_question() -> None:
    session = Caps(cost_usd=50.0, tokens=10**9, sub_calls=1_000)
    ledger = Ledger(Caps(cost_usd=1.0, sub_calls=3), session, before=Usage(cost_usd=10.0, sub_calls=5))
    assert ledger.remaining_usd(final=True) == 1.0
    assert ledger.remaining_sub_calls() == 3
    with pytest.raises(BudgetReached, match="budget of this question"):
        ledger.reserve("m", input_tokens=0, output_tokens=200_000, price=PRICE)


def test_what_is_kept_for_the_answer_is_a_share_of_what_the_session_leaves() -> None:
    ledger = Ledger(Caps(cost_usd=1.0), Caps(cost_usd=5.0), before=Usage(cost_usd=4.8))
    assert ledger.remaining_usd() == pytest.approx(0.18)
    assert ledger.remaining_usd(final=True) == pytest.approx(0.2)
    reservation = ledger.reserve("m", input_tokens=0, output_tokens=18_000, price=PRICE)
    ledger.settle(reservation, used(0, 18_000, 0.18))
    with pytest.raises(BudgetReached, match="session"):
        ledger.reserve("m", input_tokens=0, output_tokens=1_900, price=PRICE)
    ledger.reserve("m", input_tokens=0, output_tokens=1_900, price=PRICE, final=True)


def test_sub_calls_to_a_model_are_told_apart_from_its_other_calls() -> None:
    ledger = Ledger()
    for output_tokens, sub_call in ((100, True), (300, True), (9_000, False)):
        reservation = ledger.reserve("m", input_tokens=1, output_tokens=9_000, price=PRICE, sub_call=sub_call)
        assert ledger.under_way == 1
        ledger.settle(reservation, used(1, output_tokens, 0.0))
    made = ledger.usage_of("m")
    assert (made.sub_calls, made.output_tokens) == (2, 400)
    assert (ledger.usage_of("other"), ledger.under_way) == (Usage(), 0)
    assert ledger.by_model()["m"].calls == 3


def test_priced_call_of_unknown_cost_counts_with_its_reservation() -> None:
    ledger = Ledger(Caps(cost_usd=1.0), final_reserve=0.0)
    reservation = ledger.reserve("m", input_tokens=0, output_tokens=40_000, price=PRICE)
    ledger.settle(reservation, used(0, 10, None))
    assert ledger.remaining_usd() == pytest.approx(0.6)
    assert ledger.usage.cost_usd is None


def test_sub_calls_are_counted_and_capped_also_while_under_way() -> None:
    ledger = Ledger(Caps(sub_calls=2))
    first = ledger.reserve("m", input_tokens=1, output_tokens=1, price=PRICE, sub_call=True)
    ledger.reserve("m", input_tokens=1, output_tokens=1, price=PRICE, sub_call=True)
    ledger.settle(first, used(1, 1, 0.0))
    with pytest.raises(BudgetReached, match="All 2 are used"):
        ledger.reserve("m", input_tokens=1, output_tokens=1, price=PRICE, sub_call=True)
    ledger.reserve("m", input_tokens=1, output_tokens=1, price=PRICE)
    assert ledger.usage.sub_calls == 1


def test_longest_affordable_reply_can_be_reserved_and_one_more_token_cannot() -> None:
    ledger = Ledger(Caps(cost_usd=1.0))
    longest = ledger.affordable_output_tokens(1_000_000, input_tokens=100_000, price=PRICE)
    assert longest == pytest.approx(80_000, abs=1)
    with pytest.raises(BudgetReached):
        ledger.reserve("m", input_tokens=100_000, output_tokens=longest + 2, price=PRICE)
    ledger.reserve("m", input_tokens=100_000, output_tokens=longest - 1, price=PRICE)
    assert ledger.affordable_output_tokens(50, input_tokens=1_000_000, price=PRICE) == 0


@pytest.mark.parametrize("price", [None, Price(input_per_mtok=0.0, output_per_mtok=0.0)])
def test_longest_affordable_reply_is_what_the_token_cap_leaves(price: Price | None) -> None:
    ledger = Ledger(Caps(tokens=1_000), final_reserve=0.1)
    assert ledger.affordable_output_tokens(8_000, input_tokens=400, price=price) == 500
    assert ledger.affordable_output_tokens(8_000, input_tokens=400, price=price, final=True) == 600
    assert Ledger().affordable_output_tokens(8_000, input_tokens=400, price=price) == 8_000


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


CAPS = Caps(cost_usd=1.0, tokens=500_000, sub_calls=10)
WIDE = Caps(cost_usd=9.0, tokens=900_000, sub_calls=90)
BEFORE = Usage(calls=9, sub_calls=7, input_tokens=70_000, output_tokens=30_000, cost_usd=0.5)


@pytest.mark.parametrize(
    "session", [Caps(), Caps(cost_usd=1.5, tokens=600_000, sub_calls=17)], ids=["question", "session"]
)
@given(steps=STEPS)
def test_no_order_of_calls_gets_past_a_cap_and_totals_are_sums(steps: list[Step], session: Caps) -> None:
    ledger = Ledger(CAPS if session == Caps() else WIDE, session, before=BEFORE)
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
        tokens = sum(u.input_tokens + u.output_tokens for _, u in settled)
        assert tokens + sum(r.tokens for r, _ in under_way) <= 500_000
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
