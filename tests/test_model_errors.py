"""The table of errors in docs/models.md is what happens, for every exception that litellm has."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from rlm.errors import ConfigError, ModelError, PromptTooLarge, RlmError
from rlm.model_errors import translate
from rlm.models import known_models
from rlm.providers import ModelSettings
from tests.litellm_warnings import AT_IMPORT

pytestmark = AT_IMPORT

PAGE = Path(__file__).parent.parent / "docs/models.md"
SETTINGS = ModelSettings(model="openai/qqqqqqqqqqqqqq", api_key="sk-a-secret")


def table() -> dict[str, list[str]]:
    """By exception of litellm: our error, asked again, exit code, hint."""
    section = PAGE.read_text(encoding="utf-8").split("## Errors", 1)[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| ") and "`" in line
    ]
    return {name: row[2:] for row in rows for name in re.findall(r"`(\w+)`", row[1])}


@pytest.fixture(scope="module")
def litellm() -> Any:
    known_models()  # the program's own way to import it
    return importlib.import_module("litellm")


def raised(kind: type[Exception], litellm: Any) -> Exception:
    """One of these as litellm makes it, with everything that its constructor must have."""
    request = httpx.Request("POST", "http://127.0.0.1")
    response = httpx.Response(403 if "Permission" in kind.__name__ else 400, request=request)
    known: dict[str, Any] = {
        "message": "it is so",
        "status_code": 418,
        "request": request,
        "response": response,
        "failures": [],
        "current_cost": 1.0,
        "max_budget": 1.0,
    }
    wanted = {
        name: known.get(name, "said")
        for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    }
    return kind(**wanted)


def translated(error: Exception, litellm: Any) -> RlmError:
    return translate(error, SETTINGS, litellm=litellm, timeout_s=5)


def kinds(litellm: Any) -> dict[str, type[Exception]]:
    return {
        name: kind
        for name, kind in vars(litellm.exceptions).items()
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == "litellm.exceptions"
    }


def test_every_exception_of_litellm_has_a_row_and_becomes_what_it_says(litellm: Any) -> None:
    rows = table()
    assert rows.keys() == kinds(litellm).keys()
    for name, kind in kinds(litellm).items():
        error = translated(raised(kind, litellm), litellm)
        again = "yes" if getattr(error, "retryable", False) else "no"
        ours, asked_again, exit_code, hint = rows[name]
        found = (f"`{type(error).__name__}`", again, str(error.exit_code), error.hint)
        assert found == (ours, asked_again.partition(",")[0], exit_code, hint), name


@pytest.mark.parametrize(
    ("said", "kind", "retryable"),
    [
        ("This model's maximum context length is 8192 tokens", PromptTooLarge, False),
        ("prompt is too long: 250000 tokens > 200000 maximum", PromptTooLarge, False),
        ("Budget has been exceeded! Current cost: 2", ModelError, False),
        ("Your credit balance is too low", ModelError, False),
        ("Connection error.", ModelError, True),
        ("missing credentials: set OPENAI_API_KEY", ConfigError, False),
    ],
)
def test_the_words_of_the_provider_count(
    litellm: Any, said: str, kind: type[RlmError], retryable: bool
) -> None:
    error = translated(litellm.BadRequestError(f"{said} sk-a-secret", "root", "openai"), litellm)
    assert type(error) is kind
    assert getattr(error, "retryable", False) is retryable
    assert "sk-a-secret" not in f"{error} {error.hint}"
