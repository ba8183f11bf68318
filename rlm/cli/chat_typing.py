"""What the user types while a turn runs: keys become a line of text, and Enter sends it.

The terminal is in raw mode meanwhile, so that nothing is echoed into the output. The console draws the line;
nothing here knows a model or a turn.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlm.ui.console import Console
from rlm.ui.sanitise import columns

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyPress

ESCAPE_S = 0.1
"""An escape key that nothing follows for so long was pressed alone."""
SUSPENDED_S = 0.1
"""After Ctrl-Z the terminal is taken back when so much time has passed while the program ran."""


@dataclass(slots=True)
class TypedLine:
    """The text so far; the cursor is at its end. Enter hands it to `send`, Ctrl-C calls `interrupt`."""

    send: Callable[[str], None] = lambda text: None
    interrupt: Callable[[], None] = lambda: None
    suspend: Callable[[], None] = lambda: None
    text: str = ""
    _escaped: bool = False

    def press(self, key: "KeyPress") -> None:
        """Keys without a meaning here are left out. Escape and Enter together begin another line."""
        escaped, self._escaped = self._escaped, key.key == "escape"
        match key.key:
            case "c-m" if escaped:
                self.text += "\n"
            case _ if escaped:
                return
            case "c-m" | "c-j":
                self._send()
            case "c-c":
                self.interrupt()
            case "c-z":
                self.suspend()
            case "c-h":
                self._rub_out()
            case "c-w":
                self.text = self.text.rstrip()[: -len(self.text.split()[-1])] if self.text.strip() else ""
            case "c-u":
                self.text = ""
            case "<bracketed-paste>":
                pasted = key.data.encode("utf-8", "replace").decode()
                self.text += pasted.replace("\r\n", "\n").replace("\r", "\n")
            case character if len(character) == 1 and character.isprintable():
                self.text += character

    def escape(self) -> None:
        """The escape key was pressed alone: the line is empty again."""
        self._escaped = False
        self.text = ""

    def take(self) -> str:
        """The text, which is forgotten here."""
        text, self.text = self.text, ""
        return text

    def _send(self) -> None:
        if text := self.take().strip():
            self.send(text)

    def _rub_out(self) -> None:
        while self.text and not columns(self.text[-1]):  # accents that stand in the column before
            self.text = self.text[:-1]
        self.text = self.text[:-1]


@dataclass(slots=True)
class Typing:
    """The keyboard of a terminal during turns. `line.text` outlives a turn: it belongs to the next prompt."""

    console: Console
    line: TypedLine = field(default_factory=TypedLine)
    _input: "Input | None" = None
    _raw: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _escape: "asyncio.TimerHandle | None" = None
    _return: "asyncio.TimerHandle | None" = None

    @contextlib.contextmanager
    def listening(self, *, send: Callable[[str], None], interrupt: Callable[[], None]) -> Iterator[None]:
        """Take the keys. However this ends, the terminal is then as it was before."""
        from prompt_toolkit.input import create_input

        self._input = create_input(sys.stdin)
        self.line.send, self.line.interrupt, self.line.suspend = send, interrupt, self._suspend
        self._take_terminal()
        try:
            yield
        finally:
            self._give_terminal_back()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the keyboard to somebody who asks a question."""
        self._give_terminal_back()
        try:
            yield
        finally:
            self._take_terminal()

    def _take_terminal(self) -> None:
        assert self._input is not None
        self._give_terminal_back()
        with contextlib.ExitStack() as entered:
            entered.enter_context(self._input.raw_mode())
            entered.enter_context(self._input.attach(self._read))
            self.console.bracketed_paste(on=True)
            entered.callback(self.console.bracketed_paste, on=False)
            self._raw = entered.pop_all()
        self.console.typed(self.line.text)

    def _give_terminal_back(self) -> None:
        for timer in (self._escape, self._return):
            if timer:
                timer.cancel()
        self._escape = self._return = None
        self.console.typed("")
        self._raw.close()

    def _read(self) -> None:
        assert self._input is not None
        for key in self._input.read_keys():
            self.line.press(key)
        if self._return:  # the terminal was given back
            return
        if self._escape:
            self._escape.cancel()
        self._escape = asyncio.get_running_loop().call_later(ESCAPE_S, self._flush)
        self.console.typed(self.line.text)

    def _flush(self) -> None:
        """What looked like the beginning of a longer key was a key of its own."""
        assert self._input is not None
        for key in self._input.flush_keys():
            if key.key == "escape":
                self.line.escape()
        self.console.typed(self.line.text)

    def _suspend(self) -> None:
        """Stop like a program that leaves Ctrl-Z to the terminal; it goes on with `fg`."""
        self._give_terminal_back()
        os.kill(0, signal.SIGTSTP)
        self._return = asyncio.get_running_loop().call_later(SUSPENDED_S, self._take_terminal)
