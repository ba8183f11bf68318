"""Replies as data: what a cell asks for as a schema, what the model is told of it, and whether a reply fits.

A schema is JSON Schema, or shorter a plain dict such as `{"name": str, "year": int, "tags": ["str"]}`. It is
compiled and applied in the container only; no reference is followed out of it.
"""

import contextlib
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

_TYPES: dict[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    list: {"type": "array"},
    dict: {"type": "object"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    Any: {},
}
_NAMES: dict[str, Schema] = {
    **{kind["type"]: kind for kind in _TYPES.values() if kind},
    "str": _TYPES[str],
    "int": _TYPES[int],
    "float": _TYPES[float],
    "bool": _TYPES[bool],
    "list": _TYPES[list],
    "dict": _TYPES[dict],
    "any": {},
}
_STRUCTURAL = {"type", "properties", "items", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
_KEYWORDS = {
    *_STRUCTURAL,
    *("required", "additionalProperties", "patternProperties", "propertyNames", "minProperties"),
    *("maxProperties", "minItems", "maxItems", "uniqueItems", "additionalItems", "contains", "minLength"),
    *("maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("multipleOf", "title", "description", "default", "examples", "definitions", "not", "if", "then"),
    *("else", "nullable", "dependencies", "$schema", "$defs", "$id", "$comment"),
}


class NotFitting(Exception):
    """A reply that is not JSON, or not as its schema says. The text is why."""


class Form:
    """The form that replies must have. Raises ValueError for a schema that cannot be one."""

    def __init__(self, schema: object) -> None:
        import fastjsonschema

        self.schema = as_json_schema(schema)
        self._failure: type[Exception] = fastjsonschema.JsonSchemaValueException
        try:
            check: Callable[[Any], Any] = fastjsonschema.compile(self.schema, use_default=False)
        except Exception as error:
            raise ValueError(f"schema: {error}") from None
        self._check = check

    def prompt(self, prompt: str) -> str:
        """The prompt, with what the reply must look like."""
        schema = json.dumps(self.schema, ensure_ascii=False)
        return f"{prompt}\n\nReply with JSON only, no other text, that fits this JSON Schema:\n{schema}"

    def prompt_again(self, prompt: str, reply: str, why: str) -> str:
        """The same after a reply that did not fit."""
        return (
            f"{self.prompt(prompt)}\n\nAn earlier reply was refused: {why}. It was:\n{reply[:4000]}\n\n"
            "Reply again, with JSON only."
        )

    def read(self, reply: str) -> Any:
        """The value that a reply holds. Raises `NotFitting`."""
        value = _json_in(reply)
        try:
            self._check(value)
        except self._failure as error:
            raise NotFitting(str(error).replace("data", "the value", 1)) from None
        except RecursionError:
            raise NotFitting("it is nested too deep") from None
        return value


def as_json_schema(schema: object) -> Schema:
    """JSON Schema for what a cell gave: JSON Schema itself, a plain dict, a type, or a pydantic model."""
    made = getattr(schema, "model_json_schema", None)
    if callable(made):
        return dict(made())
    if isinstance(schema, Mapping):
        if _is_json_schema(schema):
            return dict(schema)
        fields = {str(name): as_json_schema(value) for name, value in schema.items()}
        return {"type": "object", "properties": fields, "required": [*fields]}
    if isinstance(schema, list | tuple):
        return _of_sequence(schema)
    if isinstance(schema, str):
        # A word that is no type describes the value.
        return dict(_NAMES.get(schema.strip().lower(), {"description": schema}))
    return _of_type(schema)


def _is_json_schema(schema: Mapping[Any, Any]) -> bool:
    if not schema.keys() & _STRUCTURAL or not schema.keys() <= _KEYWORDS:
        return False
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    standard = all(isinstance(name, str) and _NAMES.get(name) == {"type": name} for name in kinds)
    if "type" in schema:
        return standard
    # Without a type, `items` and such are more often names of fields.
    return all(_is_of_keyword(name, value) for name, value in schema.items())


def _is_of_keyword(name: str, value: object) -> bool:
    if name in ("enum", "anyOf", "oneOf", "allOf"):
        return isinstance(value, list)
    if name == "properties":
        return isinstance(value, Mapping) and all(isinstance(part, bool | Mapping) for part in value.values())
    return name != "items" or (isinstance(value, Mapping) and _is_json_schema(value))


def _of_sequence(schema: Sequence[Any]) -> Schema:
    if not schema:
        return {"type": "array"}
    if len(schema) == 1:
        return {"type": "array", "items": as_json_schema(schema[0])}
    if all(value is None or isinstance(value, str | int | float) for value in schema):
        return {"enum": [*schema]}
    raise ValueError(f"schema: {schema!r} is neither one type of item nor a choice of values")


def _of_type(kind: object) -> Schema:
    try:
        if kind in _TYPES:
            return dict(_TYPES[kind])
    except TypeError:
        pass
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"enum": [*parts]}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [as_json_schema(part) for part in parts]}
    if origin in (list, set, tuple):
        return {"type": "array", "items": as_json_schema(parts[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": as_json_schema(parts[1])}
    raise ValueError(f"schema: {kind!r} is not JSON Schema, a dict of fields, or a type")


def _json_in(reply: str) -> Any:
    """The JSON value of a reply, which may stand in a fence or between words."""
    text = reply.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].rpartition("```")[0].strip() or text.strip("`")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = f"it is not JSON ({error})"
    starts = [place for mark in "{[" if (place := text.find(mark)) >= 0]
    if starts:
        with contextlib.suppress(ValueError, RecursionError):
            return json.JSONDecoder().raw_decode(text, min(starts))[0]
    if fenced := re.search(r"```[a-zA-Z]*\n(.*?)\n\s*```", text, re.DOTALL):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(fenced[1])
    raise NotFitting(why)
