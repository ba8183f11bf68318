"""The documents of a namespace: which are known, which is active, and their texts, opened when needed."""

from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.documents import Document, human_size, open_document
from sandbox.textfile import DocumentSpec


class Library(Mapping[str, Any]):
    """Name → text (`str`, or `Document` for a large one). What a cell knows as `files`."""

    def __init__(self, *, str_limit_bytes: int) -> None:
        self._str_limit_bytes = str_limit_bytes
        self._specs: dict[str, DocumentSpec] = {}
        self._texts: dict[str, str | Document] = {}
        self._views: dict[str, Document] = {}
        self.active: str | None = None

    def __getitem__(self, name: str) -> str | Document:
        """The text of a document. Raises KeyError with the names there are, OSError when it is unreadable."""
        if name not in self._texts:
            self._texts[name] = open_document(self.spec(name), str_limit_bytes=self._str_limit_bytes)
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __repr__(self) -> str:
        return f"<files: {', '.join(map(repr, list(self._specs)[:20]))}{', …' if len(self) > 20 else ''}>"

    def spec(self, name: str) -> DocumentSpec:
        if name not in self._specs:
            raise KeyError(f"no document {name!r}; there are: {', '.join(self._specs) or 'none'}")
        return self._specs[name]

    def view(self, name: str) -> str | Document:
        """What is searched: the mounted file where that is UTF-8 text, else the text itself."""
        spec = self.spec(name)
        if spec.compression or spec.encoding not in ("utf-8", "utf-8-sig"):
            return self[name]
        if name not in self._views:
            self._views[name] = Document(spec, str_limit_bytes=self._str_limit_bytes)
        return self._views[name]

    def put(self, spec: DocumentSpec) -> None:
        if self._specs.get(spec.name) != spec:
            self._texts.pop(spec.name, None)
            self._views.pop(spec.name, None)
        self._specs[spec.name] = spec

    def remove(self, name: str) -> None:
        self.spec(name)
        for kept in (self._specs, self._texts, self._views):
            kept.pop(name, None)
        if self.active == name:
            self.active = next(iter(self._specs), None)

    def find(self, path: str) -> str | None:
        """The name of the document that `path` means: its name, its path, or the end of its path."""
        if path in self._specs:
            return path
        wanted = path.removeprefix("./")
        ends = [
            spec.name for spec in self._specs.values() if f"/{spec.source}".endswith(f"/{wanted.lstrip('/')}")
        ]
        return ends[0] if len(ends) == 1 or (ends and path.startswith("/")) else None

    def opened(self) -> Mapping[str, str | Document]:
        """The texts that have been opened so far."""
        return self._texts

    def rows(self) -> list[str]:
        """One line a document: name, size, where it is, and whether it is active."""
        return [
            f"{'* ' if name == self.active else '  '}{name}  {human_size(spec.size_bytes)}"
            f"{f' ({spec.compression})' if spec.compression else ''}  {spec.source}"
            for name, spec in self._specs.items()
        ]
