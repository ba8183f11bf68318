"""Looks at an answer before it counts: whoever asked may refuse it, and the root model reads why.

It does not decide what becomes of a refused answer; `rlm.engine` does.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from rlm.answers import FailedSink, FileSink
from rlm.box.results import CellResult
from rlm.box.wire import BytesSink, Sink
from rlm.log import NewFile

Accept = Callable[[object], str | None]
"""Gets the answer: parsed JSON when FINAL was given data, else the text. None, or why it does not fit."""


@dataclass(slots=True)
class Acceptance:
    """The answers of one turn before `accept`. Without it every answer counts."""

    accept: Accept | None = None
    _refused: list[Sink] = field(default_factory=list)

    def value(self, result: CellResult) -> str | None:
        """Why what FINAL was given does not fit; None when it does. Raises `StateError`."""
        if self.accept is None or _failed(result.final):
            return None
        try:
            answer = _answer(result)
        except ValueError as error:
            return f"it is not JSON: {error}."
        why = self.accept(answer)
        if why and result.final is not None:
            self._refused.append(result.final)
        return why or None

    def prose(self, text: str) -> str | None:
        """The same for an answer in prose."""
        return self.accept(text) or None if self.accept else None

    def forget_refused(self, kept: Sink | None) -> None:
        """Remove what is left of refused answers, but for the one that is `kept`."""
        for sink in self._refused:
            if sink is not kept and isinstance(sink, FileSink):
                sink.file.abort()
        self._refused.clear()


def _failed(value: Sink | None) -> bool:
    """Whether it could not be kept; that is told when it is to be the answer."""
    return isinstance(value, FailedSink | FileSink) and value.error is not None


def _answer(result: CellResult) -> object:
    """Raises `ValueError`, and `StateError` when it cannot be read."""
    data = b""
    match result.final:
        case BytesSink() as gathered:
            data = gathered.data
        case FileSink(file=NewFile() as file):
            data = file.read()
    text = data.decode("utf-8", "replace")
    return json.loads(text) if result.final_format == "json" else text
