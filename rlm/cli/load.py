"""Loads what a command was given with `-f`, and shows how far a download is."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rlm.register import register
from rlm.settings import Config
from rlm.state import State
from rlm.ui.console import Console
from rlm.ui.numbers import size


def download_progress(console: Console) -> Callable[[str, int, int | None], None]:
    """Shows how far a download is, on the line that changes."""

    def progress(name: str, done: int, total: int | None) -> None:
        share = f"{size(done)} of {size(total)} ({done * 100 // max(total, 1)} %)" if total else size(done)
        console.status(f"fetching {name}: {share}")

    return progress


def load(files: Sequence[str], *, state: State, config: Config, console: Console) -> None:
    """Register what `-f` named, with a line for what is fetched. Raises `DocumentError`."""
    try:
        registered = register(
            state, files, cwd=Path.cwd(), environ=config.environ, progress=download_progress(console)
        )
    finally:
        console.status("")
    for note in registered.notes:
        console.note(note)
