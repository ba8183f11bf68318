"""The checks behind `rlm doctor`: each looks at one thing and says how to mend it. Nothing is changed.

No model is called unless `ping` is asked for: then each configured one is, once.
"""

import asyncio
import dataclasses
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm import __version__
from rlm.errors import ConfigError, RlmError, SandboxError
from rlm.settings import Config, ModelConfig

DISK_BYTES = 2 * 1024**3
LISTED_CONTAINERS = 5
PING = "Reply with the word: ok"
PING_OUTPUT_TOKENS = 256
"""Some models reason before they say anything."""
PING_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`status` is `ok`, `warning` or `failed`; `area` is `program`, `sandbox`, `models`, `ping` or `disk`.

    `measured` is what a ping took: `seconds`, `input_tokens`, `output_tokens` and `cost_usd`.
    """

    area: str
    name: str
    status: str
    found: str
    fix: str = ""
    exit_code: int = 0
    measured: Mapping[str, float | None] | None = None

    @property
    def failed(self) -> bool:
        return self.status == "failed"

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name != "exit_code" and value is not None}


def examine(load_config: Callable[[], Config], state_dir: Path, *, ping: bool = False) -> list[Check]:
    checks = [
        Check(
            area="program",
            name="rlm",
            status="ok",
            found=f"{__version__}, Python {platform.python_version()}",
        )
    ]
    try:
        config = load_config()
    except ConfigError as error:
        checks.append(_failure("models", "configuration", error))
        config = None
    try:
        checks += _sandbox(config)
    except (SandboxError, OSError):  # what the engine's client raises when the connection goes
        gone = SandboxError("It went away while it was asked.", hint="Start Docker again, then: rlm doctor")
        checks.append(_failure("sandbox", "Docker", gone))
    if config:
        checks += _model("root model", config.root, config)
        checks += _model("sub model", config.sub, config)
        if ping:
            checks += asyncio.run(_pings(config))
    checks.append(_disk(state_dir))
    return checks


def _sandbox(config: Config | None) -> Iterator[Check]:
    from rlm.box import image
    from rlm.box.container import orphans
    from rlm.box.engine_api import Engine
    from rlm.settings import SandboxConfig

    try:
        engine = Engine()
    except SandboxError as error:
        yield _failure("sandbox", "Docker", error)
        return
    info = engine.info()
    found = f"{info.get('ServerVersion')} on {info.get('OperatingSystem')}, {info.get('Architecture')}"
    yield Check(area="sandbox", name="Docker", status="ok", found=found)
    if not any("seccomp" in option for option in info.get("SecurityOptions") or ()):
        yield Check(
            area="sandbox",
            name="seccomp",
            status="failed",
            found="the engine has no seccomp profile, and nothing is run without one",
            exit_code=SandboxError.exit_code,
            fix="Use an engine with seccomp (the default of Docker's packages).",
        )
    settings = config.sandbox if config else SandboxConfig()
    base = settings.image
    files = image.inputs(settings.packages)
    tags = [image.tag(files, name) for name in (base, image.LOCAL_BASE)]
    built = [tag for tag in tags if engine.has_image(tag)]
    at_hand = [name for name in (base, image.LOCAL_BASE) if engine.has_image(name)]
    if built:
        yield Check(area="sandbox", name="image", status="ok", found=built[0])
    elif at_hand:
        found = f"not built yet; it will be, from {at_hand[0]}, at the first question"
        yield Check(area="sandbox", name="image", status="ok", found=found)
    else:
        yield Check(
            area="sandbox",
            name="image",
            status="warning",
            found=f"not built yet; its base {base} will be pulled at the first question",
            fix="Offline, make a base from Debian's packages: scripts/make-base",
        )
    if dead := orphans(engine):
        yield Check(
            area="sandbox",
            name="containers",
            status="warning",
            found=f"{len(dead)} left by commands that died: {_whose(dead)}",
            fix="The next chat or run removes them.",
        )
    engine.close()


def _whose(containers: Sequence[Mapping[str, Any]]) -> str:
    """The first few containers, with the state folder that each belongs to."""
    named = []
    for container in containers[:LISTED_CONTAINERS]:
        folder = Path(container["Labels"].get("rlm.state", "?"))
        named.append(f"{container['Id'][:12]} of {folder}{'' if folder.exists() else ' (deleted)'}")
    more = len(containers) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _model(name: str, model: ModelConfig, config: Config) -> Iterator[Check]:
    from rlm.choose import settings_of
    from rlm.models import LiteLLMModel

    try:
        settings, variable = settings_of(model, config)
        asked = LiteLLMModel(settings)
    except ConfigError as error:
        yield _failure("models", f"{name} {model.model}", error)
        return
    place = f"key in {variable}" if variable else "no key needed"
    if model.api_base:
        place += f", at {model.api_base}"
    if asked.price is None:
        yield Check(
            area="models",
            name=f"{name} {model.model}",
            status="warning",
            found=f"{place}; its price is not known, so costs show as $? and tokens are capped instead",
            fix='Give it one: "price": {"input_per_mtok": …, "output_per_mtok": …} beside its name.',
        )
        return
    found = (
        f"{place}; ${asked.price.input_per_mtok:g} in and ${asked.price.output_per_mtok:g} out "
        "for a million tokens"
    )
    yield Check(area="models", name=f"{name} {model.model}", status="ok", found=found)


async def _pings(config: Config) -> list[Check]:
    """One tiny call to each configured model, all at once. Equal models are called once."""
    from rlm.models import close_models

    labels = [("root model", config.root), ("sub model", config.sub)]
    labels += [(f'alias "{alias}"', model) for alias, model in config.aliases.items()]
    asked: list[tuple[str, ModelConfig]] = []
    for label, model in labels:
        place = next((place for place, (_, other) in enumerate(asked) if other == model), None)
        if place is None:
            asked.append((label, model))
        else:
            asked[place] = (f"{asked[place][0]}, {label}", model)
    try:
        return list(await asyncio.gather(*(_ping(label, model, config) for label, model in asked)))
    finally:
        await close_models()


async def _ping(label: str, model: ModelConfig, config: Config) -> Check:
    from rlm.choose import settings_of
    from rlm.models import ChatMessage, LiteLLMModel

    name = f"ping {label} {model.model}"
    try:
        settings, _ = settings_of(model, config)
        asked = LiteLLMModel(settings, timeout_s=PING_TIMEOUT_S)
        started = time.monotonic()
        message = ChatMessage(role="user", content=PING)
        usage = (await asked.complete([message], max_output_tokens=PING_OUTPUT_TOKENS)).usage
    except RlmError as error:
        return _failure("ping", name, error)
    seconds = time.monotonic() - started
    cost = "$?" if usage.cost_usd is None else f"${usage.cost_usd:.6f}"
    tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"
    return Check(
        area="ping",
        name=name,
        status="ok",
        found=f"answered in {seconds:.1f} s; {'~' * usage.estimated}{tokens}, {cost}",
        measured={
            "seconds": round(seconds, 3),
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cost_usd": usage.cost_usd,
        },
    )


def _disk(state_dir: Path) -> Check:
    there = next(path for path in (state_dir.absolute(), *state_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / 1024**3:.1f} GiB free at {there}"
    if free < DISK_BYTES:
        return Check(
            area="disk",
            name="disk",
            status="warning",
            found=found,
            fix="Snapshots and answers need room there.",
        )
    return Check(area="disk", name="disk", status="ok", found=found)


def _failure(area: str, name: str, error: RlmError) -> Check:
    return Check(
        area=area,
        name=name,
        status="failed",
        found=f"{error.what} {error.why}".strip(),
        fix=error.hint,
        exit_code=error.exit_code,
    )
