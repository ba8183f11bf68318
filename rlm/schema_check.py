"""Checks answers against a JSON Schema, in a process of its own that can be ended: a pattern may never end.

Reads `{"schema": …, "answers": […]}` on stdin and writes `{"schema": reason, "answers": [reason, …]}`, where
an empty reason means that it fits. It imports nothing of this program and fetches nothing.
"""

import json
import sys
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import CannotDetermineSpecification, Unresolvable
from referencing.jsonschema import DRAFT202012

MOST_REASONS = 5
REASON_CHARS = 300


def check(schema: Any, answers: list[Any]) -> dict[str, Any]:
    """Why `schema` is none, and why each answer does not fit it; empty texts where all is well."""
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema, format_checker=kind.FORMAT_CHECKER)
        resource = Resource.from_contents(schema, default_specification=DRAFT202012)
        look_up_references(resource, Registry().with_resource("", resource).resolver_with_root(resource))
        validator = kind(schema, registry=Registry())
        validator.is_valid(None)  # a schema that refers to itself without end is found out here
    except SchemaError as error:
        return {"schema": reason(error), "answers": []}
    except Unresolvable as error:
        why = f"It refers to {error.ref!r}, which is not in it, and nothing is fetched."
        return {"schema": why, "answers": []}
    except CannotDetermineSpecification:
        return {"schema": "Its $schema names no version of JSON Schema.", "answers": []}
    except RecursionError:
        return {"schema": "It nests too deep, or refers to itself without end.", "answers": []}
    if schema and not schema.keys() & kind.VALIDATORS.keys():
        return {"schema": "It has no keyword of JSON Schema (type, properties, …).", "answers": []}
    return {"schema": "", "answers": [misfit(validator, answer) for answer in answers]}


def look_up_references(resource: Any, resolver: Any) -> None:
    """Raises `Unresolvable` for a reference to what is not in the schema."""
    if isinstance(resource.contents, dict):
        for key in ("$ref", "$dynamicRef"):
            if key in resource.contents:
                resolver.lookup(resource.contents[key])
    for inner in resource.subresources():
        look_up_references(inner, resolver.in_subresource(inner))


def misfit(validator: Any, answer: Any) -> str:
    try:
        return "; ".join(reason(error) for error in islice(validator.iter_errors(answer), MOST_REASONS))
    except RecursionError:
        return "it nests too deep"


def reason(error: Any) -> str:
    """`$.items[2].price: 'dear' is not of type 'number'`"""
    message = error.message
    if len(message) > REASON_CHARS:
        half = REASON_CHARS // 2
        message = f"{message[:half]} … {message[-half:]}"
    return f"{error.json_path}: {message}"


def main() -> None:
    request = json.load(sys.stdin)
    json.dump(check(request["schema"], request["answers"]), sys.stdout)


if __name__ == "__main__":
    main()
