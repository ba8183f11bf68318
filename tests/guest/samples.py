"""Makes the small files that tests convert, as bytes: PDF, Office documents, a book, a page, a message."""

import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from email.message import EmailMessage
from html import escape

import docx
import pptx
import xlsxwriter
from pptx.util import Inches

UNICODE = "Grüße, 世界 🦀 שלום مرحبا"
"""Latin, Chinese, an emoji, Hebrew and Arabic in one line."""

_RIGHT_TO_LEFT = re.compile("[\u0590-\u06ff]+")
"""Words that a PDF, which places glyphs from left to right, holds in reverse."""

Cell = object
"""What `make_xlsx` can put in a cell: text, a number, a truth value, a date or a time, or None."""


def make_zip(members: Mapping[str, bytes | str], *, stored: Iterable[str] = ()) -> bytes:
    """A zip archive of these members in this order, compressed except those `stored`."""
    plain = set(stored)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data, zipfile.ZIP_STORED if name in plain else zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def replace_in_zip(data: bytes, changed: Mapping[str, bytes | str]) -> bytes:
    """The archive with these members instead of its own, or added."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return make_zip({**{name: archive.read(name) for name in archive.namelist()}, **changed})


def make_pdf(pages: Sequence[str], *, encrypt: bool = False, field: str = "") -> bytes:
    """A PDF with one page for each text, its lines below one another, in any script.

    `encrypt` locks it with a password that nobody knows. `field` is what a form on the last
    page is filled in with.
    """
    font, codes = 3, {char: number for number, char in enumerate(sorted(set("".join(pages) + field)), 1)}
    first = 7
    kids = " ".join(f"{first + 2 * i} 0 R" for i in range(len(pages)))
    form = first + 2 * len(pages)
    objects = [
        "<< /Type /Catalog /Pages 2 0 R"
        + (f" /AcroForm << /Fields [{form} 0 R] >>" if field else "")
        + " >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>",
        "<< /Type /Font /Subtype /Type0 /BaseFont /Any /Encoding /Identity-H"
        " /DescendantFonts [4 0 R] /ToUnicode 6 0 R >>",
        "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Any /DW 500 /FontDescriptor 5 0 R"
        " /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        "<< /Type /FontDescriptor /FontName /Any /Flags 4 /FontBBox [0 0 500 1000] /ItalicAngle 0"
        " /Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >>",
        _pdf_stream(_pdf_unicode(codes)),
    ]
    resources = f"/Resources << /Font << /F {font} 0 R >> >>"
    for number, page in enumerate(pages):
        last = f" /Annots [{form} 0 R]" if field and number == len(pages) - 1 else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 1000 842] {resources}"
            f" /Contents {first + 2 * number + 1} 0 R{last} >>"
        )
        objects.append(_pdf_stream(_pdf_text(page, codes)))
    if field:
        objects.append(
            f"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (-) /F 4 /Rect [40 40 900 60]"
            f" /AP << /N {form + 1} 0 R >> >>"
        )
        box = f"/Type /XObject /Subtype /Form /BBox [0 0 860 20] {resources} "
        objects.append(_pdf_stream(_pdf_text(field, codes, top=4), box))
    return _pdf_file(objects, encrypt=encrypt)


def _pdf_stream(text: str, entries: str = "") -> str:
    return f"<< {entries}/Length {len(text)} >>\nstream\n{text}\nendstream"


def _pdf_text(text: str, codes: Mapping[str, int], top: int = 800) -> str:
    lines = (_RIGHT_TO_LEFT.sub(lambda word: word[0][::-1], line) for line in text.split("\n"))
    shown = (f"<{''.join(f'{codes[char]:04x}' for char in line)}> Tj T*" for line in lines)
    return f"BT /F 12 Tf 14 TL 40 {top} Td\n" + "\n".join(shown) + "\nET"


def _pdf_unicode(codes: Mapping[str, int]) -> str:
    rows = [
        f"1 beginbfchar <{n:04x}> <{char.encode('utf-16-be').hex()}> endbfchar" for char, n in codes.items()
    ]
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapType 2 def\n"
        "1 begincodespacerange <0000> <ffff> endcodespacerange\n" + "\n".join(rows) + "\nendcmap end end"
    )


def _pdf_file(objects: Sequence[str], *, encrypt: bool) -> bytes:
    data = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode("ascii")
    table = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    lock = ""
    if encrypt:
        unknown = "5a" * 32
        lock = (
            f" /ID [<00> <00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{unknown}> /U <{unknown}> >>"
        )
    data += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R{lock} >>\nstartxref\n{table}\n%%EOF\n".encode()
    return bytes(data)


def make_docx(blocks: Sequence[str | tuple[str, str] | list[list[str]]], *, header: str = "") -> bytes:
    """A Word document: texts are paragraphs, pairs are a style and a text, lists are the rows of a table."""
    document = docx.Document()
    for block in blocks:
        match block:
            case str():
                document.add_paragraph(block)
            case tuple():
                document.add_paragraph(block[1], block[0])
            case list():
                table = document.add_table(rows=0, cols=max(map(len, block)))
                for row in block:
                    for cell, text in zip(table.add_row().cells, row, strict=False):
                        cell.text = text
    if header:
        document.sections[0].header.paragraphs[0].text = header
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def make_xlsx(sheets: Mapping[str, Sequence[Sequence[Cell]]]) -> bytes:
    """A workbook: rows of cells from A1 on, by the names of the sheets."""
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer, {"in_memory": True, "default_date_format": "yyyy-mm-dd hh:mm"}) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
    return buffer.getvalue()


def make_pptx(slides: Sequence[Sequence[str]], *, notes: str = "") -> bytes:
    """A presentation: text boxes from top to bottom for each slide, and the speaker notes of the last."""
    presentation = pptx.Presentation()
    for texts in slides:
        slide = presentation.slides.add_slide(presentation.slide_layouts[6])
        for number, text in enumerate(texts):
            box = slide.shapes.add_textbox(Inches(1), Inches(1 + number), Inches(5), Inches(1))
            box.text_frame.text = text
        if notes and texts is slides[-1]:
            slide.notes_slide.notes_text_frame.text = notes
    buffer = io.BytesIO()
    presentation.save(buffer)
    return buffer.getvalue()


def make_html(title: str, body: str, *, charset: str = "utf-8") -> bytes:
    """A web page in the charset that it declares. `body` is HTML."""
    head = f'<meta charset="{charset}"><title>{escape(title)}</title>'
    return f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>".encode(charset)


_CONTAINER = (
    '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
    "</container>"
)


def make_epub(chapters: Mapping[str, str], *, drm: bool = False) -> bytes:
    """A book: chapters of HTML by their titles, and a table of contents. `drm` calls them encrypted."""
    names = [f"text/chapter {number}.xhtml" for number in range(1, len(chapters) + 1)]
    urls = [name.replace(" ", "%20") for name in names]
    items = "".join(
        f'<item id="c{i}" href="{url}" media-type="application/xhtml+xml"/>' for i, url in enumerate(urls)
    )
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(names)))
    opf = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0"><manifest>'
        '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
        f'{items}</manifest><spine><itemref idref="nav"/>{spine}</spine></package>'
    )
    pages = {
        f"OEBPS/{name}": '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml">'
        f"<head><title>{escape(title)}</title></head><body>{body}</body></html>"
        for name, (title, body) in zip(names, chapters.items(), strict=True)
    }
    members = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": _CONTAINER,
        "OEBPS/book.opf": opf,
        "OEBPS/nav.xhtml": "<html><body><nav>the table of contents</nav></body></html>",
        **pages,
    }
    if drm:
        covered = "".join(f'<CipherReference URI="OEBPS/{url}"/>' for url in urls)
        members["META-INF/encryption.xml"] = f"<encryption>{covered}</encryption>"
    return make_zip(members, stored=["mimetype"])


def make_eml(text: str, *, subject: str = "Hello", attachments: Mapping[str, bytes] | None = None) -> bytes:
    """A message from Ann to Bob with files attached."""
    message = EmailMessage()
    message["From"], message["To"] = "Ann <ann@example.org>", "Bob <bob@example.org>"
    message["Date"], message["Subject"] = "Tue, 02 Jan 2024 03:04:05 +0000", subject
    message.set_content(text)
    for name, data in (attachments or {}).items():
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return bytes(message)
