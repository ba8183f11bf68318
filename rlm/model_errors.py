"""What goes wrong when a model is asked, as our errors, with nothing of a key in their text.

`translate` is handed litellm, which only `rlm.models` imports, to tell its exceptions apart. Nothing is
raised, repeated or logged here.
"""

import contextlib
import email.utils
import re
import time
from typing import Any

from rlm.errors import ConfigError, ModelError, PromptTooLarge, RateLimited
from rlm.model_map import near_names
from rlm.providers import ModelSettings, full_name, key_variable

_NO_CREDIT = re.compile(
    r"insufficient.?(quota|credit|balance|funds)|exceeded your current quota|credit balance|"
    r"out of credit|billing hard limit|payment required|budget has been exceeded",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context.?(length|window|size|limit)|prompt is too long|too many (input )?tokens|"
    r"maximum (number of tokens|input length)",
    re.IGNORECASE,
)
_NO_KEY = re.compile(r"missing credentials|missing .*api.?key|api.?key .*must be set", re.IGNORECASE)
_UNKNOWN_PROVIDER = re.compile(r"LLM Provider NOT provided|Unmapped LLM provider")
_NO_CONNECTION = re.compile(r"connection error|cannot connect|connection refused", re.IGNORECASE)
_ASKED_WAIT = re.compile(r"retry(?:.?delay|\s+in)\W*(\d+(?:\.\d+)?)\s*s", re.IGNORECASE)
_TRANSIENT_STATUSES = frozenset({408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 529})


def translate(
    error: Exception, settings: ModelSettings, *, litellm: Any, timeout_s: float
) -> ModelError | ConfigError:
    """One of litellm's exceptions as ours: what happened, the provider's own sentence, what to do."""
    error = getattr(error, "original_exception", None) or error
    model = settings.model
    said = _provider_sentence(error, settings)
    status = getattr(error, "status_code", None)
    retry_after_s = _retry_after_s(error)
    if isinstance(error, litellm.Timeout):
        return timed_out(model, timeout_s)
    if _UNKNOWN_PROVIDER.search(str(error)) or status == 404:
        near = near_names(settings.model, litellm.model_cost)
        return _unknown_model(settings, said if status == 404 else "", near)
    if status in (401, 403) or _NO_KEY.search(said):
        return _no_access(settings, said)
    exhausted = isinstance(error, litellm.BudgetExceededError) or _NO_CREDIT.search(said)
    if status == 402 or (exhausted and retry_after_s is None):
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
        return PromptTooLarge(
            f"The prompt is too long for {model}.",
            said,
            hint="Send it in smaller pieces: chunks(size) cuts them.",
        )
    if isinstance(error, _refusals(litellm)):
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


def _refusals(litellm: Any) -> tuple[type[Exception], ...]:
    """What is raised when a filter, the provider's or a proxy's, does not like what was said."""
    errors = litellm.exceptions
    return (
        errors.ContentPolicyViolationError,
        errors.RejectedRequestError,
        errors.GuardrailRaisedException,
        errors.BlockedPiiEntityError,
        errors.ModifyResponseException,
        errors.SensitiveDataRouteException,
    )


def _unknown_model(settings: ModelSettings, said: str, near: list[str]) -> ConfigError:
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


def timed_out(model: str, timeout_s: float) -> ModelError:
    return ModelError(
        f"{model} did not answer in time.",
        f"Nothing came for {timeout_s:g} s.",
        hint="Try again, or ask for less at a time.",
        retryable=True,
        given_up=True,
    )


def no_reply(
    model: str, *, output_tokens: int = 0, finish_reason: str = "", limit: int | None = None
) -> ModelError:
    """A reply without text: it took `output_tokens`, and could have taken `limit`."""
    what = f"{model} answered with nothing."
    if finish_reason == "length":
        most = f"all {limit:,}" if limit else f"{output_tokens:,}"
        return ModelError(
            what,
            f"Its reasoning took {most} tokens that the reply may have, and none were left for text.",
            hint="Ask for less at a time, or set a lower reasoning_effort in params of this model.",
        )
    if output_tokens:
        why = f"It took {output_tokens:,} tokens, for reasoning perhaps, and wrote no text."
        return ModelError(what, why, hint="Ask again in other words.")
    return ModelError(what, "The reply held no text.", hint="Try again.", retryable=True)


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
