"""Prompt caching: where marks are set, what is sent, and what reading and writing cost."""

import copy
import importlib
import itertools
import json
from typing import Any

import pytest

from rlm.errors import ModelError
from rlm.ledger import Price
from rlm.models import ChatMessage, LiteLLMModel, known_models
from rlm.prompt_cache import marked, needs_marks
from rlm.providers import ModelSettings
from tests.litellm_warnings import AT_CALLS, AT_IMPORT
from tests.model_server import Fault, ModelServer, Reply, Tokens

pytestmark = [
    AT_IMPORT,
    AT_CALLS,
    pytest.mark.usefixtures("closed_connections"),
]

CLAUDE = "anthropic/claude-sonnet-4-5"
MARK = {"type": "ephemeral"}
TOKENS = Tokens(input=10_000, output=200, cached=6_000, written=3_000)


def said(role: str, content: str) -> ChatMessage:
    return ChatMessage(role=role, content=content)


CHAT = [said("system", "You answer."), said("user", "one"), said("assistant", "two"), said("user", "three")]


def model_at(server: ModelServer, name: str = CLAUDE, **settings: Any) -> LiteLLMModel:
    return LiteLLMModel(ModelSettings(model=name, api_base=server.url, api_key="no-key", **settings))


async def read(model: LiteLLMModel, messages: list[ChatMessage]) -> Any:
    async with model.stream(messages) as stream:
        async for _ in stream:
            pass
    return stream


def marks(body: Any) -> list[str]:
    """The texts in a request that carry a mark, in order."""
    if isinstance(body, dict):
        own = [body["text"]] if "cache_control" in body else []
        return own + [text for value in body.values() for text in marks(value)]
    return [text for value in body for text in marks(value)] if isinstance(body, list) else []


# ---- where marks are set -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "needed"),
    [
        ("anthropic/claude-sonnet-4-5", True),
        ("claude-haiku-4-5", True),
        ("openrouter/anthropic/claude-sonnet-4.5", True),
        ("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("bedrock/anthropic.claude-v2:1", False),  # too old to cache; refused with a mark
        ("vertex_ai/claude-sonnet-4-5", True),
        ("azure_ai/claude-sonnet-4-5", True),
        ("databricks/databricks-claude-sonnet-4-5", True),
        ("anthropic/claude-not-in-the-map-yet", True),
        ("openai/gpt-5", False),
        ("gemini/gemini-2.5-pro", False),  # a mark would make litellm rent a cache by the hour
        ("deepseek/deepseek-chat", False),
        ("openai/claude-of-some-server", False),
        ("ollama/llama3", False),
    ],
)
def test_only_claude_needs_marks(model: str, needed: bool) -> None:
    asked = LiteLLMModel(ModelSettings(model=model))
    assert asked.takes_marks is needed


def test_an_unknown_model_of_a_host_that_takes_marks_is_marked() -> None:
    assert needs_marks("bedrock/anthropic.claude-9", {})
    assert not needs_marks("bedrock/anthropic.claude-v1", {"supports_prompt_caching": False})


def test_marks_stand_at_the_end_of_the_system_prompt_and_of_the_last_message() -> None:
    assert marks(marked(CHAT)) == ["You answer.", "three"]
    assert marks(marked(CHAT[1:2])) == ["one"]
    assert marks(marked(CHAT[:1])) == ["You answer."]
    assert marked([said("user", "")]) == [{"role": "user", "content": ""}]
    assert marked([]) == []


def test_marking_leaves_the_conversation_as_it_is() -> None:
    before = copy.deepcopy(CHAT)
    marked(CHAT)
    assert before == CHAT


# ---- what is sent --------------------------------------------------------------------------------


async def test_a_conversation_is_sent_with_marks_and_a_sub_call_without(server: ModelServer) -> None:
    server.default("claude-sonnet-4-5", "ok")
    model = model_at(server)
    await read(model, CHAT)
    await model.complete(CHAT)
    streamed, whole = (request.json for request in server.requests)
    assert streamed["system"] == [{"type": "text", "text": "You answer.", "cache_control": MARK}]
    assert marks(streamed) == ["three", "You answer."]
    assert marks(whole) == []


async def test_what_was_marked_comes_again_byte_for_byte(server: ModelServer) -> None:
    server.default("claude-sonnet-4-5", lambda asked: f"reply {len(asked['messages'])}\n")
    model = model_at(server)
    messages = list(CHAT[:2])
    for step in range(4):
        stream = await read(model, messages)
        messages += [said("assistant", stream.text), said("user", f"Out [{step}] é")]
    sent = [unmarked(request.json) for request in server.requests]
    assert len({json.dumps(body["system"]) for body in sent}) == 1
    for before, after in itertools.pairwise(sent):
        known = before["messages"]
        assert json.dumps(after["messages"][: len(known)]) == json.dumps(known)
        assert len(after["messages"]) == len(known) + 2


def unmarked(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: unmarked(value) for name, value in body.items() if name != "cache_control"}
    return [unmarked(value) for value in body] if isinstance(body, list) else body


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("openrouter/anthropic/claude-sonnet-4.5", "anthropic/claude-sonnet-4.5"),
        ("databricks/databricks-claude-sonnet-4-5", "databricks-claude-sonnet-4-5"),
        ("azure_ai/claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("litellm_proxy/claude-sonnet-4-5", "claude-sonnet-4-5"),
    ],
)
async def test_other_hosts_get_the_marks_too(server: ModelServer, model: str, name: str) -> None:
    server.default(name, "ok")
    await read(model_at(server, model), CHAT)
    assert sorted(marks(server.requests[0].json)) == ["You answer.", "three"]


def imported_litellm() -> Any:
    known_models()  # the program's own way to import it, which keeps it from downloading
    return importlib.import_module("litellm")


def test_bedrock_gets_them_as_cache_points() -> None:
    body = (
        imported_litellm()
        .AmazonConverseConfig()
        .transform_request(
            model="us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            messages=marked(CHAT),
            optional_params={},
            litellm_params={},
            headers={},
        )
    )
    point = {"cachePoint": {"type": "default"}}
    assert body["system"] == [{"text": "You answer."}, point]
    assert body["messages"][-1]["content"] == [{"text": "three"}, point]
    assert point not in body["messages"][0]["content"]


async def test_a_model_that_caches_by_itself_gets_plain_messages(server: ModelServer) -> None:
    server.default("gpt-5", "ok")
    await read(model_at(server, "gpt-5"), CHAT)
    assert server.requests[0].json["messages"] == CHAT


# ---- what it is counted and priced ---------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("model", "name"), [(CLAUDE, "claude-sonnet-4-5"), ("openai/root", "root")], ids=["messages", "chat"]
)
async def test_tokens_read_and_written_are_counted_and_priced(
    server: ModelServer, model: str, name: str, streamed: bool
) -> None:
    server.default(name, Reply("hi", usage=TOKENS))
    price = Price(input_per_mtok=1.0, output_per_mtok=5.0, cached_per_mtok=0.1, cache_write_per_mtok=1.25)
    asked = model_at(server, model, price=price)
    usage = (await read(asked, CHAT) if streamed else await asked.complete(CHAT)).usage
    assert (usage.input_tokens, usage.output_tokens) == (10_000, 200)
    assert (usage.cached_tokens, usage.cache_write_tokens) == (6_000, 3_000)
    assert usage.cost_usd == pytest.approx((1_000 + 600 + 3_750 + 1_000) / 1e6)
    assert not usage.estimated


@pytest.mark.parametrize("how", ["left", "truncated"])
async def test_a_stream_that_breaks_off_keeps_the_input_as_the_provider_counted_it(
    server: ModelServer, how: str
) -> None:
    reply = Reply("word " * 400, chunk_size=5, usage=TOKENS)
    server.reply("claude-sonnet-4-5", reply if how == "left" else Fault(how="truncated", text="word word"))
    async with model_at(server).stream(CHAT) as stream:
        if how == "left":
            assert await anext(stream)
        else:
            with pytest.raises(ModelError):
                async for _ in stream:
                    pass
    usage = stream.usage
    assert usage.estimated
    assert stream.text
    if how == "left":
        assert (usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens) == (10_000, 6_000, 3_000)
        assert usage.output_tokens < 200


async def test_a_stream_without_numbers_is_estimated(server: ModelServer) -> None:
    server.default("claude-sonnet-4-5", Reply("x" * 40, send_usage=False))
    usage = (await read(model_at(server), [said("user", "y" * 396)])).usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (103, 10, True)


async def test_what_the_provider_says_it_charged_is_the_cost(server: ModelServer) -> None:
    name = "anthropic/claude-sonnet-4.5"
    server.default(name, Reply("hi", usage=Tokens(input=1_000, output=10, cost_usd=0.25)))
    model = model_at(server, f"openrouter/{name}")
    assert (await model.complete(CHAT)).usage.cost_usd == 0.25
    assert (await read(model, CHAT)).usage.cost_usd == 0.25


PRICED = [
    "gpt-5",
    "gpt-5-mini",
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
    "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "anthropic.claude-sonnet-4-20250514-v1:0",
    "vertex_ai/claude-sonnet-4-5",
    "gemini/gemini-2.5-pro",
    "gemini/gemini-2.5-flash",
    "mistral/mistral-large-latest",
    "deepseek/deepseek-chat",
    "dashscope/qwen3-coder-plus",
    "dashscope/qwen-flash",
]


@pytest.mark.parametrize("model", PRICED)
@pytest.mark.parametrize("input_tokens", [10_000, 200_000, 300_000])
def test_our_sums_are_those_of_litellm(model: str, input_tokens: int) -> None:
    cached, written = input_tokens // 2, input_tokens // 5 if "claude" in model else 0
    litellm = imported_litellm()
    price = LiteLLMModel(ModelSettings(model=model)).price
    assert price is not None
    ours = price.cost_usd(
        input_tokens=input_tokens, output_tokens=700, cached_tokens=cached, cache_write_tokens=written
    )
    usage = litellm.Usage(
        prompt_tokens=input_tokens,
        completion_tokens=700,
        total_tokens=input_tokens + 700,
        prompt_tokens_details={"cached_tokens": cached, "cache_write_tokens": written},
    )
    theirs = litellm.completion_cost(
        completion_response=litellm.ModelResponse(model=model, usage=usage), model=model
    )
    assert ours == pytest.approx(theirs)


def test_claude_is_priced_by_what_is_read_and_written() -> None:
    price = LiteLLMModel(ModelSettings(model="claude-sonnet-4-5")).price
    assert price == Price(
        input_per_mtok=3.0, output_per_mtok=15.0, cached_per_mtok=0.3, cache_write_per_mtok=3.75
    )


def test_more_than_the_input_is_never_charged_as_input() -> None:
    price = Price(input_per_mtok=1.0, output_per_mtok=1.0, cached_per_mtok=0.0, cache_write_per_mtok=2.0)
    cost = price.cost_usd(input_tokens=100, output_tokens=0, cached_tokens=80, cache_write_tokens=80)
    assert cost == pytest.approx(40 / 1e6)
