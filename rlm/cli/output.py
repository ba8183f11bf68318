"""The file that `run -o` writes: whether it can be written, known before anything is spent, and its writing.

An answer may be larger than memory: it is copied in pieces.
"""

import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rlm.errors import RlmError, UsageError

CHUNK_BYTES = 1024 * 1024


def require_writable(output: Path) -> None:
    """Raises `UsageError` when `output` cannot be written. What it holds stays as it is."""
    try:
        mode = output.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise _unwritable(output, error.strerror or "") from None
    if mode is None and not output.absolute().parent.is_dir():
        raise UsageError(f"{output} cannot be written.", "Its folder does not exist.")
    if mode is not None and not stat.S_ISREG(mode):
        if stat.S_ISDIR(mode):
            raise _unwritable(output, "It is a folder")
        if not os.access(output, os.W_OK):
            raise _unwritable(output, "Permission denied")
        return
    try:
        output.open("ab").close()
        if mode is None:
            output.unlink()
    except OSError as error:
        raise _unwritable(output, error.strerror or "") from None


def write(source: Path | Iterable[bytes], output: Path) -> None:
    """Copy an answer. Raises `OSError`."""
    with output.open("wb") as target:
        for chunk in chunks(source):
            target.write(chunk)


def rescued(answer: Path) -> Path | None:
    """A copy of an answer that would go with its folder; None when there is no room for it either."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="rlm-answer-", suffix=".txt")
        os.close(descriptor)
        write(answer, Path(name))
    except OSError:
        return None
    return Path(name)


def chunks(source: Path | Iterable[bytes]) -> Iterable[bytes]:
    if not isinstance(source, Path):
        yield from source
        return
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def not_delivered(where: str, error: OSError, *, kept: Path | None) -> RlmError:
    """The answer is there, and could not be put where it should go."""
    hint = f"The answer is in {kept}." if kept else ""
    return RlmError(f"The answer could not be written to {where}.", f"{error.strerror}.", hint=hint)


def _unwritable(output: Path, why: str) -> UsageError:
    return UsageError(f"{output} cannot be written.", f"{why}.", hint="Give another file with -o.")
