"""Makes text of files, one at a time, in a container that is there for nothing else.

Each format is read by a module of its own, imported when the first file of its kind comes: so what reads a
gzip never loads what reads a PDF. Nothing here decides which files are read, or keeps any text.
"""

from rlm.formats import FORMATS
from sandbox.convert.output import ConvertError, Item, Output, Part, Write, as_convert_error

__all__ = ["ConvertError", "Item", "Output", "convert", "convert_document", "write_document"]

_PAGED = ("pdf", "docx", "pptx", "epub")
"""Kinds in which pages are often images."""


def convert(item: Item, output: Output) -> None:
    """Make text of a file. Raises `ConvertError`; what the sink has by then of the item is worth nothing."""
    if item.kind not in FORMATS:
        raise ConvertError(f"cannot be read: nothing is known of the kind {item.kind!r}")
    with as_convert_error(FORMATS[item.kind].label):
        if item.encoding:
            from sandbox.convert.plain import require_codec

            require_codec(item.encoding)
        _convert(item, output)


def _convert(item: Item, output: Output) -> None:
    known = FORMATS[item.kind]
    if known.plain:
        from sandbox.convert.plain import convert_plain

        convert_plain(item, output)
    elif known.packed:
        from sandbox.convert.packed import convert_packed

        convert_packed(item, output)
    elif known.holds_files:
        from sandbox.convert.archives import convert_archive

        convert_archive(item, output)
    else:
        with output.part(kind=item.kind) as part:
            convert_document(item.kind, item.path, part, encoding=item.encoding)


def convert_document(kind: str, path: str, part: Part, *, encoding: str = "") -> None:
    """Make one text of a file that is neither plain text nor an archive.

    Raises `ConvertError` when it holds none, and whatever its parser raises.
    """
    write_document(kind, path, part.write, encoding=encoding)
    if part.blank:
        raise ConvertError(f"holds no text{' (it may be scanned images)' if kind in _PAGED else ''}")


def write_document(kind: str, path: str, write: Write, *, encoding: str = "") -> None:
    """Write the text of a file, by what reads its kind. Raises whatever that raises."""
    match kind:
        case "pdf":
            from sandbox.convert.pdf import convert_pdf

            convert_pdf(path, write)
        case "docx":
            from sandbox.convert.office import convert_docx

            convert_docx(path, write)
        case "xlsx":
            from sandbox.convert.office import convert_xlsx

            convert_xlsx(path, write)
        case "pptx":
            from sandbox.convert.office import convert_pptx

            convert_pptx(path, write)
        case "html":
            from sandbox.convert.markup import convert_html

            convert_html(path, write, encoding)
        case "epub":
            from sandbox.convert.markup import convert_epub

            convert_epub(path, write)
        case "parquet":
            from sandbox.convert.rows import convert_parquet

            convert_parquet(path, write)
        case "email":
            from sandbox.convert.mail import convert_email

            convert_email(path, write)
        case "mbox":
            from sandbox.convert.mail import convert_mbox

            convert_mbox(path, write)
        case _:
            raise ConvertError(f"cannot be read: nothing reads the kind {kind!r}")
