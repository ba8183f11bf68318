"""Which key a model gets, and which models a cell may name."""

import pytest

from rlm.choose import find_key, models_of
from rlm.errors import ConfigError
from rlm.settings import Config, ModelConfig


def config(**environ: str) -> Config:
    return Config(
        root=ModelConfig(model="openai/big"),
        sub=ModelConfig(model="openai/small"),
        aliases={"cheap": ModelConfig(model="openai/tiny")},
        environ=environ,
    )


def test_a_missing_key_names_the_variable_and_the_way_without_one() -> None:
    with pytest.raises(ConfigError) as caught:
        models_of(config())
    assert caught.value.why == "OPENAI_API_KEY is not set."
    assert ".env" in caught.value.hint and "rlm demo" in caught.value.hint
    assert caught.value.exit_code == 4


def test_a_named_variable_is_the_only_one_looked_at() -> None:
    model = ModelConfig(model="openai/big", api_key_env="MINE")
    assert find_key(model, config(OPENAI_API_KEY="a", MINE="b")) == ("b", "MINE")
    with pytest.raises(ConfigError, match="MINE is not set"):
        find_key(model, config(OPENAI_API_KEY="a"))


def test_an_address_of_its_own_needs_no_key() -> None:
    model = ModelConfig(model="openai/local", api_base="http://127.0.0.1:1/v1")
    assert find_key(model, config()) == (None, "")


def test_local_providers_need_no_key() -> None:
    assert find_key(ModelConfig(model="ollama/llama3"), config()) == (None, "")


def test_cells_may_name_configured_models_and_aliases_only() -> None:
    models = models_of(config(OPENAI_API_KEY="k"))
    assert models.choose("openai/small").name == "openai/small"
    assert models.choose("cheap").name == "openai/tiny"
    for name in ("openai/other", "http://evil/v1", "", "../x"):
        with pytest.raises(ConfigError, match="is not configured"):
            models.choose(name)
