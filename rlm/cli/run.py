"""`rlm run "QUERY"`: one question, one answer, on stdout and nothing else."""

import asyncio
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlm.cli import result
from rlm.cli.options import FILES, Options, common, last_console
from rlm.cli.result import Asked, Begun
from rlm.errors import Interrupted, RlmError, UsageError

if TYPE_CHECKING:
    from rlm.answer_schema import AnswerSchema
    from rlm.cli.event_lines import EventLines
    from rlm.events import TurnFinished
    from rlm.state import State
    from rlm.ui.console import Console

EPILOG = """\
\b
Examples:
  rlm run "Which meetings are about budgets?"
  rlm run -f access.log "Which errors repeat most?" -o errors.md
  cat dump.json | rlm run -f - -q "How many refunds over 500 EUR?"
  rlm run --schema person.json "Who wrote most?" | jq .name
  rlm run --events "…" | jq -r 'select(.event == "Notice").text'

\b
Exit codes:
  0    answered
  1    failed: the model's provider, the state folder, a full disk
  2    wrong usage, a file that cannot be read
  3    no answer within --max-steps or --timeout; the best so far is on stdout
  4    configuration: a key, a model, a setting
  5    sandbox: Docker, the image, the container
  6    --max-cost reached; the best so far is on stdout
  130  interrupted
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for on the command line, apart from the common options."""

    query: str
    files: tuple[str, ...]
    output: Path | None
    schema: Path | None
    fresh: bool

    def question(self) -> str:
        """The question itself, from stdin if it is `-`. Raises `UsageError`."""
        if self.query == "-" and "-" in self.files:
            raise UsageError("stdin cannot be both the question and a document.")
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig") if self.query == "-" else self.query
        except UnicodeDecodeError as error:
            why = f"It is not UTF-8 text: {error.reason} at byte {error.start:,}."
            raise UsageError(
                "The question on stdin cannot be read.", why, hint="Data goes in with -f -."
            ) from None
        if not text.strip():
            raise UsageError("The question is empty.", hint='rlm run "What is in these files?"')
        return text


def _report_usage(arguments: list[str], error: RlmError) -> None:
    """The object of `--json` and `--events` for flags that could not be read."""
    flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--json" in flags:
        last_console().answer([result.to_json(result.failure(error))])
    elif "--events" in flags:
        last_console().answer([result.to_json(_last_line(result.failure(error)))])


class RunCommand(result.ReportingCommand):
    report = staticmethod(_report_usage)


@click.command(name="run", cls=RunCommand, short_help="Ask one question.", epilog=EPILOG)
@click.argument("query", metavar="QUERY")
@click.option(
    "-f",
    "--file",
    "files",
    type=FILES,
    multiple=True,
    metavar="FILE",
    help="Load this too: a file, folder, pattern or address; - is stdin. May be repeated.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write the answer to this file, and nothing to stdout.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
@click.option(
    "--events", is_flag=True, help="Print what happens as JSON Lines; the last is the object of --json."
)
@click.option(
    "--schema",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The answer is JSON that fits this JSON Schema.",
)
@click.option("--fresh", is_flag=True, help="Neither use nor change the saved session; documents are used.")
@common(models=True)
def command(options: Options, *, as_json: bool, events: bool, **asked: Any) -> int:
    """Ask one question; the answer goes to stdout, everything else to stderr.

    QUERY may be - to read it from stdin. Nothing is read from stdin otherwise.
    """
    if events and sys.stdout.isatty():
        options = dataclasses.replace(options, quiet=True)  # two reports on one screen read badly
    console = options.console()
    lines = _event_lines() if events else None
    begun = Begun()

    def report(found: dict[str, Any]) -> None:
        if lines:
            lines.write(_last_line(found))
            lines.close()
        elif as_json:
            try:
                console.answer([result.to_json(found)])
            except OSError as error:
                raise RlmError("The result could not be written to stdout.", f"{error.strerror}.") from None

    try:
        if as_json and events:
            raise UsageError(
                "--json and --events exclude each other.", "The last line of --events is its object."
            )
        ended, problem = _answer(
            options, console, Request(**asked), begun, lines, show=not (as_json or events)
        )
    except BaseException as error:
        report(result.failure(result.explained(error), begun))
        raise
    report(result.result(ended, problem))
    if problem is None:
        return 0
    console.error(problem)
    return problem.exit_code


def _last_line(found: dict[str, Any]) -> dict[str, Any]:
    from rlm.register import now

    return {"ts": now(), "event": "Result", **found}


def _event_lines() -> "EventLines":
    from rlm.cli.event_lines import EventLines

    return EventLines()


def _answer(
    options: Options,
    console: "Console",
    request: Request,
    begun: Begun,
    lines: "EventLines | None",
    *,
    show: bool,
) -> tuple[Asked, RlmError | None]:
    """Ask, and hand the answer over: to the file, or to stdout if it is to be shown there.

    Returns what stood in the way of a full answer, or of handing it over, beside how the turn ended.
    """
    from rlm.cli import output

    with contextlib.ExitStack() as stack:
        at_once = show and not (request.output or request.schema)
        asked = _ask(options, console, request, begun, stack, lines, at_once=at_once)
        problem = asked.problem
        if not request.fresh:
            stack.close()  # the next command need not wait until the answer is read
        if (source := asked.source) is None:
            return asked, problem
        answer = asked.finished.answer
        assert answer is not None
        try:
            if request.output:
                output.write(source, request.output)
            elif show and not begun.shown:
                console.answer(source, prose=answer.format == "text" and not asked.schema)
        except OSError as error:
            kept = output.rescued(Path(answer.path)) if request.fresh else Path(answer.path)
            problem = output.not_delivered(str(request.output or "stdout"), error, kept=kept)
        # With --fresh the answer's file goes with this block, so what is told of it is read here.
        return dataclasses.replace(asked, value=None if show else asked.read()), problem


def _ask(
    options: Options,
    console: "Console",
    request: Request,
    begun: Begun,
    stack: contextlib.ExitStack,
    lines: "EventLines | None",
    *,
    at_once: bool,
) -> Asked:
    """Run the turn. What was opened for it is closed with `stack`.

    With `at_once` a short answer may be shown before the namespace is saved.
    """
    from rlm.cli.output import require_writable

    question = request.question()
    schema = _schema(request.schema)
    if request.output:
        require_writable(request.output)
    config = options.load_config(console)
    from rlm.choose import models_of
    from rlm.cli.load import load
    from rlm.models import preload

    models = models_of(config)
    preload()
    state = stack.enter_context(_state(options, fresh=request.fresh))
    if "-" in request.files:
        add_stdin(state, sys.stdin.buffer.read())
    if files := [file for file in request.files if file != "-"]:
        load(files, state=state, config=config, console=console)
    _require_no_document(request.output, state)
    view = state.view()
    begun.limits, begun.turn, before = config.limits, view.next_turn, view.usage

    def show(finished: "TurnFinished") -> None:
        from rlm.cli.conduct import shown_before_saving

        answer = finished.answer
        if at_once and answer and shown_before_saving(answer, console):
            with contextlib.suppress(OSError):  # which is told when it is met again
                console.answer(Path(answer.path), prose=answer.format == "text")
                begun.shown = True

    async def ask() -> "TurnFinished":
        from rlm.cli.ask import Keyboard
        from rlm.cli.conduct import conduct
        from rlm.cli.told_session import ToldSession
        from rlm.models import close_models

        asks = options.interactive
        session = ToldSession(
            config=config, state=state, models=models, cwd=Path.cwd(), asks=asks, lines=lines
        )
        if schema:
            # Not in the question, where it would be read for paths that the user typed.
            session.sandbox.notes.append(schema.note)
        try:
            return await conduct(
                session,
                question,
                console=console,
                asker=Keyboard(options),
                accept=schema.accept if schema else None,
                at_once=show,
                more="" if request.fresh else "rlm trace",
            )
        finally:
            await session.close()
            await close_models()

    with asyncio.Runner() as runner:
        try:
            finished = runner.run(ask())
        except Interrupted:  # the turn was abandoned, and is paid for all the same
            view = state.view()
            begun.session, begun.usage = view.session, result.spent(before, view.usage)
            raise
    return Asked(finished=finished, session=state.view().session, limits=config.limits, schema=schema)


def _schema(path: Path | None) -> "AnswerSchema | None":
    if path is None:
        return None
    from rlm.answer_schema import AnswerSchema

    return AnswerSchema.read(path)


def _require_no_document(output: Path | None, state: "State") -> None:
    """Raises `UsageError` when the answer would be written over a document."""
    from rlm.documents import Document

    if output is None or not output.exists():
        return
    for row in state.view().documents:
        document = Document.from_json(row)
        if document.path.exists() and document.path.samefile(output):
            raise UsageError(
                f"{output} cannot be written.",
                f"It is the document {document.name!r}.",
                hint="Give another file with -o.",
            )


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
