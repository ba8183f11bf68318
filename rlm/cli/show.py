"""Lines about documents that several commands print."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rlm.documents import Document
from rlm.texts import Text
from rlm.ui.numbers import plural, size

PREVIEW_LINES = 4


def document_lines(documents: Sequence[Document], texts: Sequence[Text], *, most: int) -> Iterator[str]:
    """A line for each document and, when they are few, the beginning of each.

    `texts` are those that are known of them.
    """
    of = {name: list(rows) for name, rows in groupby(texts, key=lambda text: text.document.name)}
    for document in documents[:most]:
        yield document_line(document, of.get(document.name, []))
        if len(documents) <= 3:
            yield from _preview(document, of.get(document.name, []))
    if len(documents) > most:
        total = sum(document.size_bytes for document in documents)
        yield f"… and {len(documents) - most:,} more; {size(total)} in all"


def document_line(document: Document, texts: Sequence[Text]) -> str:
    """`meetings.txt  9.0 MB · utf-8 · 120,031 lines · about 2.3M tokens`"""
    facts = [size(document.size_bytes)]
    known = document.format
    if not document.is_text or known.table:
        facts.append(known.label)
    if document.encoding and known.plain:
        facts.append(document.encoding)
    if len(texts) > 1 or (known.holds_files and texts):
        facts.append(plural(len(texts), "text"))
    if texts and not document.is_text:
        facts.append(f"{size(sum(text.size_bytes for text in texts))} of text")
    if texts and all(text.lines >= 0 for text in texts):
        lines = sum(text.lines for text in texts)
        facts.append(f"{lines:,} {'line' if lines == 1 else 'lines'}")
    tokens = sum(text.tokens for text in texts) if texts else document.tokens
    if tokens:
        facts.append(f"about {plural(tokens, 'token')}")
    return f"{document.name}  {' · '.join(facts)}"


def _preview(document: Document, texts: Sequence[Text]) -> Iterator[str]:
    if len(texts) > 1:
        yield from (f"    {text.name}  {size(text.size_bytes)}" for text in texts[:PREVIEW_LINES])
        if len(texts) > PREVIEW_LINES:
            yield f"    … and {len(texts) - PREVIEW_LINES:,} more"
        return
    preview = texts[0].preview if texts else document.preview
    yield from (f"    {line}" for line in preview.splitlines()[:PREVIEW_LINES])
