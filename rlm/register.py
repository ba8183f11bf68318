"""Which documents a session has: registering what the user named, and looking again at what it has become.

It looks at files and writes records; it neither mounts anything nor asks anybody.
"""

import contextlib
import dataclasses
import datetime
import secrets
from collections.abc import Sequence
from pathlib import Path

from rlm.documents import Document, changes, expand, look
from rlm.errors import DocumentError
from rlm.records import ConsentGiven, DocumentsSet, SessionStarted
from rlm.state import State

COUNTED_BYTES = 64 * 1024 * 1024
"""Lines are counted up front in documents of at most this size."""


def register(
    state: State, paths: Sequence[str], *, cwd: Path, replace: bool = False, name: str | None = None
) -> tuple[list[Document], list[Document], tuple[tuple[str, str], ...]]:
    """Add what `paths` name to the session's documents; returns the added ones, all, and what was left out.

    A path that is registered already is looked at again and keeps its name. Raises `DocumentError`.
    """
    view = state.view()
    if not view.session:
        begin_session(state)
    old = [] if replace else [Document.from_json(row) for row in view.documents]
    expansion = expand(paths, cwd=cwd, state_dir=state.path, taken=[document.name for document in old])
    if not expansion.documents:
        raise DocumentError(
            "There is nothing to read.",
            "; ".join(f"{path}: {reason}" for path, reason in expansion.skipped[:3]) or "Nothing was found.",
        )
    return *add_documents(state, expansion.documents, old, name=name), expansion.skipped


def add_documents(
    state: State, found: Sequence[Document], old: Sequence[Document], *, name: str | None = None
) -> tuple[list[Document], list[Document]]:
    """Record `found` beside `old`; returns the added ones as named, and all."""
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
            again = look(document.path, name=document.name, mount=document.mount)
            if document.mount == document.path and again.path != document.path:
                raise DocumentError("its path leads elsewhere.")
        except DocumentError as error:
            notes.append(f"{document.name!r} is left out: {error.what}")
            continue
        happened = {"grown": "has grown", "replaced": "was replaced"}.get(change, "has changed")
        notes.append(f"{document.name!r} {happened} on disk since it was loaded; this is the present one.")
        present.append(again)
    return present, notes


def count_lines(documents: Sequence[Document]) -> dict[str, int]:
    """Lines by name, of plain documents of at most 64 MiB."""
    counts = {}
    for document in documents:
        if document.size_bytes <= COUNTED_BYTES and not document.compression:
            with contextlib.suppress(OSError), document.path.open("rb") as file:
                counts[document.name] = sum(
                    block.count(b"\n") for block in iter(lambda: file.read(1024 * 1024), b"")
                )
    return counts


def now() -> str:
    """The time as records and events have it: ISO 8601, UTC, milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
