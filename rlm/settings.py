"""Every setting: the frozen dataclasses they end in, and what each is called and may be in each place.

It reads no file and no environment: `rlm.layers` does, and `rlm.config` merges what was read.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlm.kinds import Address, Kind, Number, Params, Price, PriceConfig, Size, Switch, Text, Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model as litellm names it. `api_base` and `api_key_env` are None for the provider's own.

    `api_key_env` is the name of the variable that holds the key, never the key. `price` is None when it is
    left to litellm to know.
    """

    model: str
    api_base: str | None = None
    api_key_env: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    price: PriceConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one question may take, and what a session may; the cell's time counts active compute only.

    `max_tokens` caps all calls together; None caps only models without a price, at 5,000,000. The caps of a
    session are None where there is none; its seconds are those of its questions. Of what runs at once,
    `parallel` bounds the model calls of all depths together and `max_children` the child RLMs of each depth.
    Batches estimated above `confirm_above_usd` are asked about. `call_cache_bytes` bounds the replies of
    sub-calls that are kept in the state folder; 0: none are.
    """

    max_cost_usd: float = 1.00
    max_steps: int = 30
    max_depth: int = 1
    max_sub_calls: int = 1000
    max_tokens: int | None = None
    cell_timeout_s: float = 120
    call_timeout_s: float = 300
    timeout_s: float = 1800
    session_cost_usd: float | None = None
    session_tokens: int | None = None
    session_sub_calls: int | None = None
    session_timeout_s: float | None = None
    parallel: int = 16
    max_children: int = 4
    confirm_above_usd: float = 0.25
    call_cache_bytes: int = 256 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The container. `image` is the public base that ours is built from; `runtime` None is the engine's.

    `cache_bytes` bounds the texts that are made of documents and kept in the state folder; `keep_bytes`
    what is saved of the namespace.
    """

    memory_bytes: int = 2 * 1024**3
    cpus: float = 2.0
    pids: int = 128
    packages: tuple[str, ...] = ()
    image: str = "python:3.12-slim-bookworm"
    runtime: str | None = None
    cache_bytes: int = 10 * 1024**3
    keep_bytes: int = 8 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, merged. `sources` tells per dotted key where its value came from.

    `environ` is where keys are looked up: the variables exported to the process, then those of `.env`.
    `allow` holds real paths. `data_source` is what `init` loads when nothing is named: absolute paths and
    patterns, and addresses. `warnings` are for the user to read once.
    """

    root: ModelConfig
    sub: ModelConfig
    limits: Limits = Limits()
    sandbox: SandboxConfig = SandboxConfig()
    compaction: bool = True
    allow: tuple[Path, ...] = ()
    data_source: tuple[str, ...] = ()
    aliases: Mapping[str, ModelConfig] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()

    def resolve(self, name: str) -> ModelConfig:
        """The model behind an alias, else the model of that name at its provider's own address."""
        return self.aliases.get(name) or ModelConfig(model=name)

    def named(self, name: str | None) -> ModelConfig:
        """The model that a cell names (root, sub or an alias), as `rlm.choose` finds it; None is the sub."""
        if not name:
            return self.sub
        return next((model for model in (self.root, self.sub) if model.model == name), self.resolve(name))


MODEL = Text(r"(?!.*://)\S+", "must be a model name such as openai/gpt-5, not empty and not an address")
MODEL_KINDS: Mapping[str, Kind] = {
    "model": MODEL,
    "api_base": Address(),
    "api_key_env": Text(r"[A-Za-z_][A-Za-z0-9_]*", "must be the name of an environment variable"),
    "params": Params(),
    "price": Price(),
}
_VERSION = r"(===?|[~!<>]=|[<>]) *[A-Za-z0-9.*+!_-]+"
_ADDRESS = r"https://[A-Za-z0-9.-]+(:\d{1,5})?/[A-Za-z0-9._~/:@%+&=?#,!-]+"
REQUIREMENT = (
    r"(?![^@:;]*\.(whl|zip|tgz|tbz|txz|tar|tar\.\w+) *([\[;].*)?$)"  # pip would take it for a file
    r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?( *\[[A-Za-z0-9,._ -]*\])?"
    rf"( *\(? *{_VERSION}( *, *{_VERSION})* *\)?| *@ *(git\+)?{_ADDRESS}(?= |$))?"
    r"( *;[A-Za-z0-9_.*+!<>=~'\"(), -]+)?"
    rf"|git\+{_ADDRESS})"
)
"""A requirement as pip takes it: no option, no path, nothing that pip would replace by a variable of here."""
IMAGE = r"[a-z0-9][A-Za-z0-9._/:@-]*"
SOURCE = Text(
    r"https?://[^/?#@\s]+([/?#]\S*)?|hf://\S+|(?![A-Za-z][A-Za-z0-9+.-]*://)[^\0]+",
    "must be a path, a pattern, or an https:// or hf:// address without user and password",
)
GLM_MODEL = Text(MODEL.pattern, MODEL.must, empty=True)

KINDS: Mapping[str, Kind] = {
    **{f"root_llm.{name}": kind for name, kind in MODEL_KINDS.items()},
    **{f"sub_llm.{name}": kind for name, kind in MODEL_KINDS.items()},
    "glm_coding.enabled": Switch(),
    "glm_coding.api_base": Address(empty=True),
    "glm_coding.api_key_env": MODEL_KINDS["api_key_env"],
    "glm_coding.root_model": GLM_MODEL,
    "glm_coding.sub_model": GLM_MODEL,
    "memory_compaction.enabled": Switch(),
    "limits.max_cost_usd": Number(0, 100_000),
    "limits.max_steps": Number(1, 10_000, whole=True),
    "limits.max_depth": Number(0, 8, whole=True),
    "limits.max_sub_calls": Number(0, 1_000_000, whole=True),
    "limits.max_tokens": Number(1, 10**12, whole=True),
    "limits.cell_timeout_s": Number(1, 86_400),
    "limits.call_timeout_s": Number(1, 86_400),
    "limits.timeout_s": Number(1, 7 * 86_400),
    "limits.session_cost_usd": Number(0, 1_000_000),
    "limits.session_tokens": Number(1, 10**12, whole=True),
    "limits.session_sub_calls": Number(0, 10**9, whole=True),
    "limits.session_timeout_s": Number(1, 365 * 86_400),
    "limits.max_children": Number(1, 64, whole=True),
    "limits.parallel": Number(1, 1024, whole=True),
    "limits.confirm_above_usd": Number(0, 100_000),
    "limits.call_cache": Size(0, 1024**5),
    "sandbox.memory": Size(256 * 1024**2, 1024**4),
    "sandbox.cpus": Number(0.1, 1024),
    "sandbox.pids": Number(32, 4096, whole=True),
    "sandbox.packages": Texts(
        Text(
            REQUIREMENT,
            "must be a package name, with versions if any, or name @ https://… or git+https://…; no option,"
            " path, user or password",
        ),
        r",(?=\s*[A-Za-z])(?![^\[]*\])",  # not within an extra's brackets, nor between versions
    ),
    "sandbox.image": Text(IMAGE, "must be the name of an image"),
    "sandbox.cache": Size(64 * 1024**2, 1024**5),
    "sandbox.keep": Size(1024**2, 1024**5),
    "sandbox.runtime": Text(r"[A-Za-z0-9][A-Za-z0-9._-]*", "must be the name of a container runtime"),
    "allow": Texts(Text(r"[^\0]+", "must be a path"), re.escape(os.pathsep)),
    "data_source": Texts(SOURCE, ";", alone=True),
}
"""What each dotted key of a configuration file may be, `aliases` apart."""

SHORT_NAMES: Mapping[str, str] = {
    "model": "root_llm.model",
    "api_base": "root_llm.api_base",
    "api_key_env": "root_llm.api_key_env",
    "sub_model": "sub_llm.model",
    "sub_api_base": "sub_llm.api_base",
    "sub_api_key_env": "sub_llm.api_key_env",
    "glm_coding": "glm_coding.enabled",
    "compaction": "memory_compaction.enabled",
    "max_cost": "limits.max_cost_usd",
    "max_steps": "limits.max_steps",
    "max_depth": "limits.max_depth",
    "max_sub_calls": "limits.max_sub_calls",
    "max_tokens": "limits.max_tokens",
    "cell_timeout": "limits.cell_timeout_s",
    "call_timeout": "limits.call_timeout_s",
    "timeout": "limits.timeout_s",
    "session_cost": "limits.session_cost_usd",
    "session_tokens": "limits.session_tokens",
    "session_sub_calls": "limits.session_sub_calls",
    "session_timeout": "limits.session_timeout_s",
    "max_children": "limits.max_children",
    "parallel": "limits.parallel",
    "confirm_above": "limits.confirm_above_usd",
    "call_cache": "limits.call_cache",
    "memory": "sandbox.memory",
    "cpus": "sandbox.cpus",
    "pids": "sandbox.pids",
    "packages": "sandbox.packages",
    "image": "sandbox.image",
    "runtime": "sandbox.runtime",
    "cache": "sandbox.cache",
    "keep": "sandbox.keep",
    "allow": "allow",
    "data_source": "data_source",
}
"""The name of a setting on the command line (`--max-cost`) and in the environment (`RLM_MAX_COST`)."""
