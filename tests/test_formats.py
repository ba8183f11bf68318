"""What kind a file is, by its first bytes and its name."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from rlm.formats import FORMATS, kind_of, suffix, unpacked_name


def zipped(*members: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members:
            archive.writestr(name, text)
    return buffer.getvalue()


def tarred(format_: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        member = tarfile.TarInfo("folder/a.txt")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"text\n"))
    return buffer.getvalue()


def old_tar(name: bytes = b"a.txt") -> bytes:
    """The header of a member as tar wrote it before it had a magic number."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:148] = b"000644 \0" + b"000000 \0" * 2 + b"00000000005 " + b"00000000000 "
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"text\n".ljust(512, b"\0")


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
DOCX = zipped(("[Content_Types].xml", "<x/>"), ("word/document.xml", "<x/>"))
EPUB = zipped(("mimetype", "application/epub+zip"), ("META-INF/container.xml", "<x/>"))
ODS = zipped(("mimetype", "application/vnd.oasis.opendocument.spreadsheet"), ("content.xml", "<x/>"))
MAIL = b"From ann@example.org Sat Jan  3 01:05:34 2026\r\nReturn-Path: <ann@example.org>\r\n\r\nHello\r\n"
PROSE = b"Some words, and a few more of them.\n" * 20


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (PROSE, "notes.txt", "text"),
        (PROSE, "README", "text"),
        (PROSE, "server.log", "text"),
        (PROSE, "NOTES.MD", "text"),
        (b"a,b\n1,2\n", "table.csv", "csv"),
        (b"a,b\n1,2\n", "TABLE.CSV", "csv"),
        (b"a,b\n1,2\n", "table.csv. ", "csv"),
        ("a,b\n1,2\n".encode("utf-16"), "table.csv", "csv"),
        (b"a\tb\n", "table.tab", "tsv"),
        (b'{"a": 1}\n{"a": 2}\n', "rows.json", "json"),
        (b'{"a": 1}\n{"a": 2}\n', "rows.jsonl", "jsonl"),
        (b"a,b\n", ".csv", "text"),
        (b"", "", "text"),
        (b"", "table.csv", "csv"),
        (b"", "scan.pdf", "text"),
        (b"", "page.html", "text"),
        (b"", "box.tar", "text"),
    ],
)
def test_plain_text_is_known_by_its_name(head: bytes, name: str, kind: str) -> None:
    assert kind_of(head, name) == kind


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (b"%PDF-1.7\n", "report", "pdf"),
        (b"%PDF-1.7\n", "prose.txt", "pdf"),
        (b"\xef\xbb\xbf\r\n%PDF-1.4\n", "report.pdf", "pdf"),
        (b"The magic is %PDF-1.7\n", "notes.txt", "text"),
        (PROSE, "report.pdf", "text"),
        (b"PAR1\x15\x04\x15\x00", "rows", "parquet"),
        (b"PAR1 is how it begins", "notes.txt", "text"),
        (gzip.compress(PROSE), "a.csv.gz", "gz"),
        (gzip.compress(PROSE), "a.txt", "gz"),
        (bz2.compress(PROSE), "a", "bz2"),
        (bz2.compress(b"", 1), "a", "bz2"),
        (b"BZh is not always bzip2\n", "a.txt", "text"),
        (b"BZh91AY but no more\n", "a.bz2", "text"),
        (lzma.compress(PROSE), "a.tar.xz", "xz"),
        (b"\x28\xb5\x2f\xfd\x04\0\0\0", "a", "zst"),
        (PROSE, "a.gz", "text"),
        (OLE, "old.xls", "xlsx"),
        (OLE, "secret.docx", "docx"),
        (OLE, "old.doc", "text"),
        (OLE, "mail.msg", "text"),
    ],
)
def test_bytes_go_before_the_name(head: bytes, name: str, kind: str) -> None:
    assert kind_of(head, name) == kind


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (DOCX, "a.docx", "docx"),
        (DOCX, "a.XLSM", "xlsx"),
        (DOCX, "a", "zip"),
        (DOCX, "a.csv", "zip"),
        (EPUB, "book.epub", "epub"),
        (EPUB, "book", "epub"),
        (ODS, "sheet", "xlsx"),
        (zipped(), "empty.zip", "zip"),
        (zipped(("a.txt", "text")), "a.jar", "zip"),
        (b"PK is short for many things", "a.txt", "text"),
        (PROSE, "a.docx", "text"),
    ],
)
def test_zip_archives_and_what_is_made_of_them(head: bytes, name: str, kind: str) -> None:
    assert kind_of(head, name) == kind


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_is_known_without_its_name(format_: int) -> None:
    data = tarred(format_)
    assert kind_of(data, "a") == kind_of(data, "a.tar") == "tar"
    assert kind_of(data[:500], "a.tar") == "text"
    damaged = data[:20] + b"x" + data[21:]
    assert kind_of(damaged, "a.tar") == "text"


def test_tar_without_a_magic_number_needs_its_name_and_the_right_sum() -> None:
    assert kind_of(old_tar(), "backup.tar") == "tar"
    assert kind_of(old_tar(), "backup") == "text"
    assert kind_of(old_tar().replace(b"a.txt", b"b.txt"), "backup.tar") == "text"
    assert kind_of(bytes(10_240), "nothing.tar") == "tar"
    assert kind_of(bytes(10_240), "nothing.bin") == "text"
    assert kind_of(b"x" * 257 + b"ustar" + b"x" * 300, "a.txt") == "text"


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (b"<!DOCTYPE html>\n<html>", "index", "html"),
        (b"\xef\xbb\xbf  \n<HTML lang=en>", "index", "html"),
        (b'<?xml version="1.0"?>\n<!-- saved -->\n<html xmlns="x">', "page", "html"),
        (b"<p>no more than a piece", "a.htm", "html"),
        (b"<!DOCTYPE html>\n<html>", "page.php", "text"),
        (b"<html>", "App.vue", "text"),
        (b"<html>", "App.jsx", "text"),
        (b"<!DOCTYPE html>\n<html>", "page.txt", "text"),
        (b'<?xml version="1.0"?><svg>', "drawing", "text"),
        (b'<?xml version="1.0"?><svg>', "drawing.svg", "text"),
        (b"<htmlish>", "notes", "text"),
        (MAIL, "archive.mbox", "mbox"),
        (MAIL, "Inbox", "mbox"),
        (MAIL, "2026-January.txt", "mbox"),
        (MAIL, "table.csv", "csv"),
        (b"From here to there\nNote: 10:30 is late\n", "notes.txt", "text"),
        (b"From 10:30 on it rained\nand at 11:00: snow\n", "notes.txt", "text"),
        (b"Subject: hello\n\nText\n", "a.eml", "email"),
        (b"Subject: hello\n\nText\n", "a.txt", "text"),
    ],
)
def test_pages_and_mail(head: bytes, name: str, kind: str) -> None:
    assert kind_of(head, name) == kind


def test_long_lines_do_not_hold_it_up() -> None:
    for head in (
        b"From a " + b"00:00 " * 10_000,
        b"From " + b"x" * 60_000,
        b" " * 60_000 + b"<",
        b"<!--" + b"--> " * 15_000,
        b"<?xml " + b"> <" * 20_000,
    ):
        assert kind_of(head, "a") == "text"


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("a.csv", ".csv"),
        ("folder.d/a", ""),
        ("A.TAR.GZ", ".gz"),
        ("a.txt. .", ".txt"),
        (".bashrc", ""),
        (".config.json", ".json"),
        ("a.", ""),
        ("..", ""),
        ("", ""),
    ],
)
def test_suffix(name: str, end: str) -> None:
    assert suffix(name) == end


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a.csv.gz", "a.csv"),
        ("A.CSV.GZ", "A.CSV"),
        ("folder.gz/a.csv.bz2", "folder.gz/a.csv"),
        ("a.tar.gz", "a.tar"),
        ("a.tar.zst", "a.tar"),
        ("a.tgz", "a.tar"),
        ("a.tbz2", "a.tar"),
        ("a.tbz", "a.tar"),
        ("a.tb2", "a.tar"),
        ("a.TXZ", "a.tar"),
        ("a.tzst", "a.tar"),
        ("drawing.svgz", "drawing.svg"),
        ("a.csv.gz. ", "a.csv"),
        ("a.csv", "a.csv"),
        (".gz", ".gz"),
        ("a", "a"),
    ],
)
def test_unpacked_name(name: str, inside: str) -> None:
    assert unpacked_name(name) == inside


def test_every_suffix_belongs_to_one_kind() -> None:
    suffixes = [end for known in FORMATS.values() for end in known.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(end == suffix(f"a{end}") for end in suffixes)
