"""`--schema`: which files are schemas, and which answers fit one."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlm import answer_schema
from rlm.answer_schema import AnswerSchema
from rlm.errors import UsageError

REFUSED = {
    "an unknown type": (b'{"type": "obj"}', "$.type: "),
    "a pattern that is none": (b'{"pattern": "("}', "$.pattern: "),
    "itself without end": (b'{"$ref": "#"}', "refers to itself without end"),
    "an address": (b'{"items": {"$ref": "https://example.org/s"}}', "nothing is fetched"),
    "a place that is not there": (b'{"$ref": "#/$defs/a"}', "nothing is fetched"),
    "an example": (b'{"name": "Ada", "age": 36}', "no keyword of JSON Schema"),
    "not an object": (b"[1]", "not an object"),
    "not JSON": (b"type: object", "It is not JSON"),
    "not text": (b"\xff\xfe\x00", "It is not JSON"),
    "too much": (b'{"title": "' + b"x" * 70_000 + b'"}', "more than 64 KiB"),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_no_schema_is_refused(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(data)
    with pytest.raises(UsageError) as refused:
        AnswerSchema.read(path)
    assert why in refused.value.why


NUMBERS = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer", "minimum": 1}}}
OLD = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "items": {"$ref": "#/definitions/n"},
    "definitions": {"n": {"type": "integer"}},
}
WORD = {"type": "string", "pattern": "^[a-z0-9]+$"}

FITS: dict[str, tuple[dict[str, Any], object, object]] = {
    "data": (NUMBERS, [1, 2], [1, 2]),
    "a text that parses": (NUMBERS, " [1, 2]\n", [1, 2]),
    "a bare text": (WORD, "hello", "hello"),
    "digits that are meant as text": (WORD, "42", "42"),
    "anything": ({}, None, None),
    "an older draft": (OLD, [3], [3]),
    "a reference that is data": (
        {"const": {"$ref": "https://example.org/s"}},
        {"$ref": "https://example.org/s"},
        {"$ref": "https://example.org/s"},
    ),
}


def read(value: dict[str, Any], folder: Path) -> AnswerSchema:
    path = folder / "s.json"
    path.write_text(json.dumps(value))
    return AnswerSchema.read(path)


@pytest.mark.parametrize(("value", "answer", "found"), FITS.values(), ids=FITS)
def test_an_answer_that_fits_is_kept_as_data(
    value: dict[str, Any], answer: object, found: object, tmp_path: Path
) -> None:
    checked = read(value, tmp_path)
    assert checked.accept(answer) is None
    assert checked.fitting == [found]


MISFITS: dict[str, tuple[dict[str, Any], object, str]] = {
    "a wrong item": (NUMBERS, [1, 0], "$[1]: 0 is less than the minimum of 1"),
    "several": (NUMBERS, ["a", "b"], "$[0]: 'a' is not of type 'integer'; $[1]: 'b' is not of type"),
    "prose": (NUMBERS, "one and two", "It is text that is not JSON"),
    "no number": ({"type": "number"}, "NaN", "It is text that is not JSON"),
}


@pytest.mark.parametrize(("value", "answer", "why"), MISFITS.values(), ids=MISFITS)
def test_an_answer_that_does_not_fit_gets_the_reason(
    value: dict[str, Any], answer: object, why: str, tmp_path: Path
) -> None:
    checked = read(value, tmp_path)
    reason = checked.accept(answer)
    assert reason and why in reason
    assert checked.fitting == []


def test_reasons_stay_short(tmp_path: Path) -> None:
    reason = read(NUMBERS, tmp_path).accept(["x" * 10_000] * 1000)
    assert reason and len(reason) < 2000


def test_a_pattern_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = read({"type": "string", "pattern": "^(a+)+$"}, tmp_path)
    monkeypatch.setattr(answer_schema, "CHECK_S", 1.0)
    reason = checked.accept("a" * 60 + "!")
    assert reason and "the check takes more than 1 s" in reason
