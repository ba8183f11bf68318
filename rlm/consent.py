"""What may be read: the real paths the user agreed to, the few that nobody can agree to, and those in doubt.

Symlinks are resolved before anything is decided. It asks no one and opens nothing; who asks the user calls
`add` with the answer. A path that does not exist is no error here: to code that has no consent, what is
missing and what is not allowed must look the same.
"""

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from rlm.errors import DocumentError

SENSITIVE_AT_HOME = (
    ".ssh",
    ".gnupg",
    ".aws",
    ".kube",
    ".docker",
    ".config",
    ".netrc",
    ".git-credentials",
    ".pgpass",
)
SENSITIVE_PLACES = ("/etc", "/run", "/var/run", "/private/etc")
SYSTEM_PLACES = ("/proc", "/sys", "/dev")
SPECIAL_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def special_kind(mode: int) -> str:
    """`a socket`, `a named pipe`, `a device`, or empty for everything else."""
    return SPECIAL_KINDS.get(stat.S_IFMT(mode), "")


def is_private_name(name: str) -> bool:
    """Whether such a file usually holds a private key: `*.pem`, `id_rsa`, `id_work`; not `id_list.csv`."""
    return bool(re.fullmatch(r".*\.pem|id_(rsa|dsa|ecdsa|ed25519).*(?<!\.pub)|id_[^.]*", name.lower()))


def refusal(real: Path, *, state_dir: Path | None = None) -> str:
    """Why this real path is never read, whoever agrees; empty when it may be."""
    if any(real.is_relative_to(place) for place in SYSTEM_PLACES):
        return "it belongs to the system, not to the disk"
    if state_dir is not None and _is_within(real, state_dir):
        return "it belongs to this program's state folder"
    try:
        mode = real.lstat().st_mode
    except OSError:
        mode = 0
    if kind := special_kind(mode):
        return f"it is {kind}"
    if real.name.lower().startswith(".env") and not stat.S_ISDIR(mode):
        return "files named .env hold keys"
    return ""


def _is_within(real: Path, folder: Path) -> bool:
    """Compares by identity too: one folder may be reached by several spellings, or mounted twice."""
    if real.is_relative_to(folder):
        return True
    try:
        wanted = folder.stat()
    except OSError:
        return False
    for place in (real, *real.parents):
        try:
            if os.path.samestat(place.stat(), wanted):
                return True
        except OSError:
            continue
    return False


class Consent:
    """The user's agreement: real paths, each with all that is below it.

    A sensitive place (`~/.ssh`, `*.pem`, the home folder itself, …) is not covered by a yes to a folder
    around it, only by one to the place itself or to something inside.
    """

    def __init__(self, agreed: Iterable[Path], *, state_dir: Path, home: Path | None = None) -> None:
        self._agreed = {path.resolve() for path in agreed}
        self._state_dir = state_dir.resolve()
        self._home = (home or Path.home()).resolve()
        at_home = (self._home / name for name in SENSITIVE_AT_HOME)
        self._places = tuple(
            dict.fromkeys(path.resolve() for path in (*at_home, *map(Path, SENSITIVE_PLACES)))
        )

    def check(self, path: str, cwd: Path) -> Path:
        """The real path behind what was asked for. Raises `DocumentError` when no consent could allow it."""
        try:
            real = (cwd / os.path.expanduser(path)).resolve()  # noqa: PTH111 - leaves an unknown ~user as it is
        except (OSError, ValueError, RuntimeError):
            raise DocumentError(f"{path!r} is not a path that can be resolved.") from None
        if why := refusal(real, state_dir=self._state_dir):
            raise DocumentError(
                f"{path!r} is never read:", f"{why}.", hint="Copy what you need into another file."
            )
        return real

    def sensitive(self, real: Path) -> str:
        """Why this needs a yes of its own; empty when a yes to a folder around it is enough."""
        place = self._place(real)
        if place is None:
            return ""
        if self._home.is_relative_to(place):
            return f"{place} holds far more than one question needs"
        return f"{place.name if place == real else place} is a usual place for keys and passwords"

    def allows(self, real: Path) -> bool:
        """Whether the user agreed to this real path."""
        if refusal(real, state_dir=self._state_dir):
            return False
        place = self._place(real)
        return any(
            path in self._agreed and (place is None or path.is_relative_to(place))
            for path in (real, *real.parents)
        )

    def folder_of(self, real: Path) -> Path | None:
        """The folder whose other files a yes to this file may cover too.

        None where there is none: a folder covers what is below it by itself, a sensitive file needs a yes of
        its own, and a sensitive folder (the home folder, say) is too much for a question about one file.
        """
        folder = real.parent
        if real.is_dir() or self.sensitive(real) or self.sensitive(folder) or folder == folder.parent:
            return None
        return None if refusal(folder, state_dir=self._state_dir) else folder

    def add(self, real: Path) -> None:
        """The user said yes to this real path and all below it."""
        self._agreed.add(real)

    def _place(self, real: Path) -> Path | None:
        if self._home.is_relative_to(real) or is_private_name(real.name):
            return real
        return next((place for place in self._places if real.is_relative_to(place)), None)


_QUOTED = re.compile(r"""(?<![^\s(\[])(?P<at>@?)(?P<quote>["'`])(?P<path>[^"'`\n]+)(?P=quote)""")
_WORD = re.compile(r"\S+")
MAX_PATH_CHARS = 4096


def paths_in_question(text: str, cwd: Path) -> list[Path]:
    """The existing paths that the user typed, resolved, in order: `@path`, quoted ones, and plain ones.

    With `@` or quotes it may be a folder. A plain word must name a file and look like a path (have a `/`,
    a `.` or a `~`), since an English word may be a folder's name by chance.
    """
    found: dict[int, Path] = {}
    quoted: list[range] = []
    for match in _QUOTED.finditer(text):
        if (real := _existing(match["path"], cwd)) is not None:
            found[match.start()] = real
            quoted.append(range(match.start(), match.end()))
    for match in _WORD.finditer(text):
        if any(match.start() in span for span in quoted):
            continue
        word = match[0].lstrip("([{<\"'`")
        marked = word.startswith("@")
        if not marked and not any(sign in word for sign in "/.~"):
            continue
        real = _trimmed(word.removeprefix("@"), cwd)
        if real is not None and (marked or real.is_file()):
            found[match.start()] = real
    return list(dict.fromkeys(found[start] for start in sorted(found)))


def _trimmed(word: str, cwd: Path) -> Path | None:
    """The path a word names, less the punctuation that a sentence may have put after it."""
    while word:
        if (real := _existing(word, cwd)) is not None:
            return real
        if word[-1] not in ".,;:!?)]}>\"'`":
            return None
        word = word[:-1]
    return None


def _existing(path: str, cwd: Path) -> Path | None:
    if not path or len(path) > MAX_PATH_CHARS or "\0" in path:
        return None
    try:
        return (cwd / os.path.expanduser(path)).resolve(strict=True)  # noqa: PTH111 - as in `check`
    except (OSError, RuntimeError, ValueError):
        return None
