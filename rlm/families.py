"""What is known of model families beyond their provider: habits as a root model, and how they think aloud.

A family has an addendum to the system prompt (`rlm/prompts/family_*.md`) only where its habit is on record;
docs/models.md names the sources. Nothing here asks a model or knows a price.
"""

import re

from rlm import prompts

_FAMILIES = (
    ("claude", r"claude"),
    ("gemini", r"gemini"),
    ("gpt5", r"gpt-?5"),
    ("qwen", r"(?:qwen|qwq)"),
)
_THINKS_UNOPENED = re.compile(r"deepseek-?r1|qwq|qwen3.*-thinking", re.IGNORECASE)


def family(model: str) -> str | None:
    """The family of a model by its name as litellm knows it, whoever serves it; None for any other.

    `openrouter/qwen/qwen3-coder` and `ollama/qwen3:8b` are `qwen`, `bedrock/anthropic.claude-…` is `claude`.
    """
    name = model.lower().partition("/")[2] or model.lower()  # else gemini/gemma-3 would be gemini
    return next((found for found, pattern in _FAMILIES if re.search(rf"(?<![a-z]){pattern}", name)), None)


def addendum(model: str) -> str:
    """What the system prompt adds for a root model; empty where nothing is known to matter."""
    found = family(model)
    return prompts.fill(f"family_{found}") if found else ""


def thinks_unopened(model: str) -> bool:
    """Whether chat templates of this model open its `<think>` themselves, so that a reply only closes it."""
    return bool(_THINKS_UNOPENED.search(model))
