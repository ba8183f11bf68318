"""The conversation as Markdown, for `/export`: questions and answers as they are, and what each turn took.

Answers of any size are copied piece by piece. It overwrites nothing.
"""

import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TextIO

from rlm.errors import UsageError
from rlm.records import SessionView, Turn
from rlm.state import State
from rlm.ui.numbers import duration, plural, usage_text

PIECE_CHARS = 1024 * 1024


def export(state: State, name: str, *, cwd: Path) -> Path:
    """Write the session into a new file; without a `name` one is found. Raises `UsageError`."""
    view = state.view()
    if not view.turns:
        raise UsageError("There is nothing to export.", "No question was answered in this session yet.")
    path = cwd / os.path.expanduser(name) if name else _free_name(view, cwd)  # noqa: PTH111 - as in consent
    try:
        with path.open("x", encoding="utf-8") as file:
            _write(view, state, file)
    except FileExistsError:
        raise UsageError(f"{path} exists.", "Nothing is overwritten.", hint="Give another name.") from None
    except OSError as error:
        raise UsageError(f"{path} could not be written.", f"{error.strerror}.") from None
    return path


def _free_name(view: SessionView, cwd: Path) -> Path:
    names = (cwd / f"rlm-{view.session}{f'-{number}' if number > 1 else ''}.md" for number in count(1))
    return next(path for path in names if not path.exists())


def _write(view: SessionView, state: State, file: TextIO) -> None:
    names = ", ".join(str(row.get("name")) for row in view.documents)
    file.write(f"# Session {view.session}\n\nBegun {view.created[:16].replace('T', ' ')} UTC")
    file.write(f" over {names}.\n" if names else ".\n")
    for number, turn in enumerate(view.turns, start=1):
        file.write(f"\n## Question {number}\n\n{turn.question.strip()}\n\n### Answer\n\n")
        _write_answer(turn, state, file)
        ended = turn.ended
        status = [] if ended.status == "ok" else [ended.status.replace("_", " ")]
        facts = [*status, plural(ended.steps, "step"), usage_text(ended.usage), duration(ended.duration_s)]
        file.write(f"\n*{' · '.join(facts)}*\n")


def _write_answer(turn: Turn, state: State, file: TextIO) -> None:
    if turn.ended.answer is None:
        file.write("There was no answer.\n")
        return
    path = state.path / "answers" / turn.ended.answer
    if not path.is_file():
        file.write("The answer is no longer in the state folder.\n")
        return
    fence = ""
    if turn.ended.answer_format != "text":
        longest = max((len(ticks) for piece in _pieces(path) for ticks in re.findall("`+", piece)), default=0)
        fence = "`" * max(3, longest + 1)
        file.write(f"{fence}{'json' if turn.ended.answer_format == 'json' else ''}\n")
    last = ""
    for piece in _pieces(path):
        file.write(piece)
        last = piece[-1]
    file.write("" if last == "\n" else "\n")
    file.write(f"{fence}\n" if fence else "")


def _pieces(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="backslashreplace") as file:
        while piece := file.read(PIECE_CHARS):
            yield piece
