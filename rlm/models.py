"""Models: a prompt goes out, text and usage come back. The one file that imports litellm, and late.

`Model` and `ReplyStream` are what the engine knows; `LiteLLMModel` implements them for every provider that
litellm speaks to. Its exceptions come out as ours (`rlm.model_errors`).

It does not repeat calls (`rlm.retry`), bound or sum up what they cost (`rlm.ledger`), read configuration or
keys (`rlm.choose`). litellm's own retries, fallbacks, budgets, router and cache stay unused.
"""

import asyncio
import contextlib
import functools
import gc
import importlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict

from rlm.errors import RlmError
from rlm.events import Usage
from rlm.families import thinks_unopened
from rlm.ledger import Price
from rlm.model_errors import no_reply, timed_out, translate
from rlm.model_map import chat_models, map_price, near_names
from rlm.model_stream import LiteLLMStream
from rlm.model_usage import estimated, finish_reason, reported, text_tokens
from rlm.prompt_cache import marked, needs_marks
from rlm.providers import LOCAL, ModelSettings, full_name
from rlm.thinking import split_thinking

DEFAULT_TIMEOUT_S = 300.0
CHARS_PER_TOKEN = 3
"""Of what a model can take, so much text surely fits, where `estimate_tokens` counts four."""
_PLACEHOLDER_KEY = "no-key"


class ChatMessage(TypedDict):
    """`role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    """A whole reply; empty `text` is possible when all its tokens went into reasoning.

    `finish_reason` is `length` when the reply ended at its limit, else `stop` or the provider's word, empty
    when it gave none.
    """

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
        with _uncollected():
            importlib.import_module("litellm")
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True  # else errors print advertisements to stdout
    litellm.drop_params = True
    return litellm


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Make objects that stay: litellm's million would else be looked through by every full collection."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


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
    # Anthropic's streams share one client that litellm does not close, and makes again when it is needed.
    if shared := vars(litellm).pop("module_level_aclient", None):
        await shared.close()


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

    @functools.cached_property
    def takes_marks(self) -> bool:
        return needs_marks(self._full_name, _map_entry(self._full_name))

    @property
    def thinks_unopened(self) -> bool:
        """Whether replies may begin in the middle of thoughts: its server may not know to take them out."""
        bare = self.settings.api_base is not None or self._full_name.partition("/")[0] in LOCAL
        return bare and thinks_unopened(self._full_name)

    def output_limit(self, max_output_tokens: int | None) -> int | None:
        return _least(max_output_tokens, self._configured_limit)

    @property
    def _configured_limit(self) -> int | None:
        params = self.settings.params
        return _least(params.get("max_tokens"), params.get("max_completion_tokens"))

    def stream(self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None) -> ReplyStream:
        return LiteLLMStream(self, messages, max_output_tokens=max_output_tokens)

    async def complete(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> ModelReply:
        """Ask and wait for the whole reply. Raises `ModelError` or `ConfigError`."""
        response = await self.send(messages, max_output_tokens=max_output_tokens)
        if not response.choices:
            raise no_reply(self.name)
        choice = response.choices[0]
        reasoning = getattr(choice.message, "reasoning_content", None) or ""
        text = choice.message.content or ""
        if reasoning:
            text = text.lstrip()  # litellm took out the <think>, or the provider did
        else:
            reasoning, text = split_thinking(text)
        total = getattr(response, "usage", None)
        counted = total and total.prompt_tokens
        if not (text or reasoning or choice.finish_reason or counted):
            raise no_reply(self.name)
        if counted:
            usage = self.reported_usage(total, response)
        else:
            usage = self.estimated_usage(messages, text + reasoning)
        native = (getattr(choice, "provider_specific_fields", None) or {}).get("native_finish_reason")
        return ModelReply(
            text=text,
            reasoning=reasoning,
            usage=usage,
            finish_reason=finish_reason(
                choice.finish_reason or "",
                native=str(native or ""),
                output_tokens=0 if usage.estimated else usage.output_tokens,
                limit=self.output_limit(max_output_tokens),
            ),
            model=self.name,
        )

    async def send(
        self,
        messages: Sequence[ChatMessage],
        *,
        max_output_tokens: int | None,
        goes_on: bool = False,
        **options: Any,
    ) -> Any:
        """litellm's own response. `goes_on`: these messages will be sent again with more after them."""
        litellm = _litellm() if _calls_made else await asyncio.to_thread(_litellm)
        _calls_made.add(self.name)
        params = dict(self.settings.params)
        limit = self.output_limit(max_output_tokens)
        if limit is not None:
            params.pop("max_completion_tokens", None)
            params["max_tokens"] = limit
        call = litellm.acompletion(
            **params,
            **options,
            model=self._full_name,
            messages=marked(messages) if goes_on and self.takes_marks else list(messages),
            api_base=self.settings.api_base,
            api_key=self._api_key,
            timeout=self.timeout_s + 5,  # ours comes first, and is the same for every provider
            max_retries=0,
        )
        return await self.translated(call)

    async def translated(self, call: Any) -> Any:
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

    def reported_usage(self, usage: Any, response: Any) -> Usage:
        charged_usd = None
        if self.settings.price is None:
            hidden = getattr(response, "_hidden_params", None) or {}
            charged_usd = hidden.get("response_cost") or getattr(usage, "cost", None) or None
        return reported(usage, self.price, charged_usd=charged_usd)

    def estimated_usage(self, messages: Sequence[ChatMessage], reply: str, *, seen: Any = None) -> Usage:
        input_tokens = getattr(seen, "prompt_tokens", None) or estimate_tokens(messages)
        return estimated(input_tokens, reply, price=self.price, seen=seen)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
