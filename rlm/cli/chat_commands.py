"""The slash commands of the chat: what each is called, takes and does.

A command that returns a text has it asked. What fails raises an `RlmError`, which the chat shows; the
conversation goes on.
"""

import contextlib
import dataclasses
import difflib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlm.errors import ConfigError, Interrupted, UsageError
from rlm.ui.numbers import count, plural, usage_text

if TYPE_CHECKING:
    from rlm.cli.chat import Chat
    from rlm.settings import Config
    from rlm.ui.console import Console

SHOWN_CHARS = 200
NAME_COLUMNS = 18
NARROW_COLUMNS = 60
"""With less room than that, what belongs together stands on lines of its own, or is left out."""


class Leave(Exception):
    """The user wants to go. With `reset` the state is to be deleted, and the chat begun anew."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


@dataclass(frozen=True, slots=True)
class Command:
    """`argument` is how it reads in the help; empty when the command takes none."""

    run: "Callable[[Chat, str], Awaitable[str | None]]"
    argument: str
    summary: str


def find(name: str) -> Command:
    """The command of that name. Raises `UsageError` with the nearest one."""
    if command := COMMANDS.get(name):
        return command
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    what = f"There is no {name}; did you mean {near[0]}?" if near else f"There is no {name}."
    raise UsageError(what, hint="/help lists all; // sends a text that begins with /.")


@contextlib.contextmanager
def stoppable(what: str, *, hint: str = "") -> Iterator[None]:
    """For work that holds up the event loop: Ctrl-C ends it with `Interrupted`, which tells the `hint`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"{what} was stopped.", hint=hint) from None
    finally:
        signal.signal(signal.SIGINT, before)


def arguments(chat: "Chat", name: str) -> Iterator[tuple[str, str]]:
    """What can follow a command, each with a word on what it is."""
    config = chat.session.config
    if name in ("/model", "/sub-model"):
        yield from ((alias, model.model) for alias, model in config.aliases.items())
        used = [config.root.model, config.sub.model, *chat.models_used]
        yield from ((model, "") for model in dict.fromkeys([*used, *_with_a_key(config)]))
    elif name == "/files":
        yield from ((document.name, "loaded") for document in chat.session.documents)
    elif name == "/vars":
        yield from ((row.name, row.type) for row in chat.session.sandbox.variables)
    elif name == "/trace":
        yield from ((str(number), question[:SHOWN_CHARS]) for number, question in chat.turns_asked)
    elif name == "/steps":
        yield from ((str(number), "") for number in range(1, chat.last_steps + 1))


def _with_a_key(config: "Config") -> list[str]:
    """The models that litellm knows and whose key is there; waits for the import of litellm."""
    from rlm.models import known_models
    from rlm.providers import key_variables

    return [
        model
        for model in known_models()
        if any(config.environ.get(variable) for variable in key_variables(model))
    ]


# -- what is there


def show_commands(console: "Console") -> None:
    """Each on a line; in a narrow terminal what it does stands below, indented."""
    for name, command in COMMANDS.items():
        usage = f"{name} {command.argument}".rstrip()
        if console.width < NARROW_COLUMNS:
            console.line(usage)
            console.line(command.summary, indent="  ")
        else:
            console.line(f"{usage:<{NAME_COLUMNS}} {command.summary}")


async def _help(chat: "Chat", _: str) -> None:
    show_commands(chat.console)
    chat.console.line(
        "Ctrl-R searches · Alt-Enter breaks a line · Ctrl-X Ctrl-E edits · // sends a /", style="dim"
    )


async def _status(chat: "Chat", _: str) -> None:
    from rlm.cli.status import gather, lines

    for line in lines(gather(chat.session.state, chat.session.config, inside=True)):
        chat.console.line(line)


async def _files(chat: "Chat", argument: str) -> None:
    from rlm.cli.show import document_line, document_lines

    session = chat.session
    named = [document for document in session.documents if document.name == argument]
    if argument and not named:
        with stoppable("Loading"):
            named = session.load([argument])
    texts = session.known_texts()
    if argument:
        of_named = [text for text in texts if text.document in named]
        for line in document_lines(named, of_named, most=20):
            chat.console.line(line)
        return
    for document in session.documents:
        mark = "*" if document.name == session.sandbox.active else " "
        own = [text for text in texts if text.document.name == document.name]
        chat.console.line(f"{mark} {document_line(document, own)}")
    if not session.documents:
        chat.console.line("no documents; /files PATH loads one, and so does @PATH in a question")


async def _vars(chat: "Chat", argument: str) -> None:
    rows = chat.session.sandbox.variables
    if argument:
        if argument not in [row.name for row in rows]:
            raise UsageError(f"There is no variable {argument!r}.", hint="/vars lists them.")
        await chat.show_variable(argument)
        return
    for row in rows:
        chat.console.line(f"{row.name}: {row.type}, {row.size}")
    if not rows:
        chat.console.line("no variables")


async def _cost(chat: "Chat", _: str) -> None:
    view = chat.session.state.view()
    for model, usage in view.by_model.items():
        chat.console.line(f"{model}: {usage_text(usage)}")
    chat.console.line(f"session: {usage_text(view.usage)}")


async def _memory(chat: "Chat", _: str) -> None:
    rows = chat.session.memory()
    sent = [row for row in rows if row.sent]
    chars = sum(row.chars for row in sent)
    chat.console.line(
        f"sent with the next question: {plural(len(sent), 'message')}, {count(chars)} characters"
    )
    for row in sent:
        chat.console.line(f"{row.title} · {count(row.chars)} characters", style="bold")
        chat.console.line(row.text, indent="  ")
    kept = [row for row in rows if not row.sent]
    if kept:
        chat.console.line("kept as data, which code can look at:")
    for row in kept:
        chat.console.line(f"{row.title} · {count(row.chars)} characters", style="bold")
        if row.text:
            chat.console.line(row.text, indent="  ")


async def _steps(chat: "Chat", argument: str) -> None:
    from rlm.cli.chat_steps import last_steps, show_list, show_step

    steps = last_steps(chat.session.state.events.read(), chat.session.state.view())
    if argument:
        show_step(steps, argument, chat.console)
    else:
        show_list(steps, chat.console)


async def _trace(chat: "Chat", argument: str) -> None:
    from rlm.ui.trace import trace_text

    if argument and not argument.isdecimal():
        raise UsageError(
            f"{argument!r} is not the number of a turn.", hint="/trace 2, or /trace for the last one."
        )
    turn = int(argument) if argument else None
    with stoppable("The trace"):
        events, view = chat.session.state.events.read(), chat.session.state.view()
        for line in trace_text(events, turn, console_width=chat.console.width, view=view):
            chat.console.write(f"{line}\n")


# -- what changes something


async def _model(chat: "Chat", argument: str) -> None:
    _switch(chat, "model", argument)


async def _sub_model(chat: "Chat", argument: str) -> None:
    _switch(chat, "sub_model", argument)


def _switch(chat: "Chat", role: str, name: str) -> None:
    """Use another model from the next question on. Raises `ConfigError`, and the old one stays."""
    from rlm.choose import models_of

    session = chat.session
    if name:
        flags = {**chat.options.flags, role: name}
        config = _with_models(chat, flags)
        session.config, session.models = config, models_of(config)
        chat.options = dataclasses.replace(chat.options, flags=flags)
    config = session.config
    chat.console.line(f"root model {config.root.model}, sub model {config.sub.model}")
    if not name and config.aliases:
        chat.console.line(
            "aliases: " + ", ".join(f"{name} ({m.model})" for name, m in config.aliases.items())
        )


def _with_models(chat: "Chat", flags: dict[str, object]) -> "Config":
    """The session's configuration with the models that these flags choose, as they would at the start."""
    from rlm.choose import find_key
    from rlm.config import load_config
    from rlm.providers import provider_of

    options = chat.options
    loaded = load_config(
        cwd=Path.cwd(),
        config_file=options.config,
        environ=os.environ,
        flags={**flags, "yes": options.yes},
        confirm=None,
    )
    for model in (loaded.root, loaded.sub):
        find_key(model, loaded)
        if provider_of(model.model) is None and not model.api_base:
            raise ConfigError(
                f"Nobody is known to serve {model.model!r}.",
                "A model needs a provider, or an alias in config.json.",
                hint="Write both, as in openai/gpt-5.",
            )
    return dataclasses.replace(chat.session.config, root=loaded.root, sub=loaded.sub, environ=loaded.environ)


async def _compact(chat: "Chat", _: str) -> None:
    before, after = chat.session.compact()
    chat.console.line(f"earlier turns: {count(before)} characters, now {count(after)}")


async def _undo(chat: "Chat", _: str) -> None:
    if chat.given_up:
        chat.given_up = ""
        chat.console.line("the question that was abandoned left nothing to take back")
        return
    last = chat.session.state.view().last
    chat.session.undo()
    _show_taken_back(chat, last.question if last else None)


async def _retry(chat: "Chat", _: str) -> str | None:
    if chat.given_up:
        chat.console.line(f"asking again: {chat.given_up[:SHOWN_CHARS]}")
        return chat.given_up
    question = chat.session.retry()
    _show_taken_back(chat, question)
    return question


def _show_taken_back(chat: "Chat", question: str | None) -> None:
    """Which question it was, and what the namespace is now; None when there was none."""
    if question is None:
        chat.console.note("there is no question to take back")
        return
    names = ", ".join(row.name for row in chat.session.sandbox.variables)
    snapshots = chat.session.state.view().snapshots
    now = f"as turn {snapshots[-1].turn} left them: {names}" if snapshots and names else "none"
    chat.console.line(f"taken back: {question[:SHOWN_CHARS]}")
    chat.console.line(f"variables {now}"[:SHOWN_CHARS])


async def _export(chat: "Chat", argument: str) -> None:
    from rlm.cli.chat_export import export

    with stoppable("The export"):
        path = export(chat.session.state, argument, cwd=Path.cwd())
    chat.console.line(f"written to {path}")


async def _new(chat: "Chat", _: str) -> None:
    await chat.begin_anew()
    chat.console.line("a new session; the documents stay")


async def _reset(chat: "Chat", _: str) -> None:
    state = chat.session.state
    view = state.view()
    what = f"{plural(len(view.turns), 'turn')}, {plural(len(view.documents), 'document')} registered"
    if not await chat.asker.yes_no(f"Delete {state.path} ({what})?"):
        chat.console.note("nothing was deleted")
        return
    raise Leave(reset=True)


async def _quit(chat: "Chat", _: str) -> None:
    raise Leave


COMMANDS = {
    "/help": Command(_help, "", "this list"),
    "/status": Command(_status, "", "documents, variables, session, spend"),
    "/files": Command(_files, "[file]", "the documents, or one of them; a path loads another"),
    "/vars": Command(_vars, "[name]", "the variables, or the value of one"),
    "/cost": Command(_cost, "", "what this session has spent, by model"),
    "/model": Command(_model, "[name]", "the root model, or another from here on"),
    "/sub-model": Command(_sub_model, "[name]", "the same for the model of sub-calls"),
    "/steps": Command(_steps, "[n]", "the steps of the last turn, or one in full"),
    "/compact": Command(_compact, "", "put what is kept of earlier turns in its shortest form"),
    "/memory": Command(_memory, "", "what the model is sent of earlier turns, what it can read"),
    "/undo": Command(_undo, "", "take the last question back, variables and documents too"),
    "/retry": Command(_retry, "", "take the last question back and ask it again"),
    "/export": Command(_export, "[file]", "write the conversation as Markdown"),
    "/trace": Command(_trace, "[n]", "what happened in the last turn, or in turn n"),
    "/reset": Command(_reset, "", "delete the state of this folder and begin anew; asks first"),
    "/new": Command(_new, "", "begin a new session; documents stay"),
    "/quit": Command(_quit, "", "leave; the session is kept"),
}
WITH_PATHS = ("/files", "/export")
