"""The documents of a namespace: which are known, which is active, and their texts, opened when needed.

Texts that nothing else refers to are let go when there are too many, so that any number of documents can be
gone through. It does not search: it tells which documents a search has to look at.
"""

import difflib
import errno
import os
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from sandbox.documents import Document, human_size, open_document
from sandbox.ripgrep import files_with
from sandbox.textfile import DocumentSpec

MOST_OPEN = 64
"""Documents kept open that nothing refers to, and as many that were opened for a search."""
TOGETHER_BYTES = 16 * 1024 * 1024
"""Files up to this size are looked through together; of a larger one ripgrep is started anyway."""
FIRST_BATCH_BYTES, LAST_BATCH_BYTES = 8 * 1024 * 1024, 1024 * 1024 * 1024
"""Batches grow, so that a search that soon has enough reads little."""
ARGUMENT_CHARS = 400 * 1024
"""Of paths on one command line: in UTF-8 that is below what Linux takes (2 MB)."""

UTF8 = ("utf-8", "utf-8-sig")


class Library(Mapping[str, Any]):
    """Name → text (`str`, or `Document` for a large one). What a cell knows as `files`.

    A text is the same object for as long as something refers to it. Others are kept as long as they fit
    `str_limit_bytes` together.
    """

    def __init__(self, *, str_limit_bytes: int) -> None:
        self._str_limit_bytes = str_limit_bytes
        self._specs: dict[str, DocumentSpec] = {}
        self._texts: OrderedDict[str, str | Document] = OrderedDict()
        self._kept_bytes = 0
        self._sweep_above = str_limit_bytes
        self._views: OrderedDict[str, Document] = OrderedDict()
        self.active: str | None = None

    def __getitem__(self, name: str) -> str | Document:
        """The text of a document. Raises KeyError with names that are near, OSError when it is unreadable."""
        if name not in self._texts:
            with _opening(name):
                text = open_document(self.spec(name), str_limit_bytes=self._str_limit_bytes)
            self._texts[name] = text
            self._kept_bytes += self._weight(text)
            if self._kept_bytes > self._sweep_above:
                self._sweep(but=name)
        self._texts.move_to_end(name)
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
            near = difflib.get_close_matches(str(name), self._specs, n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
            raise KeyError(f"no document {name!r}{hint} list_files() shows all")
        return self._specs[name]

    def names(self, wanted: str | Iterable[str]) -> list[str]:
        """The documents that `wanted` means: "all", a name, a pattern such as `logs/*.txt`, or several.

        Raises KeyError for what means none.
        """
        if wanted == "all":
            return list(self._specs)
        found: dict[str, None] = {}
        for one in [wanted] if isinstance(wanted, str) else wanted:
            if not isinstance(one, str):
                raise TypeError(f"files takes names and patterns such as '*.txt', not {type(one).__name__}")
            if one in self._specs or not any(char in one for char in "*?["):
                found[self.spec(one).name] = None
                continue
            matching = [name for name in self._specs if fnmatchcase(name, one)]
            if not matching:
                raise KeyError(f"no document matches {one!r}; list_files() shows all")
            found.update(dict.fromkeys(matching))
        return list(found)

    def view(self, name: str) -> str | Document:
        """What is searched: the mounted file where that is UTF-8 text, else the text itself."""
        spec = self.spec(name)
        if spec.encoding not in UTF8:
            return self[name]
        if name not in self._views:
            with _opening(name):
                self._views[name] = Document(spec, str_limit_bytes=self._str_limit_bytes)
            if len(self._views) > MOST_OPEN:
                self._views.popitem(last=False)
        self._views.move_to_end(name)
        return self._views[name]

    def that_may_match(self, names: Iterable[str], widened: str | None) -> Iterator[str]:
        """Those of the documents, in order, that may hold a line for a pattern of ripgrep's; None: all."""
        for batch in self._batches(names):
            paths = {self._specs[name].path: name for name in batch if self._goes_together(name)}
            found = files_with(widened, list(paths)) if widened is not None and len(paths) > 1 else None
            left_out = set() if found is None else {name for path, name in paths.items() if path not in found}
            yield from (name for name in batch if name not in left_out)

    def _batches(self, names: Iterable[str]) -> Iterator[list[str]]:
        most = FIRST_BATCH_BYTES
        batch: list[str] = []
        size = argument_size = 0
        for name in names:
            spec = self.spec(name)
            batch.append(name)
            size += spec.size_bytes
            argument_size += len(spec.path) + 16
            if size >= most or argument_size >= ARGUMENT_CHARS:
                yield batch
                batch, size, argument_size = [], 0, 0
                most = min(most * 8, LAST_BATCH_BYTES)
        if batch:
            yield batch

    def _goes_together(self, name: str) -> bool:
        """Whether a document is a small file of UTF-8; one that has become shorter is left to its search."""
        spec = self._specs[name]
        if spec.encoding not in UTF8 or spec.size_bytes > TOGETHER_BYTES:
            return False
        try:
            return os.stat(spec.path).st_size >= spec.size_bytes
        except OSError:
            return False

    def put(self, spec: DocumentSpec) -> None:
        if self._specs.get(spec.name) != spec:
            self._forget(spec.name)
        self._specs[spec.name] = spec

    def remove(self, name: str) -> None:
        self.spec(name)
        self._forget(name)
        del self._specs[name]
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
        """The texts that are kept. Left out are texts of a character or none: equal ones are one object."""
        return {n: text for n, text in self._texts.items() if isinstance(text, Document) or len(text) > 1}

    def mark_of(self, text: str | Document) -> str:
        """What marks a text of a document, by identity: `page`, `sheet`, …; empty for nothing."""
        return next((self._specs[name].mark for name, kept in self._texts.items() if kept is text), "")

    def rows(self) -> list[str]:
        """One line a document: name, size, where it is, and whether it is active."""
        return [
            f"{'* ' if name == self.active else '  '}{name}  {human_size(spec.size_bytes)}"
            f"{f' ({spec.kind})' if spec.kind != 'text' else ''}  {spec.source}"
            for name, spec in self._specs.items()
        ]

    def _weight(self, text: str | Document) -> int:
        """Bytes, or for a `Document` its share of those that may be open."""
        return sys.getsizeof(text) if isinstance(text, str) else self._str_limit_bytes // MOST_OPEN

    def _forget(self, name: str) -> None:
        self._views.pop(name, None)
        text = self._texts.pop(name, None)
        if text is not None:
            self._kept_bytes -= self._weight(text)

    def _sweep(self, *, but: str) -> None:
        """Let go of texts that nothing else refers to, the longest unused first, down to half the budget.

        It comes again when another half has been opened, however much must be kept.
        """
        unused = [
            name
            for name in self._texts
            if name not in (but, self.active) and sys.getrefcount(self._texts[name]) <= 2  # here and there
        ]
        unused_bytes = sum(self._weight(self._texts[name]) for name in unused)
        for name in unused:
            if unused_bytes <= self._str_limit_bytes // 2:
                break
            unused_bytes -= self._weight(self._texts[name])
            self._forget(name)
        self._sweep_above = self._kept_bytes + self._str_limit_bytes // 2


@contextmanager
def _opening(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise OSError(
            errno.EMFILE,
            f"too many files are open to open {name!r}: keep names of documents rather than their texts, "
            "and take files[name] when it is needed",
        ) from None
