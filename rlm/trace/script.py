"""Writes the cells of a turn as one plain Python script: what ran stays code, what failed becomes comments.

Helpers that only the REPL has are named at the top, with what stands in for them. It runs nothing, and leaves
out the cells of child RLMs, which have namespaces of their own.
"""

import ast
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rlm.documents import Document
from rlm.trace.rows import Row
from rlm.ui.numbers import duration
from rlm.ui.sanitise import visible, visible_line

DOCUMENTS_LISTED = 50
READ = "Path({path!r}).read_bytes().decode({encoding!r})"
STAND_INS = {
    "FINAL": "def FINAL(value):\n    print(value)\n    raise SystemExit",
    "FINAL_VAR": "def FINAL_VAR(name):\n    print(globals()[name])\n    raise SystemExit",
    "SubCallError": "class SubCallError(Exception):\n    pass",
    "answers": "answers = []  # the answers of earlier turns",
    "buffers": "buffers = []",
    "history": "history = []  # the messages of the session",
    "outputs": "outputs = {}  # long outputs of earlier cells, by the number of the cell",
}
MISSING = (
    'def {name}(*args, **options):\n    raise NotImplementedError("{name} is a helper of the REPL of rlm")'
)
HELPERS = (
    "load_file load_files switch_to list_files remove_file peek lines grep count sql chunks chunk_indices "
    "add_buffer llm_query llm_query_batched llm_map rlm_query rlm_query_batched SHOW_VARS"
).split()
NAMES = {"context", "files", *STAND_INS, *HELPERS}
"""All that a cell can use without having made it."""


@dataclass(slots=True)
class _Cell:
    number: int
    prose: str
    code: str
    status: str = "did not run"
    error: str = ""
    duration_s: float | None = None
    problem: str = ""
    """Why its code cannot stand in the script."""

    def block(self) -> str:
        title = f"# %% In [{self.number}] · {self.status.replace('_', ' ')}"
        lines = [title if self.duration_s is None else f"{title} · {duration(self.duration_s)}"]
        lines += _comments(self.prose)
        lines += _comments(self.error)
        lines += [f"# {self.problem}"] if self.problem else []
        lines += _comments(self.code) if self.problem else [self.code.strip("\n")]
        return "\n".join(lines) + "\n"


def script(rows: Iterable[Row], documents: Sequence[Document] = (), *, active: str | None = None) -> str:
    """The script of the turn that `rows` (of `turn_rows`) tell; it compiles, whatever the cells hold.

    `documents` are those that the turn had, `active` the name of the one that was `context`.
    """
    rows = list(rows)
    cells = list(_cells(rows))
    body = ""
    used: set[str] = set()
    for cell in cells:
        cell.problem = cell.problem or _problem(body + cell.block())
        body += ("\n\n" if body else "") + cell.block()
        used |= set() if cell.problem else _used(cell.code)
    children = sum(row.get("event") == "ChildStarted" for row in rows)
    head = _head(rows, documents, used, children=children)
    return "\n".join([*head, *_stand_ins(used, documents, active)]) + f"\n\n{body}"


def _cells(rows: Iterable[Row]) -> Iterator[_Cell]:
    cell: _Cell | None = None
    for row in rows:
        if row.get("depth") or row.get("child"):
            continue
        if row.get("event") == "ReplyFinished":
            if cell:
                yield _judged(cell)
            code = row.get("code")
            number = row.get("cell") or row.get("step") or 0
            cell = _Cell(number, row.get("prose", ""), code) if code is not None else None
        elif row.get("event") == "CellFinished" and cell:
            cell.status, cell.error = visible_line(row.get("status", "")), row.get("error", "")
            cell.duration_s = row.get("duration_s")
    if cell:
        yield _judged(cell)


def _judged(cell: _Cell) -> _Cell:
    if cell.status not in ("ok", "final"):
        cell.problem = "Left out: it did not come to its end."
    return cell


def _problem(source: str) -> str:
    """Why `source` does not compile; empty when it does."""
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(source, "<script>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"Left out: it cannot stand in a script ({visible_line(str(error), 80)})."
    return ""


def _used(code: str) -> set[str]:
    """The names of the REPL that a cell reads and does not make itself."""
    names = [node for node in ast.walk(_parsed(code)) if isinstance(node, ast.Name)]
    made = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
    return (NAMES & {name.id for name in names}) - made


def _parsed(code: str) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(code)


def _head(rows: Sequence[Row], documents: Sequence[Document], used: set[str], *, children: int) -> list[str]:
    """Comments. Text that is not ours begins in the third line: before it could declare an encoding."""
    turn = next((row for row in rows if row.get("event") == "TurnStarted"), {})
    lines = [
        "# The cells of one turn of rlm, in the order in which they ran.",
        "# Run it with Python 3.11 or newer. It runs as you do, outside the sandbox: read it first.",
        "#",
        f"# Turn {turn.get('turn', '?')}, {visible_line(str(turn.get('ts', '')))[:19]}, question:",
        *_comments(turn.get("question", ""), indent="    "),
    ]
    if used:
        names = ", ".join(sorted(used))
        lines += ["#", f"# Of the REPL the cells use: {names}.", "# What stands in for these is below."]
    if children:
        lines += ["#", f"# Cells of child RLMs ({children}) are not here: they had namespaces of their own."]
    if documents:
        lines += ["#", "# Documents:"]
        lines += _comments("\n".join(map(_listed, documents[:DOCUMENTS_LISTED])), indent="    ")
    if len(documents) > DOCUMENTS_LISTED:
        lines.append(f"#     and {len(documents) - DOCUMENTS_LISTED:,} more")
    return lines


def _listed(document: Document) -> str:
    return f"{visible_line(document.name)}  {visible_line(str(document.path))}"


def _stand_ins(used: set[str], documents: Sequence[Document], active: str | None) -> Iterator[str]:
    texts = [document for document in documents if document.is_text]
    if used & {"context", "files"} and texts:
        yield "\nfrom pathlib import Path"
    for name in sorted(used):
        if name == "context":
            found = next((document for document in texts if document.name == active), None)
            text = _read(found) if found else f"''  # the text of {active or 'the active document'!r}"
            yield f"\ncontext = {text}"
        elif name == "files":
            rows = [f"    {document.name!r}: {_read(document)},\n" for document in texts[:DOCUMENTS_LISTED]]
            yield f"\nfiles = {{\n{''.join(rows)}}}"
        else:
            yield "\n" + (STAND_INS.get(name) or MISSING.format(name=name))


def _read(document: Document) -> str:
    return READ.format(path=str(document.path), encoding=document.encoding)


def _comments(text: str, *, indent: str = "") -> list[str]:
    lines = visible(text).strip("\n").split("\n") if text.strip() else []
    return [f"# {indent}{line}".rstrip() for line in lines]
