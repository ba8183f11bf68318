"""Tells from a few samples of bytes whether a file is text, in which encoding, and packed by what.

It opens nothing and never sees more than the samples it is given. It knows enough of binary formats to name
them to a user, and parses none.
"""

import bz2
import codecs
import lzma
import unicodedata
import zlib
from typing import NamedTuple

SAMPLE_BYTES = 64 * 1024
PREVIEW_CHARS = 300
XZ_MEMORY_BYTES = 128 * 1024 * 1024
"""An xz header may ask for gigabytes before the first byte comes out; `xz -9` asks for 65 MiB."""

COMPRESSIONS = {b"\x1f\x8b\x08": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst"}

BZ2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
"""What follows `BZh9` in bz2 (a block, or the end of an empty file) and in no text."""

_CONVERT = "Save or export it as text or CSV first."
_UNPACK = "Unpack it first, and give the folder."
BINARY_KINDS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"%PDF-", "a PDF", "Convert it first, for example with pdftotext."),
    (0, b"PK\x03\x04", "a zip archive (or .docx, .xlsx, .epub)", f"{_UNPACK[:-1]}; or save it as text."),
    (0, b"SQLite format 3\x00", "a SQLite database", "Dump it first: sqlite3 FILE .dump > dump.sql"),
    (0, b"\xd0\xcf\x11\xe0", "an old Office document", _CONVERT),
    (0, b"\x89PNG", "a PNG image", ""),
    (0, b"\xff\xd8\xff", "a JPEG image", ""),
    (0, b"\x7fELF", "a program (ELF)", ""),
    (0, b"\x89HDF", "an HDF5 file", _CONVERT),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a", "a rar archive", _UNPACK),
)
"""(offset, magic, kind, hint) of formats whose first bytes no text has."""
BINARY_NAMES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PAR1", "a Parquet file", _CONVERT),
    (0, b"ARROW1", "an Arrow file", _CONVERT),
    (0, b"GIF8", "a GIF image", ""),
    (0, b"MZ", "a program (Windows)", ""),
    (0, b"RIFF", "a sound, video or image (RIFF)", ""),
    (0, b"ID3", "a sound file", ""),
    (4, b"ftyp", "a video or image (MP4)", ""),
    (257, b"ustar", "a tar archive", _UNPACK),
)
"""The same for formats whose first bytes a text could have: they only name what is known to be binary."""


class NotText(Exception):
    """`kind` names what it is, `hint` what could be done."""

    def __init__(self, kind: str, hint: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.hint = hint


class Probe(NamedTuple):
    encoding: str
    preview: str


def compression(head: bytes) -> str:
    """`gz`, `bz2`, `xz` or `zst` by the first bytes, else empty."""
    name = next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), "")
    return "" if name == "bz2" and head[4:10] not in BZ2_BLOCKS else name


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


def probe(head: bytes, *, later: tuple[bytes, ...] = (), whole: bool) -> Probe:
    """Encoding and preview of a text that begins with `head`; raises `NotText` for anything else.

    `later` are samples from further on, at even offsets; `whole` tells that `head` is all there is.
    The encoding is `utf-8`, `utf-8-sig` (a BOM), `utf-16-le`, `utf-16-be` (a BOM, if any, not taken off) or
    `latin-1`.
    """
    for offset, magic, kind, hint in BINARY_KINDS:
        if head.startswith(magic, offset):
            raise NotText(kind, hint)
    encoding = _encoding(head, later=later, whole=whole)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head[: PREVIEW_CHARS * 8], final=False)
    return Probe(encoding, printable(text.removeprefix("\ufeff")[: PREVIEW_CHARS * 2])[:PREVIEW_CHARS])


def printable(text: str) -> str:
    """The text with control, format and surrogate characters shown as `·`, line ends apart."""
    text = text.replace("\r\n", "\n").replace("\t", " ")
    return "".join("·" if c != "\n" and unicodedata.category(c)[0] == "C" else c for c in text)


def one_line(text: str) -> str:
    """`printable`, line ends too: for names."""
    return printable(text).replace("\n", "·")


def _encoding(head: bytes, *, later: tuple[bytes, ...], whole: bool) -> str:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) and len(head) % 4 == 0:
        raise NotText("UTF-32 text", "Convert it first: iconv -f UTF-32 -t UTF-8")
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    for bom, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if head.startswith(bom):
            if not _is_utf16(head, encoding):
                raise _binary(head)
            return encoding
    if b"\0" in head:
        return _utf16_without_bom(head)
    # Logs have runs of zeros where space was set aside or a machine crashed; further on they mean nothing.
    samples = (head, *(sample.replace(b"\0", b"") for sample in later))
    if sum(map(_control_bytes, samples)) * 50 > sum(map(len, samples)):
        raise _binary(head)
    return "utf-8" if _is_utf8(head, whole=whole, later=later) else "latin-1"


def _is_utf8(head: bytes, *, whole: bool, later: tuple[bytes, ...]) -> bool:
    """A damaged byte in a hundred good characters is a damaged UTF-8 file; more than that is Latin-1."""
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
    """Text of mostly Latin letters has a zero in every other byte, and next to none in the others."""
    pairs = len(head) // 2
    even, odd = head[: 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    for encoding, many, few in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if many * 3 >= pairs > 0 and few * 100 <= pairs and _is_utf16(head, encoding):
            return encoding
    raise _binary(head)


def _is_utf16(head: bytes, encoding: str) -> bool:
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    return "\ufffd" not in text and _control_bytes(text.encode()) * 50 <= len(text)


def _binary(head: bytes) -> NotText:
    for offset, magic, kind, hint in BINARY_NAMES:
        if head.startswith(magic, offset):
            return NotText(kind, hint)
    return NotText("binary, not text", "Convert it to text first.")


_TEXT_CONTROLS = b"\t\n\r\x0c\x08\x1b"
_CONTROLS = bytes({*range(32), 127} - {*_TEXT_CONTROLS})


def _control_bytes(sample: bytes) -> int:
    return len(sample) - len(sample.translate(None, _CONTROLS))
