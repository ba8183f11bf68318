"""Text fitted to a screen: `Flow` wraps prose at words as it streams in, `Fold` keeps the first lines.

Both take pieces, however they are cut, and give back what can be written already, made visible. Nothing is
written here.
"""

import re

from rlm.ui.numbers import plural
from rlm.ui.sanitise import columns, visible, visible_line


class Flow:
    """Wraps prose at `width` columns while it streams in, and makes it visible.

    A word is held back until it is whole. White space at both ends is dropped, and so are empty lines
    beyond the first.
    """

    _WORD = re.compile(r"([ \t\n]*)([^ \t\n]+)(?=[ \t\n])")
    _LONGEST_WORD = 1000

    def __init__(self, *, width: int, indent: str = "") -> None:
        self._width = width
        self._indent = indent
        self._held = ""
        self._column = 0

    def feed(self, text: str) -> str:
        """What can be written once `text` has arrived."""
        text = (self._held + text).replace("\r\n", "\n")
        placed: list[str] = []
        end = 0
        for match in self._WORD.finditer(text):
            placed.append(self._place(match[1], match[2]))
            end = match.end()
        self._held = text[end:]
        if len(self._held) > self._LONGEST_WORD:
            placed.append(self.end())
        return "".join(placed)

    def end(self) -> str:
        """The last word."""
        word = self._held.lstrip(" \t\n")
        space = self._held[: len(self._held) - len(word)]
        self._held = ""
        return self._place(space, word.rstrip(" \t\n")) if word else ""

    def _place(self, space: str, word: str) -> str:
        word = visible(word)
        breaks, _, blank = space.expandtabs(4).rpartition("\n")
        if not self._column:
            lead = self._indent
        elif "\n" in space:
            lead = "\n" * min(2, 1 + breaks.count("\n")) + self._indent + blank
        elif self._column + len(blank) + columns(word) <= self._width:
            self._column += len(blank) + columns(word)
            return blank + word
        else:
            lead = "\n" + self._indent
        self._column = len(lead.lstrip("\n")) + columns(word)
        return lead + word


class Fold:
    """Lets the first lines of a text through as they arrive, cut to `width` columns, and counts the rest.

    With `most_lines` None everything passes, uncut. What comes out is visible and made of whole lines, so
    that a status line has a place of its own while a cell prints. `more` tells how to see the rest.
    """

    def __init__(self, *, most_lines: int | None, width: int, indent: str = "", more: str = "") -> None:
        self._most_lines = most_lines
        self._room = width - len(indent)
        self._more = more
        self._width = None if most_lines is None else width - len(indent)
        self._indent = indent
        self._partial = ""
        self._lines = 0
        self.last = ""
        """The last line that was left out and is not blank."""

    @property
    def empty(self) -> bool:
        return not self._lines and not self._partial

    @property
    def hidden(self) -> int:
        """How many lines were left out so far."""
        return 0 if self._most_lines is None else max(0, self._lines - self._most_lines)

    def feed(self, text: str) -> str:
        """The lines that `text` completes, as far as they are shown."""
        *lines, self._partial = (self._partial + text).split("\n")
        return "".join([self._line(line) for line in lines])

    def end(self) -> str:
        """The last line, if it had no end, and how many were left out."""
        last = self._line(self._partial) if self._partial else ""
        self._partial = ""
        if not self.hidden:
            return last
        return f"{last}{self._indent}{hidden_lines(self.hidden, self._more, self._room)}\n"

    def _line(self, line: str) -> str:
        self._lines += 1
        if self.hidden:
            self.last = line.strip() or self.last
            return ""
        line = visible_line(line.removesuffix("\r"), self._width)
        return f"{self._indent}{line}\n"


def hidden_lines(number: int, more: str, room: int) -> str:
    """`… +37 lines (/steps 2)`: what was folded, and how to see it; `… +37: /steps 2` in a narrow `room`."""
    folded = f"… +{plural(number, 'line')}"
    told = [f"{folded} ({more})", f"… +{number}: {more}"] if more else []
    return next((text for text in told if columns(text) <= room), folded)


def last_columns(text: str, width: int) -> str:
    """The end of a line that fits into `width` columns, after a … when something is before it."""
    if columns(text) <= width:
        return text
    end = text[-width:]
    while end and columns(end) > width - 1:
        end = end[1:]
    return f"…{end}"
