"""Tells from a few samples of bytes whether a file is text, in which encoding, or what else it is.

It opens nothing and never sees more than the samples it is given. It knows enough of binary formats to name
them to a user, and parses none. The host and the sandbox share this module.
"""

import bz2
import codecs
import functools
import lzma
import re
import unicodedata
import zlib
from collections import Counter
from encodings.aliases import aliases
from typing import NamedTuple

from rlm.charsets import WESTERN, likely_encoding

SAMPLE_BYTES = 64 * 1024
PREVIEW_CHARS = 300
XZ_MEMORY_BYTES = 128 * 1024 * 1024
"""An xz header may ask for gigabytes before the first byte comes out; `xz -9` asks for 65 MiB."""

_CONVERT = "Save or export it as text or CSV first."
_UNPACK = "Unpack it and give the folder."
_UNOPENED = "It is not opened, since that can run code: save what it holds as text, CSV or JSON."
_EXPORT = "Export what it holds as CSV or Parquet first."
BINARY_KINDS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"SQLite format 3\x00", "a SQLite database", "Dump it first: sqlite3 FILE .dump > dump.sql"),
    (0, b"\x89PNG", "a PNG image", ""),
    (0, b"\xff\xd8\xff", "a JPEG image", ""),
    (0, b"\x7fELF", "a program (ELF)", ""),
    (0, b"\xca\xfe\xba\xbe", "a program (Java class or macOS)", ""),
    (0, b"\xcf\xfa\xed\xfe", "a program (macOS)", ""),
    (0, b"\0asm", "a program (WebAssembly)", ""),
    (0, b"\x89HDF", "an HDF5 file", _EXPORT),
    (0, b"\x93NUMPY", "a NumPy array", "It is not opened: save it as text, for example with numpy.savetxt."),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4", "Decompress it first: lz4 -d FILE"),
    (0, b"\x1f\x9d", "compressed by compress (.Z)", "Decompress it first: gzip -d FILE"),
    (0, b"\x5d\0\0", "compressed by lzma", "Decompress it first: xz -d FILE"),
    (0, b"Obj\x01", "an Avro file", _EXPORT),
    (0, b"\0\0\1\0", "an icon", ""),
    (0, b"\0\1\0\0Standard ", "an Access database", _EXPORT),
    (0, b"\xed\xab\xee\xdb", "an RPM package", _UNPACK),
    *((0, b"\x80%c" % version, "a Python pickle", _UNOPENED) for version in range(2, 6)),
)
"""(offset, magic, kind, hint) of formats whose first bytes no text has."""
BINARY_NAMES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"%PDF-", "a PDF", ""),
    (0, b"PK", "a zip archive", ""),
    (0, b"PAR1", "a Parquet file", ""),
    (257, b"ustar", "a tar archive", _UNPACK),
    (8, b"DUCK", "a DuckDB database", _EXPORT),
    (0, b"!BDN", "an Outlook mail folder (.pst)", "Export it as .mbox or .eml first."),
    (0, b"ARROW1", "an Arrow file", _EXPORT),
    (0, b"ORC", "an ORC file", _EXPORT),
    (0, b"CDF", "a NetCDF file", _EXPORT),
    (0, b"GIF8", "a GIF image", ""),
    (0, b"BM", "a BMP image", ""),
    (0, b"II*\0", "a TIFF image", ""),
    (0, b"MM\0*", "a TIFF image", ""),
    (0, b"8BPS", "a Photoshop image", ""),
    (0, b"wOF", "a font", ""),
    (0, b"OTTO", "a font", ""),
    (0, b"\0\1\0\0", "a font", ""),
    (0, b"MZ", "a program (Windows)", ""),
    (0, b"RIFF", "a sound, video or image (RIFF)", ""),
    (0, b"ID3", "a sound file (MP3)", ""),
    (0, b"\xff\xfb", "a sound file (MP3)", ""),
    (0, b"fLaC", "a sound file (FLAC)", ""),
    (0, b"OggS", "a sound or video (Ogg)", ""),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)", ""),
    (4, b"ftyp", "a video or image (MP4)", ""),
    (0, b"MSCF", "a cabinet archive", _UNPACK),
    (0, b"!<arch>", "a package or library (ar)", _UNPACK),
    (2, b"\r\r\n", "compiled Python", ""),
)
"""The same for formats whose first bytes a text could have: they only name what is known to be binary."""

_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLD_OFFICE_KINDS = (
    ("WordDocument", "an old Word document (.doc)", "Save it as .docx first."),
    ("PowerPoint Document", "an old presentation (.ppt)", "Save it as .pptx first."),
    ("Workbook", "an old spreadsheet", "Give it a name that ends in .xls, or save it as .xlsx."),
    ("__substg1.0_", "an Outlook message (.msg)", "Save it as .eml or as text first."),
    ("EncryptedPackage", "an encrypted Office document", "Remove its password first."),
)
"""What a file of that family holds by that name, kind and hint."""


class NotText(Exception):
    """`kind` names what it is, `hint` what could be done."""

    def __init__(self, kind: str, hint: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.hint = hint


class Probe(NamedTuple):
    encoding: str
    preview: str


def unpack_head(head: bytes, kind: str) -> bytes:
    """The first `SAMPLE_BYTES` at most of what is packed in `head`; fewer, down to none, if it ends before.

    zstd has no decoder in every supported Python, so for `zst` it is nothing. Raises `NotText` when damaged.
    """
    try:
        match kind:
            case "gz":
                return zlib.decompressobj(wbits=31).decompress(head, SAMPLE_BYTES)
            case "bz2":
                return bz2.BZ2Decompressor().decompress(head, SAMPLE_BYTES)
            case "xz":
                return lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES).decompress(head, SAMPLE_BYTES)
            case _:
                return b""
    except (OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise NotText(f"not readable as {kind} ({error})", "Check that the file is complete.") from None


def probe(head: bytes, *, later: tuple[bytes, ...] = (), whole: bool, encoding: str = "") -> Probe:
    """Encoding and preview of a text that begins with `head`; raises `NotText` for anything else.

    `later` are samples from further on, at even offsets; `whole` tells that `head` is all there is.
    `encoding` is the one that the user named, empty to find out; `ValueError` when there is none of that
    name. The answer is a Python codec name; a BOM is no part of the text, and `utf-16-le`, `utf-16-be` leave
    it to the reader to take it off.
    """
    if head.startswith(_BINARY_STARTS):
        raise _binary((head, *later))
    found = _as_named(head, encoding) if encoding else _encoding(head, later=later, whole=whole)
    text = codecs.getincrementaldecoder(found)("replace").decode(head[: PREVIEW_CHARS * 8], final=False)
    return Probe(found, printable(text.removeprefix("\ufeff")[: PREVIEW_CHARS * 2])[:PREVIEW_CHARS])


def codec_name(encoding: str) -> str:
    """The codec's name in one spelling. Raises `ValueError` for what Python knows no text encoding by."""
    if not _is_text_codec(encoding):
        import difflib  # late: it takes 6 ms

        asked = re.sub(r"[^a-z0-9]+", "_", encoding.lower())
        near = difflib.get_close_matches(asked, {*aliases, *aliases.values()}, n=12, cutoff=0.7)
        names = [*filter(_is_text_codec, dict.fromkeys(aliases.get(alias, alias) for alias in near))]
        names.sort(key=lambda name: name not in WESTERN)  # what is in most use first
        meant = f": did you mean {' or '.join(names[:3])}?" if names else "; utf-8, cp1252 and shift_jis are."
        raise ValueError(f"{one_line(encoding)!r} is not a text encoding{meant}")
    name = codecs.lookup(encoding).name
    return _SPELLED.get(name, name)


def _is_text_codec(name: str) -> bool:
    try:
        " ".encode(name)
        return codecs.lookup(name).name not in _NOT_FOR_FILES
    except (
        LookupError,
        ValueError,
    ):  # the latter for a name with a NUL in it, and by a codec that refuses all
        return False


@functools.cache
def reads_in_place(encoding: str) -> bool:
    """Whether text in this encoding can be decoded from the middle of a file; else a copy is made of it."""
    name = codecs.lookup(encoding).name
    if name in ("utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"):
        return True
    if name.startswith(_WITH_STATE):
        return False
    return len(bytes(range(256)).decode(name, "replace")) == 256


def printable(text: str) -> str:
    """The text with control, format and surrogate characters shown as `·`, line ends apart."""
    text = text.replace("\r\n", "\n").replace("\t", " ")
    if text.replace("\n", "").isprintable():
        return text
    for char in {*text} - {"\n"}:
        if unicodedata.category(char)[0] == "C":
            text = text.replace(char, "·")
    return text


def one_line(text: str) -> str:
    """`printable`, line ends too: for names."""
    return printable(text).replace("\n", "·")


_NOT_FOR_FILES = ("punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined", "charmap")
_WITH_STATE = ("utf", "iso2022", "hz")
"""Beginnings of the names of codecs in which a byte means what those before it say."""
_SPELLED = {"iso8859-1": "latin-1"}
_BINARY_STARTS = (*(magic for _, magic, _, _ in BINARY_KINDS), _OLD_OFFICE)
_TEXT_CONTROLS = b"\t\n\r\x0c\x08\x1b"
_CONTROLS = bytes({*range(32), 127} - {*_TEXT_CONTROLS})


def _encoding(head: bytes, *, later: tuple[bytes, ...], whole: bool) -> str:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) and len(head) % 4 == 0:
        if not _is_wide(head, "utf-32"):
            raise _binary((head, *later))
        return "utf-32"
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    for bom, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if head.startswith(bom):
            if not _is_wide(head, encoding):
                raise _binary((head, *later))
            return encoding
    if b"\0" in head:
        return _utf16_without_bom(head)
    # Logs have runs of zeros where space was set aside or a machine crashed; further on they mean nothing.
    samples = (head, *(sample.replace(b"\0", b"") for sample in later))
    if sum(map(_control_bytes, samples)) * 50 > sum(map(len, samples)):
        raise _binary((head, *later))
    if all(map(bytes.isascii, samples)):
        return "iso2022_jp" if b"\x1b$" in head and _is_iso2022_jp(head) else "utf-8"
    return "utf-8" if _is_utf8(head, whole=whole, later=later) else likely_encoding(samples)


def _as_named(head: bytes, encoding: str) -> str:
    """The codec for text in the encoding that the user named."""
    name = codec_name(encoding)
    if name == "utf-8" and head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if name == "utf-16" and head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16-le" if head.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    try:
        text = codecs.getincrementaldecoder(name)("replace").decode(head)
    except UnicodeError as error:
        raise NotText(f"not {name} text ({error})", "Name another encoding, or none.") from None
    wrong = text.count("\ufffd") + _control_bytes(text.encode("utf-8", "replace"))
    if wrong * 10 > len(text):
        raise NotText(f"not {name} text, or binary", "Name another encoding, or none.")
    return name


def _is_utf8(head: bytes, *, whole: bool, later: tuple[bytes, ...]) -> bool:
    """A damaged byte in a hundred good characters is a damaged UTF-8 file; more than that is another code."""
    good = bad = 0
    for number, sample in enumerate((head, *later)):
        if number:  # it may begin inside a character
            sample = sample[next((i for i, byte in enumerate(sample[:3]) if byte & 0xC0 != 0x80), 3) :]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(sample, final=whole and not number)
        broken = text.count("\ufffd") - sample.count(b"\xef\xbf\xbd")
        bad += broken
        good += len(text) - broken - len(text.encode("ascii", "ignore"))
    return bad == 0 or good > 100 * bad


def _utf16_without_bom(head: bytes) -> str:
    """Text of mostly Latin letters has a zero in every other byte, and next to none in the others.

    Text of other letters has zeros only where spaces and line ends are.
    """
    pairs = len(head) // 2
    even, odd = head[: 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    orders = (("utf-16-le", odd, even), ("utf-16-be", even, odd))
    for encoding, many, few in orders:
        if many * 3 >= pairs > 0 and few * 100 <= pairs and _is_wide(head, encoding):
            return encoding
    if pairs >= 8 and len(head.translate(None, _IN_ANY_TEXT)) * 12 >= len(head):
        breaks = {encoding: _breaks(head, encoding) for encoding, _, _ in orders}
        likely = max(breaks, key=breaks.__getitem__)
        if breaks[likely] * 500 > pairs:
            return likely
    raise _binary((head,))


_IN_ANY_TEXT = bytes(range(32, 127)) + b"\0\t\r\n"


def _is_wide(head: bytes, encoding: str) -> bool:
    """Whether it is text in UTF-16 or UTF-32."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    return "\ufffd" not in text and _control_bytes(text.encode()) * 50 <= len(text)


def _breaks(head: bytes, encoding: str) -> int:
    """How many line ends, spaces, commas and stops UTF-16 text has; none if it cannot be such text."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    if "\ufffd" in text:
        return 0
    chars = Counter(text)
    if any(unicodedata.category(char) in ("Cc", "Cn", "Co") for char in chars.keys() - {*"\t\r\n"}):
        return 0
    return sum(chars[char] for char in "\n ,.、。　")


def _is_iso2022_jp(head: bytes) -> bool:
    """Whether the escape sequences are those of Japanese text, not those of a terminal."""
    try:
        text = codecs.getincrementaldecoder("iso2022_jp")().decode(head)
    except UnicodeError:
        return False
    return not text.isascii()


def _binary(samples: tuple[bytes, ...]) -> NotText:
    head = samples[0]
    if head.startswith(_OLD_OFFICE):
        for name, kind, hint in _OLD_OFFICE_KINDS:
            if any(name.encode("utf-16-le") in sample for sample in samples):
                return NotText(kind, hint)
        return NotText("an old Office document", "Save it as .docx, .xlsx or .pptx first.")
    for offset, magic, kind, hint in (*BINARY_KINDS, *BINARY_NAMES):
        if head.startswith(magic, offset):
            return NotText(kind, hint)
    return NotText("binary, not text", "Convert it to text first.")


def _control_bytes(sample: bytes) -> int:
    return len(sample) - len(sample.translate(None, _CONTROLS))
