"""What of a turn's messages is sent when they near the model's window."""

import pytest

from rlm.events import Usage
from rlm.models import ChatMessage, estimate_tokens
from rlm.window import UNKNOWN_TOKENS, Window, limit_tokens
from tests.scripted import ScriptedModel


def said(role: str, content: str) -> ChatMessage:
    return ChatMessage(role=role, content=content)


def turn(*, steps: int, chars: int = 4_000) -> list[ChatMessage]:
    """Rules, an earlier turn, a question, and steps with outputs of so many characters."""
    messages = [said("system", "rules"), said("user", "earlier " * 100), said("user", "what?")]
    for number in range(steps):
        messages += [
            said("assistant", f"Plan {number}.\n\n```repl\nrow_{number} = look()\n```"),
            said("user", f"Out [{number}] ok.\n\nseen {number} {'x' * chars}"),
        ]
    return messages


def window(limit: int) -> Window:
    return Window(limit=limit, opening=2, earlier=[said("user", "in short")])


@pytest.mark.parametrize(
    ("context_window", "max_output_tokens", "limit"),
    [
        (None, None, UNKNOWN_TOKENS),
        (200_000, 64_000, int((200_000 - 16_384) * 0.8)),
        (128_000, 4_096, int((128_000 - 4_096) * 0.8)),
        (8_192, None, int((8_192 - 2_048) * 0.8)),
    ],
)
def test_room_for_a_reply_and_a_margin_are_kept(
    context_window: int | None, max_output_tokens: int | None, limit: int
) -> None:
    model = ScriptedModel([], context_window=context_window, max_output_tokens=max_output_tokens)
    assert limit_tokens(model) == limit


def test_far_from_the_window_everything_is_sent() -> None:
    messages = turn(steps=3)
    assert not window(10_000).is_near(messages)
    assert window(10_000).sent(messages) == messages


def test_the_question_and_the_newest_steps_stay_as_they_are() -> None:
    messages, small = turn(steps=10), window(6_000)
    assert small.is_near(messages) and small.shorten(messages)
    sent = small.sent(messages)
    assert sent[:3] == messages[:3]
    assert sent[4:] == messages[-4:], "two steps of about 1,000 tokens are within the share of the newest"
    assert "- Plan 7.\n  saw: seen 7 xxx" in sent[3]["content"]
    assert "Variables assigned: row_0, row_1" in sent[3]["content"]
    assert not small.is_near(messages)


def test_what_was_told_in_short_is_in_the_next_such_message_too() -> None:
    messages, small = turn(steps=10), window(6_000)
    small.shorten(messages)
    messages += turn(steps=10)[3:]
    assert small.is_near(messages) and small.shorten(messages)
    told = small.sent(messages)[3]["content"]
    assert told.startswith("[The first 18 replies") and "- Plan 0." in told and "- Plan 7." in told
    assert estimate_tokens(small.sent(messages)) < 6_000


def test_then_earlier_turns_and_long_outputs_make_room() -> None:
    messages, small = turn(steps=1, chars=100_000), window(2_000)
    assert small.shorten(messages)
    rules, earlier, question, _, output = small.sent(messages)
    assert (rules["content"], earlier["content"], question["content"]) == ("rules", "in short", "what?")
    assert output["content"].startswith("Out [0] ok.\n\nseen 0 xxx") and output["content"].endswith("xxx")
    assert "(the rest is in `history`)" in output["content"]
    assert small.question_at == 2
    assert not small.is_near(messages)
    assert not small.shorten(messages), "there is nothing more to leave out"


def test_what_the_provider_counted_and_refused_is_believed() -> None:
    messages, large = turn(steps=4), window(6_000)
    assert not large.is_near(messages)
    large.counted(messages, Usage(input_tokens=9_000, estimated=True))
    assert not large.is_near(messages), "an estimate tells nothing"
    large.counted(messages, Usage(input_tokens=9_000))
    assert large.is_near(messages)

    refused = window(100_000)
    refused.was_too_small(messages)
    assert refused.is_near(messages) and refused.shorten(messages)
    assert estimate_tokens(refused.sent(messages)) < 0.6 * estimate_tokens(messages)
