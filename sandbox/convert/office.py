"""The text of Word documents, presentations and spreadsheets. It looks at no images, charts or comments.

What a document counts by itself, the numbers of headings and list items, is in no file and so in no text.
"""

import re
import zipfile
from collections.abc import Collection, Iterator
from typing import Any

import docx
import pptx
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.oxml.ns import qn
from docx.oxml.parser import parse_xml

from sandbox.convert.output import ConvertError, Write
from sandbox.convert.sheets import ENCRYPTED, write_sheets

Element = Any
"""An element of lxml, which has no types."""

MAX_XML_BYTES = 512 * 1024**2
"""How much XML a document may hold, unpacked: all of it is parsed at once."""
ROW_EMU = 228_600
"""Shapes whose tops lie in the same quarter of an inch are read from left to right."""

_OLE2 = b"\xd0\xcf\x11\xe0"
_ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")
_NO_TEXT = "holds no text: it may be images only, which need OCR first"


def convert_xlsx(path: str, write: Write) -> None:
    """Write each sheet: a line `[sheet "Budget", 120 rows]`, then its rows, the cells separated by tabs.

    Reads xlsx, xlsm, xlsb, xls and ods. Raises `ConvertError` when it cannot.
    """
    if _is_encrypted(path):
        raise ConvertError(ENCRYPTED)
    write_sheets(path, write)


# -- presentations


def convert_pptx(path: str, write: Write) -> None:
    """Write each slide: a line `[slide 4 of 20]`, the text from top to bottom, then the notes if any.

    Raises `ConvertError` when it is encrypted, unpacks to too much or holds no text, and whatever
    python-pptx does when it is damaged.
    """
    _check_package(path, kind="presentation", save_as="pptx")
    try:
        slides = pptx.Presentation(path).slides
    except ValueError as error:
        raise ConvertError("is not a presentation: open it in its own program and save it as pptx") from error
    held, found = "", False
    for number, slide in enumerate(slides, 1):
        held += f"[slide {number} of {len(slides)}]\n"
        lines = [line for shape in _in_reading_order(slide.shapes) for line in _shape_lines(shape)]
        notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
        if notes is not None and notes.text.strip():
            lines += ["Notes:", *_lines(notes.text)]
        found = found or bool(lines)
        if found:  # until then nothing is written, so that a file of images leaves nothing behind
            write(held + "".join(f"{line}\n" for line in lines))
            held = ""
    if not found:
        raise ConvertError(_NO_TEXT)


def _in_reading_order(shapes: Any) -> list[Any]:
    return sorted(shapes, key=lambda shape: ((shape.top or 0) // ROW_EMU, shape.left or 0))


def _shape_lines(shape: Any) -> Iterator[str]:
    if hasattr(shape, "shapes"):  # a group
        for inner in _in_reading_order(shape.shapes):
            yield from _shape_lines(inner)
    elif shape.has_text_frame:
        yield from _lines(shape.text_frame.text)
    elif getattr(shape, "has_table", False):
        for row in shape.table.rows:
            yield " | ".join(" ".join(cell.text.split()) for cell in row.cells)


def _lines(text: str) -> list[str]:
    lines = (line.rstrip() for line in text.replace("\v", "\n").split("\n"))
    return [line for line in lines if line]


# -- Word documents

_P, _TBL, _TR, _TC = qn("w:p"), qn("w:tbl"), qn("w:tr"), qn("w:tc")
_TEXT = {qn("w:t"), "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"}
_SIGNS = {
    qn("w:tab"): "\t",
    qn("w:ptab"): "\t",
    qn("w:br"): "\n",
    qn("w:cr"): "\n",
    qn("w:noBreakHyphen"): "-",
}
_REFERENCES = {qn("w:footnoteReference"): "", qn("w:endnoteReference"): "e"}
_PASSED_OVER = {
    qn("w:pPr"),
    qn("w:rPr"),
    qn("w:sectPr"),
    qn("w:del"),
    qn("w:moveFrom"),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",  # what it says was said before
}


def convert_docx(path: str, write: Write) -> None:
    """Write the body, a paragraph a line, then the footnotes, then headers and footers once.

    Headings begin with `#`, list items with `- `; the cells of a table row are separated by ` | `. What was
    deleted or moved away under tracked changes is left out. Raises `ConvertError` when it is encrypted,
    unpacks to too much or holds no text, and whatever python-docx does when it is damaged.
    """
    _check_package(path, kind="Word document", save_as="docx")
    try:
        document = docx.Document(path)
    except ValueError as error:
        raise ConvertError(
            "is not a Word document: open it in its own program and save it as docx"
        ) from error
    prefixes = _style_prefixes(document.styles.element)
    found = False
    for line in _block_lines(document.element.body, prefixes):
        write(line + "\n")
        found = True
    notes = [
        *_notes(document, "FOOTNOTES", "w:footnote"),
        *_notes(document, "ENDNOTES", "w:endnote", mark="e"),
    ]
    edges = [
        line
        for name in ("HEADER", "FOOTER")
        for part in _related(document, name)
        for line in _block_lines(part)
    ]
    for title, lines in (("[footnotes]", notes), ("[header and footer]", list(dict.fromkeys(edges)))):
        if lines:
            write("\n".join([title, *lines, ""]))
            found = True
    if not found:
        raise ConvertError(_NO_TEXT)


def _notes(document: Any, relationship: str, tag: str, *, mark: str = "") -> Iterator[str]:
    for part in _related(document, relationship):
        for note in part.iterchildren(qn(tag)):
            text = " ".join(_block_lines(note))
            if text and note.get(qn("w:type")) is None:  # the others are the lines that separate notes
                yield f"[^{mark}{note.get(qn('w:id'))}] {text}"


def _related(document: Any, name: str) -> Iterator[Element]:
    """The root elements of the parts that stand in this relationship to the document."""
    for relation in document.part.rels.values():
        if relation.reltype == getattr(RELATIONSHIP_TYPE, name) and not relation.is_external:
            yield parse_xml(relation.target_part.blob)


def _nearest(element: Element, tags: Collection[str]) -> Iterator[Element]:
    """The descendants with one of these tags, in order, that are not inside of one another."""
    for child in element.iterchildren("*"):
        if child.tag in tags:
            yield child
        elif child.tag not in _PASSED_OVER:
            yield from _nearest(child, tags)


def _block_lines(element: Element, prefixes: dict[str, str] | None = None) -> Iterator[str]:
    """The paragraphs and table rows in an element that are not empty."""
    for block in _nearest(element, (_P, _TBL)):
        if block.tag == _P:
            text = "".join(_inline(block)).strip("\n")
            if text.strip():
                yield _prefix(block, prefixes or {}) + text
        else:
            yield from filter(None, map(_row, _nearest(block, (_TR,))))


def _row(row: Element) -> str:
    cells = [" ".join(" ".join(_block_lines(cell)).split()) for cell in _nearest(row, (_TC,))]
    return " | ".join(cells) if any(cells) else ""


def _inline(element: Element) -> Iterator[str]:
    """The text in a paragraph, piece by piece; a text box is set off by line ends."""
    for child in element.iterchildren("*"):
        tag = child.tag
        if tag in _TEXT:
            yield child.text or ""
        elif tag in _SIGNS:
            yield _SIGNS[tag]
        elif tag in _REFERENCES:
            yield f"[^{_REFERENCES[tag]}{child.get(qn('w:id'))}]"
        elif tag in (_P, _TR):
            yield "\n"
            yield "".join(_inline(child)) if tag == _P else _row(child)
        elif tag not in _PASSED_OVER:
            yield from _inline(child)


def _prefix(paragraph: Element, prefixes: dict[str, str]) -> str:
    properties = paragraph.pPr
    if properties is None:
        return ""
    from_style = prefixes.get(properties.style or "", "")
    if from_style.startswith("#"):
        return from_style
    return _properties_prefix(properties) or from_style


def _style_prefixes(styles: Element) -> dict[str, str]:
    """What begins a paragraph, by the id of its style: as the style says, or one that it is based on."""
    own: dict[str, tuple[str, str | None]] = {}
    for style in styles.iterchildren(qn("w:style")):
        name = (style.name_val or "").lower()
        heading = re.fullmatch(r"heading ([1-9])", name)
        if heading or name == "title":
            prefix = "#" * (int(heading[1]) if heading else 1) + " "
        else:
            properties = style.find(qn("w:pPr"))
            prefix = _properties_prefix(properties) if properties is not None else ""
            prefix = prefix or ("- " if re.match(r"list (bullet|number)", name) else "")
        base = style.find(qn("w:basedOn"))
        own[style.styleId] = (prefix, None if base is None else base.get(qn("w:val")))
    return {name: _inherited(name, own) for name in own}


def _inherited(name: str | None, own: dict[str, tuple[str, str | None]]) -> str:
    seen = set()
    while name in own and name not in seen:
        seen.add(name)
        prefix, name = own[name]
        if prefix:
            return prefix
    return ""


def _properties_prefix(properties: Element) -> str:
    """`## ` for an outline level, `- ` indented for an item of a list, else nothing."""
    level = _value(properties, "w:outlineLvl")
    if level is not None and 0 <= level < 9:  # 9 is the level of ordinary text
        return "#" * (level + 1) + " "
    if _value(properties, "w:numPr", "w:numId"):  # 0 takes a paragraph out of its list
        return "  " * min(_value(properties, "w:numPr", "w:ilvl") or 0, 8) + "- "
    return ""


def _value(element: Element, *path: str) -> int | None:
    found = element.find("/".join(map(qn, path)))
    return None if found is None else int(found.get(qn("w:val")) or 0)


# -- what could do harm


def _check_package(path: str, *, kind: str, save_as: str) -> None:
    """Raise `ConvertError` unless the file is a zip archive that unpacks to no more XML than can be parsed.

    The sizes are what the archive says of itself; where it lies, the memory limit is what is left.
    """
    with open(path, "rb") as file:
        old = file.read(len(_OLE2)) == _OLE2
    if old:
        raise ConvertError(
            ENCRYPTED if _is_encrypted(path) else f"is an old {kind}: save it as {save_as} and load it again"
        )
    with zipfile.ZipFile(path) as archive:
        size = sum(m.file_size for m in archive.infolist() if m.filename.lower().endswith((".xml", ".rels")))
    if size > MAX_XML_BYTES:
        raise ConvertError(
            f"unpacks to {size / 1024**2:,.0f} MB of XML, more than the {MAX_XML_BYTES // 1024**2} MB that "
            "can be read: split it, or save it as text"
        )


def _is_encrypted(path: str) -> bool:
    """Whether it is an OLE2 file that wraps an encrypted Office document."""
    with open(path, "rb") as file:
        data = file.read(1024**2)
        if not data.startswith(_OLE2):
            return False
        while data:
            if _ENCRYPTED_STREAM in data:
                return True
            tail = data[-len(_ENCRYPTED_STREAM) :]
            data = file.read(1024**2)
            data = tail + data if data else b""
    return False
