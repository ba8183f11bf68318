"""Which format a file is in, by its first bytes and its name. It parses none: converters do, in the sandbox.

The host and the sandbox share this module: the host says what a file is, and the sandbox finds the same of
what it takes out of an archive.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """`plain`: the file is text as it stands. `table`: rows that SQL can ask. `mark`: what its text is
    divided into, each part begun by a line such as `[page 3 of 12]`. `holds_files`: an archive.
    """

    label: str
    suffixes: tuple[str, ...] = ()
    plain: bool = False
    table: bool = False
    mark: str = ""
    holds_files: bool = False
    packed: bool = False


FORMATS: dict[str, Format] = {
    "text": Format(label="text", plain=True),
    "csv": Format(label="CSV", suffixes=(".csv",), plain=True, table=True),
    "tsv": Format(label="TSV", suffixes=(".tsv", ".tab"), plain=True, table=True),
    "json": Format(label="JSON", suffixes=(".json",), plain=True, table=True),
    "jsonl": Format(label="JSON Lines", suffixes=(".jsonl", ".ndjson"), plain=True, table=True),
    "parquet": Format(label="Parquet", suffixes=(".parquet",), table=True),
    "html": Format(label="HTML", suffixes=(".html", ".htm", ".xhtml")),
    "email": Format(label="e-mail", suffixes=(".eml",), mark="part"),
    "mbox": Format(label="mailbox", suffixes=(".mbox",), mark="message"),
    "pdf": Format(label="PDF", suffixes=(".pdf",), mark="page"),
    "docx": Format(label="Word document", suffixes=(".docx",)),
    "xlsx": Format(label="spreadsheet", suffixes=(".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), mark="sheet"),
    "pptx": Format(label="presentation", suffixes=(".pptx",), mark="slide"),
    "epub": Format(label="EPUB book", suffixes=(".epub",), mark="chapter"),
    "zip": Format(label="zip archive", suffixes=(".zip",), holds_files=True),
    "tar": Format(label="tar archive", suffixes=(".tar",), holds_files=True),
    "gz": Format(label="gzip", suffixes=(".gz", ".gzip", ".tgz", ".svgz"), packed=True),
    "bz2": Format(label="bzip2", suffixes=(".bz2", ".bzip2", ".tbz2", ".tbz", ".tb2"), packed=True),
    "xz": Format(label="xz", suffixes=(".xz", ".txz"), packed=True),
    "zst": Format(label="Zstandard", suffixes=(".zst", ".zstd", ".tzst", ".tzs"), packed=True),
}
"""Every kind of file that can be read."""

_BZ2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
"""What follows `BZh9` in bz2 (a block, or the end of an empty file) and in no text."""
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "pdf"),
    (b"PAR1\x15", "parquet"),
    (b"\x1f\x8b\x08", "gz"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
    *((b"BZh%d%s" % (level, block), "bz2") for level in range(1, 10) for block in _BZ2_BLOCKS),
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_ZIPPED = ("docx", "xlsx", "pptx", "epub")
_MIME_TYPES = {
    b"application/epub+zip": "epub",
    b"application/vnd.oasis.opendocument.spreadsheet": "xlsx",
}
"""What an archive of that kind names in its first member."""
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""A container for .xls, for older .doc and .ppt, and for Office files with a password."""
_BY_SUFFIX = {suffix: kind for kind, known in FORMATS.items() for suffix in known.suffixes}
_INSIDE = dict.fromkeys((".tgz", ".tbz2", ".tbz", ".tb2", ".txz", ".tzst", ".tzs"), ".tar") | {
    ".svgz": ".svg"
}
_PACKED_STARTS = tuple(magic for magic, _ in _MAGIC) + _ZIP + (_OLE,)

_MAIL_LINE = re.compile(rb"From \S{1,300} [^\n]{0,200}?\d\d:\d\d[^\n]{0,60}\n[A-Za-z-]+:")
"""The line before each message of a mailbox, and the beginning of the message's first header."""
_HTML_START = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{,2000}?-->\s*)?<(?:!doctype html|html)[\s>]", re.I | re.S
)


def kind_of(head: bytes, name: str) -> str:
    """The kind of a file that begins with `head` (at least 1,024 bytes of it), a key of `FORMATS`.

    What the bytes say goes before what the name says. `text` is also the answer for what nothing is known of:
    whether it is text at all, `text_probe` tells.
    """
    ending = suffix(name)
    named = _BY_SUFFIX.get(ending, "text")
    if head.startswith(_PACKED_STARTS):
        return _by_magic(head, named)
    if _is_tar(head, named=named == "tar"):
        return "tar"
    if named == "pdf" and b"%PDF-" in head[:1024]:  # some programs write something before it
        return "pdf"
    if FORMATS[named].plain:
        return _by_content(head, ending) if named == "text" else named
    return named if named in ("html", "email", "mbox") and head else "text"


def _by_magic(head: bytes, named: str) -> str:
    if head.startswith(_ZIP):
        if named in _ZIPPED:
            return named
        first = head[30:120].removeprefix(b"mimetype")
        return next((kind for mime, kind in _MIME_TYPES.items() if first.startswith(mime)), "zip")
    if head.startswith(_OLE):
        return named if named in _ZIPPED else "text"
    return next(kind for magic, kind in _MAGIC if head.startswith(magic))


def _by_content(head: bytes, ending: str) -> str:
    """`html` or `mbox` if that is what it begins like, else `text`."""
    if head.startswith(b"From ") and _MAIL_LINE.match(head):
        return "mbox"
    if not ending and _HTML_START.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "html"
    return "text"


def _is_tar(head: bytes, *, named: bool) -> bool:
    """Whether it begins with the header of a member, or as nothing but an archive without members does."""
    header = head[:512]
    if len(header) < 512 or not (named or header[257:262] == b"ustar"):
        return False
    if named and not header.strip(b"\0"):
        return True
    try:
        told = int(header[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    # The sum was made with spaces where it is written itself.
    return told == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def suffix(name: str) -> str:
    """The last suffix of a name, in lower case, with its dot. Dots and spaces at the end do not count."""
    stem, dot, end = name.rpartition("/")[2].rstrip(". ").rpartition(".")
    return f".{end.lower()}" if dot and stem.strip(".") else ""


def unpacked_name(name: str) -> str:
    """The name of what is in a compressed file: `a.csv.gz` → `a.csv`, `a.tgz` → `a.tar`."""
    end = suffix(name)
    if not FORMATS[_BY_SUFFIX.get(end, "text")].packed:
        return name
    return name.rstrip(". ")[: -len(end)] + _INSIDE.get(end, "")
