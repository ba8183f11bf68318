"""The settings of the Python API: keywords, the environment and a named file become one `Config`.

It looks for no file by itself: neither `config.json` and `.env` of the folder it is called in, nor the user's
own configuration.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from rlm.config import load_config
from rlm.errors import ConfigError
from rlm.layers import read_dotenv
from rlm.settings import SHORT_NAMES, Config

NOWHERE = Path(os.devnull) / "nowhere"
"""Nothing can be there."""
NOT_READ = ("RLM_ALLOW", "RLM_DATA_SOURCE")
"""What may be read is said by who calls, not by the environment it runs in."""

StrPath = str | os.PathLike[str]


class Settings(TypedDict, total=False):
    """The keywords of `RLM` that are settings, by their names on the command line."""

    model: str
    api_base: str
    api_key_env: str
    sub_model: str
    sub_api_base: str
    sub_api_key_env: str
    glm_coding: bool
    compaction: bool
    max_cost: float
    max_steps: int
    max_depth: int
    max_sub_calls: int
    max_tokens: int
    cell_timeout: float
    call_timeout: float
    timeout: float
    session_cost: float
    session_tokens: int
    session_sub_calls: int
    session_timeout: float
    max_children: int
    parallel: int
    confirm_above: float
    call_cache: int | str
    memory: int | str
    cpus: float
    pids: int
    packages: Sequence[str]
    image: str
    runtime: str
    cache: int | str
    keep: int | str
    allow: Sequence[StrPath]


def read_settings(
    settings: Mapping[str, object],
    *,
    config_file: StrPath | None = None,
    env_file: StrPath | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Keyword > `RLM_*` of `environ` (the process's own when None) > of `env_file` > `config_file` > default.

    Keys are looked up in `environ`, then in `env_file`. Raises `ConfigError`, and `TypeError` for a keyword
    that is no setting.
    """
    for name in settings:
        if name not in Settings.__annotations__:
            raise _unknown(name)
    if env_file is not None and not Path(env_file).is_file():
        raise ConfigError(f"{os.fspath(env_file)} is not a file.", hint="Check env_file.")
    variables = {**(read_dotenv(Path(env_file)) if env_file else {})}
    variables |= os.environ if environ is None else environ
    return load_config(
        cwd=NOWHERE,
        config_file=None if config_file is None else Path(config_file),
        environ={name: value for name, value in variables.items() if name not in NOT_READ},
        flags={name: _plain(name, value) for name, value in settings.items()},
        confirm=None,
        user_dir=NOWHERE,
    )


def _plain(name: str, value: object) -> object:
    """The value as a setting is read; relative paths are those of the folder that the program runs in."""
    if name == "allow" and not isinstance(value, str) and isinstance(value, Sequence):
        return [str(Path(path).expanduser().absolute()) for path in value]
    return value


def _unknown(name: str) -> TypeError:
    what = f"RLM() got an unexpected keyword argument {name!r}."
    if "api_key" in name:
        return TypeError(
            f"{what} Keys are looked up by the names of their variables: pass api_key_env='MY_KEY', or"
            " environ={'OPENAI_API_KEY': …}."
        )
    near = difflib.get_close_matches(name, SHORT_NAMES, n=1)
    return TypeError(f"{what} {f'Did you mean {near[0]!r}?' if near else 'See docs/api.md.'}")
