"""Which documents a session has: registering what the user named, and looking again at what it has become.

It looks at files, fetches what is named by an address, and writes records; it neither mounts anything nor
asks anybody.
"""

import dataclasses
import datetime
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlm.documents import MAX_MOUNTS, Document, changes, expand, look
from rlm.downloads import remove_old_copies
from rlm.errors import DocumentError
from rlm.records import ConsentGiven, DocumentsSet, SessionStarted
from rlm.sources import Fetched, fetch, is_address
from rlm.state import State
from rlm.text_probe import one_line
from rlm.web_address import HIDDEN

Progress = Callable[[str, int, int | None], None]
"""Told of a download: what it is, bytes that are here, and bytes in all if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """`added` are the documents that were named, `documents` all of them; `skipped` was left out, and why.

    `before` is what there was until then.
    """

    added: list[Document]
    documents: list[Document]
    before: DocumentsSet
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def register(
    state: State,
    paths: Sequence[str],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    replace: bool = False,
    name: str | None = None,
    encoding: str = "",
    progress: Progress = lambda name, done, total: None,
) -> Registered:
    """Add what `paths` name (files, folders, patterns, addresses) to the session's documents.

    A path that is registered already is looked at again and keeps its name; what an address gives takes the
    place of what it gave before. `encoding` is what the user says they are in; `environ` is where tokens are
    looked up. Raises `DocumentError`, and the documents are then what they were.
    """
    view = state.view()
    if not view.session:
        begin_session(state)
    remove_old_copies(state.path / "downloads", keep={Path(row["path"]) for row in view.documents})
    before = DocumentsSet(documents=view.documents, active=view.active)
    old = [] if replace else [Document.from_json(row) for row in view.documents]
    fetched = [
        file
        for address in dict.fromkeys(filter(is_address, paths))
        for file in fetch(address, folder=state.downloads(), environ=environ, progress=progress)
    ]
    taken = [document.name for document in old]
    expansion = expand(
        [path for path in paths if not is_address(path)],
        cwd=cwd,
        state_dir=state.path,
        taken=taken,
        encoding=encoding,
    )
    taken += [document.name for document in expansion.documents]
    found = [*_looked_at(fetched, old=old, taken=taken, encoding=encoding), *expansion.documents]
    if not found:
        raise DocumentError(
            "There is nothing to read.",
            "; ".join(f"{path}: {reason}" for path, reason in expansion.skipped[:3]) or "Nothing was found.",
        )
    old = [document for document in old if not any(_came_before(document, file) for file in fetched)]
    added, documents = add_documents(state, found, old, name=name)
    notes = tuple(file.note for file in fetched if file.note)
    return Registered(added=added, documents=documents, before=before, skipped=expansion.skipped, notes=notes)


def _came_before(document: Document, file: Fetched) -> bool:
    """Whether the document is what the address of `file` gave before.

    Where a signature is left out of the address, other files may have come from it: those have other names.
    """
    same_name = document.path.name == file.path.name
    return document.source == file.source and (same_name or HIDDEN not in file.source)


def _looked_at(
    files: Sequence[Fetched], *, old: Sequence[Document], taken: Sequence[str], encoding: str
) -> list[Document]:
    """The documents that were fetched, each file once. One that was fetched before keeps the name it had."""
    used = set(taken)
    documents: dict[Path, Document] = {}
    for file in files:
        if file.path in documents:
            continue
        name = _name_before(file, files, old)
        if not name or any(document.name == name for document in documents.values()):
            name, number = file.name, 2
            while name in used:
                name, number = f"{file.name} ({number})", number + 1
        used.add(name)
        documents[file.path] = look(
            file.path, name=name, file_name=file.name, encoding=encoding, source=file.source
        )
    return list(documents.values())


def _name_before(file: Fetched, files: Sequence[Fetched], old: Sequence[Document]) -> str:
    """The name that the file's document has already, or empty."""
    mine = [document for document in old if _came_before(document, file)]
    for document in mine:
        if document.path == file.path or document.file_name == file.name:
            return document.name
    alone = len(mine) == 1 and sum(other.source == file.source for other in files) == 1
    return mine[0].name if alone else ""


def add_documents(
    state: State, found: Sequence[Document], old: Sequence[Document], *, name: str | None = None
) -> tuple[list[Document], list[Document]]:
    """Record `found` beside `old`; returns the added ones as named, and all. Raises `DocumentError`."""
    names = {document.path: document.name for document in old}
    added = [
        dataclasses.replace(document, name=names.get(document.path, document.name)) for document in found
    ]
    paths = {document.path for document in added}
    old = [document for document in old if document.path not in paths]
    if name is not None:
        added = [_named(added, name, taken={document.name for document in old})]
    documents = [*old, *added]
    mounts = dict.fromkeys(document.mount for document in documents)
    if len(mounts) >= MAX_MOUNTS:  # the texts made of them take one
        raise DocumentError(
            f"{len(mounts):,} files and folders cannot be mounted one by one.",
            f"The limit is {MAX_MOUNTS - 1}.",
            hint="Give the folder that holds the files; --replace forgets those of before.",
        )
    for mount in dict.fromkeys(document.mount for document in added):
        state.append(ConsentGiven(path=str(mount)))
    record_documents(state, documents, active=added[0].name if added else None)
    return added, documents


def _named(added: Sequence[Document], name: str, *, taken: Collection[str]) -> Document:
    name = one_line(name.strip())
    if len(added) != 1:
        raise DocumentError("--name is for one file.", f"{len(added):,} files were given.")
    if not name:
        raise DocumentError("--name is empty.")
    if name in taken:
        raise DocumentError(f"The name {name!r} is taken.", hint="Choose another, or use --replace.")
    return dataclasses.replace(added[0], name=name)


def take_back(state: State, registered: Registered, problems: Mapping[str, str]) -> Registered:
    """Leave out added documents that turned out to hold no text; `problems` says why, by name.

    Raises `DocumentError` when these are all that were added: the documents are then what they were before.
    """
    added = [document for document in registered.added if document.name not in problems]
    if not added:
        state.append(registered.before)
        name, problem = next(iter(problems.items()))
        raise DocumentError(f"{name} {problem.removesuffix('.')}.")
    documents = [document for document in registered.documents if document.name not in problems]
    record_documents(state, documents, active=added[0].name)
    return dataclasses.replace(registered, added=added, documents=documents)


def record_documents(state: State, documents: Sequence[Document], *, active: str | None) -> None:
    """These are the session's documents from here on."""
    rows = tuple(document.to_json() for document in documents)
    state.append(DocumentsSet(documents=rows, active=active))


def begin_session(state: State) -> SessionStarted:
    record = SessionStarted(session=secrets.token_hex(3), created=now())
    state.append(record)
    return record


def refreshed(documents: Sequence[Document]) -> tuple[list[Document], list[str]]:
    """The documents as they are on disk at this moment, and what to tell of what changed or is gone."""
    present: list[Document] = []
    notes: list[str] = []
    for document in documents:
        change = changes(document)
        if change == "unchanged":
            present.append(document)
            continue
        try:
            if change == "missing":
                raise DocumentError(f"{document.path} is gone.")
            again = look(
                document.path,
                name=document.name,
                file_name=document.file_name,
                mount=document.mount,
                encoding=document.given_encoding,
                source=document.source,
            )
            if document.mount == document.path and again.path != document.path:
                raise DocumentError("its path leads elsewhere.")
        except DocumentError as error:
            notes.append(f"{document.name!r} is left out: {error.what}")
            continue
        happened = {"grown": "has grown", "replaced": "was replaced"}.get(change, "has changed")
        notes.append(f"{document.name!r} {happened} on disk since it was loaded; this is the present one.")
        present.append(again)
    return present, notes


def now() -> str:
    """The time as records and events have it: ISO 8601, UTC, milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
