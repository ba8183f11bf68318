"""Models: a prompt goes out, text and usage come back. The one file that imports litellm, and late.

`Model` and `ReplyStream` are what the engine knows; `LiteLLMModel` implements them for every provider that
litellm speaks to. Its exceptions become ours here (`rlm.errors`), with nothing of a key in their text.

It does not repeat calls (`rlm.retry`), bound or sum up what they cost (`rlm.ledger`), read configuration or
keys (`rlm.settings`). litellm's own retries, fallbacks, budgets, router and cache stay unused.
"""

import asyncio
import contextlib
import difflib
import email.utils
import functools
import importlib
import os
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict

from rlm.errors import ConfigError, ContextTooLong, ModelError, RateLimited, RlmError
from rlm.events import Usage
from rlm.ledger import TOKENS_PER_PRICE, Price

DEFAULT_TIMEOUT_S = 300.0


class ChatMessage(TypedDict):
    """`role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model as configured. `params` go to the provider with each call; `price` overrides litellm's."""

    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    params: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    """A whole reply. `finish_reason` is `stop`, `length` or the provider's word, empty when it gave none."""

    text: str
    reasoning: str
    usage: Usage
    finish_reason: str
    model: str


class ReplyStream(Protocol):
    """A reply as it comes: `async with` opens and closes the connection, `async for` gives pieces of text.

    Leaving early closes the connection. The properties hold what has come so far; `usage` is an estimate
    (and says so) unless the stream was read to its end and the provider sent its numbers. Errors
    (`ModelError`, `ConfigError`) come from entering or from reading.
    """

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def usage(self) -> Usage: ...


class Model(Protocol):
    """Something that answers. Prices and sizes are None where unknown; sizes are in tokens."""

    @property
    def name(self) -> str: ...
    @property
    def price(self) -> Price | None: ...
    @property
    def context_window(self) -> int | None: ...
    @property
    def max_output_tokens(self) -> int | None: ...
    def stream(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> ReplyStream: ...
    async def complete(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> ModelReply: ...


def estimate_tokens(messages: Sequence[ChatMessage]) -> int:
    """A quick guess at the input tokens of a call: a token for four bytes of UTF-8, four for each message.

    For ASCII that is four characters; scripts that take more tokens a character take more bytes too.
    """
    return sum(_text_tokens(message["content"]) + 4 for message in messages)


def _text_tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


# ---- names and keys ------------------------------------------------------------------------------

_FAMILIES = (
    (r"gpt-|chatgpt-|o\d|ft:gpt-|codex-", "openai"),
    (r"claude-", "anthropic"),
    (r"gemini-|gemma-", "gemini"),
    (r"command-", "cohere_chat"),
    (r"deepseek-", "deepseek"),
    (r"mistral-|ministral-|magistral-|devstral-|codestral-", "mistral"),
    (r"grok-", "xai"),
    (r"glm-", "zai"),
    (r"kimi-|moonshot-", "moonshot"),
)

_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "ai21_chat": ("AI21_API_KEY",),
    "anthropic_text": ("ANTHROPIC_API_KEY",),
    "azure": ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"),
    "azure_text": ("AZURE_API_KEY",),
    "cohere_chat": ("COHERE_API_KEY", "CO_API_KEY"),
    "cohere": ("COHERE_API_KEY", "CO_API_KEY"),
    "custom_openai": ("OPENAI_API_KEY",),
    "fireworks_ai": ("FIREWORKS_AI_API_KEY", "FIREWORKS_API_KEY"),
    "friendliai": ("FRIENDLIAI_API_KEY", "FRIENDLI_TOKEN"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "huggingface": ("HUGGINGFACE_API_KEY", "HF_TOKEN"),
    "lambda_ai": ("LAMBDA_API_KEY",),
    "meta_llama": ("LLAMA_API_KEY",),
    "nano-gpt": ("NANOGPT_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY", "OR_API_KEY"),
    "perplexity": ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
    "replicate": ("REPLICATE_API_KEY", "REPLICATE_API_TOKEN"),
    "scaleway": ("SCW_SECRET_KEY",),
    "text-completion-openai": ("OPENAI_API_KEY",),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY"),
    "veniceai": ("VENICE_AI_API_KEY",),
    "volcengine": ("VOLCENGINE_API_KEY", "ARK_API_KEY"),
    "watsonx": ("WATSONX_APIKEY", "WATSONX_API_KEY"),
}
"""Where a provider's key is looked for, when it is not its name with `_API_KEY`."""

_LOCAL = frozenset(
    "ollama ollama_chat lm_studio vllm hosted_vllm llamafile lemonade docker_model_runner xinference "
    "oobabooga petals triton infinity".split()
)
_SIGNED_IN = frozenset(
    "bedrock bedrock_mantle sagemaker sagemaker_chat vertex_ai vertex_ai_beta oci sap github_copilot "
    "chatgpt".split()
)
"""Providers that identify the user by something other than one key."""

_PLACEHOLDER_KEY = "no-key"


def full_name(model: str, *, api_base: str | None = None) -> str:
    """The name with its provider: `gpt-5` is `openai/gpt-5`. Unknown families stay as they are.

    With an `api_base`, a bare name of no known family is taken to be an OpenAI-compatible server's.
    """
    if "/" in model:
        return model
    for pattern, provider in _FAMILIES:
        if re.match(pattern, model):
            return f"{provider}/{model}"
    return f"openai/{model}" if api_base else model


def key_variables(model: str) -> tuple[str, ...]:
    """Environment variables that may hold the key for a model, the usual one first; none for local ones."""
    provider, slash, name = full_name(model).partition("/")
    if provider == "openai" and name.startswith("glm-"):
        provider = "zai"  # GLM behind its OpenAI-compatible address is often written so
    if not slash or provider in _LOCAL | _SIGNED_IN:
        return ()
    if provider in _VARIABLES:
        return _VARIABLES[provider]
    return (re.sub(r"\W", "_", provider).upper() + "_API_KEY",)


def key_variable(model: str) -> str | None:
    """The environment variable that usually holds the key for a model; None when it needs no key."""
    return next(iter(key_variables(model)), None)


# ---- litellm -------------------------------------------------------------------------------------


def preload() -> None:
    """Begin importing litellm in the background; it takes seconds. A failure shows at the first call."""

    def load() -> None:
        with contextlib.suppress(Exception):
            _litellm()

    threading.Thread(target=load, name="import-litellm", daemon=True).start()


def _litellm() -> Any:
    """litellm, imported and silenced. Waits for an import under way in another thread."""
    if "litellm" not in sys.modules:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else a download blocks the import
        os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else it loads any .env into the process
        os.environ.setdefault("LITELLM_LOG", "CRITICAL")
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True  # else errors print advertisements to stdout
    litellm.drop_params = True
    return litellm


async def close_models() -> None:
    """Close litellm's connections and workers. To be awaited last on the event loop that made the calls."""
    if "litellm" not in sys.modules:
        return
    litellm = _litellm()
    worker = importlib.import_module("litellm.litellm_core_utils.logging_worker").GLOBAL_LOGGING_WORKER
    await worker.flush()
    await worker.stop()
    await litellm.close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()


def known_models() -> list[str]:
    """Chat models in litellm's map, sorted; waits for the import."""
    return sorted(
        name for name, entry in _litellm().model_cost.items() if entry.get("mode") in ("chat", "responses")
    )


def near_models(model: str) -> list[str]:
    """Up to three known models whose names look like this one."""
    return difflib.get_close_matches(model, known_models(), n=3, cutoff=0.6)


@functools.cache
def _map_entry(model: str) -> Mapping[str, Any]:
    """What litellm's map says of a model; empty when it is not there."""
    litellm = _litellm()
    try:
        entry: Mapping[str, Any] = litellm.model_cost[litellm.get_model_info(model)["key"]]
    except Exception:  # litellm raises a bare Exception for unknown names
        return {}
    return entry


def _map_price(model: str) -> Price | None:
    """The price in litellm's map. Zero means free for what runs locally, unknown for anything else."""
    entry = _map_entry(model)
    if "input_cost_per_token" not in entry or "output_cost_per_token" not in entry:
        return None
    beyond = None
    for key in entry:
        if (tier := re.fullmatch(r"input_cost_per_token(_above_(\d+)k_tokens)", key)) and beyond is None:
            beyond = (int(tier[2]) * 1000, _tier_price(entry, tier[1], beyond=None))
    price = _tier_price(entry, "", beyond=beyond)
    free = not price.input_per_mtok and not price.output_per_mtok
    return None if free and model.partition("/")[0] not in _LOCAL else price


def _tier_price(entry: Mapping[str, Any], suffix: str, *, beyond: tuple[int, Price] | None) -> Price:
    def per_mtok(key: str) -> float | None:
        value = entry.get(key + suffix, entry.get(key))
        return None if value is None else float(value) * TOKENS_PER_PRICE

    return Price(
        input_per_mtok=per_mtok("input_cost_per_token") or 0.0,
        output_per_mtok=per_mtok("output_cost_per_token") or 0.0,
        cached_per_mtok=per_mtok("cache_read_input_token_cost"),
        beyond=beyond,
    )


_OURS = frozenset(
    "model messages stream stream_options api_key api_base base_url timeout max_retries num_retries "
    "fallbacks n".split()
)
"""What `params` may not set: it is ours, or was found unsafe in litellm."""


class LiteLLMModel:
    """A model behind litellm. `timeout_s` is the longest silence: for a whole reply, or between two pieces.

    Price and sizes come from litellm's map, so the first look at them waits for the import. Raises
    `ConfigError` when `params` hold what is not theirs to set.
    """

    def __init__(self, settings: ModelSettings, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        if taken := sorted(_OURS & settings.params.keys()):
            raise ConfigError(
                f"params of {settings.model} cannot set {', '.join(taken)}.",
                "These are handled by the program itself.",
                hint="Remove them from params in config.json.",
            )
        self.settings = settings
        self.timeout_s = timeout_s
        self._full_name = full_name(settings.model, api_base=settings.api_base)
        # With an address of its own, a model gets its own key or none: litellm would else send along the
        # key that the environment holds for the provider.
        self._api_key = settings.api_key or (_PLACEHOLDER_KEY if settings.api_base else None)

    @property
    def name(self) -> str:
        return self.settings.model

    @functools.cached_property
    def price(self) -> Price | None:
        return self.settings.price or _map_price(self._full_name)

    @property
    def context_window(self) -> int | None:
        return _map_entry(self._full_name).get("max_input_tokens")

    @property
    def max_output_tokens(self) -> int | None:
        return _least(_map_entry(self._full_name).get("max_output_tokens"), self._configured_limit)

    @property
    def _configured_limit(self) -> int | None:
        params = self.settings.params
        return _least(params.get("max_tokens"), params.get("max_completion_tokens"))

    def stream(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> "LiteLLMStream":
        return LiteLLMStream(self, messages, max_output_tokens=max_output_tokens)

    async def complete(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> ModelReply:
        """Ask and wait for the whole reply. Raises `ModelError` or `ConfigError`."""
        response = await self._send(messages, max_output_tokens=max_output_tokens)
        if not response.choices:
            raise _no_reply(self.name)
        choice = response.choices[0]
        thoughts, text = split_thinking(choice.message.content or "")
        reasoning = (getattr(choice.message, "reasoning_content", None) or "") + thoughts
        text = text.lstrip() if reasoning else text  # litellm may have taken out the <think> already
        usage = getattr(response, "usage", None)
        if not (text or reasoning or choice.finish_reason):
            raise _no_reply(self.name)
        counted = usage and usage.prompt_tokens
        return ModelReply(
            text=text,
            reasoning=reasoning,
            usage=self._reported(usage, response) if counted else self._estimated(messages, text + reasoning),
            finish_reason=choice.finish_reason or "",
            model=self.name,
        )

    async def _send(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None, **options: Any
    ) -> Any:
        litellm = await asyncio.to_thread(_litellm)
        params = dict(self.settings.params)
        limit = _least(max_output_tokens, self._configured_limit)
        if limit is not None:
            params.pop("max_completion_tokens", None)
            params["max_tokens"] = limit
        call = litellm.acompletion(
            **params,
            **options,
            model=self._full_name,
            messages=list(messages),
            api_base=self.settings.api_base,
            api_key=self._api_key,
            timeout=self.timeout_s + 5,  # ours comes first, and is the same for every provider
            max_retries=0,
        )
        return await self._translated(call)

    async def _translated(self, call: Any) -> Any:
        """Await a step of litellm's within the time limit, its exceptions as ours."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await call
        except (RlmError, StopAsyncIteration):
            raise
        except TimeoutError:
            raise _timed_out(self.name, self.timeout_s) from None
        except Exception as error:
            # The chain ends here: the original may quote request headers.
            raise translate(error, self.settings, timeout_s=self.timeout_s) from None

    def _reported(self, usage: Any, response: Any) -> Usage:
        details = getattr(usage, "prompt_tokens_details", None)
        cached_tokens = getattr(details, "cached_tokens", None) or 0
        cost_usd = None
        if self.settings.price is None:
            cost_usd = (getattr(response, "_hidden_params", None) or {}).get("response_cost") or None
        return self._usage(usage.prompt_tokens, usage.completion_tokens or 0, cached_tokens, cost_usd)

    def _estimated(self, messages: Sequence[ChatMessage], reply: str, *, seen: Any = None) -> Usage:
        """`seen` is usage that the provider sent on the way: its input is final, its output is not."""
        input_tokens = getattr(seen, "prompt_tokens", None) or estimate_tokens(messages)
        details = getattr(seen, "prompt_tokens_details", None)
        cached_tokens = getattr(details, "cached_tokens", None) or 0
        output_tokens = max(_text_tokens(reply), getattr(seen, "completion_tokens", None) or 0)
        return self._usage(input_tokens, output_tokens, cached_tokens, None, estimated=True)

    def _usage(
        self,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int,
        cost_usd: float | None,
        *,
        estimated: bool = False,
    ) -> Usage:
        if cost_usd is None and self.price is not None:
            cost_usd = self.price.cost_usd(
                input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens
            )
        return Usage(
            calls=1,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_tokens=cached_tokens,
            cost_usd=cost_usd,
            estimated=estimated,
        )


class LiteLLMStream:
    """`ReplyStream` over litellm's."""

    def __init__(
        self, model: LiteLLMModel, messages: Sequence[ChatMessage], *, max_output_tokens: int | None
    ) -> None:
        self._model = model
        self._messages = messages
        self._max_output_tokens = max_output_tokens
        self._source: Any = None
        self._split = ThinkSplitter()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._total: Any = None
        self._ended = False
        self.finish_reason = ""

    async def __aenter__(self) -> Self:
        self._source = await self._model._send(
            self._messages,
            max_output_tokens=self._max_output_tokens,
            stream=True,
            stream_options={"include_usage": True},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self._source.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._ended:
            try:
                chunk = await self._model._translated(anext(self._source))
            except StopAsyncIteration:
                self._ended = True
                thoughts, text = self._split.end()
            else:
                thoughts, text = self._take(chunk)
            self._reasoning.append(thoughts)
            if text:
                self._text.append(text)
                return text
        if not (self._seen_usage() or self.text or self.reasoning):
            raise _no_reply(self._model.name)
        raise StopAsyncIteration

    def _take(self, chunk: Any) -> tuple[str, str]:
        self._total = getattr(chunk, "usage", None) or self._total
        if not chunk.choices:
            return "", ""
        choice = chunk.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        thoughts, text = self._split.feed(choice.delta.content or "")
        return (getattr(choice.delta, "reasoning_content", None) or "") + thoughts, text

    def _seen_usage(self) -> Any:
        """Usage in what the provider sent. litellm's own final count also exists when there was none."""
        chunks = getattr(self._source, "chunks", None) or ()
        return next((usage for chunk in reversed(chunks) if (usage := getattr(chunk, "usage", None))), None)

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def usage(self) -> Usage:
        seen = self._seen_usage()
        if self._ended and seen and (total := self._total or seen).prompt_tokens:
            return self._model._reported(total, self._source)
        return self._model._estimated(self._messages, self.text + self.reasoning, seen=seen)


class ThinkSplitter:
    """Keeps a `<think>…</think>` at the start of a reply apart, however the reply is cut into pieces.

    `feed` and `end` give (reasoning, text), each as soon as it is certain which it is.
    """

    _OPEN, _CLOSE = "<think>", "</think>"

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"

    def feed(self, piece: str) -> tuple[str, str]:
        self._held += piece
        thoughts = ""
        if self._state == "start":
            head = self._held.lstrip()
            if head.startswith(self._OPEN):
                self._state, self._held = "thinking", head.removeprefix(self._OPEN)
            elif not self._OPEN.startswith(head):
                self._state = "text"
        if self._state == "thinking":
            thoughts, close, rest = self._held.partition(self._CLOSE)
            if close:
                self._state, self._held = "gap", rest
            else:
                kept = self._begun_close(thoughts)
                thoughts, self._held = thoughts[: len(thoughts) - kept], thoughts[len(thoughts) - kept :]
        if self._state == "gap":
            self._held = self._held.lstrip()
            self._state = "text" if self._held else "gap"
        if self._state != "text":
            return thoughts, ""
        text, self._held = self._held, ""
        return thoughts, text

    def end(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)

    def _begun_close(self, text: str) -> int:
        """How many of the last characters may be the beginning of the closing tag."""
        return next((n for n in range(len(self._CLOSE) - 1, 0, -1) if text.endswith(self._CLOSE[:n])), 0)


def split_thinking(reply: str) -> tuple[str, str]:
    """(reasoning, text) of a whole reply."""
    splitter = ThinkSplitter()
    (thoughts, text), (more_thoughts, more_text) = splitter.feed(reply), splitter.end()
    return thoughts + more_thoughts, text + more_text


# ---- errors --------------------------------------------------------------------------------------

_NO_CREDIT = re.compile(
    r"insufficient.?(quota|credit|balance|funds)|exceeded your current quota|credit balance|"
    r"out of credit|billing hard limit|payment required",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context.?(length|window|size|limit)|prompt is too long|too many (input )?tokens|"
    r"maximum (number of tokens|input length)",
    re.IGNORECASE,
)
_NO_KEY = re.compile(r"missing credentials|missing .*api.?key|api.?key .*must be set", re.IGNORECASE)
_NO_CONNECTION = re.compile(r"connection error|cannot connect|connection refused", re.IGNORECASE)
_ASKED_WAIT = re.compile(r"retry(?:.?delay|\s+in)\W*(\d+(?:\.\d+)?)\s*s", re.IGNORECASE)
_TRANSIENT_STATUSES = frozenset({408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 529})


def translate(error: Exception, settings: ModelSettings, *, timeout_s: float) -> RlmError:
    """One of litellm's exceptions as ours: what happened, the provider's own sentence, what to do."""
    litellm = _litellm()
    error = getattr(error, "original_exception", None) or error
    model = settings.model
    said = _provider_sentence(error, settings)
    status = getattr(error, "status_code", None)
    retry_after_s = _retry_after_s(error)
    if isinstance(error, litellm.Timeout):
        return _timed_out(model, timeout_s)
    if "LLM Provider NOT provided" in str(error) or status == 404:
        return _unknown_model(settings, said if status == 404 else "")
    if status in (401, 403) or _NO_KEY.search(said):
        return _no_access(settings, said)
    if status == 402 or (_NO_CREDIT.search(said) and retry_after_s is None):
        return ModelError(
            f"The account behind {model} has no credit or quota left.",
            said,
            hint="Check the plan and the balance at the provider.",
        )
    if status == 429:
        return RateLimited(
            f"{model} is rate limited.",
            said,
            hint="Try again later, or lower limits.parallel.",
            retry_after_s=retry_after_s,
        )
    if isinstance(error, litellm.ContextWindowExceededError) or status == 413 or _TOO_LONG.search(said):
        return ContextTooLong(f"The prompt is too long for {model}.", said, hint="Send it in smaller pieces.")
    if isinstance(error, litellm.ContentPolicyViolationError):
        return ModelError(f"{model} refused the content of the prompt.", said, hint="Rephrase the prompt.")
    if _NO_CONNECTION.search(said):
        place = settings.api_base or "the provider"
        hint = "Is the server running? Check api_base." if settings.api_base else "Check the network."
        return ModelError(f"Cannot reach {place} for {model}.", said, hint=hint, retryable=True)
    if status in _TRANSIENT_STATUSES or isinstance(error, litellm.APIConnectionError):
        return ModelError(
            f"The provider of {model} failed.",
            said,
            hint="Try again in a while.",
            retryable=True,
            retry_after_s=retry_after_s,
        )
    return ModelError(
        f"{model} did not accept the request.", said, hint="Check params of this model in config.json."
    )


def _unknown_model(settings: ModelSettings, said: str) -> ConfigError:
    near = near_models(settings.model)
    hint = "Write it as provider/name, as litellm does."
    if settings.api_base and said:
        hint = f"See {settings.api_base.rstrip('/')}/models for what that server has."
    elif settings.api_base:
        hint = f'For an OpenAI-compatible server write "openai/{settings.model}".'
    elif near:
        hint = f"Perhaps {' or '.join(near)}?"
    return ConfigError(
        f"There is no model {settings.model!r}.", said or "Its provider is not known.", hint=hint
    )


def _no_access(settings: ModelSettings, said: str) -> ConfigError:
    variable = key_variable(full_name(settings.model, api_base=settings.api_base))
    hint = f"Set {variable} in the environment or in .env." if variable else "Check the model's credentials."
    given = settings.api_key is not None
    what = f"The key for {settings.model} was refused." if given else f"There is no key for {settings.model}."
    return ConfigError(what, said, hint=hint)


def _timed_out(model: str, timeout_s: float) -> ModelError:
    return ModelError(
        f"{model} did not answer in time.",
        f"Nothing came for {timeout_s:g} s.",
        hint="Try again, or ask for less at a time.",
        retryable=True,
    )


def _no_reply(model: str) -> ModelError:
    return ModelError(
        f"{model} answered with nothing.", "The reply held no text.", hint="Try again.", retryable=True
    )


def _provider_sentence(error: Exception, settings: ModelSettings) -> str:
    """What the provider said: one printable line, without litellm's prefixes, without the key."""
    text = str(getattr(error, "message", "") or error).partition("Traceback (most recent call last)")[0]
    if settings.api_key:
        text = text.replace(settings.api_key, "[key]")
    text = re.sub(r"^(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)\s*[:-]\s*)+", "", text)
    text = "".join(char if char.isprintable() else " " for char in text)
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"


def _retry_after_s(error: Exception) -> float | None:
    """Seconds to wait, from the headers (seconds, milliseconds or a date) or the text."""
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
    with contextlib.suppress(ValueError):
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    if value := headers.get("retry-after"):
        with contextlib.suppress(ValueError):
            return max(0.0, float(value))
        with contextlib.suppress(ValueError):
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    asked = _ASKED_WAIT.search(str(error))
    return float(asked[1]) if asked else None


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
