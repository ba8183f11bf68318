"""Whether a folder is a state folder, and this user's: what it holds is continued, so its writer matters.

A folder is ours by its owner, its mode, and a mark made with a key that only this user has. Nothing is
locked here (`rlm.lock`), and nothing of a session read.
"""

import hmac
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from rlm.errors import StateError
from rlm.log import read_small, sync_folder, write_small, writing

FRAME = (".gitignore", "format", "owner", "lock")
"""The files that make a folder a state folder, in the order in which `reset` removes them."""

_FORMAT = 2
"""Since 2, snapshots refer to blobs; what 1 wrote can be read."""
_KEY_BYTES = 32
_UNMARKED = "carries no mark of yours (it was copied, moved, or came with a repository)"


def claim(path: Path, *, create: bool, ask: Callable[[str], bool] | None, key_path: Path) -> None:
    """See that the folder is one of ours, made when `create` is set, or that the user wants it used.

    Raises `StateError` otherwise.
    """
    with writing(path):
        if create and not os.path.lexists(path):
            path.mkdir(0o700, parents=True, exist_ok=True)
            sync_folder(path.parent)
        fresh = _is_fresh(path, create=create)
        if not fresh:
            check_format(path)
        doubts = _doubts(path) if fresh or _is_marked(path, key_path) else [*_doubts(path), _UNMARKED]
        if doubts and not (ask and ask(_question(path, doubts))):
            raise StateError(
                f"The state folder {path} is not used.",
                f"It {' and it '.join(doubts)}.",
                hint="Delete it for a fresh start, or name another one with --state-dir.",
            )
        if doubts and path.stat().st_uid == os.getuid():
            path.chmod(0o700)
        if fresh or doubts:
            write_small(path / "owner", _mark(path, _read_key(key_path) or _make_key(key_path)))
        if fresh:
            write_small(path / ".gitignore", b"*\n")
            write_small(path / "format", b"%d\n" % _FORMAT)


def _is_fresh(path: Path, *, create: bool) -> bool:
    """Whether the folder is still to be filled: empty, or left half made or half removed by a kill."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise StateError(f"There is no state folder at {path}.", hint="Start with: rlm init FILE") from None
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(
            f"{path} cannot be the state folder.",
            "It is a symbolic link." if stat.S_ISLNK(found.st_mode) else "It is not a folder.",
            hint="Remove it, or name another folder with --state-dir.",
        )
    if os.path.lexists(path / "format"):
        return False
    others = {entry.name for entry in path.iterdir() if entry.suffix != ".tmp"} - set(FRAME)
    if others or not create:
        raise StateError(
            f"{path} is not a state folder.",
            "It holds other files." if others else "It is empty.",
            hint="Name another folder with --state-dir.",
        )
    return True


def check_format(path: Path) -> int:
    """The format of the folder. Raises `StateError` when this version cannot read it."""
    text = (read_small(path / "format") or b"").strip()
    if not text.isdigit():
        raise StateError(
            f"The state folder {path} cannot be read.", "Its format is not given.", hint="Delete the folder."
        )
    if int(text) > _FORMAT:
        raise StateError(
            f"The state folder {path} was made by a later version of this program.",
            f"It has format {int(text)}; this version knows formats up to {_FORMAT}.",
            hint="Upgrade, or name another folder with --state-dir.",
        )
    return int(text)


def raise_format(path: Path) -> None:
    """Mark the folder as one of the present format, so that an earlier version refuses it from here on.

    To be called before the first thing is written that an earlier version cannot read. Raises `StateError`.
    """
    if check_format(path) < _FORMAT:
        write_small(path / "format", b"%d\n" % _FORMAT)


def _doubts(path: Path) -> list[str]:
    """Why the folder may hold what others wrote, as ends of a sentence that begins with "It"."""
    found = path.stat()
    doubts = []
    if found.st_uid != os.getuid():
        doubts.append(f"belongs to another user (uid {found.st_uid})")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        doubts.append(f"can be written to by others (mode {stat.S_IMODE(found.st_mode):o})")
    return doubts


def _question(path: Path, doubts: list[str]) -> str:
    return (
        f"The state folder {path} {' and it '.join(doubts)}. What it holds would be continued, and the "
        "variables saved in it loaded inside the container. Use it?"
    )


def _mark(path: Path, key: bytes) -> bytes:
    """What only this user can have written, and only for this place."""
    return hmac.new(key, b"rlm state folder\0" + os.fsencode(path.resolve()), "sha256").hexdigest().encode()


def _is_marked(path: Path, key_path: Path) -> bool:
    key, mark = _read_key(key_path), read_small(path / "owner")
    return key is not None and mark is not None and hmac.compare_digest(mark, _mark(path, key))


def _read_key(path: Path) -> bytes | None:
    key = read_small(path)
    return key if key and len(key) == _KEY_BYTES else None


def _make_key(path: Path) -> bytes:
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    write_small(path, secrets.token_bytes(_KEY_BYTES))
    # Another command may have made one at the same moment: the one that stands is the key.
    key = _read_key(path)
    if key is None:
        raise StateError(f"Could not keep a key in {path}.", hint="Remove the file, then try again.")
    return key
