"""One RLM's view of the shared ledger: caps are those of all, what was taken is its own."""

import pytest

from rlm.errors import BudgetReached
from rlm.events import Usage
from rlm.ledger import Caps, Ledger, Price
from rlm.ledger_view import Tally

PRICE = Price(input_per_mtok=1.0, output_per_mtok=1.0)


def take(ledger: Ledger, model: str = "sub", *, sub_call: bool = True, cost_usd: float = 0.1) -> None:
    reservation = ledger.reserve(
        model, input_tokens=50_000, output_tokens=50_000, price=PRICE, sub_call=sub_call
    )
    ledger.settle(reservation, Usage(calls=1, input_tokens=50_000, output_tokens=50_000, cost_usd=cost_usd))


def test_what_goes_through_counts_for_itself_for_its_asker_and_for_all() -> None:
    shared = Ledger(Caps(cost_usd=1.0))
    child = Tally(shared)
    grandchild, sibling = Tally(child), Tally(shared)
    take(shared, "root", sub_call=False)
    take(child, "root", sub_call=False)
    take(grandchild)
    take(sibling)
    seen = [ledger.usage for ledger in (shared, child, grandchild, sibling)]
    assert [usage.calls for usage in seen] == [4, 2, 1, 1]
    assert [usage.sub_calls for usage in seen] == [3, 2, 1, 1], "what a child says itself is a sub-call too"
    assert [usage.cost_usd for usage in seen] == pytest.approx([0.4, 0.2, 0.1, 0.1])
    assert child.by_model().keys() == {"root", "sub"} and sibling.by_model().keys() == {"sub"}
    assert child.usage_of("sub").calls == 2, "how long replies are is known from all"
    left = [ledger.remaining_usd() for ledger in (shared, child, grandchild, sibling)]
    assert left == pytest.approx([0.5] * 4)


def test_no_view_lifts_a_cap() -> None:
    shared = Ledger(Caps(cost_usd=1.0, sub_calls=1))
    one, other = Tally(shared), Tally(Tally(shared))
    take(one)
    for ledger in (one, other):
        with pytest.raises(BudgetReached, match="no more sub-calls"):
            take(ledger)
        assert (ledger.remaining_sub_calls(), ledger.refused) == (0, 1)
    longest = [
        ledger.affordable_output_tokens(2_000_000, input_tokens=0, price=PRICE) for ledger in (shared, other)
    ]
    assert longest == [800_000] * 2
    with pytest.raises(BudgetReached, match="does not allow this call"):
        other.reserve("root", input_tokens=0, output_tokens=2_000_000, price=PRICE)
    assert (other.usage, shared.refused) == (Usage(), 3)


def test_reservations_are_told_of_by_those_who_made_them_until_they_end() -> None:
    shared = Ledger(Caps(cost_usd=1.0, tokens=1_000_000))
    child, sibling = Tally(shared), Tally(shared)
    reservation = child.reserve("sub", input_tokens=100_000, output_tokens=0, price=PRICE)
    assert [ledger.under_way for ledger in (shared, child, sibling)] == [1, 1, 0]
    assert [ledger.reserved_usd for ledger in (shared, child, sibling)] == pytest.approx([0.1, 0.1, 0.0])
    assert sibling.remaining_tokens(priced=True) == shared.remaining_tokens(priced=True) == 800_000
    child.release(reservation)
    assert [ledger.under_way for ledger in (shared, child, sibling)] == [0, 0, 0]
    assert sibling.remaining_tokens(priced=True) == 900_000
