"""Which documents a session has: registering what the user named, and looking again at what it has become.

It looks at files, fetches what is named by an address, and writes records; it neither mounts anything nor
asks anybody.
"""

import dataclasses
import datetime
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlm.documents import Document, changes, expand, look
from rlm.errors import DocumentError
from rlm.records import ConsentGiven, DocumentsSet, SessionStarted
from rlm.sources import Fetched, fetch, is_address
from rlm.state import State

Progress = Callable[[str, int, int | None], None]
"""Told of a download: what it is, bytes that are here, and bytes in all if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """`added` are the documents that were named, `documents` all of them; `skipped` was left out, and why."""

    added: list[Document]
    documents: list[Document]
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

    A path that is registered already is looked at again and keeps its name. `encoding` is what the user says
    they are in; `environ` is where tokens are looked up. Raises `DocumentError`.
    """
    view = state.view()
    if not view.session:
        begin_session(state)
    old = [] if replace else [Document.from_json(row) for row in view.documents]
    addresses = [path for path in paths if is_address(path)]
    fetched = [
        file
        for address in addresses
        for file in fetch(address, folder=state.downloads(), environ=environ, progress=progress)
    ]
    taken = [document.name for document in old]
    expansion = expand(
        [path for path in paths if path not in addresses],
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
    added, documents = add_documents(state, found, old, name=name)
    notes = tuple(file.note for file in fetched if file.note)
    return Registered(added=added, documents=documents, skipped=expansion.skipped, notes=notes)


def _looked_at(
    files: Sequence[Fetched], *, old: Sequence[Document], taken: Sequence[str], encoding: str
) -> list[Document]:
    """The documents that were fetched. One that was fetched before keeps the name it had."""
    before = {(document.source, document.name) for document in old if document.source}
    used = set(taken)
    documents = []
    for file in files:
        name, number = file.name, 2
        while name in used and (file.source, name) not in before:
            name, number = f"{file.name} ({number})", number + 1
        used.add(name)
        documents.append(look(file.path, name=name, encoding=encoding, source=file.source))
    return documents


def add_documents(
    state: State, found: Sequence[Document], old: Sequence[Document], *, name: str | None = None
) -> tuple[list[Document], list[Document]]:
    """Record `found` beside `old`; returns the added ones as named, and all."""
    fetched = {document.name for document in found if document.source}
    old = [document for document in old if not (document.source and document.name in fetched)]
    names = {document.path: document.name for document in old}
    added = [
        dataclasses.replace(document, name=names.get(document.path, document.name)) for document in found
    ]
    if name is not None:
        if len(added) != 1:
            raise DocumentError("--name is for one file.", f"{len(added)} files were given.")
        if name in {document.name for document in old if document.path != added[0].path}:
            raise DocumentError(f"The name {name!r} is taken.", hint="Choose another, or use --replace.")
        added = [dataclasses.replace(added[0], name=name)]
    paths = {document.path for document in added}
    documents = [document for document in old if document.path not in paths] + added
    for document in added:
        state.append(ConsentGiven(path=str(document.path)))
    record_documents(state, documents, active=added[0].name if added else None)
    return added, documents


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
