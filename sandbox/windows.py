"""`re.finditer` over a text too large for one `str`: window by window, matches with offsets in the text.

It does not read the text itself; whoever calls it gives what is between two offsets.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any


class DocumentMatch:
    """What `Document.finditer` finds: an `re.Match` with offsets in the document, without its window."""

    __slots__ = ("_names", "_spans", "_texts")

    def __init__(self, found: re.Match[str], shift: int) -> None:
        self._texts: tuple[str | None, ...] = (found.group(), *found.groups())
        spans = (found.span(number) for number in range(len(self._texts)))
        self._spans = [(a + shift, b + shift) if a >= 0 else (a, b) for a, b in spans]
        self._names = dict(found.re.groupindex)

    def _number(self, group: int | str) -> int:
        number = self._names.get(group, -1) if isinstance(group, str) else group
        if not 0 <= number < len(self._texts):
            raise IndexError("no such group")
        return number

    def __getitem__(self, group: int | str) -> str | None:
        return self._texts[self._number(group)]

    def group(self, *groups: int | str) -> Any:
        texts = tuple(self[group] for group in groups or (0,))
        return texts[0] if len(texts) == 1 else texts

    def groups(self, default: str | None = None) -> tuple[str | None, ...]:
        return tuple(default if text is None else text for text in self._texts[1:])

    def groupdict(self, default: str | None = None) -> dict[str, str | None]:
        return {name: self.groups(default)[number - 1] for name, number in self._names.items()}

    def span(self, group: int | str = 0) -> tuple[int, int]:
        return self._spans[self._number(group)]

    def start(self, group: int | str = 0) -> int:
        return self.span(group)[0]

    def end(self, group: int | str = 0) -> int:
        return self.span(group)[1]

    def __repr__(self) -> str:
        return f"<match {self.start()}-{self.end()}: {self[0]!r:.80}>"


def find_in_windows(
    read: Callable[[int, int], str], pattern: re.Pattern[str], *, window_chars: int
) -> Iterator[DocumentMatch]:
    """All matches in the text of which `read` gives what lies between two offsets, or less at its end.

    Exact as long as a match and what it looks ahead or back at is under a sixteenth of `window_chars`; a
    window grows with a longer match.
    """
    margin = window_chars // 16
    start, width = 0, window_chars
    previous = (-1, -1)
    while True:
        left = max(start - margin, 0)
        window = read(left, start + width)
        at_end = len(window) < start + width - left
        certain = left + len(window) - (0 if at_end else margin)
        resume = certain
        for found in pattern.finditer(window, start - left):
            begin, end = found.start() + left, found.end() + left
            # A match that reaches the last character could go on behind it, or `$` be wrong there.
            if not at_end and (begin >= certain or found.end() >= len(window) - 1):
                resume = min(begin, certain)
                break
            if (begin, end) != previous:
                yield DocumentMatch(found, left)
            previous = (begin, end)
        if at_end:
            return
        resume = max(resume, previous[1])
        width = 2 * width if resume == start else window_chars
        start = resume
