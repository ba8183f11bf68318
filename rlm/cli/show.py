"""Lines about documents that several commands print."""

from collections.abc import Iterator, Sequence

from rlm.documents import Document
from rlm.ui.numbers import count, size

PREVIEW_LINES = 4


def document_line(document: Document) -> str:
    """`meetings.txt  9.0 MB · utf-8 · about 2.3M tokens`"""
    facts = [size(document.size_bytes)]
    facts.append(
        f"{document.compression} of {document.encoding}" if document.compression else document.encoding
    )
    if document.tokens is not None:
        facts.append(f"about {count(document.tokens)} tokens")
    return f"{document.name}  {' · '.join(facts)}"


def document_lines(documents: Sequence[Document], *, most: int) -> Iterator[str]:
    """A line for each document and, when they are few, the beginning of each."""
    for document in documents[:most]:
        yield document_line(document)
        if len(documents) <= 3:
            yield from (f"    {line}" for line in document.preview.splitlines()[:PREVIEW_LINES])
    if len(documents) > most:
        total = sum(document.size_bytes for document in documents)
        yield f"… and {len(documents) - most:,} more; {size(total)} in all"
