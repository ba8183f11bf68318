"""The first message of a turn: the documents, the variables and the question, never the data.

It says nothing of earlier turns; `rlm.memory` does.
"""

from collections.abc import Iterable, Mapping, Sequence

from rlm import prompts
from rlm.formats import FORMATS
from rlm.records import Variable
from rlm.texts import Text

LISTED_DOCUMENTS = 30
LISTED_VARIABLES = 40


def opening(
    question: str,
    texts: Sequence[Text],
    *,
    active: str | None,
    lines: Mapping[str, int],
    variables: Sequence[Variable],
    notes: Iterable[str] = (),
) -> str:
    """The first message of a turn. `lines` has the line counts that are known, by name.

    `notes` are things to be told once: what a restore lost, say.
    """
    return prompts.fill(
        "question",
        documents=_documents(texts, active=active, lines=lines),
        namespace="\n".join([_namespace(variables), *notes]),
        question=question,
    )


def _documents(texts: Sequence[Text], *, active: str | None, lines: Mapping[str, int]) -> str:
    if not texts:
        return "No document is loaded; `context` is an empty str."
    rows = [f"Documents ({len(texts):,}):"]
    for text in texts[:LISTED_DOCUMENTS]:
        mark = " (active: this is `context`)" if text.name == active else ""
        rows.append(f"- {text.name!r}: {', '.join(_facts(text, lines.get(text.name, text.lines)))}{mark}")
        if len(texts) <= 5 and text.preview:
            rows += [f"    {line}" for line in text.preview.splitlines()[:4]]
    if len(texts) > LISTED_DOCUMENTS:
        size = sum(text.size_bytes for text in texts)
        rows.append(
            f"- … and {len(texts) - LISTED_DOCUMENTS:,} more, {size:,} bytes in all: list_files(), or "
            'grep(pattern, files="all")'
        )
    return "\n".join(rows)


def _facts(text: Text, lines: int) -> list[str]:
    known = text.document.format if text.inside else FORMATS[text.kind]
    facts = [f"text of a {known.label}" if text.inside else known.label if known.table else text.encoding]
    facts.append(f"{text.size_bytes:,} bytes")
    if lines >= 0:
        facts.append(f"{lines:,} lines")
    facts.append(f"about {text.tokens:,} tokens")
    own = FORMATS[text.kind]
    if own.mark and text.inside:
        facts.append(f"each {own.mark} begins with a line like [{own.mark} 1 …]")
    if own.table:
        facts.append("sql() can ask it")
    return facts


def _namespace(variables: Sequence[Variable]) -> str:
    if not variables:
        return "The namespace holds no variables yet."
    rows = ["Variables in the namespace:"]
    rows += [f"- {row.name}: {row.type}, {row.size}" for row in variables[:LISTED_VARIABLES]]
    if len(variables) > LISTED_VARIABLES:
        rows.append(f"- … and {len(variables) - LISTED_VARIABLES} more: SHOW_VARS()")
    return "\n".join(rows)
