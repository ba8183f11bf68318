"""Families of models: told by their names, and what the system prompt says to each, with the real limits."""

from typing import Any

import pytest

from rlm import memory, prompts
from rlm.errors import ConfigError
from rlm.families import addendum, family, thinks_unopened
from rlm.models import LiteLLMModel, Model
from rlm.providers import ModelSettings
from rlm.settings import Config, Limits, ModelConfig
from tests.litellm_warnings import AT_IMPORT

pytestmark = AT_IMPORT


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("claude-sonnet-4-5", "claude"),
        ("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude"),
        ("vertex_ai/claude-opus-4", "claude"),
        ("databricks/databricks-claude-sonnet-4-5", "claude"),
        ("openrouter/qwen/qwen3-coder", "qwen"),
        ("ollama/qwen3:8b", "qwen"),
        ("hosted_vllm/Qwen/Qwen3-Coder-480B-A35B-Instruct", "qwen"),
        ("openai/qwq-32b", "qwen"),
        ("gemini/gemini-2.5-pro", "gemini"),
        ("openrouter/google/gemini-2.5-flash", "gemini"),
        ("gemini/gemma-3-27b-it", None),
        ("gpt-5-mini", "gpt5"),
        ("azure/my-gpt5-deployment", "gpt5"),
        ("gpt-4o", None),
        ("deepseek/deepseek-chat", None),
        ("openai/root", None),
    ],
)
def test_a_family_is_told_by_the_name(model: str, found: str | None) -> None:
    assert family(model) == found


@pytest.mark.parametrize("model", ["claude-x", "gemini-x", "gpt-5", "qwen-x"])
def test_an_addendum_is_short(model: str) -> None:
    assert 0 < len(addendum(model)) < 600
    assert len(addendum(model).splitlines()) < 6


@pytest.mark.parametrize(
    ("model", "unopened"),
    [
        ("openai/deepseek-r1", True),
        ("hosted_vllm/Qwen/Qwen3-30B-A3B-Thinking-2507", True),
        ("ollama/qwq", True),
        ("openai/qwen3-8b", False),
        ("anthropic/claude-3-7-sonnet-thinking", False),
    ],
)
def test_models_whose_templates_open_the_thinking(model: str, unopened: bool) -> None:
    assert thinks_unopened(model) is unopened


def model(name: str) -> Model:
    return LiteLLMModel(ModelSettings(model=name))


def system(root: str, sub: str, *, choose: Any = None, **settings: Any) -> str:
    config = Config(root=ModelConfig(model=root), sub=ModelConfig(model=sub), **settings)
    return memory.system(config, model(sub), choose=choose)["content"]


def test_the_system_prompt_ends_with_what_the_family_needs() -> None:
    assert system("openrouter/qwen/qwen3-coder", "gpt-5-mini").endswith(prompts.fill("family_qwen"))
    plain = system("gpt-4o", "gpt-5-mini")
    assert plain == plain.strip()
    assert not any(addendum(name) in plain for name in ("claude-x", "gemini-x", "gpt-5", "qwen-x"))


def test_the_system_prompt_tells_the_real_limits() -> None:
    text = system("gpt-4o", "gpt-5-mini", limits=Limits(parallel=7, max_cost_usd=2.5, max_sub_calls=44))
    assert (
        "gpt-5-mini takes prompts of up to 272,000 tokens (about 816,000 characters), costs $0.25 for a "
        "million tokens in and $2 out, and answers up to 7 calls at a time."
    ) in text
    assert "A question may take up to $2.50 and 44 sub-calls" in text


def test_what_is_not_known_is_said_so() -> None:
    text = system("gpt-4o", "openai/local")
    assert "openai/local takes prompts of an unknown length, has no known price" in text
    assert "$1.00, 1,000 sub-calls and 5,000,000 tokens of models without a known price" in text
    assert "and 900 tokens, all calls" in system("gpt-4o", "openai/local", limits=Limits(max_tokens=900))


def test_aliases_are_told_with_what_they_take() -> None:
    aliases = {
        "big": ModelConfig(model="gemini/gemini-2.5-pro"),
        "locked": ModelConfig(model="mistral/mistral-large-latest"),
    }

    def choose(alias: str) -> Model:
        if alias == "locked":
            raise ConfigError("There is no API key.")
        return model(aliases[alias].model)

    text = system("gpt-4o", "gpt-5-mini", aliases=aliases, choose=choose)
    assert '"big" for gemini/gemini-2.5-pro, which takes prompts of up to 1,048,576 tokens' in text
    assert "locked" not in text
    assert '"locked" for mistral/mistral-large-latest' in system("gpt-4o", "gpt-5-mini", aliases=aliases)
