"""Texts made of plain and compressed files: real files in, a sink in memory out; and what hostile ones do."""

import bz2
import errno
import gzip
import importlib.util
import json
import lzma
import os
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm.formats import FORMATS, kind_of
from rlm.text_probe import NotText
from sandbox.convert import ConvertError, Item, Output, convert
from sandbox.convert.output import as_convert_error
from tests.guest.samples import make_pdf

KINDS = ("gz", "bz2", "xz", "zst")
PROSE = "Zürich, 3 €, 日本語\n"


@dataclass(slots=True)
class Received:
    """One part, as the host would get it."""

    kind: str
    encoding: str
    data: bytearray = field(default_factory=bytearray)
    pieces: int = 0
    closed: bool = False

    def write(self, piece: bytes, /) -> None:
        self.data += piece
        self.pieces += 1

    def close(self) -> None:
        self.closed = True

    @property
    def text(self) -> str:
        return self.data.decode()


@dataclass(slots=True)
class Sink:
    parts: dict[str, Received] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: str = ""
    last: Received = field(default_factory=lambda: Received("", "", closed=True))

    def begin(self, name: str, kind: str, encoding: str, /) -> Received:
        assert name not in self.parts
        assert self.last.closed
        self.last = self.parts[name] = Received(kind, encoding)
        return self.last

    def skipped(self, name: str, reason: str, /) -> None:
        self.left_out[name] = reason

    @property
    def texts(self) -> dict[str, str]:
        return {name: part.text for name, part in self.parts.items()}


def converted(
    path: Path, kind: str = "", *, encoding: str = "", max_bytes: int = 10**9, sink: Sink | None = None
) -> Sink:
    """What comes of a file; its kind is found as the host finds it, if it is not given."""
    sink = sink or Sink()
    output = Output(sink, max_bytes=max_bytes)
    kind = kind or kind_of(path.read_bytes()[:65536], path.name)
    item = Item(path=str(path), name=path.name, kind=kind, encoding=encoding, max_bytes=max_bytes)
    try:
        convert(item, output)
    finally:
        sink.notes = output.notes
        assert all(part.closed for part in sink.parts.values())
    return sink


def problem(path: Path, kind: str = "", *, encoding: str = "", max_bytes: int = 10**9) -> str:
    """Why a file cannot be converted."""
    with pytest.raises(ConvertError) as caught:
        converted(path, kind, encoding=encoding, max_bytes=max_bytes)
    return str(caught.value)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def packed(data: bytes, kind: str) -> bytes:
    match kind:
        case "gz":
            return gzip.compress(data)
        case "bz2":
            return bz2.compress(data)
        case "xz":
            return lzma.compress(data)
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout


# ---- compressed files


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_text(tmp_path: Path, kind: str) -> None:
    text = PROSE * 20_000
    sink = converted(written(tmp_path / f"notes.csv.{kind}", packed(text.encode(), kind)))
    part = sink.parts[""]
    assert (part.text, part.kind, part.encoding) == (text, "csv", "utf-8")
    assert part.pieces < len(part.data) / 60_000
    assert not sink.left_out and not sink.notes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.999, 0.5, 0.001])
def test_a_compressed_file_that_is_cut_off(tmp_path: Path, kind: str, keep: float) -> None:
    whole = packed(os.urandom(100_000).hex().encode(), kind)
    cut = written(tmp_path / f"a.txt.{kind}", whole[: int(len(whole) * keep)])
    assert "damaged" in problem(cut, kind)


def test_the_members_of_a_gzip_are_one_text(tmp_path: Path) -> None:
    data = gzip.compress(b"one\n") + gzip.compress(b"two\n") + gzip.compress(b"")
    assert converted(written(tmp_path / "a.gz", data)).texts == {"": "one\ntwo\n"}


def test_a_damaged_byte_is_noticed(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(os.urandom(100_000).hex().encode()))
    data[len(data) // 2] ^= 255
    assert "damaged" in problem(written(tmp_path / "a.gz", bytes(data)))


def test_an_empty_text_is_a_text(tmp_path: Path) -> None:
    assert converted(written(tmp_path / "a.txt.gz", gzip.compress(b""))).texts == {"": ""}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_ends_at_the_bound(tmp_path: Path, kind: str) -> None:
    bomb = written(tmp_path / f"a.{kind}", packed(b"A" * 50_000_000, kind))
    sink = Sink()
    with pytest.raises(ConvertError, match=r"more than 1.0 MB, which is the bound of the cache"):
        converted(bomb, max_bytes=1_000_000, sink=sink)
    assert len(sink.parts[""].data) <= 1_000_000


def test_exactly_the_bound_is_allowed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", gzip.compress(b"x" * 1000))
    assert len(converted(path, max_bytes=1000).texts[""]) == 1000
    assert "unpacks to more than 999 bytes" in problem(path, max_bytes=999)


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    zeros = written(tmp_path / "a.gz", gzip.compress(bytes(50_000_000)))
    assert "a compressed file that holds binary" in problem(zeros)
    png = written(tmp_path / "b.gz", gzip.compress(b"\x89PNG\r\n\x1a\n" + bytes(100)))
    assert "holds a PNG image" in problem(png)
    twice = written(tmp_path / "c.gz", gzip.compress(gzip.compress(b"text")))
    assert problem(twice) == "is compressed twice: decompress it once and load that"


def test_a_document_that_is_compressed(tmp_path: Path) -> None:
    sink = converted(written(tmp_path / "report.pdf.gz", gzip.compress(make_pdf(["Hello there"]))))
    assert sink.parts[""].kind == "pdf"
    assert "Hello there" in sink.texts[""] and "[page 1 of 1]" in sink.texts[""]


def test_without_the_program_zstd_the_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.zst", packed(b"text", "zst"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert importlib.util.find_spec("compression") or "needs the program zstd" in problem(path)


# ---- plain text


@pytest.mark.parametrize(
    ("text", "encoding", "data"),
    [
        ("日本語\n", "shift_jis", None),
        ("日本語\n", "iso2022_jp", None),
        (PROSE, "utf-32", None),
        (PROSE, "utf-7", None),
        (PROSE, "utf-16-le", b"\xff\xfe" + PROSE.encode("utf-16-le")),
        (PROSE, "utf-8", b"\xef\xbb\xbf" + PROSE.encode()),
        ("HELLO", "cp037", None),
        ("one\r\ntwo\rthree", "latin-1", None),
        ("a\N{REPLACEMENT CHARACTER}b", "utf-8", b"a\xffb"),
    ],
)
def test_text_in_the_encoding_that_was_named(
    tmp_path: Path, text: str, encoding: str, data: bytes | None
) -> None:
    path = written(tmp_path / "a.txt", text.encode(encoding) if data is None else data)
    sink = converted(path, "text", encoding=encoding)
    assert sink.texts == {"": text}
    assert sink.parts[""].encoding == encoding


def test_a_character_may_lie_across_the_blocks(tmp_path: Path) -> None:
    text = "x" + "日本語" * 200_000
    for encoding in ("shift_jis", "utf-32-be", "gb18030"):
        path = written(tmp_path / "a.csv", text.encode(encoding))
        assert converted(path, "csv", encoding=encoding).texts == {"": text}


def test_the_encoding_is_detected(tmp_path: Path) -> None:
    utf_16 = written(tmp_path / "a.csv", PROSE.encode("utf-16"))
    assert converted(utf_16, "csv").texts == {"": PROSE}
    late = written(tmp_path / "b.txt.gz", gzip.compress(b"plain\n" * 20_000 + "é à ü ".encode("cp1252") * 99))
    assert converted(late).texts[""].endswith("é à ü ")
    assert "binary" in problem(written(tmp_path / "c.txt", os.urandom(5000)), "text")


def test_what_is_not_valid_is_told(tmp_path: Path) -> None:
    sink = converted(written(tmp_path / "a.txt", b"ab\xff\xff"), "text", encoding="shift_jis")
    assert "2 characters U+FFFD" in sink.notes and "shift_jis" in sink.notes


@pytest.mark.parametrize(
    "encoding", ["klingon", "base64", "rot13", "hex", "idna", "punycode", "unicode_escape", "a\0b"]
)
def test_an_encoding_that_there_is_not(tmp_path: Path, encoding: str) -> None:
    assert "no text encoding" in problem(written(tmp_path / "a.txt", b"abc"), "text", encoding=encoding)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for kind in FORMATS:
        item = Item(path=str(tmp_path / "no"), name="no", kind=kind, encoding="", max_bytes=9)
        with pytest.raises(ConvertError):
            convert(item, Output(Sink()))


# ---- items and output


def test_an_item_is_checked() -> None:
    good = {"path": "/data/1", "name": "a.gz", "kind": "gz", "encoding": "", "max_bytes": 5}
    assert Item.from_json(json.loads(json.dumps(good))) == Item(
        path="/data/1", name="a.gz", kind="gz", encoding="", max_bytes=5
    )
    for bad in ({**good, "more": 1}, {**good, "max_bytes": "5"}, {**good, "max_bytes": True}, {"path": "x"}):
        with pytest.raises(ValueError, match="item: "):
            Item.from_json(bad)


def test_a_kind_that_there_is_not(tmp_path: Path) -> None:
    assert "nothing is known of the kind" in problem(written(tmp_path / "a", b""), "wav")


def test_a_part_that_fails_early_never_begins() -> None:
    sink = Sink()
    with pytest.raises(ConvertError), Output(sink).part("a", kind="text") as part:
        part.write("x")
        raise ConvertError("is damaged")
    assert not sink.parts and not part.begun
    with pytest.raises(ConvertError), Output(sink).part("b", kind="text") as part:
        part.write("z" * 100_000)
        raise ConvertError("is damaged")
    assert part.begun and sink.parts["b"].closed


def test_a_part_is_utf_8_whatever_is_written() -> None:
    sink = Sink()
    with Output(sink).part("a", kind="pdf", encoding="cp1252") as part:
        part.write(" \n")
        part.write("lone \ud800 surrogate" + "y" * 3_000_000)
    received = sink.parts["a"]
    assert received.text == " \nlone \N{REPLACEMENT CHARACTER} surrogate" + "y" * 3_000_000
    assert (received.kind, received.encoding) == ("pdf", "cp1252")


@pytest.mark.parametrize(("text", "blank"), [("", True), (" \n\t", True), (" x ", False)])
def test_a_part_knows_whether_it_is_blank(text: str, blank: bool) -> None:
    with Output(Sink()).part(kind="text") as part:
        part.write(text)
        part.write("\n")
        assert part.blank is blank


def test_the_first_notes_are_kept() -> None:
    output = Output(Sink())
    for number in range(9):
        output.note(f"note {number}")
    assert output.notes == "note 0; note 1; note 2; note 3; note 4"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "needs more memory than the sandbox has"),
        (RecursionError("maximum depth"), "is nested too deeply to be read as PDF"),
        (EOFError(), "ends too early: as PDF it is incomplete or damaged"),
        (OSError(errno.ENOSPC, "No space left"), "does not fit into the sandbox's /tmp"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read: Permission denied"),
        (OSError(errno.EINVAL, "Invalid argument"), "cannot be read as PDF, it may be damaged"),
        (KeyError("Root\n\nx"), r"it may be damaged or incomplete: 'Root\n\nx'"),
        (struct.error("y" * 9999), "y" * 300),
        (ValueError(), "it may be damaged or incomplete: ValueError"),
        (NotText("a JPEG image"), "is a JPEG image"),
        (NotText("a database", "Dump it first."), "is a database. Dump it first."),
        (ConvertError("is encrypted"), "is encrypted"),
    ],
)
def test_a_failure_is_a_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(ConvertError) as caught, as_convert_error("PDF"):
        raise error
    assert sentence in str(caught.value) and len(str(caught.value)) < 500


def test_all_parts_of_an_item_count() -> None:
    output = Output(Sink(), max_bytes=10)
    with output.part("a", kind="text") as part:
        part.write("12345")
    with pytest.raises(ConvertError, match="more than 10 bytes"), output.part("b", kind="text") as part:
        part.write("éééx")
    assert output.full


# ---- hostile bytes

MAGIC: dict[str, bytes] = {
    "gz": b"\x1f\x8b\x08\x00",
    "bz2": b"BZh91AY&SY",
    "xz": b"\xfd7zXZ\x00",
    "zip": b"PK\x03\x04",
    "tar": b"a.txt".ljust(100, b"\0") + b"0000644\0" * 3 + b"00000000010\0" * 2,
    "email": b"From: a\nContent-Type: multipart/mixed; boundary=b\n\n--b\n",
    "mbox": b"From a@b 10:10:10 2024\nSubject: =?utf-8?q?",
    "text": b"",
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(MAGIC)), st.binary(max_size=2000), st.integers(0, 3))
def test_random_bytes_raise_nothing_else(tmp_path: Path, kind: str, data: bytes, zip_end: int) -> None:
    """Whatever follows the first bytes of a format, there is a text or a `ConvertError`."""
    end = b"PK\x05\x06" + bytes([0, 0, 0, 0, zip_end, 0, zip_end, 0]) + data[:10]
    path = written(tmp_path / "hostile", MAGIC[kind] + data + (end if kind == "zip" else b""))
    try:
        sink = converted(path, kind, max_bytes=100_000)
    except ConvertError as error:
        assert 5 < len(str(error)) < 1000
    else:
        assert sink.parts


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS[:3]), st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_a_change_anywhere_raises_nothing_else(tmp_path: Path, kind: str, at: int, change: bytes) -> None:
    data = bytearray(packed(PROSE.encode() * 50, kind))
    at %= len(data)
    data[at : at + len(change)] = change
    try:
        converted(written(tmp_path / "a", bytes(data)), kind)
    except ConvertError as error:
        assert str(error)


def test_a_text_needs_no_parser_of_documents(tmp_path: Path) -> None:
    """What reads PDFs and the like is not even loaded for a gzip."""
    script = (
        "import sys, gzip\n"
        "from sandbox.convert import Item, Output, convert\n"
        "class Sink:\n"
        "    def begin(self, *what): return self\n"
        "    def write(self, piece): pass\n"
        "    def close(self): pass\n"
        "item = Item(path=sys.argv[1], name='a.gz', kind='gz', encoding='', max_bytes=99)\n"
        "convert(item, Output(Sink()))\n"
        "sys.exit(' '.join({'lxml', 'pypdfium2', 'duckdb', 'docx'} & set(sys.modules)))\n"
    )
    path = written(tmp_path / "a.gz", gzip.compress(b"text"))
    command = [sys.executable, "-c", script, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip() == ""


def test_full_temporary_space_is_told(tmp_path: Path) -> None:
    """A limit on the size of files stands for a small /tmp."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.guest.test_convert import problem\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.exit(problem(Path(sys.argv[1])))\n"
    )
    path = written(tmp_path / "a.pdf.gz", gzip.compress(b"%PDF-1.7\n" + bytes(1_000_000)))
    command = [sys.executable, "-c", script, str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "does not fit into the sandbox's /tmp" in told
