"""What a check has found, and the deadline that it is given. It checks nothing itself."""

import dataclasses
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rlm.errors import RlmError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`status` is `ok`, `warning` or `failed`; `area` is `program`, `config`, `sandbox`, `models`, `ping` or
    `disk`.

    `fix` is one line on what to do, empty when all is well. `exit_code` is what a run would end with.
    `measured` is what a ping took: `seconds`, `input_tokens`, `output_tokens` and `cost_usd`.
    """

    area: str
    name: str
    status: str
    detail: str
    fix: str = ""
    exit_code: int = 0
    measured: Mapping[str, float | None] | None = None

    @property
    def failed(self) -> bool:
        return self.status == "failed"

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name != "exit_code" and value is not None}


def ok(area: str, name: str, detail: str) -> Check:
    return Check(area=area, name=name, status="ok", detail=detail)


def warning(area: str, name: str, detail: str, *, fix: str) -> Check:
    return Check(area=area, name=name, status="warning", detail=detail, fix=fix)


def failure(area: str, name: str, error: RlmError) -> Check:
    return Check(
        area=area,
        name=name,
        status="failed",
        detail=f"{error.what} {error.why}".strip(),
        fix=error.hint,
        exit_code=error.exit_code,
    )


def within(seconds: float, look: Callable[[], T]) -> T:
    """What `look` gives, or raises. Raises `TimeoutError` when it takes longer; it is then left to itself."""
    outcome: list[Callable[[], T]] = []

    def run() -> None:
        try:
            found = look()
        except BaseException as error:
            outcome.append(_raiser(error))
        else:
            outcome.append(lambda: found)

    thread = threading.Thread(target=run, daemon=True)  # does not keep the program from ending
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError
    return outcome[0]()


def _raiser(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again
