"""The worked example of docs/cost.md adds up, at the prices of the installed litellm's map."""

import re
from pathlib import Path

import pytest

from rlm.batch_price import GUESSED_REPLY_TOKENS
from rlm.calls import SUB_OUTPUT_TOKENS
from rlm.ledger import Price
from rlm.models import LiteLLMModel
from rlm.providers import ModelSettings
from tests.litellm_warnings import AT_CALLS, AT_IMPORT

PAGE = (Path(__file__).parent.parent / "docs/cost.md").read_text(encoding="utf-8")
PROSE = " ".join(PAGE.split())

pytestmark = [
    AT_IMPORT,
    AT_CALLS,
]

Cells = list[str]


def table(heading: str) -> list[Cells]:
    """The rows of the first table below a heading, without its head."""
    below = PAGE.partition(f"\n### {heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", below, flags=re.MULTILINE)
    assert lines, f"docs/cost.md has no table below {heading!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def number(cell: str) -> int:
    found = re.match(r"[\d,]+", cell)
    assert found, f"{cell!r} does not begin with a number"
    return int(found[0].replace(",", ""))


GIVEN = {what: number(value) for what, value in table("What is assumed")}
TOKENS = {what: (number(read), number(written)) for what, read, written in table("Tokens")}
DOLLARS = table("Dollars")


def price_of(model: str) -> Price:
    price = LiteLLMModel(ModelSettings(model=model)).price
    assert price, f"litellm's map has no price for {model}"
    return price


def root_inputs() -> list[int]:
    """The tokens that each step sends: the beginning, and what the steps before it added."""
    return [
        GIVEN["the first step sends"] + GIVEN["each step adds for those after it"] * step
        for step in range(GIVEN["steps"])
    ]


def root_usd(price: Price, *, cached: bool) -> float:
    """All steps. With a cache, each finds there what the one before it sent, and adds the rest."""
    sent_before = [0, *root_inputs()[:-1]] if cached else [0] * GIVEN["steps"]
    return sum(
        price.cost_usd(
            input_tokens=tokens,
            output_tokens=GIVEN["a step's reply, with its reasoning"],
            cached_tokens=before,
            cache_write_tokens=tokens - before if cached else 0,
        )
        for tokens, before in zip(root_inputs(), sent_before, strict=True)
    )


def sub_usd(price: Price, pieces: int) -> float:
    prompt = GIVEN["a piece"] + GIVEN["the question to a piece"]
    return pieces * price.cost_usd(input_tokens=prompt, output_tokens=GIVEN["a reply of the sub model"])


def test_the_tokens_follow_from_what_is_assumed() -> None:
    prompt, reply = GIVEN["a piece"] + GIVEN["the question to a piece"], GIVEN["a reply of the sub model"]
    steps = GIVEN["steps"]
    assert GIVEN["the text"] == GIVEN["a piece"] * GIVEN["pieces"]
    assert {
        "root": (sum(root_inputs()), steps * GIVEN["a step's reply, with its reasoning"]),
        "of that, read from a cache": (sum(root_inputs()[:-1]), 0),
        "sub, all pieces": (GIVEN["pieces"] * prompt, GIVEN["pieces"] * reply),
        "sub, pieces found by a search": (
            GIVEN["pieces found by a search"] * prompt,
            GIVEN["pieces found by a search"] * reply,
        ),
        "all pasted into one prompt": (GIVEN["the text"], GIVEN["a step's reply, with its reasoning"]),
    } == TOKENS


@pytest.mark.parametrize("row", DOLLARS, ids=[row[0] for row in DOLLARS])
def test_the_dollars_follow_from_the_tokens(row: Cells) -> None:
    root_name, sub_name = re.findall(r"`(.+?)`", row[0])
    root, sub = price_of(root_name), price_of(sub_name)
    plain, cached = root_usd(root, cached=False), root_usd(root, cached=True)
    every, some = (sub_usd(sub, GIVEN[pieces]) for pieces in ("pieces", "pieces found by a search"))
    pasted = root.cost_usd(
        input_tokens=GIVEN["the text"], output_tokens=GIVEN["a step's reply, with its reasoning"]
    )
    expected = [plain, cached, every, some, cached + every, cached + some, pasted]
    assert row[1:] == [f"${usd:.3f}" for usd in expected]


def test_what_a_sub_call_reserves_and_takes() -> None:
    sub = price_of("gpt-5-mini")
    prompt, reply = GIVEN["a piece"] + GIVEN["the question to a piece"], GIVEN["a reply of the sub model"]
    reserved = sub.cost_usd(input_tokens=prompt, output_tokens=SUB_OUTPUT_TOKENS)
    taken = sub.cost_usd(input_tokens=prompt, output_tokens=reply)
    assert f"sets ${reserved:.4f} aside and takes ${taken:.4f}" in PROSE
    assert f"{SUB_OUTPUT_TOKENS:,} for a sub-call" in PROSE
    assert f"{GUESSED_REPLY_TOKENS} tokens each" in PROSE


def test_the_windows_are_those_of_the_map() -> None:
    windows = re.findall(r"`([^`]+)` takes ([\d,]+) tokens", PROSE)
    assert len(windows) == len(DOLLARS)
    for root, window in windows:
        assert LiteLLMModel(ModelSettings(model=root)).context_window == number(window)
