"""The host's view of the input files: which there are, what they look like, and how they are mounted.

It reads a prefix and two samples of a file, whatever its size, and parses no format. Paths come in as the
user typed them; documents come out, with the real path resolved once and the identity to check it by later.
"""

import dataclasses
import difflib
import glob
import hashlib
import io
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from rlm.consent import refusal, special_kind
from rlm.errors import DocumentError
from rlm.formats import FORMATS, Format, kind_of, unpacked_name
from rlm.text_probe import SAMPLE_BYTES, NotText, Probe, one_line, probe, reads_in_place, unpack_head

BZ2_BLOCK_BYTES = 1024 * 1024
"""bz2 gives out nothing before a whole block (at most 900 kB) is read."""
MAX_MOUNTS = 500
TEXTS = "/data/texts"
"""Where the container sees the texts that were made of documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One input file. `mount` is what is bind-mounted: the file itself, or a folder around it.

    `name` is unique in a session and is what the model sees; `file_name` is what the file is called where it
    comes from, which tells what it is: a cache may keep it under another name. `kind` is a key of
    `formats.FORMATS`; `encoding` is a Python codec name, empty where the format has none, and
    `given_encoding` the one that the user named. `head_sha256` covers the first 64 KiB. `source` is the
    address it was fetched from, empty for a file of the user's.
    """

    name: str
    file_name: str
    path: Path
    mount: Path
    size_bytes: int
    mtime_ns: int
    device: int
    inode: int
    kind: str
    encoding: str
    given_encoding: str
    head_sha256: str
    preview: str
    source: str = ""

    @property
    def format(self) -> Format:
        return FORMATS[self.kind]

    @property
    def is_text(self) -> bool:
        """Whether the container reads it as it is; else text is made of it there first."""
        return self.format.plain and reads_in_place(self.encoding)

    @property
    def tokens(self) -> int | None:
        """An estimate; None when the size of the text is not known."""
        return tokens_of(self.size_bytes, self.encoding) if self.is_text else None

    def to_json(self) -> dict[str, object]:
        """The fields, with paths as text, for the state file."""
        # Not `asdict`, which copies deeply: there may be ten thousand of them.
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "path": str(self.path), "mount": str(self.mount)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Document":
        """Undo `to_json`. Raises `DocumentError` when it is not what `to_json` gives."""
        if fields.keys() != _KINDS.keys() or any(type(fields[name]) is not _KINDS[name] for name in _KINDS):
            raise DocumentError("A document in the state folder is not readable.", hint="Run init again.")
        return cls(**{**fields, "path": Path(fields["path"]), "mount": Path(fields["mount"])})


_KINDS = {field.name: int if field.type is int else str for field in dataclasses.fields(Document)}
"""The fields of a document and their types in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """`skipped` are entries of folders and patterns that were left out, each with the reason."""

    documents: tuple[Document, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A read-only bind mount: `source` on the host at `target` in the container."""

    source: Path
    target: str
    is_dir: bool


def tokens_of(size_bytes: int, encoding: str) -> int:
    """An estimate of the tokens in a text: one for four characters."""
    return size_bytes // (8 if encoding.startswith("utf-16") else 4)


def look(
    path: Path,
    *,
    name: str = "",
    file_name: str = "",
    mount: Path | None = None,
    encoding: str = "",
    source: str = "",
) -> Document:
    """What can be known of a file from a prefix and two samples. Raises `DocumentError`.

    `mount` defaults to the file itself, `name` and `file_name` to its last part. `encoding` is the codec that
    the user named for it, empty to find out.
    """
    real, descriptor = _open(path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(f"{path} is {special_kind(status.st_mode) or 'not a file'}.")
        head = file.read(SAMPLE_BYTES)
        called = file_name or path.name
        kind = kind_of(head, called)
        try:
            text = _probe(file, head, kind=kind, name=called, size_bytes=status.st_size, encoding=encoding)
        except NotText as error:
            inside = f" ({kind}) holds" if FORMATS[kind].packed else " is"
            raise DocumentError(
                f"{path}{inside} {error.kind}.", "There is no text in it to be read.", hint=error.hint
            ) from None
        except ValueError as error:
            raise DocumentError(f"{path} cannot be read in that encoding.", f"{error}.") from None
    return Document(
        name=name or one_line(path.name),
        file_name=called,
        path=real,
        mount=mount or real,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        device=status.st_dev,
        inode=status.st_ino,
        kind=kind,
        encoding=text.encoding,
        given_encoding=encoding,
        head_sha256=hashlib.sha256(head).hexdigest(),
        preview=text.preview,
        source=source,
    )


def _open(path: Path) -> tuple[Path, int]:
    """The real path of a file and a descriptor to read it by. Raises `DocumentError`."""
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else special_kind(mode)
            raise DocumentError(f"{path} is {what}, not a file.")
        str(real).encode()
        # O_NONBLOCK: were the file swapped for a named pipe by this moment, opening it must not wait.
        return real, os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except UnicodeEncodeError:
        raise DocumentError(f"{one_line(str(path))} is not a UTF-8 path.", hint="Rename it.") from None
    except PermissionError:
        hint = f"chmod u+r {path}"
        raise DocumentError(f"{path} cannot be read.", "You lack permission.", hint=hint) from None
    except (OSError, RuntimeError) as error:
        raise DocumentError(f"{path} cannot be read.", f"{error}.") from None


def _probe(file: io.FileIO, head: bytes, *, kind: str, name: str, size_bytes: int, encoding: str) -> Probe:
    """Encoding and preview, as far as they can be told without reading a format."""
    if FORMATS[kind].packed:
        more = file.read(BZ2_BLOCK_BYTES) if kind == "bz2" else b""
        inside = unpack_head(head + more, kind)
        plain = FORMATS[kind_of(inside, unpacked_name(name))].plain
        return probe(inside, whole=False, encoding=encoding) if plain else Probe("", "")
    if not FORMATS[kind].plain and kind != "html":
        return Probe("", "")
    if size_bytes <= len(head):
        found = probe(head, whole=True, encoding=encoding)
    else:
        # At whole characters of UTF-16 and UTF-32.
        offsets = (size_bytes // 2 & ~3, size_bytes - SAMPLE_BYTES & ~3)
        samples = (os.pread(file.fileno(), SAMPLE_BYTES, max(0, offset)) for offset in offsets)
        found = probe(head, later=tuple(samples), whole=False, encoding=encoding)
    return found if FORMATS[kind].plain else found._replace(preview="")


def _missing(path: Path) -> DocumentError:
    try:
        siblings = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return DocumentError(f"{path} does not exist.", "Neither does its folder.")
    near = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(map(one_line, near))}?" if near else ""
    return DocumentError(f"{path} does not exist.", hint=hint)


def expand(
    arguments: Sequence[str],
    *,
    cwd: Path,
    state_dir: Path | None = None,
    taken: Collection[str] = (),
    without: Collection[str] = (),
    encoding: str = "",
) -> Expansion:
    """The documents behind files, folders and patterns (`**` too), each file once. Raises `DocumentError`.

    What a folder or pattern holds and cannot be read as text is skipped and reported; a file that was named
    itself must be readable. `taken` are names that other documents have; folders named in `without` are not
    looked into. `encoding` is what the user says that all of them are in.
    """
    from rlm.folders import (
        Found,
        in_folder,
        in_pattern,
        unique_names,
    )  # late: pathspec takes 30 ms to import

    found: dict[Path, tuple[Found, Document]] = {}
    skipped: list[tuple[str, str]] = []
    for argument in arguments:
        if not argument or "\0" in argument:
            raise DocumentError(f"{argument!r} is not a path.")
        path = Path(os.path.abspath(cwd / os.path.expanduser(argument)))  # noqa: PTH100, PTH111 - keeps symlinks
        exists = os.path.exists(path)  # noqa: PTH110 - pathlib's raises where permission is lacking
        if exists and (why := refusal(path.resolve(), state_dir=state_dir)):
            raise DocumentError(f"{argument} is never read:", f"{why}.")
        if exists and path.is_dir():
            walk = in_folder(path, state_dir=state_dir, without=without)
        elif not exists and glob.has_magic(argument):
            walk = in_pattern(argument, cwd=cwd, state_dir=state_dir)
        else:
            walk = [Found(path=path, mount=None, parts=1)]
        named = len(walk) == 1 and walk[0].path == path
        for entry in walk:
            try:
                if entry.skipped:
                    raise DocumentError(entry.skipped)
                document = look(entry.path, mount=entry.mount, encoding=encoding)
            except DocumentError as error:
                if named:
                    raise
                skipped.append((str(entry.path), error.what.removeprefix(f"{entry.path} ")))
            else:
                found.setdefault(document.path, (entry, document))
    names = unique_names([(entry.path, entry.parts) for entry, _ in found.values()], taken=taken)
    documents = [
        dataclasses.replace(document, name=name)
        for name, (_, document) in zip(names, found.values(), strict=True)
    ]
    return Expansion(documents=tuple(documents), skipped=tuple(skipped))


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """An empty file and an empty folder, to cover with what must not be seen."""

    file: Path
    folder: Path


def mount_plan(
    documents: Iterable[Document],
    *,
    nothing: Nothing,
    state_dir: Path | None = None,
    texts: Path | None = None,
) -> list[Mount]:
    """One mount for each distinct `Document.mount`, numbered in order, and covers over what stays out.

    `texts` is the folder of the texts that were made of documents, for the container to see at `TEXTS`.

    Folders are walked again, so that a key put there since they were registered is covered too. Raises
    `DocumentError` for more than 500 mounts, and for special files in a folder.
    """
    from rlm.folders import kept_out

    plan = [Mount(source=texts, target=TEXTS, is_dir=True)] if texts else []
    sources = {document.mount: document.mount != document.path for document in documents}
    for number, (source, is_dir) in enumerate(sources.items()):
        target = f"/data/{number}" if is_dir else f"/data/{number}/{_safe(source.name)}"
        plan.append(Mount(source=source, target=target, is_dir=is_dir))
        for path in kept_out(source, state_dir=state_dir) if is_dir else ():
            inside = path.is_dir()
            place = str(PurePosixPath(target, path.relative_to(source).as_posix()))
            plan.append(Mount(source=nothing.folder if inside else nothing.file, target=place, is_dir=inside))
    if len(plan) > MAX_MOUNTS:
        others = len(plan) - len(sources)
        raise DocumentError(
            f"{len(sources):,} files and folders cannot be mounted one by one.",
            f"With {others:,} more for what must be covered and for texts, the limit is {MAX_MOUNTS}.",
            hint="Give the folder that holds the files, or one with fewer keys and dot files in it.",
        )
    return plan


def container_path(document: Document, plan: Iterable[Mount]) -> str:
    """Where the container sees the document. Raises `KeyError` when the plan was made without it."""
    for mount in plan:
        if mount.source == document.mount:
            if not mount.is_dir:
                return mount.target
            return str(PurePosixPath(mount.target, document.path.relative_to(mount.source).as_posix()))
    raise KeyError(document.name)


def _safe(name: str) -> str:
    """A name of plain characters that tells the user's apart from nothing else's: it is only for display."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".")[-100:] or "file"


Change = Literal["unchanged", "changed", "replaced", "grown", "missing"]


def changes(document: Document) -> Change:
    """How the file on the disk differs from the document as it was looked at.

    `grown`: appended to, the beginning is the same. `replaced`: another file has its path.
    """
    try:
        status = document.path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return "missing" if stat.S_ISDIR(status.st_mode) else "replaced"
        same_content = (status.st_size, status.st_mtime_ns) == (document.size_bytes, document.mtime_ns)
        same_file = (status.st_dev, status.st_ino) == (document.device, document.inode)
        if same_file and same_content:
            return "unchanged"
        if status.st_ino != document.inode:
            return "replaced"
        if status.st_size < document.size_bytes or not _same_head(document):
            return "changed" if same_file else "replaced"
    except OSError:
        return "missing"
    if same_content:  # network and removable disks get other device numbers after a restart
        return "unchanged"
    return "grown" if status.st_size > document.size_bytes else "changed"


def _same_head(document: Document) -> bool:
    descriptor = os.open(document.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        head = file.read(min(SAMPLE_BYTES, document.size_bytes))
    return hashlib.sha256(head).hexdigest() == document.head_sha256


def require_readable_inside(documents: Iterable[Document], *, uid: int, gid: int) -> None:
    """Raise `DocumentError` when the container's user could not read one, going by mode bits.

    It matters when root runs this program: root reads everything, the container's user does not.
    """
    seen: set[Path] = set()
    for document in documents:
        for step in (document.path, *document.path.parents):
            if step in seen or not step.is_relative_to(document.mount):
                break
            seen.add(step)
            _require_open(step, uid=uid, gid=gid)


def _require_open(path: Path, *, uid: int, gid: int) -> None:
    status = path.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
    is_dir = stat.S_ISDIR(status.st_mode)
    if not status.st_mode >> shift & (0o1 if is_dir else 0o4):
        raise DocumentError(
            f"{path} is not readable inside the container,",
            f"where the code runs as user {uid}.",
            hint=f"chmod {'o+rx' if is_dir else 'o+r'} {path}, or do not run this program as root.",
        )
