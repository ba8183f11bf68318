"""A JSON Schema that the answer has to fit; `schema_check.py` does the checking, in a process of its own.

It does not ask the model again: the engine does, with the reason that `accept` gives.
"""

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from rlm.errors import UsageError

MAX_SCHEMA_BYTES = 64 * 1024
"""The root model reads the schema with the question."""
CHECK_S = 10.0
"""How long one check may take."""

NOTE = """\
Note: the answer must be JSON that fits the JSON Schema below. Call FINAL with the data itself (a dict, a
list, a number, …), without words around it. An answer that does not fit is handed back with the reason.
"""


@dataclass(slots=True)
class AnswerSchema:
    """A schema, and the answer that was found to fit it."""

    schema: dict[str, Any]
    fitting: list[Any] = field(default_factory=list)
    """The answer as data, once there is one that fits; empty before."""

    @classmethod
    def read(cls, path: Path) -> "AnswerSchema":
        """Raises `UsageError` when the file cannot be read, or is no schema that can be checked here."""
        try:
            data = path.read_bytes() if path.stat().st_size <= MAX_SCHEMA_BYTES else None
        except OSError as error:
            raise UsageError(f"The schema {path} cannot be read.", f"{error.strerror}.") from None
        if data is None:
            why = f"It has more than {MAX_SCHEMA_BYTES // 1024} KiB, and the root model has to read it."
            _refuse(str(path), why)
        try:
            schema = json.loads(data)
        except (ValueError, RecursionError) as error:
            _refuse(str(path), f"It is not JSON: {error}.")
        return cls.of(schema, name=str(path))

    @classmethod
    def of(cls, schema: object, *, name: str) -> "AnswerSchema":
        """The same of JSON that was read already; `name` is what an error calls it. Raises `UsageError`."""
        if not isinstance(schema, dict):
            _refuse(name, "It is JSON, but not an object.")
        try:
            why = _check(schema, [])["schema"]
        except (TypeError, ValueError) as error:
            why = f"It is not JSON: {error}."
        if why:
            _refuse(name, why)
        return cls(schema)

    @property
    def note(self) -> str:
        """What the root model is told with the question."""
        return NOTE + json.dumps(self.schema, ensure_ascii=False)

    def accept(self, answer: object) -> str | None:
        """None when the answer fits, else why not. A text that parses as JSON counts as what it says."""
        readings: list[Any] = [answer]
        if isinstance(answer, str):
            with contextlib.suppress(ValueError, RecursionError):
                readings.insert(0, json.loads(answer, parse_constant=_no_constant))
        reasons = _check(self.schema, readings)["answers"]
        self.fitting = [reading for reading, why in zip(readings, reasons, strict=False) if not why][:1]
        if self.fitting:
            return None
        if isinstance(answer, str) and len(readings) == 1:
            return f"It is text that is not JSON, and does not fit the schema ({reasons[0]})."
        return f"It does not fit the schema: {reasons[0]}."


def _check(schema: dict[str, Any], answers: list[Any]) -> dict[str, Any]:
    """What `schema_check.check` gives; a check that takes too long, or fails, is the reason itself."""
    script = Path(__file__).with_name("schema_check.py")
    try:
        ended = subprocess.run(
            [sys.executable, "-P", str(script)],
            input=json.dumps({"schema": schema, "answers": answers}),
            capture_output=True,
            encoding="utf-8",
            timeout=CHECK_S,
            check=True,
            start_new_session=True,  # a Ctrl-C is for the turn, which asks for the reason
        )
    except subprocess.TimeoutExpired:
        why = f"The check takes more than {CHECK_S:.0f} s"
    except (subprocess.CalledProcessError, RecursionError):
        why = "The check broke off"
    else:
        found: dict[str, Any] = json.loads(ended.stdout)
        return found
    return {"schema": f"{why}.", "answers": [why.lower()] * len(answers)}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(name: str, why: str) -> NoReturn:
    hint = 'A schema says what the answer looks like: {"type": "object", "properties": {…}}'
    raise UsageError(f"{name} cannot be used as a JSON Schema.", why, hint=hint)
