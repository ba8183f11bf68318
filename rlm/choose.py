"""From configured models to models that can be asked: finds their keys, shares their retries.

A model that a cell names must be configured: an alias, or the root or sub model itself. Nothing that a
model writes can choose an address or a key.
"""

from rlm.errors import ConfigError
from rlm.ledger import Price
from rlm.models import LiteLLMModel, Model
from rlm.providers import ModelSettings, key_variables
from rlm.retry import Retry, with_retry
from rlm.session import Models
from rlm.settings import Config, ModelConfig


def find_key(model: ModelConfig, config: Config) -> tuple[str | None, str]:
    """The key of a model and the variable that it stands in; (None, "") when it needs none.

    Raises `ConfigError` naming the variable to set. With an `api_base` of its own a key is optional.
    """
    if model.api_key_env:
        if key := config.environ.get(model.api_key_env):
            return key, model.api_key_env
        raise _no_key(model, model.api_key_env)
    names = key_variables(model.model)
    for name in names:
        if key := config.environ.get(name):
            return key, name
    if names and model.api_base is None:
        raise _no_key(model, names[0])
    return None, ""


def settings_of(model: ModelConfig, config: Config) -> tuple[ModelSettings, str]:
    """A configured model with its key, and the variable that holds the key. Raises `ConfigError`."""
    key, variable = find_key(model, config)
    price = model.price and Price(
        input_per_mtok=model.price.input_per_mtok, output_per_mtok=model.price.output_per_mtok
    )
    settings = ModelSettings(
        model=model.model, api_base=model.api_base, api_key=key, params=model.params, price=price or None
    )
    return settings, variable


def _no_key(model: ModelConfig, variable: str) -> ConfigError:
    return ConfigError(
        f"There is no API key for {model.model}.",
        f"{variable} is not set.",
        hint=f"Set {variable} in your shell, or as a line {variable}=… in .env here. Without a key: rlm demo",
    )


def models_of(config: Config) -> Models:
    """Root and sub model, and the ones that cells may name. Raises `ConfigError` when a key is missing.

    They share one `Retry`: its pause after a rate limit, and its places.
    """
    limits = config.limits
    retry = Retry(parallel=limits.parallel)
    made: dict[int, Model] = {}

    def make(model: ModelConfig) -> Model:
        if id(model) not in made:
            settings, _ = settings_of(model, config)
            timeout_s = min(limits.call_timeout_s, limits.timeout_s)
            made[id(model)] = LiteLLMModel(settings, timeout_s=timeout_s)
        return made[id(model)]

    def choose(name: str) -> Model:
        known = [config.root.model, config.sub.model, *config.aliases]
        if name not in known:
            raise ConfigError(f"The model {name!r} is not configured.", f"There are: {', '.join(known)}.")
        return make(config.named(name))

    return Models(root=with_retry(make(config.root), retry), sub=make(config.sub), choose=choose, retry=retry)
