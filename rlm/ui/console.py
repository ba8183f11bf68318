"""The only place that writes to stdout and stderr, and the only one that emits an escape sequence.

stdout gets answers: their exact bytes, or on a terminal a safe and readable rendering. Everything else goes
to stderr. Text is made visible (`rlm.ui.sanitise`) on its way through, after rich has laid it out as well
(`rlm.ui.layout`). It does not know events, and reads nothing from the user. Data flows from here to the two
streams only.
"""

import codecs
import errno
import itertools
import os
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from rlm.errors import RlmError
from rlm.ui.flow import last_columns
from rlm.ui.layout import laid_out, markdown
from rlm.ui.sanitise import columns, visible, visible_line

if TYPE_CHECKING:
    from rich.console import RenderableType

Color = Literal["auto", "always", "never"]

MARKDOWN_MAX_BYTES = 128 * 1024
"""A longer answer is shown as it is written: rich needs up to 14 s for a MiB of Markdown (measured)."""
REDRAW_S = 0.1
STATUS_COLUMNS = 12
"""What the status keeps beside a line that is typed; with less room than that it makes way."""
PROGRESS_LINE_S = 10.0
"""Off a terminal, no more than one progress line in this time."""

_CHUNK_BYTES = 256 * 1024
_SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
_ERASE_LINE = "\r\x1b[2K"
_TYPED = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII = str.maketrans(
    {chr(code): "+" for code in range(0x2500, 0x2580)}
    | dict.fromkeys("─━═╌", "-")
    | dict.fromkeys("│┃║▌", "|")
    | dict(zip(_SPINNER, r"|/-\|/-\|/", strict=True))
    | {"…": "...", "·": "-", "•": "*", "→": "->", "⏎": "\\n", "›": ">", "✓": "+", "✗": "x"}  # noqa: RUF001
)


def wants_color(color: Color, environ: Mapping[str, str], *, is_tty: bool) -> bool:
    """Whether a stream gets colour: `color` decides, else FORCE_COLOR, else a capable terminal says yes."""
    if color != "auto":
        return color == "always"
    if environ.get("FORCE_COLOR"):
        return True
    return is_tty and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


class _Sink:
    """One stream: what it can show, and whether the next character starts a line."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str], *, color: Color) -> None:
        self._stream = stream
        self._columns = environ.get("COLUMNS", "")
        self._encoding = stream.encoding or "utf-8"
        self.gone = False
        self.is_tty = stream.isatty()
        self.color = wants_color(color, environ, is_tty=self.is_tty)
        self.movable = self.is_tty and environ.get("TERM") != "dumb"
        # In the locale C Python writes UTF-8, which a terminal in that locale need not understand.
        locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG")
        if self.is_tty and locale in ("C", "POSIX"):
            self._encoding = "ascii"
        self.unicode = codecs.lookup(self._encoding).name == "utf-8"
        self.at_line_start = True

    @property
    def width(self) -> int:
        if self.is_tty:
            width = os.get_terminal_size(self._stream.fileno()).columns
            if width > 0:
                return width
        return int(self._columns) if self._columns.isdecimal() and int(self._columns) > 0 else 80

    def spelled(self, text: str) -> str:
        """`text` in characters the stream's encoding has."""
        if self.unicode:
            return text
        return text.translate(_ASCII).encode(self._encoding, "backslashreplace").decode(self._encoding)

    def write(self, text: str) -> None:
        self.write_bytes(self.spelled(text).encode(self._encoding, "backslashreplace"))

    def write_bytes(self, data: bytes) -> bool:
        """Write `data` at once; False when the reader has gone, which is no error (`| head`)."""
        if data and not self.gone:
            try:
                self._stream.buffer.write(data)
                self._stream.buffer.flush()
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                self.gone = True
            self.at_line_start = data.endswith(b"\n")
        return not self.gone


class Console:
    """Both output streams of one command. Give it the streams, the environment and the user's flags.

    `clock` is monotonic, in seconds; it paces the status line.
    """

    def __init__(
        self,
        *,
        stdout: TextIO,
        stderr: TextIO,
        environ: Mapping[str, str],
        color: Color = "auto",
        quiet: bool = False,
        verbose: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = _Sink(stdout, environ, color=color)
        self._err = _Sink(stderr, environ, color=color)
        # COLORFGBG ends in the background colour; 7 and 15 are the light ones.
        light = environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
        self.code_theme = "ansi_light" if light else "ansi_dark"
        self.quiet = quiet
        self.verbose = verbose
        self.clock = clock
        self._status = ""
        self._typed = ""
        self._held = ""
        self._drawn = ""
        self._drawn_at = -PROGRESS_LINE_S

    @property
    def is_terminal(self) -> bool:
        """Whether somebody watches stderr."""
        return self._err.is_tty

    @property
    def movable(self) -> bool:
        """Whether a line of stderr can be drawn again: it is a terminal, and not a dumb one."""
        return self._err.movable

    @property
    def color(self) -> bool:
        """Whether stderr gets colours."""
        return self._err.color

    def spelled(self, text: str) -> str:
        """`text` in characters that stderr can show."""
        return self._err.spelled(text)

    @property
    def width(self) -> int:
        """Columns of stderr's terminal; 80, or COLUMNS, when it is none."""
        return self._err.width

    def answer(self, source: Path | Iterable[bytes], *, prose: bool = False) -> None:
        """Write an answer to stdout and see that it ends in a newline; memory does not grow with its size.

        Off a terminal these are its exact bytes. On one its text is made visible, and rendered as Markdown
        when it is `prose` of at most 128 KiB. A reader that has gone ends it quietly.
        """
        self.status("")
        if self._out.is_tty and self._err.is_tty:
            self.end_line()
        chunks = _chunks(source)
        if self._out.is_tty:
            self._show_answer(chunks, prose=prose)
            return
        ended = False
        for chunk in chunks:
            if not self._out.write_bytes(chunk):
                return
            ended = chunk.endswith(b"\n")
        if not ended:
            self._out.write_bytes(b"\n")

    def write(self, text: str, *, style: str = "") -> None:
        """Write a piece of text to stderr. `style` is words of: bold dim red green yellow blue cyan."""
        self._erase()
        text = self._held + self._styled(visible(text), style)
        self._held = ""
        if self._typed:  # whole lines only, so that what is typed has a line of its own
            whole, newline, self._held = text.rpartition("\n")
            text = whole + newline
        self._err.write(text)

    def line(self, text: str = "", *, indent: str = "", style: str = "") -> None:
        """Write sentences to stderr, on lines of their own; a terminal gets them wrapped at words."""
        self.end_line()
        lines = self._wrapped(visible(text).removesuffix("\n").split("\n"), indent, indent)
        self._err.write(self._styled("\n".join(lines), style) + "\n")

    def end_line(self) -> None:
        """Leave stderr at the start of a line."""
        self._erase()
        self._let_go()
        if not self._err.at_line_start:
            self._err.write("\n")

    def print(self, renderable: "RenderableType", *, indent: str = "") -> None:
        """Lay out something of rich's on stderr, each line after `indent`."""
        self.end_line()
        self._err.write(laid_out(renderable, width=self._err.width, color=self._err.color, indent=indent))

    def note(self, text: str, *, level: str = "info") -> None:
        """Tell the user something, also when quiet if `level` is `warning`."""
        if level != "info":
            self._labelled("warning", [text], style="yellow")
        elif not self.quiet:
            self._labelled("note", [text], style="cyan")

    def error(self, error: RlmError) -> None:
        """What happened, why, and what to do; the traceback before them when verbose."""
        if self.verbose:
            self.end_line()
            self.write("".join(traceback.format_exception(error)), style="dim")
        self._labelled("rlm", [error.what, error.why, error.hint], style="red bold")

    def status(self, text: str) -> None:
        """What goes on at the moment: one line that the next replaces. Empty text takes it away.

        Off a terminal it becomes a line of its own, if the last one is long enough ago.
        """
        self._status = "" if self.quiet else text
        if text:
            self.tick()
        else:
            self._erase()

    def typed(self, text: str) -> None:
        """What the user is typing meanwhile; it ends the status line. Needs a terminal that is `movable`."""
        self._typed = text
        if not text:
            self._erase()
            self._let_go()
        elif self._drawn or self._err.at_line_start:
            self._draw()

    def bracketed_paste(self, *, on: bool) -> None:
        """Have the terminal mark what is pasted, or stop it from doing so."""
        if self._err.movable:
            at_line_start = self._err.at_line_start
            self._err.write("\x1b[?2004h" if on else "\x1b[?2004l")
            self._err.at_line_start = at_line_start

    def tick(self) -> None:
        """Bring the status line up to date, if it is time; call this a few times a second."""
        if not (self._status or self._typed):
            return
        since_s = self.clock() - self._drawn_at
        if self._err.movable:
            if since_s >= REDRAW_S and (self._drawn or self._err.at_line_start):
                self._draw()
        elif since_s >= PROGRESS_LINE_S and self._drawn != self._status:
            self._drawn, self._drawn_at = self._status, self.clock()
            self.end_line()
            self._err.write(visible_line(self._status) + "\n")

    def _draw(self) -> None:
        # One column stays free: a terminal that wraps early would leave remains of the line behind.
        room = max(1, self.width - (1 if self._err.unicode else len("...")))
        spinner = _SPINNER[int(self.clock() / REDRAW_S) % len(_SPINNER)]
        status = self._err.spelled(visible_line(f"{spinner} {self._status}")) if self._status else ""
        line = visible_line(status, room)
        if self._typed:
            typed = self._err.spelled(_TYPED + visible_line(self._typed))
            left = room - columns(typed) - 1
            beside = f"{visible_line(status, left)} " if status and left >= STATUS_COLUMNS else ""
            line = self._err.spelled(beside + last_columns(typed, room))
        if line != self._drawn:
            self._err.write(_ERASE_LINE + line)
            self._drawn, self._drawn_at = line, self.clock()

    def _let_go(self) -> None:
        """Write what was held back while something was typed."""
        if self._held:
            self._err.write(self._held)
            self._held = ""

    def _erase(self) -> None:
        if self._drawn and self._err.movable:
            self._err.write(_ERASE_LINE)
            self._err.at_line_start = True
            self._drawn = ""

    def _labelled(self, label: str, paragraphs: list[str], *, style: str) -> None:
        """`label: ` and the paragraphs; each further line is indented, so that none can pass for another."""
        label += ":"
        lines = visible("\n".join(text for text in paragraphs if text)).split("\n")
        self.end_line()
        first, *rest = self._wrapped([f"{label} {lines[0]}", *lines[1:]], "", " " * len("rlm: "))
        self._err.write(self._styled(label, style) + "\n".join([first.removeprefix(label), *rest]) + "\n")

    def _wrapped(self, lines: list[str], indent: str, further_indent: str) -> list[str]:
        """Each line in parts that fit the terminal, except for words that do not: paths stay whole."""
        if not self._err.is_tty:
            return [(further_indent if number else indent) + line for number, line in enumerate(lines)]
        parts: list[str] = []
        for line in lines:
            parts += textwrap.wrap(
                line,
                max(self.width, 10),
                initial_indent=further_indent if parts else indent,
                subsequent_indent=further_indent,
                break_long_words=False,
                break_on_hyphens=False,
            ) or [""]
        return parts

    def _styled(self, text: str, style: str) -> str:
        if not (style and text and self._err.color):
            return text
        body = text.rstrip("\n")  # the newlines stay last: that is how the start of a line is known
        return f"\x1b[{';'.join(_SGR[word] for word in style.split())}m{body}\x1b[0m{text[len(body) :]}"

    def _show_answer(self, chunks: Iterator[bytes], *, prose: bool) -> None:
        head = bytearray()
        for chunk in chunks:
            head += chunk
            if len(head) > MARKDOWN_MAX_BYTES:
                break
        if prose and len(head) <= MARKDOWN_MAX_BYTES:
            text = bytes(head).decode("utf-8", "backslashreplace")
            rendered = markdown(visible(text), code_theme=self.code_theme)
            self._out.write(laid_out(rendered, width=self._out.width, color=self._out.color))
            return
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        held = ""
        for chunk in itertools.chain([bytes(head)], chunks):
            text = held + decoder.decode(chunk)
            held = "\r" if text.endswith("\r") else ""  # a newline may follow and make it a CRLF
            self._out.write(visible(text.removesuffix("\r")))
            if self._out.gone:
                return
        rest = visible(held + decoder.decode(b"", final=True))
        self._out.write(rest if self._out.at_line_start and not rest else rest + "\n")


def _chunks(source: Path | Iterable[bytes]) -> Iterator[bytes]:
    if not isinstance(source, Path):
        yield from source
        return
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
