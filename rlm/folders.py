"""Walks folders and patterns for documents, and tells what in a folder the container must not see.

A folder is mounted whole, and what has to stay out of the container (dot entries, keys, ignored folders, the
state folder) is covered there, so that what was skipped as a document cannot be opened either. It reads
`.gitignore` and no other file.
"""

import glob
import os
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from rlm.consent import is_private_name, refusal, special_kind
from rlm.errors import DocumentError
from rlm.text_probe import one_line

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


def in_folder(path: Path, *, state_dir: Path | None, without: Collection[str] = ()) -> list[Found]:
    """The files below a folder, sorted, hidden and ignored ones left out, and folders named in `without`.

    Raises `DocumentError` naming special files: they would be mounted with the folder.
    """
    walk = _walked(path, state_dir=state_dir, without=without)
    depth = len(path.parts) - 1
    found = [Found(path=file, mount=mount, parts=len(file.parts) - depth) for file, mount in walk.files]
    return sorted(found + walk.skipped, key=lambda entry: entry.path)


def kept_out(folder: Path, *, state_dir: Path | None) -> list[Path]:
    """What below a folder that is mounted must be covered there: files and whole folders.

    Raises `DocumentError` naming special files.
    """
    return _walked(folder, state_dir=state_dir).covered


def _walked(path: Path, *, state_dir: Path | None, without: Collection[str] = ()) -> "_Walk":
    walk = _Walk(root=path.resolve(), state_dir=state_dir, without=without)
    walk.folder(path, mount=walk.root, ignores=())
    if special := walk.special:
        raise DocumentError(
            f"{path} holds what is not a file: {', '.join(special[:5])}{' …' if len(special) > 5 else ''}.",
            hint="Give the files, or a folder without these.",
        )
    return walk


@dataclass(slots=True, kw_only=True)
class _Walk:
    """`files` with the folder that each is mounted with; `covered` in order, outermost only."""

    root: Path
    state_dir: Path | None
    without: Collection[str] = ()
    files: list[tuple[Path, Path]] = field(default_factory=list)
    covered: list[Path] = field(default_factory=list)
    skipped: list[Found] = field(default_factory=list)
    special: list[str] = field(default_factory=list)

    def folder(self, path: Path, *, mount: Path, ignores: tuple[tuple[Path, GitIgnoreSpec], ...]) -> None:
        ignores = (*ignores, *_ignore_file(path))
        device = path.stat().st_dev
        for entry in _entries(path):
            here = Path(entry.path)
            is_dir = entry.is_dir(follow_symlinks=False)
            if self._stays_out(entry):
                self.covered += [] if entry.is_symlink() else [here]
                if not entry.name.startswith("."):
                    self._skip(here, "it may hold a key or a session")
            elif _is_ignored(here, is_dir=is_dir, ignores=ignores):
                self.covered += [here] if is_dir else []
            elif entry.is_symlink():
                self._skip_link(here)
            elif is_dir and entry.name in self.without:
                continue
            elif is_dir:
                # A mount does not reach into what is mounted below it: that is a mount of its own.
                below = mount if entry.stat().st_dev == device else here.resolve()
                self.folder(here, mount=below, ignores=ignores)
            elif kind := special_kind(entry.stat(follow_symlinks=False).st_mode):
                self.special.append(f"{entry.path} ({kind})")
            elif not _is_utf8(entry.name):
                self._skip(here, "its name is not UTF-8")
            else:
                self.files.append((here, mount))

    def _stays_out(self, entry: os.DirEntry[str]) -> bool:
        """Dot entries hold keys, tokens and history more often than text; so do files named as keys are."""
        if entry.name.startswith("."):
            return True
        if entry.is_dir(follow_symlinks=False):
            state = self.state_dir
            return state is not None and entry.name == state.name and Path(entry.path).samefile(state)
        return is_private_name(entry.name)

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
