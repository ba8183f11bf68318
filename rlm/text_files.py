"""The files and folders of the cache of texts: making, removing and linking them. It knows no entries."""

import contextlib
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from rlm.log import NewFile

_COPY_BYTES = 1024 * 1024


def make_folder(path: Path, mode: int) -> None:
    """A real folder at `path` with this mode. Anything else of that name is removed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        path.mkdir()
    path.chmod(mode)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def mirror(folder: Path, wanted: Mapping[str, Path]) -> None:
    """Make `folder` hold links to these files by these names, or copies, and nothing else.

    Raises `OSError`, and `StateError` for a copy that cannot be written.
    """
    make_folder(folder, 0o755)
    there = _in_place(folder, wanted)
    for name, source in wanted.items():
        if name not in there:
            _link(source, folder / name)


def _in_place(folder: Path, wanted: Mapping[str, Path]) -> set[str]:
    """The names of what `folder` holds already; what it should not hold is removed."""
    there = set()
    with os.scandir(folder) as listing:
        for found in listing:
            source = wanted.get(found.name)
            if source and _looks_like(found.stat(follow_symlinks=False), os.lstat(source)):
                there.add(found.name)
            else:
                remove(Path(found.path))
    return there


def _looks_like(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether one file is a link to the other, or a copy that `_link` made of it."""
    return (one.st_mode, one.st_size, one.st_mtime_ns) == (other.st_mode, other.st_size, other.st_mtime_ns)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, too many links, or none on this file system
        with NewFile(target) as file, source.open("rb") as original:
            while data := original.read(_COPY_BYTES):
                file.write(data)
        status = source.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        target.chmod(stat.S_IMODE(status.st_mode))
