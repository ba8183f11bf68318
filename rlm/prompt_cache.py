"""Marks for providers that keep the beginning of a prompt only where they are told to.

Most providers find a repeated beginning by themselves; Claude's need a mark where it ends. Nothing is kept
here, and whether marks pay is the caller's business: what is written to such a cache costs more.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_CLAUDE_HOSTS = frozenset("anthropic azure_ai bedrock databricks litellm_proxy openrouter vertex_ai".split())
"""Who serves Claude and, through litellm, takes its marks."""


def needs_marks(full_name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a model caches only what is marked. `entry` is what litellm's map says of it, or empty.

    Hosts refuse marks for the few old models that cannot cache; a model that is not in the map can.
    """
    host, _, name = full_name.partition("/")
    can_cache = not entry or bool(entry.get("supports_prompt_caching"))
    return host in _CLAUDE_HOSTS and "claude" in name.lower() and can_cache


def marked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with marks at the end of the leading system prompt and at the end of the last message.

    The last mark is where the next call will find the conversation again, so it must only be appended to.
    """
    result = [dict(message) for message in messages]
    places = {len(result) - 1} if result else set()
    if result and result[0]["role"] == "system":
        places.add(0)
    for place in places:
        text = result[place]["content"]
        if text:  # a mark on empty text is refused
            mark = {"type": "ephemeral"}
            result[place]["content"] = [{"type": "text", "text": text, "cache_control": mark}]
    return result
