"""Merges the settings, wherever they were given, into one `Config`, and asks before a found file can harm.

Flag > `RLM_*` environment > `.env` > `./config.json` > user configuration > default. It never changes the
process's environment, calls no model and imports no client.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from rlm.endpoints import Trust, is_foreign
from rlm.errors import ConfigError
from rlm.kinds import PriceConfig, Size, is_address, size_text
from rlm.layers import Given, Layer, environ_layer, files, flag_layer, read_dotenv
from rlm.settings import KINDS, MODEL_KINDS, Config, Limits, ModelConfig, SandboxConfig

__all__ = ["Config", "Limits", "ModelConfig", "PriceConfig", "SandboxConfig", "describe", "load_config"]

DEFAULT_MODELS = {"root_llm": "gpt-5", "sub_llm": "gpt-5-mini"}
GLM_KEY_NAMES = ("ZAI_API_KEY", "GLM_API_KEY", "ZHIPUAI_API_KEY")
ADDRESS_ENDINGS = ("_BASE", "_URL", "_URI", "_ENDPOINT", "_HOST", "_PROXY")


def load_config(
    *,
    cwd: Path,
    config_file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    confirm: Callable[[str], bool] | None,
    user_dir: Path | None = None,
) -> Config:
    """Merge all layers. Raises `ConfigError`.

    `flags` has the names of `SHORT_NAMES` (None: not given) and `yes`, which answers what `confirm` would be
    asked. `confirm` None means that nobody can be asked. `user_dir` holds the user's own configuration.
    """
    user_dir = user_dir or Path(click.get_app_dir("rlm"))
    in_files, warnings = files(cwd=cwd, config_file=config_file, user_file=user_dir / "config.json")
    dotenv_file = cwd / ".env"
    in_dotenv = read_dotenv(dotenv_file)
    typed = [
        environ_layer(in_dotenv, source=".env", folder=cwd, found=dotenv_file),
        environ_layer(environ, source="environment {}", folder=cwd, found=None),
        flag_layer({name: value for name, value in flags.items() if name != "yes"}, folder=cwd),
    ]
    # A key is an exported variable, or one of .env. An address there could send an exported key elsewhere.
    keys = {name: text for name, text in in_dotenv.items() if text and not name.endswith(ADDRESS_ENDINGS)}
    keys |= environ

    layers = [*in_files, _glm_layer(_merge(*in_files, *typed), keys), *typed]
    merged = _merge(*layers)
    aliases = {
        key.removeprefix("aliases."): given for key, given in merged.items() if key.startswith("aliases.")
    }
    settings = {key: given for key, given in merged.items() if not key.startswith(tuple(DEFAULT_MODELS))}
    for role in DEFAULT_MODELS:
        settings |= _role(role, layers, aliases=aliases)
    _require_trust(
        settings, trust=Trust(user_dir / "trusted.json"), confirm=confirm, yes=bool(flags.get("yes"))
    )

    return Config(
        root=ModelConfig(**_group(settings, "root_llm")),
        sub=ModelConfig(**_group(settings, "sub_llm")),
        limits=Limits(**_sized(settings, "limits")),
        sandbox=SandboxConfig(**_sized(settings, "sandbox")),
        compaction=_group(settings, "memory_compaction").get("enabled", True),
        allow=settings["allow"].value if "allow" in settings else (),
        data_source=settings["data_source"].value if "data_source" in settings else (),
        aliases={name: given.value for name, given in aliases.items()},
        sources={key: given.source for key, given in settings.items()},
        environ=keys,
        warnings=tuple(warnings),
    )


def describe(config: Config) -> list[tuple[str, str, str]]:
    """Each setting as (dotted key, value as text, source). Of a key only whether its variable is set."""
    groups: dict[str, object] = {"root_llm": config.root, "sub_llm": config.sub}
    groups |= {"limits": config.limits, "sandbox": config.sandbox}
    values: dict[str, object] = {}
    for key in KINDS:
        group, _, name = key.partition(".")
        if isinstance(KINDS[key], Size):
            values[key] = size_text(getattr(groups[group], f"{name}_bytes"))
        elif group in groups:
            values[key] = getattr(groups[group], name)
    for role in DEFAULT_MODELS:
        if variable := values[f"{role}.api_key_env"]:
            values[f"{role}.api_key_env"] = (
                f"{variable} ({'set' if config.environ.get(str(variable)) else 'not set'})"
            )
    values["memory_compaction.enabled"] = config.compaction
    values["allow"] = [str(path) for path in config.allow]
    values["data_source"] = list(config.data_source)
    values |= {f"aliases.{name}": model for name, model in config.aliases.items()}
    return [(key, _text(value), config.sources.get(key, "default")) for key, value in values.items()]


def _text(value: object) -> str:
    match value:
        case None:
            return "not set"
        case bool():
            return "true" if value else "false"
        case PriceConfig():
            return f"${value.input_per_mtok:g} in, ${value.output_per_mtok:g} out per million tokens"
        case ModelConfig():
            return f"{value.model} at {value.api_base}" if value.api_base else value.model
        case dict() | list() | tuple():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def _merge(*layers: Layer) -> Layer:
    return {key: given for layer in layers for key, given in layer.items()}


def _group(settings: Layer, group: str) -> dict[str, Any]:
    return {
        key.removeprefix(f"{group}."): s.value for key, s in settings.items() if key.startswith(f"{group}.")
    }


def _sized(settings: Layer, group: str) -> dict[str, Any]:
    """The same, with sizes under the names of their fields: `memory` is `memory_bytes`."""
    return {
        f"{name}_bytes" if isinstance(KINDS[f"{group}.{name}"], Size) else name: value
        for name, value in _group(settings, group).items()
    }


def _role(role: str, layers: Iterable[Layer], *, aliases: Layer) -> Layer:
    """A model and what belongs to it. A price, address or key never outlives the model it was given for."""
    name = DEFAULT_MODELS[role]
    chosen = {"model": Given(value=name, source="default")}
    for layer in layers:
        own = {field: layer[f"{role}.{field}"] for field in MODEL_KINDS if f"{role}.{field}" in layer}
        if model := own.get("model"):
            if model.value != name:
                name = model.value
                chosen = {field: given for field, given in chosen.items() if given.stays}
            if alias := aliases.get(name):
                own = _fields(alias) | own
                own["model"] = replace(model, value=alias.value.model, source=f"{model.source}, alias {name}")
        chosen |= own
    return {f"{role}.{field}": given for field, given in chosen.items()}


def _fields(alias: Given) -> Layer:
    values = {field: getattr(alias.value, field) for field in MODEL_KINDS}
    return {field: replace(alias, value=value) for field, value in values.items() if value}


def _glm_layer(settings: Layer, environ: Mapping[str, str]) -> Layer:
    """What `glm_coding` puts in place of both models, when it is enabled."""
    group = {
        key.removeprefix("glm_coding."): s for key, s in settings.items() if key.startswith("glm_coding.")
    }
    if "enabled" not in group or not group["enabled"].value:
        return {}
    for name in ("api_base", "root_model", "sub_model"):
        if name not in group or not group[name].value:
            raise ConfigError(
                f"glm_coding is enabled, but glm_coding.{name} is missing or empty.",
                hint="Fill it in, or set glm_coding.enabled to false.",
            )
    key_name = next((name for name in GLM_KEY_NAMES if environ.get(name)), None)
    layer: Layer = {}
    for role, name in (("root_llm", "root_model"), ("sub_llm", "sub_model")):
        model = group[name].value
        if "/" not in model:  # older files have the bare name, and litellm must be told who speaks it
            model = ("zai/" if model.lower().startswith("glm") else "openai/") + model
        layer[f"{role}.model"] = replace(group[name], value=model)
        layer[f"{role}.api_base"] = group["api_base"]
        if "api_key_env" in group:
            layer[f"{role}.api_key_env"] = group["api_key_env"]
        elif key_name:
            layer[f"{role}.api_key_env"] = Given(value=key_name, source="glm_coding")
    return {key: replace(given, source=f"glm_coding, {given.source}") for key, given in layer.items()}


def _require_trust(
    settings: Layer, *, trust: Trust, confirm: Callable[[str], bool] | None, yes: bool
) -> None:
    """Ask about what a file that nobody named wants and could harm: keys sent elsewhere, files opened."""
    for file, claim in dict.fromkeys(_claims(settings)):
        if yes or trust.holds(file, claim):
            continue
        if confirm is None:
            raise ConfigError(
                f"{file} {claim}.",
                "It was found by itself and there is no terminal to ask on.",
                hint="If you trust it, pass --yes, or name it with --config FILE.",
            )
        if not confirm(f"{file} {claim}. Allow it from now on?"):
            raise ConfigError(
                f"{file} {claim}, and you did not allow it.", hint="Edit it, or pass --config FILE."
            )
        try:
            trust.add(file, claim)
        except OSError as error:
            raise ConfigError(
                "Your answer cannot be remembered.", f"{error}.", hint="Pass --yes instead."
            ) from None


def _claims(settings: Layer) -> Iterable[tuple[Path, str]]:
    for role in DEFAULT_MODELS:
        base, model = settings.get(f"{role}.api_base"), settings[f"{role}.model"].value
        if base and base.found and is_foreign(base.value, model):
            yield base.found.resolve(), f"sends requests for {model}, with your key, to {base.value}"
    for key, given in settings.items():
        if not given.found:
            continue
        file = given.found.resolve()
        if isinstance(alias := given.value, ModelConfig):
            if alias.api_base and is_foreign(alias.api_base, alias.model):
                yield file, f"sends requests for {alias.model}, with your key, to {alias.api_base}"
        elif key == "allow":
            for path in given.value:
                if not path.is_relative_to(file.parent):
                    yield file, f"lets any file below {path} be read without asking"
        elif key == "sandbox.packages" and given.value:
            yield file, f"installs {', '.join(given.value)} into the sandbox image"
        elif key == "data_source":
            for source in given.value:
                if source.lower().startswith("http://"):
                    yield file, f"loads {source}, which anyone on the way can change"
                elif not is_address(source) and not Path(source).resolve().is_relative_to(file.parent):
                    yield file, f"loads {source}, which is outside its folder"
