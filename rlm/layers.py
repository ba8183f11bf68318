"""Reads one place where settings can stand (a JSON file, the environment, `.env`, flags) into a `Layer`.

Each value is checked here, once, and keeps its source. What is unknown, empty or out of range is a
`ConfigError`: a setting that is not understood must not end up as no setting at all. No merging here.
"""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import dotenv

from rlm.errors import ConfigError
from rlm.kinds import Invalid, Kind, is_address, leaves, looks_like_key
from rlm.settings import KINDS, MODEL_KINDS, SHORT_NAMES, ModelConfig

MAX_FILE_BYTES = 1024 * 1024
GROUPS = (*dict.fromkeys(key.partition(".")[0] for key in KINDS), "aliases")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A checked value and where it came from.

    `found` is the file it stood in when nobody named that file. `stays` is False for what a file says beside
    a model: it is about that model, and goes when a higher layer names another.
    """

    value: Any
    source: str
    found: Path | None = None
    stays: bool = False


Layer = dict[str, Given]


def files(*, cwd: Path, config_file: Path | None, user_file: Path) -> tuple[list[Layer], list[str]]:
    """The layers of the configuration files, lowest first, and what to tell the user about them."""
    layers: list[Layer] = []
    if user_file.is_file():
        layers.append(_file_layer(_read_json(user_file), source=_tilde(user_file), folder=user_file.parent))
    found = cwd / "config.json"
    if config_file is not None:
        folder = config_file.absolute().parent
        layers.append(_file_layer(_read_json(config_file), source=str(config_file), folder=folder))
    elif found.is_file():
        tree = _read_json(found, source="config.json")
        if tree != {} and not (isinstance(tree, dict) and any(map(_nearly_a_group, tree))):
            return layers, ["config.json was ignored: nothing in it is a setting of this program."]
        layers.append(_file_layer(tree, source="config.json", folder=cwd, found=found))
    return layers, []


def _nearly_a_group(name: str) -> bool:
    return bool(difflib.get_close_matches(name, GROUPS, n=1, cutoff=0.8))


def _read_json(path: Path, *, source: str = "") -> object:
    source = source or str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{source} is larger than 1 MiB.", "A configuration file never is.")
        return json.loads(data.decode("utf-8-sig"), parse_constant=_not_json, object_pairs_hook=_unique)
    except OSError as error:
        raise ConfigError(f"{source} cannot be read.", f"{error.strerror}.", hint="Check --config.") from None
    except json.JSONDecodeError as error:
        hint = "JSON has no comments and no comma after a last entry."
        raise ConfigError(
            f"{source}, line {error.lineno}, column {error.colno}: {error.msg}.", hint=hint
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not JSON.", f"{error}.") from None


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'"{next(key for key in fields if keys.count(key) > 1)}" stands in it twice')
    return fields


def _file_layer(tree: object, *, source: str, folder: Path, found: Path | None = None) -> Layer:
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} must hold one JSON object.")
    for path, leaf in leaves(tree):
        if looks_like_key(path, leaf):
            raise ConfigError(
                f"{source}: {path} looks like a key.",
                "Keys live in the environment or in .env only, so that this file can be shared.",
                hint="Move it to .env. If others have seen this file, replace the key at the provider.",
            )
    layer: Layer = {}
    for group, members in tree.items():
        if group in KINDS:
            entries = {group: members}
        elif group not in GROUPS:
            _refuse_unknown(f"{source}: {group}", group, [*GROUPS, *KINDS])
        elif not isinstance(members, dict):
            raise ConfigError(f"{source}: {group} must be an object.")
        else:
            entries = {f"{group}.{name}": value for name, value in members.items()}
        for key, raw in entries.items():
            if group == "aliases":
                value: object = _read_alias(raw, key, source=source)
            elif key in KINDS:
                value = _read(KINDS[key], raw, key, where=f"{source}: {key}", folder=folder)
            else:
                _refuse_unknown(f"{source}: {key}", key, KINDS)
            layer[key] = Given(value=value, source=source, found=found)
    return layer


def _read_alias(raw: object, key: str, *, source: str) -> ModelConfig:
    fields = {"model": raw} if isinstance(raw, str) else raw
    if key == "aliases." or not isinstance(fields, dict) or "model" not in fields:
        raise ConfigError(f"{source}: {key} must be a model's name, or an object with model.")
    for name in fields:
        if name not in MODEL_KINDS:
            _refuse_unknown(f"{source}: {key}.{name}", name, MODEL_KINDS)
    values: dict[str, Any] = {
        name: _read(MODEL_KINDS[name], value, name, where=f"{source}: {key}.{name}")
        for name, value in fields.items()
    }
    return ModelConfig(**values)


def environ_layer(values: Mapping[str, str], *, source: str, folder: Path, found: Path | None) -> Layer:
    names = {f"RLM_{short.upper()}": key for short, key in SHORT_NAMES.items()}
    layer: Layer = {}
    for name in sorted(name for name in values if name.startswith("RLM_")):
        where = f".env: {name}" if found else name
        if key := names.get(name):
            value = _read(KINDS[key], KINDS[key].parse(values[name]), key, where=where, folder=folder)
            layer[key] = Given(value=value, source=source.format(name), found=found, stays=True)
        elif difflib.get_close_matches(name, names, n=1, cutoff=0.85):
            _refuse_unknown(where, name, names)  # others are another program's
    return layer


def flag_layer(flags: Mapping[str, object], *, folder: Path) -> Layer:
    layer: Layer = {}
    for name, raw in flags.items():
        if raw is None:
            continue
        key, flag = SHORT_NAMES[name], "--" + name.replace("_", "-")
        typed = KINDS[key].parse(raw) if isinstance(raw, str) else raw
        layer[key] = Given(
            value=_read(KINDS[key], typed, key, where=flag, folder=folder), source=f"flag {flag}"
        )
    return layer


def _read(kind: Kind, raw: object, key: str, *, where: str, folder: Path | None = None) -> object:
    if looks_like_key(key, raw):
        raise ConfigError(
            f"{where} looks like a key.", hint="Keys live in the environment or in .env, by their name."
        )
    try:
        value = kind.read(raw)
    except Invalid as error:
        shown = (
            f", not {json.dumps(raw, default=str)}" if isinstance(raw, (str, int, float, type(None))) else ""
        )
        raise ConfigError(
            f"{where}{error.below} {error.must}{shown}.",
            hint="Leave it out for the default." if raw in (None, "") else "See docs/configuration.md.",
        ) from None
    if key == "allow" and folder is not None and isinstance(value, tuple):
        return tuple((folder / Path(path).expanduser()).resolve() for path in value)
    if key == "data_source" and folder is not None and isinstance(value, tuple):
        return tuple(text if is_address(text) else _absolute(text, folder) for text in value)
    return value


def _absolute(path: str, folder: Path) -> str:
    """Links are kept, since documents are named as they are spelled; so is a pattern."""
    return os.path.abspath(folder / os.path.expanduser(path))  # noqa: PTH100, PTH111


def _refuse_unknown(where: str, key: str, known: Iterable[str]) -> NoReturn:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    raise ConfigError(
        f"{where} is not a setting.",
        hint=f"Did you mean {close[0]}?" if close else "See docs/configuration.md.",
    )


def read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return {name: text or "" for name, text in dotenv.dotenv_values(path, interpolate=False).items()}
    except (OSError, ValueError) as error:
        raise ConfigError(
            ".env cannot be read.", f"{error}.", hint="It is UTF-8 text, NAME=value on each line."
        ) from None


def _tilde(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
