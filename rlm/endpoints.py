"""Whether an address may be sent the user's key: whose it is, and what the user agreed to before.

It opens no connection. What was agreed to is kept in `trusted.json` in the user's own folder, outside any
project: the file that asks to be trusted must not be able to say that it is.
"""

import ipaddress
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rlm.providers import provider_of

# Exact names only. Below shared domains such as amazonaws.com or openai.azure.com anyone can have a host.
PROVIDER_HOSTS: Mapping[str, frozenset[str]] = {
    "openai": frozenset({"api.openai.com", "eu.api.openai.com", "us.api.openai.com"}),
    "anthropic": frozenset({"api.anthropic.com"}),
    "gemini": frozenset({"generativelanguage.googleapis.com"}),
    "mistral": frozenset({"api.mistral.ai"}),
    "codestral": frozenset({"codestral.mistral.ai"}),
    "groq": frozenset({"api.groq.com"}),
    "deepseek": frozenset({"api.deepseek.com"}),
    "openrouter": frozenset({"openrouter.ai"}),
    "xai": frozenset({"api.x.ai"}),
    "together_ai": frozenset({"api.together.xyz", "api.together.ai"}),
    "fireworks_ai": frozenset({"api.fireworks.ai"}),
    "cohere": frozenset({"api.cohere.com", "api.cohere.ai"}),
    "cohere_chat": frozenset({"api.cohere.com", "api.cohere.ai"}),
    "moonshot": frozenset({"api.moonshot.ai", "api.moonshot.cn"}),
    "cerebras": frozenset({"api.cerebras.ai"}),
    "perplexity": frozenset({"api.perplexity.ai"}),
    "nvidia_nim": frozenset({"integrate.api.nvidia.com"}),
    "dashscope": frozenset({"dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com"}),
    "zai": frozenset({"api.z.ai", "open.bigmodel.cn"}),
}


def is_foreign(api_base: str, model: str) -> bool:
    """Whether requests for `model` at this address leave the machine for someone other than its provider."""
    url = urlsplit(api_base)
    host = (url.hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        provider = provider_of(model) or "openai"
        return url.scheme != "https" or host not in PROVIDER_HOSTS.get(provider, frozenset())


class Trust:
    """What the user agreed that a file found by itself may do. An unreadable memory is an empty one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def holds(self, file: Path, claim: str) -> bool:
        return {"path": str(file), "claim": claim} in self._entries()

    def add(self, file: Path, claim: str) -> None:
        """Remember for good. Raises `OSError` when the user's folder cannot be written."""
        entries = [*self._entries(), {"path": str(file), "claim": claim}]
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=self._path.parent, prefix=".trusted-", delete=False
        ) as out:
            json.dump({"trusted": entries}, out, indent=2)
        os.replace(out.name, self._path)  # noqa: PTH105 - the name is text here

    def _entries(self) -> list[object]:
        try:
            fields = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        entries = fields.get("trusted") if isinstance(fields, dict) else None
        return entries if isinstance(entries, list) else []
