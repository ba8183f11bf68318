"""Models: a prompt goes out, text and usage come back. The one file that imports litellm, and late.

`Model` and `ReplyStream` are what the engine knows; `LiteLLMModel` implements them for every provider that
litellm speaks to. Its exceptions come out as ours (`rlm.model_errors`).

It does not repeat calls (`rlm.retry`), bound or sum up what they cost (`rlm.ledger`), read configuration or
keys (`rlm.choose`). litellm's own retries, fallbacks, budgets, router and cache stay unused.
"""

import asyncio
import contextlib
import functools
import importlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict

from rlm.errors import RlmError
from rlm.events import Usage
from rlm.ledger import Price
from rlm.model_errors import no_reply, timed_out, translate
from rlm.model_map import chat_models, map_price, near_names
from rlm.model_usage import estimated, reported, text_tokens
from rlm.providers import ModelSettings, full_name
from rlm.thinking import ThinkSplitter, split_thinking

DEFAULT_TIMEOUT_S = 300.0
_PLACEHOLDER_KEY = "no-key"


class ChatMessage(TypedDict):
    """`role` is `system`, `user` or `assistant`."""

    role: str
    content: str


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
    return sum(text_tokens(message["content"]) + 4 for message in messages)


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


_calls_made: set[str] = set()
"""The models that were asked since the last `close_models`."""


async def close_models() -> None:
    """Close litellm's connections and workers. To be awaited last on the event loop that made the calls."""
    if not _calls_made:
        return  # and an import that is still under way is not waited for
    _calls_made.clear()
    litellm = _litellm()
    worker = importlib.import_module("litellm.litellm_core_utils.logging_worker").GLOBAL_LOGGING_WORKER
    await worker.flush()
    await worker.stop()
    await litellm.close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()


def known_models() -> list[str]:
    """Chat models in litellm's map, sorted; waits for the import."""
    return chat_models(_litellm().model_cost)


def near_models(model: str) -> list[str]:
    """Up to three known models whose names look like this one."""
    return near_names(model, _litellm().model_cost)


@functools.cache
def _map_entry(model: str) -> Mapping[str, Any]:
    """What litellm's map says of a model; empty when it is not there."""
    litellm = _litellm()
    try:
        entry: Mapping[str, Any] = litellm.model_cost[litellm.get_model_info(model)["key"]]
    except Exception:  # litellm raises a bare Exception for unknown names
        return {}
    return entry


class LiteLLMModel:
    """A model behind litellm. `timeout_s` is the longest silence: for a whole reply, or between two pieces.

    Price and sizes come from litellm's map, so the first look at them waits for the import.
    """

    def __init__(self, settings: ModelSettings, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
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
        if self.settings.price:
            return self.settings.price
        return map_price(_map_entry(self._full_name), provider=self._full_name.partition("/")[0])

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
            raise no_reply(self.name)
        choice = response.choices[0]
        thoughts, text = split_thinking(choice.message.content or "")
        reasoning = (getattr(choice.message, "reasoning_content", None) or "") + thoughts
        text = text.lstrip() if reasoning else text  # litellm may have taken out the <think> already
        usage = getattr(response, "usage", None)
        if not (text or reasoning or choice.finish_reason):
            raise no_reply(self.name)
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
        _calls_made.add(self.name)
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
            raise timed_out(self.name, self.timeout_s) from None
        except Exception as error:
            # The chain ends here: the original may quote request headers.
            raise translate(error, self.settings, litellm=_litellm(), timeout_s=self.timeout_s) from None

    def _reported(self, usage: Any, response: Any) -> Usage:
        charged_usd = None
        if self.settings.price is None:
            charged_usd = (getattr(response, "_hidden_params", None) or {}).get("response_cost") or None
        return reported(usage, self.price, charged_usd=charged_usd)

    def _estimated(self, messages: Sequence[ChatMessage], reply: str, *, seen: Any = None) -> Usage:
        input_tokens = getattr(seen, "prompt_tokens", None) or estimate_tokens(messages)
        return estimated(input_tokens, reply, price=self.price, seen=seen)


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
            raise no_reply(self._model.name)
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


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
