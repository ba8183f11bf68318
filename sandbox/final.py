"""The value of FINAL, as the host will have it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PIECE_CHARS = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FinalValue:
    """What FINAL was given, as the host will have it: `text`, `json` or `repr`."""

    value: Any
    format: str
    text: str

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self.text), PIECE_CHARS):
            yield self.text[start : start + PIECE_CHARS].encode("utf-8", "backslashreplace")


def as_final(value: Any) -> FinalValue:
    """A str as it is, what JSON has as JSON, everything else as its str()."""
    if isinstance(value, str):
        return FinalValue(value, "text", str(value))
    if isinstance(value, bytes):
        return FinalValue(value, "text", value.decode("utf-8", "backslashreplace"))
    if type(value).__module__.startswith("sandbox."):
        return FinalValue(value, "text", str(value))
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return FinalValue(value, "repr", str(value))
    return FinalValue(value, "json", text)
