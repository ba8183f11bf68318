"""`rlm chat`: one question after another, in one session and one container."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlm.cli.chat_commands import (
    COMMANDS,
    NARROW_COLUMNS,
    SHOWN_CHARS,
    WITH_PATHS,
    Leave,
    arguments,
    find,
    stoppable,
)
from rlm.cli.options import FILES, Options, common
from rlm.errors import Interrupted, RlmError

if TYPE_CHECKING:
    from rlm.cli.ask import Keyboard
    from rlm.cli.chat_prompt import Prompt
    from rlm.cli.chat_typing import Typing
    from rlm.events import TurnFinished
    from rlm.session import Models, Session
    from rlm.settings import Config
    from rlm.state import State
    from rlm.ui.console import Console

PLAIN_PROMPT = "> "
VALUE_LINES = 40
"""What `/vars NAME` shows of a value."""
LEAVE_HINT = "Ctrl-D or /quit leaves"


EPILOG = """\
\b
Examples:
  rlm chat -f access.log -f errors/
  rlm chat --new -m openai/gpt-5
  printf 'How many rows?\\nAnd columns?\\n' | rlm chat -f table.csv
"""


@click.command(name="chat", short_help="Ask one question after another.", epilog=EPILOG)
@click.option(
    "-f",
    "--file",
    "files",
    type=FILES,
    multiple=True,
    metavar="FILE",
    help="Load this too: a file, folder, pattern or address. May be repeated.",
)
@click.option("--new", is_flag=True, help="Begin a new session; documents stay.")
@common(models=True)
def command(options: Options, *, files: tuple[str, ...], new: bool) -> int:
    """Ask one question after another; continues this folder's session unless --new.

    Answers go to stdout. What is typed while a turn runs is said to the model; Ctrl-C stops the turn and
    offers how to go on, twice abandons it. /help lists commands; Ctrl-D or /quit leaves.
    """
    console = options.console()
    config = options.load_config(console)
    from rlm.choose import models_of
    from rlm.cli.load import load
    from rlm.models import close_models, preload
    from rlm.register import begin_session

    models = models_of(config)
    preload()
    with asyncio.Runner() as runner:
        try:
            while True:
                with options.state(command="chat") as state:
                    if new:
                        begin_session(state)
                    if files:
                        load(files, state=state, config=config, console=console)
                    leave = runner.run(_talk(options, console, config, models, state))
                if not leave.reset:
                    return 0
                left = state.reset()
                console.line(f"deleted {state.path}; this is a new beginning")
                if left:
                    names = ", ".join(left)
                    console.note(f"left alone, because they are not this program's: {names}", level="warning")
                files, new = (), False
        finally:
            runner.run(close_models())


async def _talk(
    options: Options, console: "Console", config: "Config", models: "Models", state: "State"
) -> Leave:
    from rlm.cli.ask import Keyboard
    from rlm.session import Session

    def open_session(config: "Config", models: "Models") -> Session:
        asks = options.interactive
        return Session(config=config, state=state, models=models, cwd=Path.cwd(), asks=asks)

    chat = Chat(open_session(config, models), console, options, Keyboard(options), open_session)
    try:
        return await chat.run()
    finally:
        await chat.session.close()


@dataclass(slots=True)
class Chat:
    """One conversation. `models_used`, `turns_asked` and `last_steps` are what completion offers."""

    session: "Session"
    console: "Console"
    options: Options
    asker: "Keyboard"
    open_session: "Callable[[Config, Models], Session]"
    models_used: tuple[str, ...] = ()
    turns_asked: tuple[tuple[int, str], ...] = ()
    last_steps: int = 0
    given_up: str = ""
    """The question that was abandoned last, for /retry."""
    _typing: "Typing | None" = None
    _prompt: "Prompt | None" = None
    _bar: tuple[str, ...] = ()
    _next: str = ""
    """What was typed too late for the last turn; it stands in the next prompt."""
    _task: "asyncio.Task[Any] | None" = None
    _looking: bool = False
    """A command runs a cell of its own."""
    _terminated: bool = False

    async def run(self) -> Leave:
        """Until the user leaves. Raises `Interrupted` when the program was told to end."""
        from rlm.cli.conduct import Terminated

        self._task = asyncio.current_task()
        self._welcome()
        read = self._reader()
        try:
            while True:
                try:
                    await self._take(await read())
                except (EOFError, Leave) as leave:
                    return leave if isinstance(leave, Leave) else Leave()
                except Terminated:
                    raise
                except RlmError as error:
                    self.console.error(error)
        except asyncio.CancelledError:
            if not self._terminated:
                raise
            raise Terminated("The chat was told to end.", "The session is kept.") from None

    async def _take(self, text: str) -> None:
        text = text.strip()
        if not text.startswith("/") or text.startswith("//"):
            if question := text.removeprefix("/") if text.startswith("//") else text:
                await self._ask(question)
            return
        name, _, argument = text.partition(" ")
        if further := await self._run_command(name, argument.strip()):
            await self._ask(further)

    async def _run_command(self, name: str, argument: str) -> str | None:
        """Raises `Interrupted` when Ctrl-C stopped it."""
        from rlm.cli.conduct import signals

        run = asyncio.ensure_future(find(name).run(self, argument))

        def interrupt() -> None:
            if self._looking:
                self.session.sandbox.interrupt()
            else:
                run.cancel()

        with signals(interrupt=interrupt, terminate=self._terminate):
            try:
                await asyncio.wait([run])
            finally:
                run.cancel()  # if it is not done, the chat was told to end
        if run.cancelled():
            self.console.line()
            raise Interrupted(f"{name} was stopped.")
        return run.result()

    async def _ask(self, question: str) -> None:
        from rlm.cli.conduct import conduct, signals

        self.given_up = ""
        try:
            finished = await conduct(
                self.session,
                question,
                console=self.console,
                asker=self.asker,
                chat=self.options.interactive,
                typing=self._typing,
                at_once=lambda ended: self._show_answer(ended, long=False),
                more="/steps {step}",
            )
        except Interrupted:
            self.given_up = question
            # The namespace of before the turn comes back with the next question.
            with signals(interrupt=lambda: None, terminate=self._terminate):
                await self.session.sandbox.close()
            raise
        finally:
            said = self.session.take_leftover()
            said = f"/{said}" if said.startswith("/") else said  # it is no command now either
            late = [said, self._typing.line.take() if self._typing else ""]
            self._next = "\n".join(text for text in late if text)
        self._show_answer(finished, long=True)
        if finished.status != "ok":
            self.console.error(RlmError(finished.message, hint=finished.hint))

    def _show_answer(self, finished: "TurnFinished", *, long: bool) -> None:
        """A short answer while its namespace is saved; a long one, which Ctrl-C stops, after that."""
        from rlm.cli.conduct import shown_before_saving

        answer = finished.answer
        if answer and long != shown_before_saving(answer, self.console):
            hint = f"All of it is in {answer.path}."
            with stoppable("Showing the answer", hint=hint) if long else contextlib.nullcontext():
                self.console.answer(Path(answer.path), prose=answer.format == "text")

    # -- what the commands need

    async def begin_anew(self) -> None:
        """Begin a new session with the documents of this one."""
        from rlm.register import begin_session

        await self.session.close()
        begin_session(self.session.state)
        self.session = self.open_session(self.session.config, self.session.models)

    async def show_variable(self, name: str) -> None:
        """Look at a variable with a cell of its own; Ctrl-C stops it."""
        from rlm.ui.numbers import plural

        self.console.status("looking at the namespace")
        self._looking = True
        try:
            result = await self.session.sandbox.run_cell(name, lambda text: None)
        finally:
            self._looking = False
            self.console.status("")
        row = next(row for row in self.session.sandbox.variables if row.name == name)
        self.console.line(f"{row.name}: {row.type}, {row.size}", style="bold")
        lines = (result.shown.strip("\n") or result.sentence()).split("\n")
        for line in lines[:VALUE_LINES]:
            self.console.write(f"  {line}\n")
        if hidden := len(lines[VALUE_LINES:]):
            self.console.line(f"… +{plural(hidden, 'line')} (in a cell: print({name}))", style="dim")

    def _terminate(self) -> None:
        self._terminated = True
        if self._task:
            self._task.cancel()

    # -- what is shown around a question

    def _welcome(self) -> None:
        from rlm.ui.numbers import plural

        session, config = self.session, self.session.config
        view = session.state.view()
        documents = session.documents
        names = ", ".join(document.name for document in documents[:3])
        more = f" and {len(documents) - 3} more" if len(documents) > 3 else ""
        facts = [f"{names}{more}" if documents else "no documents (-f FILE, or name one as @path)"]
        facts.append(f"{config.root.model}, sub {config.sub.model}")
        facts.append(f"up to ${config.limits.max_cost_usd:.2f} a question")
        self.console.line(" · ".join(facts), style="dim")
        if view.turns:
            variables = plural(len(session.sandbox.variables), "variable")
            kept = f"{plural(len(view.turns), 'turn')}, {variables} kept"
            self.console.line(f"resuming session {view.session}: {kept}", style="dim")
        if view.interrupted:
            self.console.note(f"the last turn was not finished: {view.interrupted.question[:SHOWN_CHARS]}")

    def _look(self) -> None:
        """Gather what the bar and the completion show: they are asked for with every key."""
        from rlm.ui.numbers import cost_text

        view = self.session.state.view()
        self.models_used = tuple(view.by_model)
        self.turns_asked = tuple((turn.ended.turn, turn.question) for turn in view.turns)
        self.last_steps = view.turns[-1].ended.steps if view.turns else 0
        names = [document.name for document in self.session.documents]
        loaded = f"{names[0]} +{len(names) - 1}" if len(names) > 1 else "".join(names) or "no documents"
        config = self.session.config
        self._bar = (loaded, f"{config.root.model}, sub {config.sub.model}", cost_text(view.usage))

    def _bar_text(self, columns: int) -> str:
        facts = self._bar
        if columns < NARROW_COLUMNS:
            facts = facts[:1] + facts[-1:]
        return " · ".join(facts)

    # -- where lines come from

    def _reader(self) -> Callable[[], Awaitable[str]]:
        if not self.options.interactive:
            return self._piped_line
        if not self.console.movable:
            return self._plain_line
        from rlm.cli.chat_completion import ChatCompleter
        from rlm.cli.chat_prompt import Prompt
        from rlm.cli.chat_typing import Typing

        completer = ChatCompleter(
            {name: command.summary for name, command in COMMANDS.items()},
            arguments=lambda name: arguments(self, name),
            with_paths=WITH_PATHS,
            cwd=Path.cwd(),
        )
        history = self.session.state.history_path
        self._prompt = Prompt(self.console, history=history, completer=completer, bar=self._bar_text)
        self._typing = Typing(self.console)
        return self._prompted

    async def _prompted(self) -> str:
        from rlm.cli.conduct import signals

        assert self._prompt is not None
        self._look()
        text, self._next = self._next, ""
        with signals(interrupt=None, terminate=self._terminate):  # Ctrl-C is a key here
            return await self._prompt.read(text)

    async def _plain_line(self) -> str:
        """From a terminal whose cursor cannot be moved."""
        from rlm.cli.ask import read_line
        from rlm.cli.conduct import signals

        reading = asyncio.create_task(read_line(PLAIN_PROMPT, forget=False))

        def cancel() -> None:
            reading.cancel()

        with signals(interrupt=cancel, terminate=self._terminate):
            try:
                line = await reading
            except asyncio.CancelledError:
                if self._terminated:
                    raise
                self.console.line()
                self.console.note(LEAVE_HINT)
                return ""
        if line is None:
            raise EOFError
        return line

    @staticmethod
    async def _piped_line() -> str:
        line: str = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            raise EOFError
        return line
