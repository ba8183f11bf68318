"""Runs one cell: compile, execute in the namespace, echo the last expression, report how it ended.

It knows nothing of the wire, of checkpoints or of helpers. An exception becomes printed output, since its
reader is a model; what the cell assigned before it raised stays assigned.
"""

import ast
import linecache
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

_HERE = Path(__file__).parents[1]
_OWN_CODE = (f"{_HERE}/rlm/", f"{_HERE}/sandbox/")


class NextStep(PermissionError):
    """What the cell asked for is there from the next step on: told in one line, without a traceback."""


class Finished(BaseException):
    """Raised by FINAL to end the cell. A BaseException, so that `except Exception` lets it pass."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is `ok`, `error`, `interrupted` or `final`; `error` is one line, empty unless `error`."""

    status: str
    error: str = ""


def compile_cell(source: str, filename: str) -> tuple[CodeType | None, CodeType | None]:
    """Statements and, when the cell ends with an expression, that expression. Raises SyntaxError."""
    tree = ast.parse(source, filename)
    last: ast.Expression | None = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";"):
        expression = tree.body.pop()
        assert isinstance(expression, ast.Expr)
        last = ast.Expression(expression.value)
    statements = compile(tree, filename, "exec", dont_inherit=True) if tree.body else None
    return statements, compile(last, filename, "eval", dont_inherit=True) if last else None


def run_cell(
    source: str, namespace: dict[str, Any], number: int, *, show: Callable[[Any], str] = repr
) -> Outcome:
    """Run `source` with sys.stdout and sys.stderr as they are; the traceback, if any, is printed too.

    `show` makes the echo of the last expression.
    """
    filename = f"<cell {number}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    try:
        statements, last = compile_cell(source, filename)
        if statements:
            exec(statements, namespace)
        if last:
            value = eval(last, namespace)
            if value is not None:
                namespace["_"] = value
                sys.stdout.write(f"{show(value)}\n")
    except Finished:
        return Outcome("final")
    except KeyboardInterrupt:
        _say("KeyboardInterrupt: the cell was interrupted; what it assigned before is kept.\n")
        return Outcome("interrupted")
    except NextStep as told:
        _say(f"{told}\n")
        return Outcome("error", f"PermissionError: {told}"[:500])
    except BaseException as error:
        _say(_format(error))
        return Outcome("error", _one_line(error))
    return Outcome("ok")


def _format(error: BaseException) -> str:
    """The traceback from the first frame that belongs to a cell, without the frames of our own code."""
    try:
        trace = error.__traceback__
        while trace and not trace.tb_frame.f_code.co_filename.startswith("<cell "):
            trace = trace.tb_next
        told = traceback.TracebackException(type(error), error, trace)
        _leave_out_own_code(told)
        return "".join(told.format()) + _advice(error)
    except BaseException:
        return f"{type(error).__name__} (its message could not be shown)\n"


def _leave_out_own_code(told: traceback.TracebackException) -> None:
    """Also of what it was raised from, and of the exceptions in a group."""
    further = [told]
    while further:
        one = further.pop()
        one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(_OWN_CODE)]
        further += [other for other in (one.__cause__, one.__context__) if other]
        further += getattr(one, "exceptions", None) or []


def _advice(error: BaseException) -> str:
    """What to do, where the error comes out of C and cannot say it."""
    if isinstance(error, TypeError) and "'Document'" in str(error):
        return (
            "(A Document is not a str: use context.search(pattern), context.finditer(pattern) or grep, "
            "or a slice of it.)\n"
        )
    if isinstance(error, MemoryError) and not str(error):
        return "(Work in pieces: go through chunks(), lines or grep, and keep only what you need.)\n"
    return ""


def _one_line(error: BaseException) -> str:
    try:
        text = str(error).strip()
        first = text.splitlines()[0] if text else ""
    except BaseException:
        first = "(its message could not be shown)"
    return f"{type(error).__name__}: {first}"[:500] if first else type(error).__name__


def _say(text: str) -> None:
    try:
        sys.stdout.write(text)
    except BaseException:
        # The cell put something of its own in the place of sys.stdout; its original is still there.
        if sys.__stdout__:
            sys.__stdout__.write(text)
