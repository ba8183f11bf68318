"""The text of a PDF, page by page, in the order that pdfium finds. It recognises no text in images."""

import logging
import os
from contextlib import closing, suppress

from pypdfium2 import PdfDocument, PdfiumError, raw

from sandbox.convert.output import ConvertError, Write

ENDING_BYTES = 64 * 1024
"""How much of the end of a file is searched for the end of the PDF: mail gateways append blanks and zeros."""

_BLANK = b"\0\t\n\f\r "
_DROPPED = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127, 0xFFFE, 0xFFFF])
"""Control characters, and U+FFFE: pdfium puts it where a word was hyphenated at the end of a line."""

logging.getLogger("pypdfium2").addHandler(logging.NullHandler())


def convert_pdf(path: str, write: Write) -> None:
    """Write the text of each page, begun by a line `[page 3 of 12]`, form fields included.

    A page without text has that line only. Only one page is in memory at a time. Raises `ConvertError` when
    the file is encrypted, cut off or damaged, or when no page holds text.
    """
    _require_ending(path)
    try:
        document = PdfDocument(path)
    except PdfiumError:
        raise ConvertError(_refusal(path)) from None
    with document:
        forms = document.get_formtype() != raw.FORMTYPE_NONE
        if forms:
            document.init_forms()
        held, found = "", False
        count = len(document)
        for number in range(count):
            try:
                text = _page_text(document, number, forms=forms)
            except PdfiumError:
                raise ConvertError(
                    f"is damaged: page {number + 1} of {count} cannot be read; "
                    "open it in a PDF viewer and print it to a new PDF"
                ) from None
            held += f"[page {number + 1} of {count}]\n{text}"
            found = found or bool(text)
            if found:  # until then nothing is written, so that a scan leaves nothing behind
                write(held)
                held = ""
    if not found:
        raise ConvertError("holds no text: it may be scanned images, which need OCR first")


def _page_text(document: PdfDocument, number: int, *, forms: bool) -> str:
    """The text of a page, counted from 0, its lines ended by newlines; empty if it has none."""
    if forms:
        with closing(document[number]) as page, suppress(PdfiumError):
            page.flatten()  # makes what is filled in a part of the page, seen when it is loaded again
    with closing(document[number]) as page, closing(page.get_textpage()) as text_page:
        text: str = text_page.get_text_range()
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_DROPPED).rstrip()
    return text + "\n" if text else ""


def _require_ending(path: str) -> None:
    """pdfium mends a PDF that was cut off and leaves out without a word what is missing."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - ENDING_BYTES, 0))
        if b"%%EOF" not in file.read().rstrip(_BLANK)[-1024:]:
            raise ConvertError("is cut off: the end of the PDF is missing; copy or download it again")


def _refusal(path: str) -> str:
    """Why a document that did not open does not open.

    One without pages opens, and leaves the error of an earlier document behind.
    """
    handle = raw.FPDF_LoadDocument(os.fsencode(path) + b"\0", None)
    if handle:
        raw.FPDF_CloseDocument(handle)
        return "holds no pages"
    match raw.FPDF_GetLastError():
        case raw.FPDF_ERR_PASSWORD:
            return "is encrypted: remove the password and load it again"
        case raw.FPDF_ERR_SECURITY:
            return "is protected in a way that cannot be read: save it without protection and load it again"
        case _:
            return "is damaged, or not a PDF; open it in a PDF viewer and print it to a new PDF"
