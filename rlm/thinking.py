"""Takes the thoughts that some models write at the start of a reply apart from its text."""


class ThinkSplitter:
    """Keeps a `<think>…</think>` at the start of a reply apart, however the reply is cut into pieces.

    `feed` and `end` give (reasoning, text), each as soon as it is certain which it is.
    """

    _OPEN, _CLOSE = "<think>", "</think>"

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"

    def feed(self, piece: str) -> tuple[str, str]:
        self._held += piece
        thoughts = ""
        if self._state == "start":
            head = self._held.lstrip()
            if head.startswith(self._OPEN):
                self._state, self._held = "thinking", head.removeprefix(self._OPEN)
            elif not self._OPEN.startswith(head):
                self._state = "text"
        if self._state == "thinking":
            thoughts, close, rest = self._held.partition(self._CLOSE)
            if close:
                self._state, self._held = "gap", rest
            else:
                kept = self._begun_close(thoughts)
                thoughts, self._held = thoughts[: len(thoughts) - kept], thoughts[len(thoughts) - kept :]
        if self._state == "gap":
            self._held = self._held.lstrip()
            self._state = "text" if self._held else "gap"
        if self._state != "text":
            return thoughts, ""
        text, self._held = self._held, ""
        return thoughts, text

    def end(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)

    def _begun_close(self, text: str) -> int:
        """How many of the last characters may be the beginning of the closing tag."""
        return next((n for n in range(len(self._CLOSE) - 1, 0, -1) if text.endswith(self._CLOSE[:n])), 0)


def split_thinking(reply: str) -> tuple[str, str]:
    """(reasoning, text) of a whole reply."""
    splitter = ThinkSplitter()
    (thoughts, text), (more_thoughts, more_text) = splitter.feed(reply), splitter.end()
    return thoughts + more_thoughts, text + more_text
