"""What a session reads: the texts of its documents, some of which have to be made first.

A document that is plain text is read as it is. Of any other the texts are made once, in the sandbox, and
kept in the state folder. What it does not do: convert anything itself, or mount anything.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlm.conversion import OpenBox, make_texts
from rlm.documents import TEXTS, Document, Mount, container_path, tokens_of
from rlm.errors import DocumentError
from rlm.formats import FORMATS, suffix, unpacked_name
from rlm.text_cache import FileIdentity, TextCache
from rlm.text_entries import Entry, StoredText

SLOW_BYTES = 256 * 1024 * 1024
"""A file of that size takes so long to read that it is told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text that the session reads: a document itself, or what was made of one, or of a part of it.

    `inside` is its path in the folder of texts, empty for a document that is read as it is. `lines` is -1
    while the count is not known.
    """

    name: str
    document: Document
    kind: str
    encoding: str
    size_bytes: int
    lines: int
    preview: str
    inside: str = ""

    @property
    def tokens(self) -> int:
        """An estimate."""
        return tokens_of(self.size_bytes, self.encoding)

    def to_spec(self, plan: Sequence[Mount]) -> dict[str, object]:
        """What the worker is told of it: the fields of `sandbox.textfile.DocumentSpec`."""
        original = container_path(self.document, plan)
        return {
            "name": self.name,
            "path": f"{TEXTS}/{self.inside}" if self.inside else original,
            "source": str(self.document.path),
            "size_bytes": self.size_bytes,
            "mtime_ns": self.document.mtime_ns,
            "encoding": self.encoding,
            "kind": self.kind,
            "original": original if self.inside else "",
            "mark": FORMATS[self.kind].mark if self.inside else "",
            "lines": self.lines,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`problems` says by document name why there is no text of it; `notes` what to tell of those made."""

    texts: tuple[Text, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


async def prepare(
    documents: Sequence[Document],
    *,
    cache: TextCache,
    folder: Path,
    open_box: OpenBox,
    tell: Callable[[str], None],
) -> Prepared:
    """The texts of these documents; those that the cache does not have are made, with `tell` of how it goes.

    `folder` is what the container sees at `TEXTS`: it holds these texts and no others afterwards. Raises
    `SandboxError` when no container can be started.
    """
    files = [document for document in documents if not document.is_text]
    problems: dict[str, str] = {}
    entries = await asyncio.to_thread(_known, files, cache)
    unknown = [document for document in files if document.name not in entries]
    keys = await _keys(unknown, cache, problems, tell)
    found = await asyncio.to_thread(cache.find_all, keys.values())
    entries |= {name: found[key] for name, key in keys.items() if key in found}
    keys |= {name: entry.key for name, entry in entries.items()}
    notes: list[str] = []
    missing = [document for document in unknown if document.name in keys and document.name not in entries]
    if missing:
        first = {keys[document.name]: document for document in reversed(missing)}
        once = [document for document in missing if first[keys[document.name]] is document]
        made = await make_texts(once, keys, cache=cache, open_box=open_box, tell=tell)
        for document in missing:
            outcome = made[first[keys[document.name]].name]
            if isinstance(outcome, Entry):
                entries[document.name] = outcome
                notes += _notes(document.name, outcome)
            else:
                problems[document.name] = outcome
        await asyncio.to_thread(cache.make_room, 0, keep=set(keys.values()))
    exposed = await asyncio.to_thread(cache.expose, folder, list(entries.values()))
    inside = {path: shown.relative_to(folder).as_posix() for path, shown in exposed.items()}
    texts = _texts(documents, entries, cache=cache, inside=inside)
    return Prepared(texts=tuple(texts), problems=problems, notes=tuple(notes))


def known_texts(documents: Sequence[Document], *, cache: TextCache) -> list[Text]:
    """The texts that are there already, for display: where the container sees them is not told."""
    files = [document for document in documents if not document.is_text]
    return _texts(documents, _known(files, cache), cache=cache, inside={})


def _known(files: Sequence[Document], cache: TextCache) -> dict[str, Entry]:
    """By name, what the cache has of files without reading them."""
    entries = cache.find_many([(identity_of(document), options_of(document)) for document in files])
    return {document.name: entry for document, entry in zip(files, entries, strict=True) if entry}


def _texts(
    documents: Iterable[Document], entries: dict[str, Entry], *, cache: TextCache, inside: dict[Path, str]
) -> list[Text]:
    """In the documents' order, each with a name of its own."""
    texts: dict[str, Text] = {}
    documents = list(documents)
    counts = cache.lines_of([identity_of(document) for document in documents if document.is_text])
    for document in documents:
        entry = entries.get(document.name)
        if document.is_text:
            found = [_plain(document, lines=counts.get(identity_of(document)))]
        else:
            found = [_made(document, stored, inside) for stored in entry.texts] if entry else []
        for text in found:
            name, number = text.name, 2
            while name in texts:
                name, number = f"{text.name} ({number})", number + 1
            texts[name] = replace(text, name=name)
    return list(texts.values())


def _plain(document: Document, *, lines: int | None) -> Text:
    return Text(
        name=document.name,
        document=document,
        kind=document.kind,
        encoding=document.encoding,
        size_bytes=document.size_bytes,
        lines=-1 if lines is None else lines,
        preview=document.preview,
    )


def _made(document: Document, stored: StoredText, inside: dict[Path, str]) -> Text:
    return Text(
        name=f"{document.name}/{stored.name}" if stored.name else document.name,
        document=document,
        kind=stored.kind,
        encoding="utf-8",
        size_bytes=stored.size_bytes,
        lines=stored.lines,
        preview=stored.preview,
        inside=inside.get(stored.path, ""),
    )


async def _keys(
    documents: Sequence[Document], cache: TextCache, problems: dict[str, str], tell: Callable[[str], None]
) -> dict[str, str]:
    """By name, the cache's keys; why there is none goes into `problems`, as what follows the name."""
    keys = {}
    for document in documents:
        if document.size_bytes >= SLOW_BYTES:
            tell(f"reading {document.name}, {document.size_bytes / 1e6:,.0f} MB")
        try:
            keys[document.name] = await asyncio.to_thread(
                cache.key_of, document.path, options=options_of(document)
            )
        except DocumentError as error:
            said = str(error).removeprefix(f"{document.path} ")
            problems[document.name] = f"{said} {error.hint}".strip()
    return keys


def identity_of(document: Document) -> FileIdentity:
    """What the cache knows the file by."""
    return FileIdentity(document.device, document.inode, document.size_bytes, document.mtime_ns)


def options_of(document: Document) -> str:
    """What besides its contents decides which texts a file becomes."""
    inside = suffix(unpacked_name(document.file_name)) if document.format.packed else ""
    return f"{document.kind} {inside} {document.given_encoding}"


def _notes(name: str, entry: Entry) -> list[str]:
    notes = [f"{name}: {entry.note}"] if entry.note else []
    if entry.skipped_total:
        first = ", ".join(f"{skipped} ({reason})" for skipped, reason in entry.skipped[:3])
        more = f" and {entry.skipped_total - 3:,} more" if entry.skipped_total > 3 else ""
        notes.append(f"{name}: left out are {first}{more}")
    return notes
