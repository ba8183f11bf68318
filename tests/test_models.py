"""Models against the scripted server: what is sent, what comes back, and what every failure becomes."""

import asyncio
import itertools
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.errors import ConfigError, ModelError, PromptTooLarge, RateLimited, RlmError
from rlm.ledger import Price
from rlm.model_errors import no_reply
from rlm.models import (
    ChatMessage,
    LiteLLMModel,
    Model,
    estimate_tokens,
    known_models,
    near_models,
)
from rlm.providers import ModelSettings, full_name, key_variable, key_variables
from rlm.retry import Retry, with_retry
from rlm.thinking import ThinkSplitter, split_thinking
from tests.litellm_warnings import AT_CALLS, AT_IMPORT
from tests.model_server import Fault, ModelServer, Reply, Tokens

pytestmark = [
    AT_IMPORT,
    AT_CALLS,
    pytest.mark.usefixtures("closed_connections"),
]

HELLO: list[ChatMessage] = [{"role": "user", "content": "hello"}]
KEY = "sk-very-secret-key"


def model_at(
    server: ModelServer, name: str = "openai/root", *, timeout_s: float = 20.0, **settings: Any
) -> LiteLLMModel:
    fields = {"api_base": server.url, "api_key": KEY, **settings}
    return LiteLLMModel(ModelSettings(model=name, **fields), timeout_s=timeout_s)


async def read(model: Model, messages: list[ChatMessage] = HELLO) -> str:
    async with model.stream(messages) as stream:
        return "".join([piece async for piece in stream])


# ---- a reply, whole and streamed -----------------------------------------------------------------


async def test_whole_reply_carries_text_reasoning_and_usage(server: ModelServer) -> None:
    server.reply("root", Reply("hi", reasoning="let me see", usage=Tokens(input=1000, output=50, cached=800)))
    price = Price(input_per_mtok=1.0, output_per_mtok=10.0, cached_per_mtok=0.1)
    reply = await model_at(server, price=price).complete(HELLO)
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("hi", "let me see", "stop")
    assert reply.model == "openai/root"
    usage = reply.usage
    assert (usage.calls, usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (1, 1000, 50, 800)
    assert usage.cost_usd == pytest.approx((200 + 80 + 500) / 1e6)
    assert not usage.estimated


async def test_streamed_reply_carries_the_same(server: ModelServer) -> None:
    text = "one two three four five"
    server.reply(
        "root",
        Reply(text, reasoning="hm", chunk_size=4, usage=Tokens(input=1000, output=50, cached=800)),
    )
    price = Price(input_per_mtok=1.0, output_per_mtok=10.0, cached_per_mtok=0.1)
    async with model_at(server, price=price).stream(HELLO) as stream:
        pieces = [piece async for piece in stream]
    assert "".join(pieces) == stream.text == text
    assert len(pieces) > 3
    assert (stream.reasoning, stream.finish_reason) == ("hm", "stop")
    assert (stream.usage.input_tokens, stream.usage.cached_tokens) == (1000, 800)
    assert stream.usage.cost_usd == pytest.approx((200 + 80 + 500) / 1e6)
    assert not stream.usage.estimated


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_leaving_a_stream_early_closes_the_connection(server: ModelServer, provider: str) -> None:
    server.reply(
        "root", Reply("word " * 2000, chunk_size=5, chunk_delay_s=0.02, usage=Tokens(input=104, output=9))
    )
    price = Price(input_per_mtok=1_000_000.0, output_per_mtok=1_000_000.0)
    async with model_at(server, f"{provider}/root", price=price).stream(
        [{"role": "user", "content": "x" * 400}]
    ) as stream:
        async for _ in stream:
            if len(stream.text) >= 20:
                break
    assert await asyncio.to_thread(server.requests[0].client_hung_up)
    assert stream.usage.estimated
    assert stream.usage.input_tokens == 104
    assert stream.usage.output_tokens == 5
    assert stream.usage.cost_usd == pytest.approx(109.0)


async def test_cancelling_a_call_closes_the_connection(server: ModelServer) -> None:
    server.reply("root", Fault(how="hang"))
    call = asyncio.create_task(model_at(server).complete(HELLO))
    await asyncio.to_thread(server.wait_for_requests, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(server.requests[0].client_hung_up)


@pytest.mark.parametrize("streamed", [False, True])
async def test_usage_that_the_provider_leaves_out_is_estimated(server: ModelServer, streamed: bool) -> None:
    server.reply("root", Reply("x" * 40, send_usage=False))
    model = model_at(server)
    messages: list[ChatMessage] = [{"role": "user", "content": "y" * 396}]
    if streamed:
        async with model.stream(messages) as stream:
            async for _ in stream:
                pass
        usage = stream.usage
    else:
        usage = (await model.complete(messages)).usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (103, 10, True)


async def test_request_holds_what_was_configured_and_nothing_else(server: ModelServer) -> None:
    server.default("root", "ok")
    model = model_at(server, params={"top_p": 0.5, "max_tokens": 100})
    await model.complete(HELLO, max_output_tokens=300)
    await model.complete(HELLO, max_output_tokens=30)
    await read(model)
    whole, shorter, streamed = (request.json for request in server.requests)
    assert whole == {"model": "root", "messages": HELLO, "top_p": 0.5, "max_tokens": 100}
    assert shorter["max_tokens"] == 30
    assert streamed["stream_options"] == {"include_usage": True}
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_reasoning_models_get_their_own_name_for_the_output_limit(server: ModelServer) -> None:
    server.default("gpt-5", "ok")
    await model_at(server, "gpt-5").complete(HELLO, max_output_tokens=300)
    assert server.requests[0].json["max_completion_tokens"] == 300


async def test_the_environments_key_is_never_sent_to_an_address_of_ones_own(server: ModelServer) -> None:
    server.default("root", "ok")
    before = os.environ.get("OPENAI_API_KEY")
    os.environ["OPENAI_API_KEY"] = KEY
    try:
        await model_at(server, api_key=None).complete(HELLO)
    finally:
        os.environ.pop("OPENAI_API_KEY")
        if before is not None:
            os.environ["OPENAI_API_KEY"] = before
    assert KEY not in str(server.requests[0].headers)


async def test_many_calls_run_in_parallel(server: ModelServer) -> None:
    server.default("root", Reply("ok", together=64))
    model = model_at(server)
    replies = await asyncio.gather(*(model.complete(HELLO) for _ in range(64)))
    assert [reply.text for reply in replies] == ["ok"] * 64
    assert server.peak_parallel == 64


async def test_script_that_raises_fails_the_test() -> None:
    def broken(request: dict[str, Any]) -> str:
        return str(request["no such field"])

    with pytest.raises(KeyError, match="no such field"), ModelServer() as server:
        server.default("root", broken)
        with pytest.raises(ModelError, match="the script failed"):
            await model_at(server).complete(HELLO)


def test_params_that_are_the_programs_own_are_refused() -> None:
    with pytest.raises(ConfigError, match="fallbacks, num_retries"):
        LiteLLMModel(ModelSettings(model="gpt-5", params={"num_retries": 3, "fallbacks": ["x"]}))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("said", "output_tokens", "reason"),
    [
        ("stop", 20, "stop"),
        ("length", 20, "length"),
        ("max_tokens", 20, "length"),
        ("MAX_TOKENS", 20, "length"),
        ("model_length", 20, "length"),  # Mistral's, which litellm takes for a stop
        ("max_output_tokens", 20, "length"),
        ("content_filter", 20, "content_filter"),
        ("a word of their own", 20, "stop"),
        ("a word of their own", 50, "length"),  # it took all that it was allowed
    ],
)
async def test_a_reply_that_was_cut_says_length(
    server: ModelServer, streamed: bool, said: str, output_tokens: int, reason: str
) -> None:
    usage = Tokens(input=10, output=output_tokens)
    server.reply("root", Reply("half of", finish_reason=said, usage=usage))
    model = model_at(server)
    if streamed:
        async with model.stream(HELLO, max_output_tokens=50) as stream:
            async for _ in stream:
                pass
        assert stream.finish_reason == reason
    else:
        assert (await model.complete(HELLO, max_output_tokens=50)).finish_reason == reason


async def test_a_reply_that_is_all_reasoning_is_empty_and_paid_for(server: ModelServer) -> None:
    usage = Tokens(input=10, output=50, reasoning=50)
    server.reply("root", Reply("", reasoning="hm hm", finish_reason="length", usage=usage))
    reply = await model_at(server).complete(HELLO, max_output_tokens=50)
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("", "hm hm", "length")
    assert reply.usage.output_tokens == 50


@pytest.mark.parametrize(
    ("error", "said", "retryable"),
    [
        (no_reply("m"), "held no text", True),
        (no_reply("m", output_tokens=40), "took 40 tokens, for reasoning perhaps", False),
        (no_reply("m", output_tokens=50, finish_reason="length", limit=1050), "took all 1,050 tokens", False),
    ],
)
def test_an_empty_reply_tells_where_its_tokens_went(error: ModelError, said: str, retryable: bool) -> None:
    assert said in str(error)
    assert error.retryable is retryable
    assert error.hint


# ---- failures ------------------------------------------------------------------------------------

FAULTS: list[tuple[Fault, type[RlmError], bool, str]] = [
    (Fault(status=429, message="slow down", retry_after_s=7), RateLimited, True, "slow down"),
    (Fault(status=429, message="You exceeded your current quota"), ModelError, False, "no credit"),
    (Fault(status=429, message="Your credit balance is too low"), ModelError, False, "no credit"),
    (Fault(status=402, message="pay first"), ModelError, False, "no credit"),
    (Fault(status=500), ModelError, True, "failed"),
    (Fault(status=503, retry_after_s=7), ModelError, True, "failed"),
    (Fault(status=401, message=f"bad key {KEY}"), ConfigError, False, "was refused"),
    (Fault(status=403, message="not yours"), ConfigError, False, "was refused"),
    (Fault(status=404, message="no such model"), ConfigError, False, "no model 'openai/root'"),
    (Fault(status=400, message="maximum context length is 10 tokens"), PromptTooLarge, False, "too long"),
    (Fault(status=413, message="too large"), PromptTooLarge, False, "too long"),
    (Fault(status=400, message="no such parameter"), ModelError, False, "did not accept"),
    (Fault(how="garbage"), ModelError, True, ""),
    (Fault(how="truncated"), ModelError, True, "Cannot reach http://127.0.0.1"),
    (Fault(how="reset"), ModelError, True, "Cannot reach http://127.0.0.1"),
    (Fault(how="hang"), ModelError, True, "did not answer in time"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "case", FAULTS, ids=lambda case: f"{case[0].how}-{case[0].status}-{case[0].message}"[:30]
)
async def test_failure_becomes_an_error_of_ours(
    server: ModelServer,
    capfd: pytest.CaptureFixture[str],
    case: tuple[Fault, type[RlmError], bool, str],
    streamed: bool,
) -> None:
    fault, kind, retryable, said = case
    server.default("root", fault)
    model = model_at(server, timeout_s=0.5 if fault.how == "hang" else 20.0)
    with pytest.raises(RlmError) as caught:
        await (read(model) if streamed else model.complete(HELLO))
    error = caught.value
    assert type(error) is kind
    assert said in str(error)
    assert error.hint
    assert getattr(error, "retryable", False) is retryable
    assert getattr(error, "retry_after_s", None) == fault.retry_after_s
    assert KEY not in f"{error} {error.hint} {error.__cause__}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["truncated", "reset"])
async def test_stream_that_breaks_keeps_what_had_come(server: ModelServer, how: Any) -> None:
    server.reply("root", Fault(how=how, text="the beginning"))
    with pytest.raises(ModelError) as caught:
        async with model_at(server).stream(HELLO) as stream:
            async for _ in stream:
                pass
    assert caught.value.retryable
    assert stream.text == "the beginning"
    assert stream.usage.estimated


async def test_silence_in_the_middle_of_a_stream_ends_it(server: ModelServer) -> None:
    server.reply("root", Reply("one two", chunk_size=4, chunk_delay_s=5.0))
    with pytest.raises(ModelError, match="did not answer in time"):
        await read(model_at(server, timeout_s=0.5))
    assert await asyncio.to_thread(server.requests[0].client_hung_up)


async def test_quota_that_comes_back_by_itself_is_a_rate_limit(server: ModelServer) -> None:
    server.reply("root", Fault(status=429, message="You exceeded your current quota. Please retry in 23.5s."))
    with pytest.raises(RateLimited) as caught:
        await model_at(server).complete(HELLO)
    assert caught.value.retry_after_s == 23.5


async def test_server_that_is_not_there_is_named() -> None:
    with ModelServer() as gone:
        model = model_at(gone)
    with pytest.raises(ModelError, match=r"Cannot reach http://127\.0\.0\.1") as caught:
        await model.complete(HELLO)
    assert caught.value.retryable


async def test_unknown_model_comes_with_suggestions() -> None:
    with pytest.raises(ConfigError, match="no model 'gpt5-mini'") as caught:
        await LiteLLMModel(ModelSettings(model="gpt5-mini", api_key=KEY)).complete(HELLO)
    assert "gpt-5-mini" in caught.value.hint


async def test_unknown_provider_at_an_address_of_ones_own_gets_the_prefix_to_write(
    server: ModelServer,
) -> None:
    with pytest.raises(ConfigError) as caught:
        await model_at(server, "Qwen/Qwen3").complete(HELLO)
    assert '"openai/Qwen/Qwen3"' in caught.value.hint


# ---- retrying ------------------------------------------------------------------------------------


def impatient() -> Retry:
    return Retry(base_s=0.0, max_attempts=4)


async def test_call_is_repeated_until_it_succeeds(server: ModelServer) -> None:
    server.reply("root", Fault(status=500), Fault(status=429, retry_after_s=0), "answer")
    told: list[str] = []
    model = with_retry(
        model_at(server),
        impatient(),
        on_retry=lambda attempt, wait_s, error: told.append(f"{attempt} {type(error).__name__}"),
    )
    assert (await model.complete(HELLO)).text == "answer"
    assert told == ["1 ModelError", "2 RateLimited"]


async def test_litellm_makes_no_attempts_of_its_own(server: ModelServer) -> None:
    server.default("root", Fault(status=500))
    with pytest.raises(ModelError):
        await with_retry(model_at(server), impatient()).complete(HELLO)
    assert len(server.requests) == 4


async def test_stream_is_repeated_before_its_first_text(server: ModelServer) -> None:
    server.reply("root", Fault(status=503), Fault(how="truncated"), Reply("one two three", chunk_size=4))
    async with with_retry(model_at(server), impatient()).stream(HELLO) as stream:
        pieces = [piece async for piece in stream]
    assert "".join(pieces) == stream.text == "one two three"
    assert stream.finish_reason == "stop"
    assert not stream.usage.estimated


async def test_stream_is_not_repeated_after_its_first_text(server: ModelServer) -> None:
    server.reply("root", Fault(how="truncated", text="half a rep"), "never asked for")
    with pytest.raises(ModelError):
        await read(with_retry(model_at(server), impatient()))
    assert len(server.requests) == 1


async def test_wrong_key_is_not_tried_again(server: ModelServer) -> None:
    server.default("root", Fault(status=401))
    with pytest.raises(ConfigError, match="was refused"):
        await read(with_retry(model_at(server), impatient()))
    assert len(server.requests) == 1


# ---- thinking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
async def test_think_tags_are_kept_apart(server: ModelServer, chunk_size: int) -> None:
    server.default("root", Reply("<think>\na < b</think>\n\nThe answer", chunk_size=chunk_size))
    model = model_at(server)
    reply = await model.complete(HELLO)
    async with model.stream(HELLO) as stream:
        async for _ in stream:
            pass
    assert reply.text == stream.text == "The answer"
    assert reply.reasoning.strip() == stream.reasoning.strip() == "a < b"


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
async def test_thoughts_that_a_template_opened_are_kept_apart(server: ModelServer, chunk_size: int) -> None:
    said = "a < b\nand so\n</think>\n\nThe answer"
    server.default("deepseek-r1", Reply(said, chunk_size=chunk_size))
    model = model_at(server, "openai/deepseek-r1")
    reply = await model.complete(HELLO)
    async with model.stream(HELLO) as stream:
        pieces = [piece async for piece in stream]
    assert reply.text == stream.text == "".join(pieces) == "The answer"
    assert reply.reasoning.strip() == stream.reasoning.strip() == "a < b\nand so"


async def test_a_server_that_takes_thoughts_out_itself_is_not_waited_for(server: ModelServer) -> None:
    server.default("deepseek-r1", Reply("one two three", reasoning="hm", chunk_size=4))
    async with model_at(server, "openai/deepseek-r1").stream(HELLO) as stream:
        pieces = [piece async for piece in stream]
    assert len(pieces) > 3
    assert (stream.text, stream.reasoning) == ("one two three", "hm")


def split(pieces: list[str], *, unopened: bool = False) -> tuple[str, str]:
    splitter = ThinkSplitter(unopened=unopened)
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.end()]
    return "".join(thoughts for thoughts, _ in parts), "".join(text for _, text in parts)


MARKED = st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "</", " ", "\n", "a", "é"])).map(
    "".join
)


@given(MARKED, st.lists(st.integers(0, 40)), st.booleans())
def test_cutting_a_reply_differently_does_not_change_what_is_thought(
    text: str, cuts: list[int], unopened: bool
) -> None:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert split(pieces, unopened=unopened) == split([text], unopened=unopened)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", ("", "plain")),
        ("  plain", ("", "  plain")),
        ("<thin", ("", "<thin")),
        ("<think>a</think>b", ("a", "b")),
        (" <think>a</think> b <think>c</think>", ("a", "b <think>c</think>")),
        ("say <think>a</think>", ("", "say <think>a</think>")),
        ("<think>never closed </thi", ("never closed </thi", "")),
        ("</think>\n\nb", ("", "b")),
        ("a\n</think>\nb", ("a\n", "b")),
        ("a\n </think>", ("a\n", "")),
        ("the tag </think> closes", ("", "the tag </think> closes")),
        ("write <think>\na\n</think>\nb", ("", "write <think>\na\n</think>\nb")),
        ("", ("", "")),
    ],
)
def test_only_thoughts_at_the_start_are_reasoning(text: str, parts: tuple[str, str]) -> None:
    assert split_thinking(text) == parts


# ---- names, keys, prices -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("gpt-5", "OPENAI_API_KEY"),
        ("o3", "OPENAI_API_KEY"),
        ("openai/anything", "OPENAI_API_KEY"),
        ("claude-sonnet-4-5", "ANTHROPIC_API_KEY"),
        ("anthropic/claude-sonnet-4-5", "ANTHROPIC_API_KEY"),
        ("gemini/gemini-2.5-pro", "GEMINI_API_KEY"),
        ("gemini-2.5-pro", "GEMINI_API_KEY"),
        ("mistral/mistral-large-latest", "MISTRAL_API_KEY"),
        ("groq/llama-3.3-70b-versatile", "GROQ_API_KEY"),
        ("deepseek/deepseek-chat", "DEEPSEEK_API_KEY"),
        ("openrouter/qwen/qwen3-coder", "OPENROUTER_API_KEY"),
        ("xai/grok-3", "XAI_API_KEY"),
        ("together_ai/x/y", "TOGETHERAI_API_KEY"),
        ("fireworks_ai/x", "FIREWORKS_AI_API_KEY"),
        ("zai/glm-4.6", "ZAI_API_KEY"),
        ("openai/glm-4.6", "ZAI_API_KEY"),
        ("cohere/command-a-03-2025", "COHERE_API_KEY"),
        ("azure/my-deployment", "AZURE_API_KEY"),
        ("perplexity/sonar", "PERPLEXITYAI_API_KEY"),
        ("some-provider/x", "SOME_PROVIDER_API_KEY"),
        ("ollama/llama3", None),
        ("ollama_chat/llama3", None),
        ("hosted_vllm/x", None),
        ("bedrock/anthropic.claude-v2", None),
        ("vertex_ai/gemini-2.5-pro", None),
        ("no-such-family", None),
    ],
)
def test_key_variable(model: str, variable: str | None) -> None:
    assert key_variable(model) == variable


def test_other_names_of_a_key_are_known() -> None:
    assert key_variables("gemini/gemini-2.5-pro") == ("GEMINI_API_KEY", "GOOGLE_API_KEY")


def test_bare_names_get_their_provider() -> None:
    assert full_name("gpt-5") == "openai/gpt-5"
    assert full_name("glm-4.6", api_base="http://localhost/v1") == "zai/glm-4.6"
    assert full_name("my-model", api_base="http://localhost/v1") == "openai/my-model"
    assert full_name("my-model") == "my-model"


def test_prices_and_sizes_come_from_the_map() -> None:
    model = LiteLLMModel(ModelSettings(model="gpt-5"))
    assert model.price == Price(input_per_mtok=1.25, output_per_mtok=10.0, cached_per_mtok=0.125)
    assert model.context_window == 272_000
    assert model.max_output_tokens == 128_000


def test_long_context_has_its_own_price() -> None:
    price = LiteLLMModel(ModelSettings(model="gemini/gemini-2.5-pro")).price
    assert price is not None
    assert price.beyond is not None
    assert price.beyond[0] == 200_000
    assert price.beyond[1].input_per_mtok == 2.5


def test_models_without_a_price_are_unpriced_and_local_ones_are_free() -> None:
    assert LiteLLMModel(ModelSettings(model="openai/unheard-of")).price is None
    assert LiteLLMModel(ModelSettings(model="codestral/codestral-latest")).price is None
    free = LiteLLMModel(ModelSettings(model="ollama/llama3")).price
    assert free is not None
    assert free.cost_usd(input_tokens=1000, output_tokens=1000) == 0.0


async def test_cost_of_a_known_model_comes_from_the_map(server: ModelServer) -> None:
    server.default("gpt-5", Reply("hi", usage=Tokens(input=1000, output=50, cached=800)))
    model = model_at(server, "gpt-5")
    expected = pytest.approx((200 * 1.25 + 800 * 0.125 + 50 * 10) / 1e6)
    assert (await model.complete(HELLO)).usage.cost_usd == expected
    async with model.stream(HELLO) as stream:
        async for _ in stream:
            pass
    assert stream.usage.cost_usd == expected


async def test_cost_of_an_unpriced_model_is_unknown(server: ModelServer) -> None:
    server.default("root", "hi")
    assert (await model_at(server).complete(HELLO)).usage.cost_usd is None


def test_estimate_is_a_token_for_four_bytes() -> None:
    assert estimate_tokens([{"role": "user", "content": "x" * 401}]) == 105
    assert estimate_tokens([{"role": "user", "content": "漢" * 400}]) == 304
    assert estimate_tokens([]) == 0


def test_near_names() -> None:
    assert "claude-sonnet-4-5" in near_models("claude-sonet-4-5")
    assert near_models("qqqqqqqqqqqq") == []
    assert "gpt-5" in known_models()


# ---- a process of its own ------------------------------------------------------------------------

SCRIPT = """
import asyncio, os, sys
before = dict(os.environ)
from rlm import models
from rlm.errors import ModelError
from rlm.providers import ModelSettings
assert "litellm" not in sys.modules
models.preload()
model = models.LiteLLMModel(ModelSettings(model=f"{sys.argv[2]}/root", api_base=sys.argv[1]))
hello = [{"role": "user", "content": "hello"}]

async def ask():
    assert (await model.complete(hello)).text == "hi there"
    async with model.stream(hello) as stream:
        assert [piece async for piece in stream]
    async with model.stream(hello) as stream:
        assert await anext(stream)
    try:
        await model.complete(hello)
    except ModelError:
        pass
    if "close" in sys.argv:
        await models.close_models()

with asyncio.Runner() as runner:
    runner.run(ask())
    runner.run(ask())
added = {name for name in os.environ if os.environ[name] != before.get(name)}
litellms = {"LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_MODE", "LITELLM_LOG", "TIKTOKEN_CACHE_DIR"}
assert added <= litellms, added
"""


def run_python(script: str, *arguments: str, warnings: str = "default") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", warnings, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("provider", "ending", "warnings"),
    [("openai", "close", "error"), ("anthropic", "close", "error"), ("openai", "just leave", "ignore")],
)
def test_a_plain_script_prints_nothing(
    server: ModelServer, provider: str, ending: str, warnings: str
) -> None:
    for _ in range(2):
        said = Reply("hi there", chunk_size=3)
        server.reply("root", said, said, said, Fault(status=500))
    done = run_python(SCRIPT, server.url, provider, ending, warnings=warnings)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_leaving_during_the_import_is_silent() -> None:
    done = run_python("from rlm import models; models.preload()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
