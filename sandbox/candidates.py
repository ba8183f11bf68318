"""Which lines of a text can a pattern match? Ripgrep finds them where that pays, else every line is one.

What is found holds every line that Python's `re` could match and perhaps a few more; it does not decide.
"""

import re
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import Literal

from sandbox.blocks import iter_lines
from sandbox.documents import Document
from sandbox.ripgrep import Ripgrep
from sandbox.widen import widen

Engine = Literal["auto", "ripgrep", "python"]
Candidate = tuple[int, str, Callable[[], int]]
"""Number of a line that may match, the line without its end, and what tells the offset of its start, in
characters. That is asked only for lines that match, since it may need all of the text before to be counted.
"""

SMALL_BYTES = 256 * 1024
"""Below this, starting ripgrep takes longer than Python takes."""
DENSE_LINES, DENSE_SHARE = 20_000, 2 / 3
"""When so many lines may match, and so large a share of all, Python takes less time alone."""


def candidates(
    text: str | Document, pattern: re.Pattern[str], *, engine: Engine = "auto", at_once: bool
) -> Generator[Candidate, None, None]:
    """Every line that may match, in order; `at_once` as they are found rather than in batches.

    The offset of a line can be asked until the next line is taken.
    """
    number, offset = 0, 0
    size = text.size_bytes if isinstance(text, Document) else len(text)
    if engine == "ripgrep" or (engine == "auto" and size >= SMALL_BYTES):
        ascii_only = text.is_known_ascii() if isinstance(text, Document) else text.isascii()
        widened = widen(pattern, ascii_only=ascii_only)
        if widened is not None:
            search = Ripgrep(text, widened, at_once=at_once)
            position, line = -1, ""
            with closing(search.lines()) as lines:
                for found, (number, position) in enumerate(lines, start=1):
                    line = search.line(position)
                    yield number, line.removesuffix("\r"), partial(search.offset, position)
                    if engine == "auto" and found > max(DENSE_LINES, DENSE_SHARE * number):
                        break
            if search.complete:
                return
            if position >= 0:
                offset = search.offset(position) + len(line) + 1
    # Ripgrep could not run the pattern, or gave up on the way: Python goes on behind the last line it found.
    for number, (offset, line) in enumerate(iter_lines(text, start=offset), start=number + 1):  # noqa: B020
        yield number, line.removesuffix("\r"), partial(int, offset)
