"""Schemas that cells give: what they become, which replies fit, and what a reply that does not is told."""

from typing import Any, Literal

import pytest

from sandbox.schemas import Form, NotFitting, as_json_schema


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        (
            {"name": str, "year": "int"},
            {
                "type": "object",
                "properties": {"name": {"type": "string"}, "year": {"type": "integer"}},
                "required": ["name", "year"],
            },
        ),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}}),
        ({"enum": ["a", "b"]}, {"enum": ["a", "b"]}),
        (
            {"type": "person or company"},
            {
                "type": "object",
                "properties": {"type": {"description": "person or company"}},
                "required": ["type"],
            },
        ),
        ([{"a": float}], {"type": "array", "items": as_json_schema({"a": float})}),
        (["positive", "negative"], {"enum": ["positive", "negative"]}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Literal["x", "y"], {"enum": ["x", "y"]}),
        ("number", {"type": "number"}),
        (Any, {}),
        (
            {"items": [str]},
            {"type": "object", "properties": {"items": as_json_schema([str])}, "required": ["items"]},
        ),
        ({"items": {"type": "string"}}, {"items": {"type": "string"}}),
    ],
)
def test_what_a_schema_means(given: object, schema: object) -> None:
    assert as_json_schema(given) == schema


@pytest.mark.parametrize("given", [3, [str, int], object(), {"type": "string", "pattern": "("}])
def test_what_is_no_schema_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"^schema: "):
        Form(given)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"n": 1}', {"n": 1}),
        (' \n{"n": 1}\n', {"n": 1}),
        ('```json\n{"n": 1}\n```', {"n": 1}),
        ('```\n{"n": 1}```', {"n": 1}),
        ('Here it is: {"n": 1}. Anything else?', {"n": 1}),
        ('As {asked}:\n```json\n{"n": 1}\n```\nDone.', {"n": 1}),
    ],
)
def test_a_reply_that_fits(reply: str, value: object) -> None:
    assert Form({"n": int}).read(reply) == value


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("I cannot.", "it is not JSON"),
        ('{"n": "one"}', "the value.n must be integer"),
        ("{}", "must contain"),
        ("[" * 100_000, "not JSON"),
        ('{"n": 1', "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_reply_that_does_not_fit(reply: str, why: str) -> None:
    with pytest.raises(NotFitting, match=why):
        Form({"n": int}).read(reply)


def test_a_list_is_found_before_what_stands_in_it() -> None:
    assert Form([{"n": int}]).read('Sure: [{"n": 1}, {"n": 2}]') == [{"n": 1}, {"n": 2}]


def test_what_a_model_is_asked() -> None:
    form = Form({"n": int})
    assert form.prompt("How many?").startswith("How many?\n\nReply with JSON only")
    assert '"n": {"type": "integer"}' in form.prompt("How many?")
    again = form.prompt_again("How many?", "two", "it is not JSON")
    assert "two" in again and "it is not JSON" in again
