"""The text of HTML pages and EPUB books. It runs no scripts, follows no links, and fetches nothing."""

import codecs
import os
import posixpath
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from inscriptis.css_profiles import CSS_PROFILES
from inscriptis.html_engine import Inscriptis
from inscriptis.model.config import ParserConfig
from lxml import etree, html

from rlm.text_probe import SAMPLE_BYTES, NotText, probe
from sandbox.convert.output import ConvertError, Write

MAX_LAYOUT_BYTES = 4 * 1024**2
"""Up to here a page is laid out with its tables aligned, at about 1 MB a second and 25 times its size."""
MAX_PADDED_CHARS = 32 * 1024**2
"""What tables may grow to when all their cells are made as wide as the widest."""
MAX_MEMBER_BYTES = 64 * 1024**2
"""How large a chapter may be, unpacked: one is in memory at a time."""
BLOCK_BYTES = 256 * 1024
TITLE_CHARS = 200

_LAYOUT = ParserConfig(css=CSS_PROFILES["strict"])
_DECLARED = re.compile(
    rb"""<\?xml[^>]*?\bencoding\s*=\s*["']([\w.:-]+)|<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.I
)
_WEB_CODEC = re.compile(
    r"utf-?8|us-ascii|ascii|latin-?1|iso-?8859-\d{1,2}|windows-\d{3,4}|cp\d{3,4}|koi8-[ru]|macintosh|tis-620"
    r"|gb2312|gbk|gb18030|big5(-hkscs)?|shift[_-]jis|x-sjis|euc-jp|euc-kr|ks_c_5601-1987|iso-2022-jp"
)
"""What a page can declare: Python knows codecs besides that unpack data or take very long."""
_MEANT = {
    "us-ascii": "cp1252",
    "ascii": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "macintosh": "mac_roman",
}
"""What browsers read under these names, which are declared more often than they are meant."""


@dataclass(frozen=True, slots=True)
class Page:
    """`heading` is its first h1 or h2, `title` what its head says; both one line, empty if there is none."""

    text: str
    title: str
    heading: str


def html_text(data: bytes | str, encoding: str = "") -> str:
    """The text of a page, tables aligned, links without their addresses.

    `encoding` is the codec of the bytes; if empty it is what the page declares, else detected. Raises
    `ConvertError` when the bytes are not text.
    """
    return _page(_decoded(data, encoding)).text


def convert_html(path: str, write: Write, encoding: str = "") -> None:
    """Write the title of a page, unless its text begins with it, and its text.

    A page of more than `MAX_LAYOUT_BYTES` is read in constant memory, and its tables are not aligned then.
    Raises `ConvertError` when it holds no text or is not text at all.
    """
    if os.path.getsize(path) > MAX_LAYOUT_BYTES:
        _stream(path, write, encoding)
        return
    with open(path, "rb") as file:
        page = _page(_decoded(file.read(), encoding))
    if not page.text and not page.title:
        raise ConvertError("holds no text: it may be made by a script when a browser shows it")
    if page.title and not " ".join(page.text[: 2 * TITLE_CHARS].split()).startswith(page.title):
        write(f"{page.title}\n\n")
    write(page.text)


def _stream(path: str, write: Write, encoding: str) -> None:
    with open(path, "rb") as file:
        head = file.read(SAMPLE_BYTES)
        decoder = codecs.getincrementaldecoder(encoding or _codec(head, whole=False))("replace")
        file.seek(0)
        flow = _Flow(write, show_title=True)
        parser = etree.HTMLParser(target=flow, encoding="utf-8", huge_tree=True)
        while data := file.read(BLOCK_BYTES):
            parser.feed(_clean(decoder.decode(data)))
        parser.feed(_clean(decoder.decode(b"", final=True)))
        parser.close()
    if not flow.found:
        raise ConvertError("holds no text: it may be made by a script when a browser shows it")


# -- from bytes to characters


def _decoded(data: bytes | str, encoding: str) -> str:
    if isinstance(data, str):
        return data
    whole = len(data) <= SAMPLE_BYTES
    return data.decode(encoding or _codec(data[:SAMPLE_BYTES], whole=whole), "replace")


def _codec(head: bytes, *, whole: bool) -> str:
    """The codec of a page: by its byte order mark, by what it declares, else by what the bytes are like."""
    if not head.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        found = _DECLARED.search(head[:4096])
        name = (found[1] or found[2]).decode("ascii", "replace").lower() if found else ""
        codec = _MEANT.get(name, name)
        if _WEB_CODEC.fullmatch(name) and (codec not in ("utf-8", "utf8") or _is_utf8(head, whole=whole)):
            try:
                return codecs.lookup(codec).name
            except LookupError:
                pass  # a number that no code page has
    try:
        return probe(head, whole=whole).encoding
    except NotText as error:
        raise ConvertError(f"is not a web page but {error.kind}") from None


def _is_utf8(head: bytes, *, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return True


def _clean(text: str) -> bytes:
    """UTF-8 for the parser, which takes neither NUL nor half a surrogate pair, without byte order marks."""
    return text.replace("\0", "").replace("\ufeff", "").encode("utf-8", "replace")


# -- from a page to its text


def _page(text: str) -> Page:
    data = _clean(text)
    if not data.strip():
        return Page("", "", "")
    if len(data) <= MAX_LAYOUT_BYTES:
        root = _tree(data)
        if root is None:
            return Page("", "", "")
        if _padded_chars(root) <= MAX_PADDED_CHARS:
            try:
                laid_out = Inscriptis(root, _LAYOUT).get_text()
            except RecursionError:
                pass  # nested too deeply for it
            else:
                lines = (line.rstrip() for line in laid_out.split("\n"))
                text = "\n".join(lines).strip("\n")
                text += "\n" if text else ""
                return Page(text, title=_first(root, "title"), heading=_first(root, "h1", "h2"))
    pieces: list[str] = []
    flow = _Flow(pieces.append)
    parser = etree.HTMLParser(target=flow, encoding="utf-8", huge_tree=True)
    parser.feed(data)
    parser.close()
    return Page("".join(pieces), flow.title, flow.heading)


def _tree(data: bytes) -> Any:
    try:
        return html.document_fromstring(data, parser=html.HTMLParser(encoding="utf-8", huge_tree=True))
    except etree.ParserError:  # nothing but comments, for example
        return None


def _first(root: Any, *tags: str) -> str:
    element = next(root.iter(*tags), None)
    return "" if element is None else one_line("".join(element.itertext(with_tail=False)))


def one_line(text: str) -> str:
    """Runs of white space as one blank, cut to `TITLE_CHARS`."""
    return " ".join(text.split())[:TITLE_CHARS]


def _padded_chars(root: Any) -> int:
    """At most so much becomes of the tables: cells are made as wide as the widest in their column."""
    cells = longest = position = 0
    starts: list[int] = []
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if event == "start":
            if element.tag in ("td", "th"):
                starts.append(position)
            position += len(element.text or "")
        else:
            if element.tag in ("td", "th"):
                cells += 1
                longest = max(longest, position - starts.pop())
            position += len(element.tail or "")
    return cells * longest


_HIDDEN = {"script", "style", "template", "title"}
_BREAKS = set(
    "address article aside blockquote body br caption dd details dialog div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol option p pre section summary table tbody tfoot "
    "thead tr ul".split()
)


class _Flow:
    """Takes the events of a parser and writes text: a line for each block, ` | ` between cells of a row.

    `title` and `heading` are as those of a `Page`; with `show_title` the text begins with the title.
    """

    def __init__(self, write: Write, *, show_title: bool = False) -> None:
        self._write = write
        self._show_title = show_title
        self._pieces: list[str] = []
        self._chars = 0
        self._hidden = self._kept = 0
        self._at_start, self._blank = True, False
        self._named: list[str] | None = None
        self.title = self.heading = ""
        self.found = False

    def start(self, tag: str, attributes: Any) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag in _BREAKS:
            self._end_line()
        elif tag in ("td", "th") and not self._at_start:
            self._put(" | ")
            self._blank = False
        if tag == "pre":
            self._kept += 1
        elif tag == "li":
            self._put("- ")
        if (tag == "title" and not self.title) or (tag in ("h1", "h2") and not self.heading):
            self._named = []

    def end(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(self._hidden - 1, 0)
        elif tag in _BREAKS:
            self._end_line()
        if tag == "pre":
            self._kept = max(self._kept - 1, 0)
        if self._named is not None and tag in ("title", "h1", "h2"):
            name, self._named = one_line("".join(self._named)), None
            if tag == "title":
                self.title = name
                if name and self._show_title and self._at_start:
                    self._put(f"{name}\n\n")
            else:
                self.heading = name

    def data(self, text: str) -> None:
        if self._named is not None and len(self._named) < TITLE_CHARS:
            self._named.append(text[:TITLE_CHARS])
        if self._hidden:
            return
        if self._kept:
            self._put(text)
            self._at_start = text.endswith("\n")
            return
        words = text.split()
        if words:
            blank = (self._blank or text[0].isspace()) and not self._at_start
            self._put((" " if blank else "") + " ".join(words))
            self._at_start = self._blank = False
        self._blank = self._blank or text[-1:].isspace()

    def close(self) -> None:
        self._end_line()
        self._flush()

    def _end_line(self) -> None:
        if not self._at_start:
            self._put("\n")
        self._at_start, self._blank = True, False

    def _put(self, text: str) -> None:
        self._pieces.append(text)
        self._chars += len(text)
        if self._chars >= BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        text = "".join(self._pieces)
        self._pieces, self._chars = [], 0
        self.found = self.found or bool(text.strip())
        if self.found:
            self._write(text)


# -- books

_XML = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
_DRM = "is protected by DRM: only the program that it was bought for can read it"


def convert_epub(path: str, write: Write) -> None:
    """Write each chapter in reading order: a line `[chapter 3: Title]` and its text.

    Tables of contents and files without text are left out. Raises `ConvertError` when the book is protected,
    damaged, or holds no text.
    """
    with zipfile.ZipFile(path) as archive:
        protected = _protected(archive)
        number = 0
        for name in _spine(archive):
            if name in protected:
                raise ConvertError(_DRM)
            page = _page(_decoded(_read(archive, name), ""))
            if page.text.strip():
                number += 1
                title = page.heading or page.title
                write(f"[chapter {number}{': ' if title else ''}{title}]\n{page.text}")
    if not number:
        raise ConvertError("holds no text: its pages may be images, which need OCR first")


def _spine(archive: zipfile.ZipFile) -> Iterator[str]:
    """The members with the chapters, in reading order and each once."""
    opf = next(
        (root.get("full-path") for root in _elements(archive, "META-INF/container.xml", "rootfile")), None
    )
    if not opf:
        raise ConvertError("is damaged, or not an EPUB book: META-INF/container.xml names no content")
    manifest: dict[str, str] = {}
    passed_over: set[str] = set()
    known = set(archive.namelist())
    for item in _elements(archive, opf, "item"):
        name = _member(opf, item.get("href"))
        manifest[item.get("id") or ""] = name
        if "nav" in (item.get("properties") or "").split():
            passed_over.add(name)
    for reference in _elements(archive, opf, "reference"):
        if reference.get("type") == "toc":
            passed_over.add(_member(opf, reference.get("href")))
    for reference in _elements(archive, opf, "itemref"):
        name = manifest.get(reference.get("idref") or "", "")
        if name in known and name not in passed_over:
            passed_over.add(name)
            yield name


def _member(opf: str, href: str | None) -> str:
    """The name of the member that an address in the package document means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(opf), unquote((href or "").partition("#")[0])))


def _protected(archive: zipfile.ZipFile) -> set[str]:
    if "META-INF/encryption.xml" not in archive.namelist():
        return set()
    covered = _elements(archive, "META-INF/encryption.xml", "CipherReference")
    return {posixpath.normpath(unquote(reference.get("URI") or "")) for reference in covered}


def _elements(archive: zipfile.ZipFile, name: str, tag: str) -> Iterator[Any]:
    """The elements of this name in an XML member, whatever their namespace."""
    try:
        root = etree.fromstring(_read(archive, name), etree.XMLParser(**_XML))
    except KeyError:
        raise ConvertError(f"is damaged, or not an EPUB book: {name[:TITLE_CHARS]} is missing") from None
    yield from root.iter(f"{{*}}{tag}")


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        data = file.read(MAX_MEMBER_BYTES + 1)
    if len(data) > MAX_MEMBER_BYTES:
        raise ConvertError(
            f"holds a chapter of more than {MAX_MEMBER_BYTES // 1024**2} MB: unpack it and load the folder"
        )
    return data
