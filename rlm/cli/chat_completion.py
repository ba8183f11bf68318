"""What the Tab key offers in the chat: commands, their arguments, and paths after an @.

It reads folders and nothing else. Names that could not be typed again (control characters) are left out.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

MOST_PATHS = 500
_AT = re.compile(r"""(?<![^\s(\[])@(?:(?P<quote>["'`])(?P<quoted>[^"'`\n]*)|(?P<plain>[^\s"'`]*))$""")
_NEEDS_QUOTES = re.compile(r"""[\s"'`()\[\]]""")


class ChatCompleter(Completer):
    """`commands` are summaries by name; `with_paths` take paths.

    `arguments` gives what else can follow a command, and a word on what it is. It is called in a thread.
    """

    def __init__(
        self,
        commands: Mapping[str, str],
        *,
        arguments: Callable[[str], Iterable[tuple[str, str]]],
        with_paths: Iterable[str],
        cwd: Path,
    ) -> None:
        self._commands = commands
        self._arguments = arguments
        self._with_paths = frozenset(with_paths)
        self._cwd = cwd

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        if text.startswith("/") and not text.startswith("//"):
            name, space, argument = text.partition(" ")
            yield from self._of_argument(name, argument.lstrip()) if space else self._of_command(text)
        elif found := _AT.search(text):
            yield from self._of_path(found)

    def _of_command(self, text: str) -> Iterator[Completion]:
        for name, summary in self._commands.items():
            if name.startswith(text):
                yield Completion(name, -len(text), display_meta=summary)

    def _of_argument(self, name: str, argument: str) -> Iterator[Completion]:
        for value, what in self._arguments(name):
            if value.startswith(argument) and value.isprintable():
                yield Completion(value, -len(argument), display_meta=what)
        if name in self._with_paths:
            for path in paths(argument, self._cwd):
                yield Completion(path, -len(argument), display=_last_name(path))

    def _of_path(self, found: re.Match[str]) -> Iterator[Completion]:
        typed = found["quoted"] if found["quote"] else found["plain"]
        for path in paths(typed, self._cwd):
            if (written := _written(path, found["quote"] or "")) is not None:
                yield Completion(written, -len(found[0]), display=_last_name(path))


def paths(typed: str, cwd: Path) -> Iterator[str]:
    """The paths that begin like what was typed, in the same spelling; folders end in a slash.

    Hidden files are offered when a dot was typed. At most `MOST_PATHS`.
    """
    if typed == "~":
        yield "~/"
        return
    before, slash, start = typed.rpartition("/")
    folder = cwd / os.path.expanduser(before + slash)  # noqa: PTH111 - leaves an unknown ~user as it is
    for name in sorted(_names(folder, start))[:MOST_PATHS]:
        yield before + slash + name


def _names(folder: Path, start: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                hidden = name.startswith(".") and not start.startswith(".")
                if hidden or not name.isprintable() or not name.casefold().startswith(start.casefold()):
                    continue
                yield f"{name}/" if entry.is_dir() else name
    except (OSError, ValueError):  # it is no folder, or may not be read
        return


def _written(path: str, quote: str) -> str | None:
    """`@path`, in quotes where it needs them. A folder's quotes stay open, for the rest of the path."""
    if not quote and not _NEEDS_QUOTES.search(path):
        return f"@{path}"
    quote = next((mark for mark in (quote, '"', "'", "`") if mark and mark not in path), "")
    if not quote or any(mark in path for mark in "\"'`"):  # no quotes could hold it
        return None
    return f"@{quote}{path}" + ("" if path.endswith("/") else quote)


def _last_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] + ("/" if path.endswith("/") else "")
