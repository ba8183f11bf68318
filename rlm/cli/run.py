"""`rlm run "QUERY"`: one question, one answer, on stdout and nothing else."""

import asyncio
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlm import errors
from rlm.cli.options import Options, common
from rlm.errors import RlmError, UsageError

if TYPE_CHECKING:
    from rlm.events import TurnFinished, Usage
    from rlm.settings import Limits
    from rlm.state import State
    from rlm.ui.console import Console


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A question that was asked, in which session, within which limits."""

    finished: "TurnFinished"
    session: str
    limits: "Limits"


@click.command(
    name="run",
    short_help="Ask one question.",
    epilog="\b\nExamples:\n"
    '  rlm run "Which meetings are about budgets?"\n'
    '  rlm run -f access.log "Which errors repeat most?" -o errors.md\n'
    '  cat dump.json | rlm run -f - -q "How many refunds over 500 EUR?"',
)
@click.argument("query", metavar="QUERY")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="Load this too; - is stdin.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT",
    help="Write the answer here, and nothing to stdout.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
@click.option("--fresh", is_flag=True, help="Neither use nor change the saved session; documents are used.")
@common(models=True)
def command(
    options: Options,
    query: str,
    *,
    files: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    fresh: bool,
) -> int:
    """Ask one question; the answer goes to stdout, everything else to stderr.

    QUERY may be - to read it from stdin. Nothing is read from stdin otherwise.
    """
    console = options.console()
    try:
        asked = _ask(options, console, query, files=files, output=output, fresh=fresh)
    except RlmError as error:
        if as_json:
            console.answer([_to_json(_failure(error))])
        raise
    finished = asked.finished
    if as_json:
        console.answer([_to_json(_result(asked))])
    elif finished.answer and output is None:
        console.answer(Path(finished.answer.path), prose=finished.answer.format == "text")
    if finished.status == "ok":
        return 0
    kind: type[RlmError] = getattr(errors, finished.error, RlmError)
    console.error(kind(finished.message, hint=finished.hint))
    return kind.exit_code


def _ask(
    options: Options,
    console: "Console",
    query: str,
    *,
    files: tuple[str, ...],
    output: Path | None,
    fresh: bool,
) -> "Asked":
    if query == "-" and "-" in files:
        raise UsageError("stdin cannot be both the question and a document.")
    question = sys.stdin.read() if query == "-" else query
    if not question.strip():
        raise UsageError("The question is empty.", hint='rlm run "What is in these files?"')
    if output and not output.absolute().parent.is_dir():
        raise UsageError(f"{output} cannot be written.", "Its folder does not exist.")
    config = options.load_config(console)
    from rlm.choose import models_of
    from rlm.cli.load import load
    from rlm.models import close_models, preload
    from rlm.session import Session

    models = models_of(config)
    preload()
    with _state(options, fresh=fresh) as state:
        if stdin := [file for file in files if file == "-"]:
            add_stdin(state, sys.stdin.buffer.read())
            files = tuple(file for file in files if file not in stdin)
        if files:
            load(files, state=state, config=config, console=console)
        with asyncio.Runner() as runner:

            async def ask() -> "TurnFinished":
                from rlm.cli.ask import Keyboard
                from rlm.cli.conduct import conduct

                session = Session(
                    config=config, state=state, models=models, cwd=Path.cwd(), asks=options.interactive
                )
                try:
                    return await conduct(session, question, console=console, asker=Keyboard(options))
                finally:
                    await session.close()
                    await close_models()

            finished = runner.run(ask())
        if output and finished.answer:
            _write(Path(finished.answer.path), output)
        elif fresh and finished.answer:
            # The temporary state goes with this block; the answer must not go with it.
            kept = Path(tempfile.mkstemp(prefix="rlm-answer-")[1])
            _write(Path(finished.answer.path), kept)
            finished = dataclasses.replace(
                finished, answer=dataclasses.replace(finished.answer, path=str(kept))
            )
        return Asked(finished, state.view().session, config.limits)


@contextlib.contextmanager
def _state(options: Options, *, fresh: bool) -> "Iterator[State]":
    """The saved state; when `fresh`, a temporary one with the same documents."""
    if not fresh:
        with options.state(command="run") as state:
            yield state
        return
    from rlm.documents import Document
    from rlm.register import add_documents, begin_session
    from rlm.state import State

    documents = []
    if options.state_dir.exists():
        saved = State.open(options.state_dir, create=False, ask=options.confirm)
        documents = [Document.from_json(row) for row in saved.view().documents]
    with tempfile.TemporaryDirectory(prefix="rlm-fresh-") as folder:
        state = State.open(Path(folder) / "state", create=True)
        with state.lock(command="rlm run --fresh"):
            begin_session(state)
            add_documents(state, documents, [])
            yield state


def add_stdin(state: "State", data: bytes) -> None:
    """Keep what came on stdin as a document of this session, under the name `stdin`."""
    from rlm.documents import Document, look
    from rlm.register import add_documents

    path = state.keep_input("stdin.txt", data)
    old = [Document.from_json(row) for row in state.view().documents]
    add_documents(state, [look(path, name="stdin")], [row for row in old if row.name != "stdin"])


def _write(answer: Path, output: Path) -> None:
    """Copy an answer of any size. Raises `UsageError` when it cannot be written."""
    try:
        with answer.open("rb") as source, output.open("wb") as target:
            while chunk := source.read(1024 * 1024):
                target.write(chunk)
    except OSError as error:
        raise UsageError(
            f"{output} could not be written.", f"{error.strerror}.", hint=f"The answer is in {answer}."
        ) from None


# -- the JSON form


def _result(asked: Asked) -> dict[str, Any]:
    finished, answer = asked.finished, None
    if finished.answer:
        text = Path(finished.answer.path).read_bytes().decode("utf-8", "replace")
        answer = json.loads(text) if finished.answer.format == "json" else text
    return {
        "status": finished.status,
        "answer": answer,
        "session": asked.session,
        "turn": finished.turn,
        "steps": finished.steps,
        "usage": _usage(finished.usage),
        "limits": dataclasses.asdict(asked.limits),
        "duration_s": round(finished.duration_s, 3),
        "error": None
        if finished.status == "ok"
        else {"type": finished.error, "message": finished.message, "hint": finished.hint},
    }


def _failure(error: RlmError) -> dict[str, Any]:
    """The same object for what failed before a turn could end."""
    from rlm.events import Usage

    return {
        "status": error.status,
        "answer": None,
        "session": None,
        "turn": None,
        "steps": 0,
        "usage": _usage(Usage()),
        "limits": {},
        "duration_s": 0.0,
        "error": {
            "type": type(error).__name__,
            "message": f"{error.what} {error.why}".strip(),
            "hint": error.hint,
        },
    }


def _usage(usage: "Usage") -> dict[str, Any]:
    """The contract's keys: what an estimate was, the screen tells."""
    return {key: value for key, value in dataclasses.asdict(usage).items() if key != "estimated"}


def _to_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
