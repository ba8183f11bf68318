"""What a cell can call: the reserved names, their state, and how they are put back after each cell.

Everything here acts inside the container, but for three requests that go to the host: sub-calls, a file
that is not among the documents, and the messages of the session.
"""

import dataclasses
import difflib
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rlm.protocol import AGREED, LoadFile
from rlm.text_probe import codec_name
from sandbox import chunks as chunking
from sandbox import search
from sandbox.blobs import BlobReader
from sandbox.cell import Finished, NextStep
from sandbox.documents import Document, text_lines
from sandbox.final import FinalValue, as_final
from sandbox.history import History
from sandbox.library import Library
from sandbox.link import Link, RequestFailed
from sandbox.listing import Shown, describe, table
from sandbox.output import SHOWN_CHARS, Output
from sandbox.pieces import CONTEXT, OpenPiece, Piece, open_piece, reference_of
from sandbox.snapshot import Reference, load
from sandbox.subcalls import SubCaller, SubCallError
from sandbox.tables import Table, Tables
from sandbox.textfile import DocumentSpec
from sandbox.widen import widen

OUTPUTS_CHARS = 16 * 1024 * 1024

Text = str | Document


@dataclass(slots=True)
class _State:
    """What belongs to the namespace besides its variables."""

    answers: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    outputs: dict[int, str] = field(default_factory=dict)


class Workspace:
    """The namespace and the helpers in it. `memory_bytes` is the worker's share of the container's.

    `str_limit_bytes`: up to there `context` is a real str.
    """

    def __init__(
        self, link: Link, namespace: dict[str, Any], *, str_limit_bytes: int, memory_bytes: int
    ) -> None:
        self.namespace = namespace
        self._link = link
        self._library = Library(str_limit_bytes=str_limit_bytes)
        self._str_limit_bytes = str_limit_bytes
        self._context: Text = ""
        self._own_context = False
        self._piece: OpenPiece | None = None
        self._state = _State()
        self._final: FinalValue | None = None
        self._kept_final: Any = None
        self._subcalls = SubCaller(link, refer=self._refer)
        self._history = History(link)
        self._tables = Tables(self._queryable, active=lambda: self._library.active, memory_bytes=memory_bytes)
        self._helpers: dict[str, Any] = {
            helper.__name__: helper
            for helper in (
                self.load_file,
                self.load_files,
                self.switch_to,
                self.list_files,
                self.remove_file,
                self.peek,
                self.lines,
                self.grep,
                self.count,
                self._tables.sql,
                self.chunks,
                self.chunk_indices,
                self.add_buffer,
                self._subcalls.llm_query,
                self._subcalls.llm_query_batched,
                self._subcalls.llm_map,
                self._subcalls.rlm_query,
                self._subcalls.rlm_query_batched,
                self.FINAL,
                self.FINAL_VAR,
                self.SHOW_VARS,
            )
        }
        self._helpers |= {"files": self._library, "history": self._history, "SubCallError": SubCallError}
        self.restore_reserved()

    @property
    def active(self) -> str | None:
        return self._library.active

    # -- the worker's side

    def set_documents(self, rows: Iterable[dict[str, Any]], active: str | None) -> dict[str, str]:
        """Make documents known; returns what is wrong, by name. The active one is opened at once."""
        problems: dict[str, str] = {}
        specs = [DocumentSpec.from_json(row) for row in rows]
        for name in set(self._library) - {spec.name for spec in specs}:
            self._library.remove(name)
        for spec in specs:
            self._library.put(spec)
        try:
            self._activate(active if active in self._library else next(iter(self._library), None))
        except (OSError, MemoryError, LookupError) as error:
            problems[str(self._library.active)] = str(error)
        self.restore_reserved()
        return problems

    def set_context(self, text: str) -> None:
        """A child RLM's context that is no document's; it stays, whatever document is active."""
        self._context, self._own_context = text, True
        self.restore_reserved()

    def set_piece(self, reference: str) -> None:
        """A child RLM's context by reference, and the document it is of. Raises as `open_piece` does."""
        piece = Piece.from_json(reference)
        self._library.put(piece.document)
        if piece.is_whole:
            self._activate(piece.document.name)
        else:
            self._piece = open_piece(piece, str_limit_bytes=self._str_limit_bytes)
            self._library.active = piece.document.name
            self._context, self._own_context = self._piece.text, True
        self.restore_reserved()

    def _refer(self, value: Any) -> str:
        return reference_of(value, self._library, self._piece)

    def begin_cell(self) -> None:
        self._final = None
        self._subcalls.begin_cell()

    def end_cell(self, number: int, output: Output) -> str:
        """Keep a long output whole; returns the expression that has it, empty for a short one."""
        if output.total_chars <= SHOWN_CHARS:
            return ""
        outputs = self._state.outputs
        outputs[number] = output.whole()
        while len(outputs) > 1 and sum(map(len, outputs.values())) > OUTPUTS_CHARS:
            del outputs[next(iter(outputs))]
        return f"outputs[{number}]"

    def take_final(self) -> FinalValue | None:
        final, self._final = self._final, None
        if final:
            self._kept_final = final.value
        return final

    def keep_answer(self, text: str | None) -> None:
        """The turn is answered: by `text`, or with None by the last FINAL."""
        self._state.answers.append(self._kept_final if text is None else text)
        self._kept_final = None

    def reserved(self) -> dict[str, Any]:
        state = self._state
        return {
            **self._helpers,
            "context": self._context,
            "answers": state.answers,
            "buffers": state.buffers,
            "outputs": state.outputs,
        }

    def restore_reserved(self) -> list[str]:
        """Put the reserved names back; returns those that had been assigned to."""
        moved = []
        for name, value in self.reserved().items():
            if self.namespace.get(name) is not value:
                if name in self.namespace:
                    moved.append(name)
                self.namespace[name] = value
        return moved

    # -- snapshots

    def variables(self) -> dict[str, Any]:
        """What is the user's in the namespace: not reserved, no dunder, not `_`."""
        reserved = self.reserved()
        return {
            name: value
            for name, value in self.namespace.items()
            if name not in reserved and name != "_" and not (name.startswith("__") and name.endswith("__"))
        }

    def describe_variables(self) -> list[dict[str, str]]:
        """A row for each variable, and for `buffers` when there is something in them."""
        buffers = {"buffers": self._state.buffers} if self._state.buffers else {}
        return describe({**self.variables(), **buffers})

    def to_save(self) -> tuple[dict[str, Any], list[tuple[object, Reference]]]:
        """Values by name, and the objects saved by name only. A dot begins what is not a variable."""
        references: list[tuple[object, Reference]] = [
            *((helper, ("helper", name)) for name, helper in self._helpers.items()),
            *((text, ("document", name)) for name, text in self._library.opened().items()),
        ]
        state = self._state
        return {
            **self.variables(),
            ".answers": state.answers,
            ".buffers": state.buffers,
            ".outputs": state.outputs,
            ".active": self._library.active,
        }, references

    def resolve(self, reference: Reference) -> Any:
        kind, name = reference
        if kind == "helper":
            return self._helpers.get(name)
        try:
            return self._library[name]
        except (KeyError, OSError, MemoryError):
            return None  # the document is gone; that was told when the documents were set

    def restore(self, data: bytes, reader: BlobReader) -> tuple[list[str], list[tuple[str, str]]]:
        """Load a snapshot; returns the names of variables, and of those lost, with reasons.

        Raises whatever the snapshot raises, and leaves the namespace as it was.
        """
        before = dict(self.namespace)
        try:
            values, lost = load(data, self.resolve, reader, self.namespace)
        except BaseException:
            self.namespace.clear()
            self.namespace.update(before)
            raise
        state = self._state
        state.answers = values.pop(".answers", state.answers)
        state.buffers = values.pop(".buffers", state.buffers)
        state.outputs = values.pop(".outputs", state.outputs)
        active = values.pop(".active", None)
        if active in self._library:
            self._activate(active)
        self.namespace.update(values)
        self.restore_reserved()
        return list(values), lost

    # -- documents, as a cell calls them

    def load_file(
        self,
        path: str,
        name: str | None = None,
        replace_all: bool = False,  # noqa: FBT001, FBT002
        *,
        encoding: str | None = None,
        raw: bool = False,
    ) -> Text:
        """Load a document by name or path, make it active, return its text.

        `name` gives it another name; `replace_all` forgets all others. `encoding` reads it in that codec;
        `raw` reads the file itself where text was made of it (HTML, e-mail). Raises PermissionError for what
        the user has not agreed to, with how they can.
        """
        found = self._library.find(str(path)) or self._fetch(str(path))
        spec = self._library.spec(found)
        changed = _changed(spec, name=name, encoding=encoding, raw=raw)
        if changed != spec:
            self._library.put(changed)
            found = changed.name
        if replace_all:
            for other in set(self._library) - {found}:
                self._library.remove(other)
        return self.switch_to(found)

    def load_files(self, paths: Iterable[str]) -> list[Text]:
        """Load several; the last one is active."""
        return [self.load_file(path) for path in paths]

    def _fetch(self, path: str) -> str:
        request = self._link.new_request()
        try:
            reply = self._link.ask(LoadFile(request=request, path=path[:4000]), request)
        except RequestFailed as refused:
            kind = NextStep if AGREED in str(refused) else PermissionError
            raise kind(str(refused)) from None
        specs = [DocumentSpec.from_json(row) for row in json.loads(reply)]
        for spec in specs:
            self._library.put(spec)
        if not specs:
            raise FileNotFoundError(f"{path}: there is no text in it")
        return specs[0].name

    def switch_to(self, name: str) -> Text:
        """Make a document active; `context` is its text from here on. Returns the text.

        Where `context` is what a child RLM was given, it stays that.
        """
        self._library.spec(name)  # KeyError with near names when there is none
        self._activate(name)
        self.namespace["context"] = self._context
        return self._library[name] if self._own_context else self._context

    def _activate(self, name: str | None) -> None:
        self._library.active = name
        if not self._own_context:
            self._context = "" if name is None else self._library[name]

    def list_files(self) -> Shown:
        """All documents, one a line; a star marks the active one."""
        return Shown("\n".join(self._library.rows()) or "no documents")

    def remove_file(self, name: str) -> None:
        """Forget a document in this namespace. The file itself stays as it is."""
        self._library.remove(name)
        self._activate(self._library.active)
        self.namespace["context"] = self._context

    # -- reading

    def peek(self, start: int = 0, end: int = 2000) -> str:
        """Characters `start` to `end` of the active document."""
        return self._context[start:end]

    def lines(self, a: int = 1, b: int | None = None) -> str:
        """Lines `a` to `b` of the active document, counted from 1, both included; `b` defaults to a + 49."""
        return text_lines(self._context, a, a + 49 if b is None else b)

    def grep(
        self,
        pattern: str,
        max_matches: int = 100,
        context_lines: int = 0,
        *,
        ignore_case: bool = False,
        fixed: bool = False,
        files: str | Iterable[str] | None = None,
    ) -> search.Matches:
        """Search the active document, or those in `files`, line by line.

        `files` is "all", a name, a pattern such as "logs/*.txt", or a list of those. `fixed` takes the
        pattern literally. Stops after `max_matches`; `.total` is None then, unless it is quickly known.
        """
        compiled = search.compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed)
        names = self._searched(files)
        return search.gather(
            self._find(names, compiled, context_lines),
            compiled,
            max_matches,
            count=lambda: self._count(names, compiled),
            size_bytes=self._size_bytes(names),
        )

    def count(
        self,
        pattern: str,
        *,
        ignore_case: bool = False,
        fixed: bool = False,
        files: str | Iterable[str] | None = None,
    ) -> int:
        """How many matches there are, without listing them. Takes `files` as `grep` does."""
        compiled = search.compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed)
        return self._count(self._searched(files), compiled)

    def _searched(self, files: str | Iterable[str] | None) -> list[str] | None:
        """Names of documents; None for a context that is none."""
        if files is not None:
            return self._library.names(files)
        return None if self._own_context or self._library.active is None else [self._library.active]

    def _find(
        self, names: list[str] | None, pattern: re.Pattern[str], context_lines: int
    ) -> Generator[search.Match, None, None]:
        for text, name in self._that_may_match(names, pattern):
            yield from search.find_matches(text, pattern, name=name, context_lines=context_lines)

    def _count(self, names: list[str] | None, pattern: re.Pattern[str]) -> int:
        return sum(search.count_matches(text, pattern) for text, _ in self._that_may_match(names, pattern))

    def _that_may_match(
        self, names: list[str] | None, pattern: re.Pattern[str]
    ) -> Iterator[tuple[Text, str]]:
        if names is None:
            yield (self._piece and self._piece.view) or self._context, CONTEXT
            return
        for name in self._library.that_may_match(names, widen(pattern)):
            yield self._library.view(name), name

    def _size_bytes(self, names: list[str] | None) -> int:
        if names is None:
            return len(self._context)
        return sum(self._library.spec(name).size_bytes for name in names)

    def chunks(
        self,
        size: int | None = None,
        overlap: int = 0,
        by: Any = "chars",
        pattern: str | None = None,
        text: Text | None = None,
    ) -> chunking.Chunks:
        """Pieces of the active document, or of `text`, with `.id, .start, .end, .text, .mark`; lazy."""
        if pattern is not None and by == "chars":
            by = "regex"
        source = self._context if text is None else text
        active = None if self._own_context else self._library.active
        name = (active or CONTEXT) if text is None else "text"
        mark = self._library.mark_of(source)
        if self._piece and source is self._piece.text:
            mark = self._piece.piece.document.mark
        return chunking.chunks(source, size, overlap=overlap, by=by, pattern=pattern, name=name, mark=mark)

    def chunk_indices(self, size: int = 100_000, overlap: int = 0) -> list[tuple[int, int]]:
        """Start and end of pieces of the active document."""
        return chunking.chunk_indices(self._context, size, overlap=overlap)

    def add_buffer(self, text: Any) -> int:
        """Put a finding into `buffers`; returns how many there are."""
        self._state.buffers.append(text)
        return len(self._state.buffers)

    def _queryable(self) -> dict[str, Table]:
        """The documents as SQL sees them: a Parquet file itself, not the text that was made of it."""
        tables = {}
        for name in self._library:
            spec = self._library.spec(name)
            path = spec.original if spec.kind == "parquet" and spec.original else spec.path
            tables[name] = Table(path, spec.kind, spec.encoding)
        return tables

    # -- answering

    def FINAL(self, value: Any) -> None:  # noqa: N802 - the name is the paper's
        """The answer. Ends the cell and the turn."""
        self._final = as_final(value)
        raise Finished

    def FINAL_VAR(self, name: Any) -> None:  # noqa: N802
        """The value of the variable `name` is the answer. Ends the cell and the turn."""
        if not isinstance(name, str):
            self.FINAL(name)
        if name not in self.namespace:
            near = difflib.get_close_matches(name, list(self.variables()), n=3)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?" if near else "SHOW_VARS() lists what there is"
            )
            raise NameError(f"no variable {name!r}; {hint}")
        self.FINAL(self.namespace[name])

    def SHOW_VARS(self) -> Shown:  # noqa: N802
        """Your variables with type and size, one a line."""
        return table(self.describe_variables())

    def show(self, value: Any) -> str:
        """How the last expression of a cell is echoed: a whole document only by name and length."""
        for name, text in self._library.opened().items():
            if value is text and isinstance(text, str) and len(text) > SHOWN_CHARS:
                return f"<text of {name!r}: {len(text):,} characters; print a slice of it>"
        return repr(value)


def _changed(spec: DocumentSpec, *, name: str | None, encoding: str | None, raw: bool) -> DocumentSpec:
    """The document as it is asked for. Raises ValueError for an encoding that there is not."""
    if raw and spec.original:
        size_bytes = os.stat(spec.original).st_size
        raw_name = f"{spec.name} (raw)"
        spec = dataclasses.replace(
            spec, name=raw_name, path=spec.original, size_bytes=size_bytes, original="", mark="", lines=-1
        )
    if encoding is not None:
        spec = dataclasses.replace(spec, encoding=codec_name(encoding), lines=-1)
    return spec if name is None else dataclasses.replace(spec, name=name)
