"""What is read of zips and tars, what is left out with which reason, and what hostile ones can do."""

import gzip
import io
import os
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.convert import ConvertError
from sandbox.convert.archives import HELD_BYTES, MAX_MEMBERS
from tests.guest.samples import make_docx, make_eml, make_epub, make_pdf, make_xlsx
from tests.guest.test_convert import Sink, converted, packed, problem, written

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
Members = Mapping[str, bytes]


def zipped(members: Members, *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


def tarred(members: Members, *, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=format) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def tarred_of(*infos: tarfile.TarInfo) -> bytes:
    """An archive of headers alone."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for info in infos:
            archive.addfile(info)
    return data.getvalue()


Make = Callable[[Members], bytes]
ARCHIVES: dict[str, Make] = {
    "a.zip": zipped,
    "b.zip": lambda members: zipped(members, method=zipfile.ZIP_STORED),
    "a.tar": tarred,
    "b.tar": lambda members: tarred(members, format=tarfile.GNU_FORMAT),
    "a.tar.gz": lambda members: gzip.compress(tarred(members)),
    "a.tgz": lambda members: gzip.compress(tarred(members)),
    "a.tar.bz2": lambda members: packed(tarred(members), "bz2"),
    "a.txz": lambda members: packed(tarred(members), "xz"),
    "a.tar.zst": lambda members: packed(tarred(members), "zst"),
    "a.zip.gz": lambda members: gzip.compress(zipped(members)),
}
any_archive = pytest.mark.parametrize("name", ARCHIVES)


@any_archive
def test_every_text_is_a_part(tmp_path: Path, name: str) -> None:
    members = {
        "notes/b.txt": "Zürich\r\n".encode(),
        "a.csv": b"x,y\n1,2\n" * 100_000,
        "日本.txt": "日本語\n".encode("utf-16"),
        "empty": b"",
        "log.txt.gz": gzip.compress(b"packed\n"),
        "photo.png": PNG,
        "inner.zip": zipped({"c.txt": b"c"}),
        "inner.tar.gz": gzip.compress(tarred({"c.txt": b"c"})),
        "__MACOSX/._b.txt": b"\0\5\x16\7",
        "notes/.DS_Store": b"\0\0\0\1Bud1",
        ".env": b"KEY=1\n",
    }
    sink = converted(written(tmp_path / name, ARCHIVES[name](members)))
    assert sink.texts == {
        "notes/b.txt": "Zürich\r\n",
        "a.csv": "x,y\n1,2\n" * 100_000,
        "日本.txt": "日本語\n",
        "empty": "",
        "log.txt.gz": "packed\n",
        ".env": "KEY=1\n",
    }
    assert list(sink.parts) == [member for member in members if member in sink.parts]
    assert {member: part.kind for member, part in sink.parts.items() if part.kind != "text"} == {
        "a.csv": "csv"
    }
    assert sink.left_out == {
        "photo.png": "is a PNG image",
        "inner.zip": "is an archive inside an archive: unpack it and load it by itself",
        "inner.tar.gz": "is an archive inside an archive: unpack it and load it by itself",
    }


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_documents_are_converted(tmp_path: Path, name: str) -> None:
    members = {
        "report.pdf": make_pdf(["On a page"]),
        "letter.docx": make_docx(["Dear Sir"]),
        "sums.xlsx": make_xlsx({"Budget": [["Rent", 12]]}),
        "mail.eml": make_eml("Best wishes"),
        "old/report.pdf.gz": gzip.compress(make_pdf(["Another page"])),
        "broken.pdf": b"%PDF-1.7\nbroken",
        "plain.txt": b"text",
    }
    sink = converted(written(tmp_path / name, ARCHIVES[name](members)))
    assert {member: part.kind for member, part in sink.parts.items()} == {
        "report.pdf": "pdf",
        "letter.docx": "docx",
        "sums.xlsx": "xlsx",
        "mail.eml": "email",
        "old/report.pdf.gz": "pdf",
        "plain.txt": "text",
    }
    for member, text in {
        "report.pdf": "On a page",
        "letter.docx": "Dear Sir",
        "sums.xlsx": "Rent\t12",
        "mail.eml": "Best wishes",
        "old/report.pdf.gz": "Another page",
    }.items():
        assert text in sink.texts[member]
    assert list(sink.left_out) == ["broken.pdf"]


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("docx", make_docx(["Dear Sir"]), "Dear Sir"),
        ("xlsx", make_xlsx({"Budget": [["Rent", 12]]}), "Rent"),
        ("epub", make_epub({"One": "It was night."}), "It was night."),
    ],
)
def test_a_document_that_is_a_zip_by_its_name(tmp_path: Path, kind: str, data: bytes, text: str) -> None:
    sink = converted(written(tmp_path / "download.zip", data), "zip")
    assert sink.parts[""].kind == kind
    assert text in sink.texts[""]


# ---- names


@any_archive
def test_no_name_leads_anywhere(tmp_path: Path, name: str) -> None:
    names = {
        "../../etc/passwd": "etc/passwd",
        "/etc/shadow": "etc/shadow",
        "a/../../b": "a/b",
        "win\\dows.txt": "win/dows.txt",
        "bell\a\N{RIGHT-TO-LEFT OVERRIDE}.txt": "bell··.txt",
        "line\nend": "line·end",
        "..": "unnamed",
        "./x//y": "x/y",
    }
    sink = converted(written(tmp_path / name, ARCHIVES[name](dict.fromkeys(names, b"text"))))
    assert list(sink.parts) == list(names.values())


def test_a_long_name_keeps_its_end(tmp_path: Path) -> None:
    sink = converted(written(tmp_path / "a.tar", tarred({"d/" * 5000 + "end.csv": b"1,2"})))
    (name,) = sink.parts
    assert len(name) == 1000 and name.endswith("d/end.csv")
    assert sink.parts[name].kind == "csv"


def test_a_second_member_of_a_name_gets_a_number(tmp_path: Path) -> None:
    stored = ["a", "a", "a (2)", "a", "/a"]
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for number, name in enumerate(stored):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(str(number).encode()))
    sink = converted(written(tmp_path / "a.tar", data.getvalue()))
    assert sink.texts == {"a": "0", "a (2)": "1", "a (2) (2)": "2", "a (3)": "3", "a (4)": "4"}
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number, name in enumerate(stored):
            archive.writestr(name, str(number))
    assert converted(tmp_path / "a.zip").texts == sink.texts


def test_a_name_in_utf_8_without_the_flag_that_tells(tmp_path: Path) -> None:
    data = zipped({"Zürich.txt": b"text"}).replace(b"\0\x08\x08\0", b"\0\0\x08\0")
    assert list(converted(written(tmp_path / "a.zip", data)).parts) == ["Zürich.txt"]
    german = zipped({"Z_rich.txt": b"text"}).replace(b"Z_rich", "Zürich".encode("cp437"))
    assert list(converted(written(tmp_path / "b.zip", german)).parts) == ["Zürich.txt"]


def test_surrogates_in_a_name(tmp_path: Path) -> None:
    data = tarred({"b_d.txt": b"text"}, format=tarfile.USTAR_FORMAT)
    assert list(converted(written(tmp_path / "a.tar", renamed(data, b"b\xffd.txt"))).parts) == ["b·d.txt"]


def renamed(tar: bytes, name: bytes) -> bytes:
    """The first member of a tar under another name, with the right checksum."""
    return summed(name.ljust(100, b"\0") + tar[100:512]) + tar[512:]


def summed(header: bytes) -> bytes:
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return header[:148] + b"%06o\0 " % checksum + header[156:]


# ---- what is left out


def test_links_and_devices_of_a_tar(tmp_path: Path) -> None:
    kinds = {
        "dir": tarfile.DIRTYPE,
        "link": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "disk": tarfile.BLKTYPE,
        "tty": tarfile.CHRTYPE,
        "file": tarfile.REGTYPE,
    }
    infos = []
    for name, kind in kinds.items():
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        infos.append(info)
    sink = converted(written(tmp_path / "a.tar", tarred_of(*infos)))
    assert sink.texts == {"file": ""}
    device = "is a device or pipe, not a file"
    assert sink.left_out == {
        "link": "is a link",
        "hard": "is a link",
        "pipe": device,
        "disk": device,
        "tty": device,
    }


def test_links_and_devices_of_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("dir/", "")
        for name, mode in {"link": stat.S_IFLNK, "pipe": stat.S_IFIFO, "file": stat.S_IFREG}.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o644) << 16
            archive.writestr(info, "/etc/passwd")
    sink = converted(tmp_path / "a.zip")
    assert sink.texts == {"file": "/etc/passwd"}
    assert sink.left_out == {"link": "is a link", "pipe": "is a device or pipe, not a file"}


@any_archive
def test_an_archive_of_nothing(tmp_path: Path, name: str) -> None:
    empty = written(tmp_path / name, ARCHIVES[name]({}))
    kind = {"zip": "zip", "tar": "tar"}.get(name.rpartition(".")[2], "")
    if kind:
        assert problem(empty, kind) == "holds no files"
    only_images = written(tmp_path / name, ARCHIVES[name]({"a.png": PNG, "b.png": PNG}))
    told = "holds nothing that can be read; 2 left out, the first: a.png is a PNG image"
    assert problem(only_images) == told


def encrypted(data: bytes, *names: str) -> bytes:
    """A zip with the bit set that says that these members are encrypted."""
    changed = bytearray(data)
    for magic, flags, start in ((b"PK\x03\x04", 6, 30), (b"PK\x01\x02", 8, 46)):
        at = data.find(magic)
        while at >= 0:
            if any(data.startswith(name.encode(), at + start) for name in names):
                changed[at + flags] |= 1
            at = data.find(magic, at + 1)
    return bytes(changed)


def test_encrypted_members(tmp_path: Path) -> None:
    data = zipped({"a.txt": b"a", "b.txt": b"b", "c.png": PNG})
    sink = converted(written(tmp_path / "a.zip", encrypted(data, "a.txt")))
    assert sink.texts == {"b.txt": "b"}
    assert sink.left_out == {"a.txt": "is encrypted", "c.png": "is a PNG image"}
    all_of_them = written(tmp_path / "b.zip", encrypted(data, "a.txt", "b.txt"))
    assert problem(all_of_them).startswith("is encrypted: unpack it")
    book = zipped({"mimetype": b"application/epub+zip", "1.xhtml": b"<p>"})
    covered = written(tmp_path / "c.zip", encrypted(book, "mimetype", "1.xhtml"))
    assert problem(covered, "zip").startswith("is encrypted: unpack it")


def test_the_encoding_that_was_named_is_for_what_it_fits(tmp_path: Path) -> None:
    members = {
        "a.txt": "日本語の本\n".encode("shift_jis"),
        "b.txt": "日本語の本\n".encode("utf-16"),
        "c": PNG,
    }
    sink = converted(written(tmp_path / "a.zip", zipped(members)), encoding="shift_jis")
    assert sink.texts == {"a.txt": "日本語の本\n", "b.txt": "日本語の本\n"}
    assert sink.left_out == {"c": "is a PNG image"}


# ---- damaged and hostile


def test_a_damaged_member_of_a_zip_is_left_out_alone(tmp_path: Path) -> None:
    data = zipped({"a.txt": b"first", "b.txt": b"other"}, method=zipfile.ZIP_STORED)
    sink = converted(written(tmp_path / "a.zip", data.replace(b"first", b"fisrt")))
    assert sink.texts == {"b.txt": "other"}
    assert "CRC" in sink.left_out["a.txt"]
    # What is already sent cannot be taken back: then nothing of the archive counts.
    large = b"x" * (HELD_BYTES + 1_000_000)
    data = zipped({"a.txt": large, "b.txt": b"other"}, method=zipfile.ZIP_STORED)
    spoiled = written(tmp_path / "b.zip", data.replace(b"xPK", b"yPK", 1))
    assert "holds a.txt, which cannot be read as text" in problem(spoiled)


@pytest.mark.parametrize("size", [3, 5_000_000])
def test_a_header_that_lies_about_the_size(tmp_path: Path, size: int) -> None:
    data = bytearray(zipped({"a.txt": b"abc " * 1000, "b.txt": b"other"}))
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.find(magic) + offset, size)
    sink = Sink()
    converted(written(tmp_path / "a.zip", bytes(data)), sink=sink)
    assert sink.texts["b.txt"] == "other"
    assert len(sink.texts.get("a.txt", "")) <= 4000


def repeated(data: bytes, count: int) -> bytes:
    """A zip of one member, whose directory has an entry for it so many times."""
    at, end_at = data.find(b"PK\x01\x02"), data.find(b"PK\x05\x06")
    entries, end = data[at:end_at] * count, bytearray(data[end_at:])
    struct.pack_into("<I", end, 12, len(entries))
    return data[:at] + entries + bytes(end)


def test_a_zip_whose_members_overlap(tmp_path: Path) -> None:
    """Every entry of the directory stands for the same compressed megabyte."""
    path = written(tmp_path / "a.zip", repeated(zipped({"a.txt": b"A" * 1_000_000}), 500))
    assert problem(path, max_bytes=5_000_000)


@any_archive
def test_a_bomb_ends_at_the_bound(tmp_path: Path, name: str) -> None:
    members = {f"{number}.txt": b"A" * 1_000_000 for number in range(9)}
    bomb = written(tmp_path / name, ARCHIVES[name](members))
    assert "more than 5.0 MB, which is the bound of the cache" in problem(bomb, max_bytes=5_000_000)


def test_too_many_members(tmp_path: Path) -> None:
    folders = written(tmp_path / "a.zip", repeated(zipped({"folder/": b""}), MAX_MEMBERS))
    assert problem(folders) == "holds no files"
    written(folders, repeated(zipped({"folder/": b""}), MAX_MEMBERS + 1))
    assert "holds more than 100,000 files" in problem(folders)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.txz", "a.tar.zst", "a.zip"])
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
def test_an_archive_that_is_cut_off(tmp_path: Path, name: str, keep: float) -> None:
    data = ARCHIVES[name]({f"{number}.txt": os.urandom(7777).hex().encode() for number in range(20)})
    path = written(tmp_path / name, data[: int(len(data) * keep)])
    kind = name.rpartition(".")[2].replace("txz", "xz")
    assert "damaged" in problem(path, kind)


def test_a_tar_that_is_damaged_in_the_middle(tmp_path: Path) -> None:
    data = tarred({"a.txt": b"a", "b.txt": b"b", "c.txt": b"c"}, format=tarfile.USTAR_FORMAT)
    path = written(tmp_path / "a.tar", data[:1024] + b"?" * 512 + data[1536:])
    assert "damaged" in problem(path)


@pytest.mark.parametrize("skipped", [True, False])
def test_a_member_of_exabytes(tmp_path: Path, skipped: bool) -> None:
    header = bytearray(tarred({"a.png" if skipped else "a.txt": b""})[:512])
    header[124:136] = b"\x80" + (2**62).to_bytes(11, "big")
    content = PNG if skipped else b"text"
    path = written(tmp_path / "a.tar", summed(bytes(header)) + content.ljust(512, b"\0"))
    assert "damaged" in problem(path)


def test_a_sparse_member_of_petabytes(tmp_path: Path) -> None:
    header = bytearray(tarred({"a.txt": b""}, format=tarfile.GNU_FORMAT)[:512])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[124:136] = b"%011o\0" % 65536
    header[386:410] = b"%011o\0" % 0 + b"%011o\0" % 65536
    header[483:495] = b"\x80" + (2**50).to_bytes(11, "big")
    path = written(tmp_path / "a.tar", summed(bytes(header)) + b"text" * 16384 + bytes(1024))
    assert "more than 1.0 MB" in problem(path, max_bytes=1_000_000)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["a.zip", "b.zip", "a.tar", "b.tar"]), st.data())
def test_changed_bytes_raise_nothing_else(tmp_path: Path, name: str, data: st.DataObject) -> None:
    members = {
        "a.txt": b"text " * 20,
        "b.txt.gz": gzip.compress(b"b"),
        "c.eml": b"From: x\n\nc",
        "d/d.png": PNG,
    }
    changed = bytearray(ARCHIVES[name](members))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    sink = Sink()
    try:
        converted(written(tmp_path / name, bytes(changed)), name[2:], max_bytes=10**6, sink=sink)
    except ConvertError as error:
        assert str(error)
    else:
        assert sink.parts
