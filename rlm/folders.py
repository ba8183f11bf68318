"""Walks folders and patterns for documents, and decides what may be mounted as a whole.

A folder is mounted whole only when nothing below it must stay out of the container (`.env`, keys, version
control, the state folder); else its clean subfolders and single files are, so that what was skipped cannot
be opened either. It reads `.gitignore` and no other file.
"""

import glob
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from rlm.consent import is_private_name, refusal, special_kind
from rlm.errors import DocumentError
from rlm.text_probe import one_line

STAY_OUT = frozenset({".git", ".hg", ".svn", ".bzr", ".jj", ".rlm_state"})
"""Version control remembers deleted keys and holds addresses with passwords; a state folder holds answers."""
MAX_IGNORE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file that a folder or pattern holds, at the path the user would write.

    `mount` is the real folder to mount for it, None for the file itself. `parts`: how many of the path's
    parts make its name. `skipped` is the reason not to read it, or empty.
    """

    path: Path
    mount: Path | None
    parts: int
    skipped: str = ""


@dataclass(slots=True)
class _Folder:
    """A walked folder: `clean` when it can be mounted whole."""

    path: Path
    files: list[Path]
    folders: list["_Folder"]
    clean: bool


def in_folder(path: Path, *, state_dir: Path | None) -> list[Found]:
    """The files below a folder, sorted, hidden and ignored ones left out.

    Raises `DocumentError` naming special files: they would be mounted with the folder.
    """
    skipped: list[Found] = []
    special: list[str] = []
    walk = _Walk(root=path.resolve(), state_dir=state_dir, skipped=skipped, special=special)
    folder = walk.folder(path, ignores=())
    if special:
        raise DocumentError(
            f"{path} holds what is not a file: {', '.join(special[:5])}{' …' if len(special) > 5 else ''}.",
            hint="Give the files, or a folder without these.",
        )
    depth = len(path.parts) - 1
    found = [
        Found(path=file, mount=mount, parts=len(file.parts) - depth)
        for file, mount in _mounted(folder, mount=None)
    ]
    return sorted(found + skipped, key=lambda entry: entry.path)


def _mounted(folder: _Folder, *, mount: Path | None) -> Iterator[tuple[Path, Path | None]]:
    if mount is None and folder.clean:
        mount = folder.path.resolve()
    for file in folder.files:
        yield file, mount
    for inner in folder.folders:
        yield from _mounted(inner, mount=mount)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    root: Path
    state_dir: Path | None
    skipped: list[Found]
    special: list[str]

    def folder(self, path: Path, *, ignores: tuple[tuple[Path, GitIgnoreSpec], ...]) -> _Folder:
        ignores = (*ignores, *_ignore_file(path))
        result = _Folder(path=path, files=[], folders=[], clean=True)
        device = path.stat().st_dev
        for entry in _entries(path):
            here = Path(entry.path)
            is_dir = entry.is_dir(follow_symlinks=False)
            if self._must_stay_out(entry):
                result.clean = False
                if not entry.name.startswith("."):
                    self._skip(here, "it may hold a key or a session")
            elif entry.name.startswith(".") or _is_ignored(here, is_dir=is_dir, ignores=ignores):
                result.clean &= not is_dir or self._is_clean(here)
            elif entry.is_symlink():
                self._skip_link(here)
            elif is_dir:
                inner = self.folder(here, ignores=ignores)
                # A mount does not reach into what is mounted below it.
                result.clean &= inner.clean and entry.stat().st_dev == device
                result.folders.append(inner)
            elif kind := special_kind(entry.stat(follow_symlinks=False).st_mode):
                self.special.append(f"{entry.path} ({kind})")
            elif not _is_utf8(entry.name):
                self._skip(here, "its name is not UTF-8")
            else:
                result.files.append(here)
        return result

    def _must_stay_out(self, entry: os.DirEntry[str]) -> bool:
        if entry.name in STAY_OUT:
            return True
        if entry.is_dir(follow_symlinks=False):
            state = self.state_dir
            return state is not None and entry.name == state.name and Path(entry.path).samefile(state)
        return is_private_name(entry.name) or entry.name.lower().startswith(".env")

    def _is_clean(self, path: Path) -> bool:
        """Whether a folder that is not looked into for documents may be mounted along with its parent."""
        for entry in _entries(path):
            if self._must_stay_out(entry):
                return False
            if entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                if not self._is_clean(Path(entry.path)):
                    return False
            elif special_kind(entry.stat(follow_symlinks=False).st_mode):
                return False
        return True

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Found(path=path, mount=None, parts=1, skipped=reason))

    def _skip_link(self, path: Path) -> None:
        """A link that stays inside leads to what is found anyway."""
        if not path.exists():
            self._skip(path, "it is a link to nothing")
        elif not path.resolve().is_relative_to(self.root):
            self._skip(path, "it is a link that leaves the folder")


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DocumentError(
            f"{path} cannot be listed.", f"{error.strerror}.", hint=f"chmod u+rx {path}"
        ) from None


def _ignore_file(folder: Path) -> list[tuple[Path, GitIgnoreSpec]]:
    path = folder / ".gitignore"
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_IGNORE_BYTES:
            return []
        return [(folder, GitIgnoreSpec.from_lines(path.read_text("utf-8", "replace").splitlines()))]
    except (OSError, ValueError):
        return []


def _is_ignored(path: Path, *, is_dir: bool, ignores: tuple[tuple[Path, GitIgnoreSpec], ...]) -> bool:
    """The deepest `.gitignore` that says anything decides, as in git."""
    for folder, spec in reversed(ignores):
        verdict = spec.check_file(path.relative_to(folder).as_posix() + ("/" if is_dir else "")).include
        if verdict is not None:
            return verdict
    return False


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def in_pattern(pattern: str, *, cwd: Path, state_dir: Path | None) -> list[Found]:
    """The files a pattern matches, sorted; folders are not meant, nor hidden entries it does not spell out.

    A link that leads out of the part of the pattern before its first wildcard is skipped. Raises
    `DocumentError` when no file matches.
    """
    parts = Path(pattern).expanduser().parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    base = Path(os.path.abspath(cwd.joinpath(*parts[:first])))  # noqa: PTH100 - keeps symlinks
    real_base = base.resolve()
    # Not `glob.glob`: its `**` goes through links, in circles if they do.
    matches = sorted(base.glob("/".join(parts[first:])))
    found: list[Found] = []
    for path in matches:
        hidden = {part for part in path.relative_to(base).parts if part.startswith(".")}
        if not hidden <= set(parts) or path.is_dir():
            continue
        real = path.resolve()
        reason = "it is a link that leaves the folder" if not real.is_relative_to(real_base) else ""
        reason = reason or refusal(real, state_dir=state_dir)
        found.append(Found(path=path, mount=None, parts=1, skipped=reason))
    if not found:
        why = "It matches folders only." if matches else "Nothing matches it."
        hint = "** goes through folders; a folder can be given by its name."
        raise DocumentError(f"{pattern} names no file.", why, hint=hint)
    return found


def unique_names(paths: list[tuple[Path, int]], *, taken: Collection[str]) -> list[str]:
    """For each path its last `parts` parts, and as many more as it takes to be unique."""
    parts = [count for _, count in paths]
    while True:
        tails = ["/".join(path.parts[-count:]) for (path, _), count in zip(paths, parts, strict=True)]
        seen = Counter([*tails, *taken])
        short = [
            i for i, tail in enumerate(tails) if seen[tail] > 1 and parts[i] < len(paths[i][0].parts) - 1
        ]
        if not short:
            break
        for i in short:
            parts[i] += 1
    names: list[str] = []
    used = set(taken)
    for tail in tails:
        name, number = one_line(tail), 2
        while name in used:  # names that differ only in what cannot be printed
            name = f"{one_line(tail)} ({number})"
            number += 1
        used.add(name)
        names.append(name)
    return names
