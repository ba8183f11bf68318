"""Takes the thoughts that some models write at the start of a reply apart from its text."""

import re

_OPEN, _CLOSE = "<think>", "</think>"
_CLOSING_LINE = r"^[ \t]*</think>[ \t]*"
_CLOSED = re.compile(rf"{_CLOSING_LINE}\n", re.MULTILINE)
_CLOSED_AT_END = re.compile(rf"{_CLOSING_LINE}(?:\n|\Z)", re.MULTILINE)


class ThinkSplitter:
    """Keeps a `<think>…</think>` at the start of a reply apart, however the reply is cut into pieces.

    `feed` and `end` give (reasoning, text), each as soon as it is certain which it is. A tag that closes what
    was never opened is dropped at the start of a reply. With `unopened`, one on a line of its own further
    down ends thoughts too: some chat templates write the opening tag themselves, into the prompt. Nothing is
    certain then before that line has come, or the end.
    """

    def __init__(self, *, unopened: bool = False) -> None:
        self._held = ""
        self._state = "start"
        self._after_start = "unsure" if unopened else "text"
        self._line = 0

    def feed(self, piece: str) -> tuple[str, str]:
        self._held += piece
        thoughts = ""
        if self._state == "start":
            self._begin(self._held.lstrip())
        if self._state == "thinking":
            thoughts, close, rest = self._held.partition(_CLOSE)
            if close:
                self._state, self._held = "gap", rest
            else:
                kept = self._begun_close(thoughts)
                thoughts, self._held = thoughts[: len(thoughts) - kept], thoughts[len(thoughts) - kept :]
        if self._state == "unsure" and "\n" in piece:
            thoughts = self._close_unopened(_CLOSED)
        if self._state == "gap":
            self._held = self._held.lstrip()
            self._state = "text" if self._held else "gap"
        if self._state != "text":
            return thoughts, ""
        text, self._held = self._held, ""
        return thoughts, text

    def end(self) -> tuple[str, str]:
        thoughts = self._close_unopened(_CLOSED_AT_END) if self._state == "unsure" else ""
        if self._state == "gap":
            self._held = self._held.lstrip()
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else (thoughts, held)

    def be_sure(self) -> None:
        """Thoughts came by another way, so what is held and what follows is text."""
        self._after_start = "text"
        if self._state == "unsure":
            self._state = "text"

    def _begin(self, head: str) -> None:
        if head.startswith(_OPEN):
            self._state, self._held = "thinking", head.removeprefix(_OPEN)
        elif head.startswith(_CLOSE):
            self._state, self._held = "gap", head.removeprefix(_CLOSE)
        elif not _OPEN.startswith(head) and not _CLOSE.startswith(head):
            self._state = self._after_start

    def _close_unopened(self, pattern: re.Pattern[str]) -> str:
        """The thoughts that end at a closing line, if there is one in the lines not looked at yet."""
        close = pattern.search(self._held, self._line)
        self._line = self._held.rfind("\n") + 1
        if close is None:
            return ""
        thoughts, rest = self._held[: close.start()], self._held[close.end() :]
        if _OPEN in thoughts:  # the tag closes what the text itself opened
            self._state = "text"
            return ""
        self._state, self._held = "gap", rest
        return thoughts

    def _begun_close(self, text: str) -> int:
        """How many of the last characters may be the beginning of the closing tag."""
        return next((n for n in range(len(_CLOSE) - 1, 0, -1) if text.endswith(_CLOSE[:n])), 0)


def split_thinking(reply: str) -> tuple[str, str]:
    """(reasoning, text) of a whole reply."""
    splitter = ThinkSplitter(unopened=True)
    (thoughts, text), (more_thoughts, more_text) = splitter.feed(reply), splitter.end()
    return thoughts + more_thoughts, text + more_text
