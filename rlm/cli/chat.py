"""`rlm chat`: one question after another, in one session and one container."""

import asyncio
import difflib
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlm.cli.options import Options, common
from rlm.errors import Interrupted, RlmError

if TYPE_CHECKING:
    from rlm.session import Session
    from rlm.ui.console import Console

PROMPT = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "
PLAIN_PROMPT = "> "
SHOWN_CHARS = 200


@click.command(name="chat", short_help="Ask one question after another.")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="Load this too.")
@click.option("--new", is_flag=True, help="Begin a new session; documents stay.")
@common(models=True)
def command(options: Options, *, files: tuple[str, ...], new: bool) -> int:
    """Ask one question after another; continues this folder's session unless --new.

    Answers go to stdout. Ctrl-C stops a turn, twice abandons it; Ctrl-D or /quit leaves.
    """
    console = options.console()
    config = options.load_config(console)
    from rlm.choose import models_of
    from rlm.cli.load import load
    from rlm.models import close_models, preload
    from rlm.register import begin_session
    from rlm.session import Session

    models = models_of(config)
    preload()
    with options.state(command="chat") as state:
        if new:
            begin_session(state)
        if files:
            load(files, state=state, config=config, console=console)

        async def talk() -> None:
            asks = options.interactive
            session = Session(config=config, state=state, models=models, cwd=Path.cwd(), asks=asks)
            try:
                await Chat(session, console, options).run()
            finally:
                await session.close()
                await close_models()

        with asyncio.Runner() as runner:
            runner.run(talk())
    return 0


class Leave(Exception):
    """The user wants to go."""


@dataclass(slots=True)
class Chat:
    session: "Session"
    console: "Console"
    options: Options

    async def run(self) -> None:
        self._welcome()
        read = self._reader()
        while True:
            try:
                text = (await read()).strip()
                if text.startswith("/") and not text.startswith("//"):
                    await self._command(text)
                elif text:
                    await self._ask(text.removeprefix("/") if text.startswith("//") else text)
            except (EOFError, Leave):
                return
            except KeyboardInterrupt:
                self.console.note("Ctrl-D or /quit leaves")
            except RlmError as error:
                self.console.error(error)

    async def _ask(self, question: str) -> None:
        from rlm.cli.ask import Keyboard
        from rlm.cli.conduct import conduct

        try:
            finished = await conduct(
                self.session, question, console=self.console, asker=Keyboard(self.options)
            )
        except Interrupted as abandoned:
            # The namespace of before the turn comes back with the next question.
            await self.session.sandbox.close()
            raise abandoned
        if finished.answer:
            self.console.answer(Path(finished.answer.path), prose=finished.answer.format == "text")
        if finished.status != "ok":
            self.console.error(RlmError(finished.message, hint=finished.hint))

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

    def _reader(self) -> Callable[[], Awaitable[str]]:
        """Where lines come from: prompt-toolkit on a terminal, plain lines elsewhere."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return self._plain_line
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory
        from prompt_toolkit.output import create_output

        prompts: PromptSession[str] = PromptSession(
            history=FileHistory(str(self.session.state.history_path)),
            output=create_output(stdout=sys.stderr),
            enable_open_in_editor=True,
        )

        prompt = PROMPT if "utf" in (sys.stderr.encoding or "").lower() else PLAIN_PROMPT

        async def read() -> str:
            self.console.status("")
            # Enter sends; a pasted text keeps its line breaks; Ctrl-C at an empty prompt is a hint.
            return str(await prompts.prompt_async(prompt))

        return read

    @staticmethod
    async def _plain_line() -> str:
        line: str = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            raise EOFError
        return line

    async def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        slash = COMMANDS.get(name)
        if slash is None:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            self.console.note(f"there is no {name}{f'; did you mean {near[0]}?' if near else ''} (/help)")
            return
        question = slash[0](self, argument.strip())
        if question:
            await self._ask(question)

    def _show_taken_back(self, question: str | None) -> None:
        """Which question it was, and what the namespace is now; None when there was none."""
        if question is None:
            self.console.note("there is no question to take back")
            return
        names = ", ".join(row.name for row in self.session.sandbox.variables)
        snapshots = self.session.state.view().snapshots
        now = f"as turn {snapshots[-1].turn} left them: {names}" if snapshots and names else "none"
        self.console.line(f"taken back: {question[:SHOWN_CHARS]}")
        self.console.line(f"variables {now}"[:SHOWN_CHARS])

    # -- slash commands: what one returns is asked

    def help(self, _: str) -> None:
        """this list"""
        for name, (_method, summary) in COMMANDS.items():
            self.console.line(f"{name:<9} {summary}")

    def status(self, _: str) -> None:
        """documents, variables, session, spend"""
        from rlm.cli.status import gather, lines

        for line in lines(gather(self.session.state, self.session.config, inside=True)):
            self.console.line(line)

    def files(self, argument: str) -> None:
        """the documents; /files PATH loads another"""
        from rlm.cli.show import document_line

        if argument:
            self.session.load([argument])
        texts = self.session.known_texts()
        for document in self.session.documents:
            mark = "*" if document.name == self.session.sandbox.active else " "
            own = [text for text in texts if text.document.name == document.name]
            self.console.line(f"{mark} {document_line(document, own)}")

    def vars(self, _: str) -> None:
        """the variables kept in the namespace"""
        variables = self.session.sandbox.variables
        for row in variables:
            self.console.line(f"{row.name}: {row.type}, {row.size}")
        if not variables:
            self.console.line("no variables")

    def cost(self, _: str) -> None:
        """what this session has spent, by model"""
        from rlm.ui.numbers import usage_text

        view = self.session.state.view()
        for model, usage in view.by_model.items():
            self.console.line(f"{model}: {usage_text(usage)}")
        self.console.line(f"session: {usage_text(view.usage)}")

    def undo(self, _: str) -> None:
        """take the last question back; variables and documents are those of before it"""
        last = self.session.state.view().last
        self.session.undo()
        self._show_taken_back(last.question if last else None)

    def retry(self, _: str) -> str | None:
        """take the last question back and ask it again"""
        question = self.session.retry()
        self._show_taken_back(question)
        return question

    def quit(self, _: str) -> None:
        """leave; the session is kept"""
        raise Leave


COMMANDS: dict[str, tuple[Callable[[Chat, str], str | None], str]] = {
    f"/{method.__name__}": (method, (method.__doc__ or "").strip())
    for method in (
        Chat.help,
        Chat.status,
        Chat.files,
        Chat.vars,
        Chat.cost,
        Chat.undo,
        Chat.retry,
        Chat.quit,
    )
}
