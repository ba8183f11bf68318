"""Providers: who serves a model, its name in full, where its key is looked for, and how it is configured.

Names only: no key is read here (`rlm.choose`), no model asked (`rlm.models`), and whether an address is a
provider's own is `rlm.endpoints`' business.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlm.errors import ConfigError
from rlm.ledger import Price

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

LOCAL = frozenset(
    "ollama ollama_chat lm_studio vllm hosted_vllm llamafile lemonade docker_model_runner xinference "
    "oobabooga petals triton infinity".split()
)
_SIGNED_IN = frozenset(
    "bedrock bedrock_mantle sagemaker sagemaker_chat vertex_ai vertex_ai_beta oci sap github_copilot "
    "chatgpt".split()
)
"""Providers that identify the user by something other than one key."""


_OURS = frozenset(
    "model messages stream stream_options api_key api_base base_url timeout max_retries num_retries "
    "fallbacks n".split()
)
"""What `params` may not set: it is ours, or was found unsafe in litellm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model as configured. `params` go to the provider with each call; `price` overrides litellm's.

    Raises `ConfigError` when `params` hold what is not theirs to set.
    """

    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    params: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None

    def __post_init__(self) -> None:
        if taken := sorted(_OURS & self.params.keys()):
            raise ConfigError(
                f"params of {self.model} cannot set {', '.join(taken)}.",
                "These are handled by the program itself.",
                hint="Remove them from params in config.json.",
            )


def full_name(model: str, *, api_base: str | None = None) -> str:
    """The name with its provider: `gpt-5` is `openai/gpt-5`. Unknown families stay as they are.

    With an `api_base`, a bare name of no known family is taken to be an OpenAI-compatible server's.
    """
    if "/" in model:
        return model
    if family := _family(model):
        return f"{family}/{model}"
    return f"openai/{model}" if api_base else model


def provider_of(model: str) -> str | None:
    """Who serves a model and is sent its key; None for a bare name of no known family."""
    prefix, _, name = model.rpartition("/")
    family = _family(name)
    if family == "zai" and prefix in ("", "openai"):
        return "zai"  # GLM behind its OpenAI-compatible address is often written so
    return prefix.partition("/")[0] or family


def key_variables(model: str) -> tuple[str, ...]:
    """Environment variables that may hold the key for a model, the usual one first; none for local ones."""
    provider = provider_of(model)
    if provider is None or provider in LOCAL | _SIGNED_IN:
        return ()
    if provider in _VARIABLES:
        return _VARIABLES[provider]
    return (re.sub(r"\W", "_", provider).upper() + "_API_KEY",)


def key_variable(model: str) -> str | None:
    """The environment variable that usually holds the key for a model; None when it needs no key."""
    return next(iter(key_variables(model)), None)


def _family(name: str) -> str | None:
    return next((provider for pattern, provider in _FAMILIES if re.match(pattern, name, re.IGNORECASE)), None)
