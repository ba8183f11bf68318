"""The root model's reply: prose, then at most one block of code. Pure text work.

A reply is cut at the end of its first block, while it streams: what a model writes after it pretends to
know an output that does not exist yet, and is never read.
"""

import ast
import re
from dataclasses import dataclass

TAGS = ("repl", "python", "py")
_OPENING = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})\s*(?P<tag>[\w+-]*)\s*$")
_BARE_FINAL = re.compile(r"^[ \t`*]*(?P<call>FINAL(?:_VAR)?\s*\()", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reply:
    """`code` is None when there is no block. `closed` is False when the reply ended inside the block."""

    prose: str
    code: str | None
    closed: bool = True


class ReplyCutter:
    """Takes a reply as it streams in. `feed` returns prose to show; `done` says stop reading."""

    def __init__(self) -> None:
        self._prose: list[str] = []
        self._line = ""
        self._shown_of_line = 0
        self._fence = ""
        self._code: list[str] = []
        self._first_end: int | None = None
        self.done = False

    def feed(self, text: str) -> str:
        shown: list[str] = []
        for piece in text.splitlines(keepends=True):
            if self.done:
                break
            self._line += piece
            if self._line.endswith("\n"):
                self._take_line(shown)
            elif not self._fence and not self._may_open():
                shown.append(self._line[self._shown_of_line :])
                self._shown_of_line = len(self._line)
        return "".join(shown)

    def finish(self) -> Reply:
        """What the reply came to, once no more of it is read."""
        if self._line and not self.done:
            self._line += "\n"
            self._take_line([])
        prose = "".join(self._prose).strip()
        if not self._fence:
            return bare_final(prose)
        if not self.done and self._first_end is not None:
            # A fence was passed over because a string seemed open, and no better one came.
            return Reply(prose, "".join(self._code[: self._first_end]))
        return Reply(prose, "".join(self._code), closed=self.done)

    def _may_open(self) -> bool:
        return self._line.lstrip(" ")[:1] in ("`", "~", "") and len(self._line) < 40

    def _take_line(self, shown: list[str]) -> None:
        line, self._line = self._line, ""
        shown_of_line, self._shown_of_line = self._shown_of_line, 0
        if self._fence:
            if _closes(line, self._fence):
                if not _string_open("".join(self._code)):
                    self.done = True
                    return
                if self._first_end is None:
                    self._first_end = len(self._code)
            self._code.append(line)
            return
        opening = _OPENING.match(line)
        if opening and opening["tag"].lower() in TAGS:
            self._fence = opening["fence"]
            return
        self._prose.append(line)
        shown.append(line[shown_of_line:])


def parse(text: str) -> Reply:
    """The whole of a reply at once."""
    cutter = ReplyCutter()
    cutter.feed(text)
    return cutter.finish()


def bare_final(prose: str) -> Reply:
    """A FINAL(…) or FINAL_VAR(…) that stands outside a block is a cell, if it is Python."""
    for match in _BARE_FINAL.finditer(prose):
        rest = prose[match.start("call") :]
        for end in _closing_parentheses(rest):
            try:
                tree = ast.parse(rest[:end], mode="eval")
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            if isinstance(tree.body, ast.Call):
                return Reply(prose[: match.start()].strip(), rest[:end] + "\n")
    return Reply(prose, None)


def _closing_parentheses(text: str) -> list[int]:
    """Where the call may end: the first few and the last closing parenthesis."""
    ends = [match.end() for match in re.finditer(r"\)", text)]
    return [*ends[:50], *ends[-1:]]


def _closes(line: str, fence: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(fence) and set(stripped) == {fence[0]}


def _string_open(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError as error:
        return "unterminated triple-quoted" in (error.msg or "")
    except (ValueError, RecursionError, MemoryError):
        return False
    return False
