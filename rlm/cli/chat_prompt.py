"""The prompt of the chat on a terminal: editing, history, completion, the user's editor, and the bar below.

It returns what the user sends and knows neither commands nor sessions.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import Completer
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.styles import Style

from rlm.errors import RlmError, UsageError
from rlm.ui.console import Console
from rlm.ui.sanitise import visible_line

PROMPT = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "
LEAVE_HINT = "Ctrl-D or /quit leaves"
EDITORS = ("editor", "nano", "vi")
"""Those that are tried when neither VISUAL nor EDITOR names one."""
MENU_LINES = 6

# Only the terminal's own sixteen colours, and mostly none: that is readable on light and on dark.
_STYLE = Style.from_dict(
    {
        "prompt": "bold",
        "bottom-toolbar": "noreverse fg:default bg:default",
        "bottom-toolbar.text": "fg:default bg:default dim",
        "completion-menu": "fg:default bg:default",
        "completion-menu.completion": "fg:default bg:default",
        "completion-menu.completion.current": "fg:default bg:default reverse",
        "completion-menu.meta.completion": "fg:default bg:default dim",
        "completion-menu.meta.completion.current": "fg:default bg:default reverse",
        "scrollbar.background": "fg:default bg:default",
        "scrollbar.button": "fg:default bg:default reverse",
    }
)


class Prompt:
    """Asks for a line, or several. `bar` gives the facts below it for so many columns; empty for none."""

    def __init__(
        self, console: Console, *, history: Path, completer: Completer, bar: Callable[[int], str]
    ) -> None:
        self._console = console
        self._bar = bar
        self._history = _History(str(history))
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", console.spelled(PROMPT))],
            history=self._history,
            completer=completer,
            complete_in_thread=True,
            key_bindings=self._keys(),
            multiline=True,
            prompt_continuation="  ",
            bottom_toolbar=self._toolbar,
            style=_STYLE,
            color_depth=ColorDepth.DEPTH_4_BIT if console.color else ColorDepth.DEPTH_1_BIT,
            include_default_pygments_style=False,
            reserve_space_for_menu=MENU_LINES,
            enable_suspend=True,
            input=create_input(sys.stdin),
            output=create_output(stdout=sys.stderr),
        )

    async def read(self, text: str = "") -> str:
        """What the user sends; `text` stands in the line already. Raises `EOFError` for Ctrl-D."""
        self._console.end_line()
        try:
            return await self._session.prompt_async(default=text, handle_sigint=True)
        finally:
            if self._history.problem:
                self._console.note(self._history.problem, level="warning")
                self._history.problem = ""

    def _toolbar(self) -> StyleAndTextTuples:
        width = max(1, self._console.width - 1)
        return [("", visible_line(self._console.spelled(self._bar(width)), width))]

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        typing = has_focus(DEFAULT_BUFFER)  # and not searching

        @keys.add("enter", filter=typing)
        def send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.complete_state and buffer.complete_state.current_completion:
                buffer.complete_state = None  # it was chosen; the next Enter sends
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=typing)
        def break_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c", filter=typing)
        @keys.add("<sigint>", filter=typing)
        def clear(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.current_buffer.reset()
            else:
                run_in_terminal(lambda: self._console.note(LEAVE_HINT))

        @keys.add("c-x", "c-e", filter=typing)
        def edit(event: KeyPressEvent) -> None:
            event.app.create_background_task(self._edit(event.current_buffer))

        return keys

    async def _edit(self, buffer: Buffer) -> None:
        def in_editor() -> str | None:
            try:
                return edited(buffer.text)
            except RlmError as error:
                self._console.error(error)
                return None

        text = await run_in_terminal(in_editor, in_executor=True)
        if text is not None:
            buffer.document = Document(text, len(text))


class _History(FileHistory):
    """The history file. `problem` is why the last text is not in it, to be told; the chat goes on."""

    problem = ""

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        try:
            # What cannot be encoded came from a terminal of another encoding.
            super().store_string(string.encode("utf-8", "replace").decode())
        except OSError as error:
            self.problem = f"the history of questions is not kept: {error.strerror}"


def edited(text: str) -> str:
    """`text` as the user's editor leaves it. Raises `UsageError` when there is none, or it fails."""
    command = _editor()
    descriptor, name = tempfile.mkstemp(suffix=".md", prefix="rlm-")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        try:
            status = subprocess.call([*command, name])
        except OSError as error:
            raise UsageError(
                f"The editor {command[0]!r} could not be started.",
                f"{error.strerror}.",
                hint="Set EDITOR to one that is installed.",
            ) from None
        if status:
            raise UsageError(f"The editor ended with status {status}.", "The text is what it was before.")
        return path.read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    finally:
        path.unlink(missing_ok=True)


def _editor() -> list[str]:
    """VISUAL, else EDITOR, with its arguments; else the first that is installed."""
    for variable in ("VISUAL", "EDITOR"):
        if value := os.environ.get(variable):
            try:
                if command := shlex.split(value):
                    return command
            except ValueError as error:
                raise UsageError(f"{variable} cannot be read as a command.", f"{error}.") from None
    for name in EDITORS:
        if shutil.which(name):
            return [name]
    raise UsageError("There is no editor.", "Neither VISUAL nor EDITOR is set.", hint="Set EDITOR.")
