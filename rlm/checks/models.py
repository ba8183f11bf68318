"""The configured models: whether each has its key, is known and has a price. Keys are told by name only.

No model is called unless `pings` is asked for: then each one is, once.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping

from rlm.checks.check import Check, failure, ok, warning
from rlm.choose import settings_of
from rlm.errors import ConfigError, RlmError
from rlm.models import ChatMessage, LiteLLMModel, close_models, near_models
from rlm.settings import Config, ModelConfig

PING = "Reply with the word: ok"
PING_OUTPUT_TOKENS = 256
"""Some models reason before they say anything."""
PING_TIMEOUT_S = 60.0


def check_models(config: Config, environ: Mapping[str, str]) -> Iterator[Check]:
    """Waits for litellm, the first time. `environ` are the variables of the shell."""
    for label, model in _configured(config):
        yield _model(label, model, config, environ)


def _configured(config: Config) -> list[tuple[str, ModelConfig]]:
    """Each model once, under all that it is configured as."""
    labels = [("root model", config.root), ("sub model", config.sub)]
    labels += [(f'alias "{alias}"', model) for alias, model in config.aliases.items()]
    models: list[tuple[str, ModelConfig]] = []
    for label, model in labels:
        place = next((place for place, (_, other) in enumerate(models) if other == model), None)
        if place is None:
            models.append((label, model))
        else:
            models[place] = (f"{models[place][0]}, {label}", model)
    return models


def _model(label: str, model: ModelConfig, config: Config, environ: Mapping[str, str]) -> Check:
    name = f"{label} {model.model}"
    try:
        settings, variable = settings_of(model, config)
        asked = LiteLLMModel(settings)
    except ConfigError as error:
        if label.startswith("alias"):  # a question needs none of these
            return warning("models", name, f"{error.what} {error.why}".strip(), fix=error.hint)
        return failure("models", name, error)
    source = "the shell" if variable in environ else ".env"
    place = f"key in {variable}, from {source}" if variable else "no key needed"
    if model.api_base:
        place += f", at {model.api_base}"
    if asked.price is not None:
        price = asked.price
        cost = f"${price.input_per_mtok:g} in and ${price.output_per_mtok:g} out for a million tokens"
        return ok("models", name, f"{place}; {cost}")
    unpriced = "costs show as $? and tokens are capped instead"
    if asked.context_window is None and not model.api_base:
        near = near_models(model.model)
        fix = f"Did you mean {' or '.join(near)}?" if near else "Check its name in litellm's list of models."
        return warning("models", name, f"{place}; litellm does not know it, so {unpriced}", fix=fix)
    fix = 'Give it one: "price": {"input_per_mtok": …, "output_per_mtok": …} beside its name.'
    return warning("models", name, f"{place}; its price is not known, so {unpriced}", fix=fix)


async def pings(config: Config) -> list[Check]:
    """One tiny call to each configured model, all at once. Equal models are called once."""
    try:
        return list(
            await asyncio.gather(*(_ping(label, model, config) for label, model in _configured(config)))
        )
    finally:
        await close_models()


async def _ping(label: str, model: ModelConfig, config: Config) -> Check:
    name = f"ping {label} {model.model}"
    try:
        settings, _ = settings_of(model, config)
        asked = LiteLLMModel(settings, timeout_s=PING_TIMEOUT_S)
        started = time.monotonic()
        message = ChatMessage(role="user", content=PING)
        usage = (await asked.complete([message], max_output_tokens=PING_OUTPUT_TOKENS)).usage
    except RlmError as error:
        return failure("ping", name, error)
    seconds = time.monotonic() - started
    cost = "$?" if usage.cost_usd is None else f"${usage.cost_usd:.6f}"
    tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"
    return Check(
        area="ping",
        name=name,
        status="ok",
        detail=f"answered in {seconds:.1f} s; {'~' * usage.estimated}{tokens}, {cost}",
        measured={
            "seconds": round(seconds, 3),
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cost_usd": usage.cost_usd,
        },
    )
