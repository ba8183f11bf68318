"""Input files: what is told of them, what is refused, how they are named, mounted and watched."""

import bz2
import dataclasses
import gzip
import json
import lzma
import os
import re
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from rlm.documents import (
    Document,
    Nothing,
    changes,
    container_path,
    expand,
    look,
    mount_plan,
    require_readable_inside,
)
from rlm.errors import DocumentError


def write(path: Path, data: bytes | str = "text\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def names(documents: Iterable[Document]) -> list[str]:
    return [document.name for document in documents]


def refused(path: Path) -> str:
    with pytest.raises(DocumentError) as caught:
        look(path)
    return f"{caught.value} {caught.value.hint}"


TEXT = "Grüße, 世界\nsecond line\n"
MESSAGE = "The café is open. " * 20


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"", "utf-8"),
        (b"plain ascii\n", "utf-8"),
        (TEXT.encode(), "utf-8"),
        (b"\xef\xbb\xbf" + TEXT.encode(), "utf-8-sig"),
        (b"\xff\xfe" + TEXT.encode("utf-16-le"), "utf-16-le"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "utf-16-be"),
        ("name,value\n".encode("utf-16-le"), "utf-16-le"),
        ("name,value\n".encode("utf-16-be"), "utf-16-be"),
        (MESSAGE.encode("latin-1"), "latin-1"),
        (b"one \xe9", "latin-1"),
        (("世界" * 300).encode() + b"\xff", "utf-8"),
        (b"x" * 65535 + "é".encode(), "utf-8"),
        (b"x" * 65535 + "é".encode() + b"x" * 500_000, "utf-8"),
        (b"ascii " * 50_000 + MESSAGE.encode("latin-1") * 400, "latin-1"),
        (("世" * 200_000).encode(), "utf-8"),
        (b"\x1b[31mred\x1b[0m log line\n" * 9, "utf-8"),
        (b"MZ is how some notes begin\n", "utf-8"),
        (b"BZh is not always bzip2\n", "utf-8"),
    ],
)
def test_encodings(tmp_path: Path, data: bytes, encoding: str) -> None:
    assert look(write(tmp_path / "f", data)).encoding == encoding


def test_a_document_tells_what_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXT)
    document = look(path)
    status = path.stat()
    assert document.name == "a.txt"
    assert document.path == document.mount == path.resolve()
    assert (document.size_bytes, document.mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert (document.device, document.inode) == (status.st_dev, status.st_ino)
    assert document.preview == TEXT
    assert document.tokens == status.st_size // 4
    assert look(write(tmp_path / "w", TEXT.encode("utf-16"))).tokens == (len(TEXT) + 1) // 4


def test_preview_is_short_and_cannot_steer_a_terminal(tmp_path: Path) -> None:
    preview = look(write(tmp_path / "f", "\x1b]0;owned\x07 \u202eevil\u200b\r\nnext\t" + "x" * 999)).preview
    assert len(preview) == 300
    assert preview.startswith("·]0;owned· ·evil·\nnext x")


@pytest.mark.parametrize(
    ("kind", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
def test_compressed_text(tmp_path: Path, kind: str, pack: object) -> None:
    assert callable(pack)
    document = look(write(tmp_path / "f", pack(MESSAGE.encode("latin-1"))))
    assert (document.kind, document.encoding, document.tokens) == (kind, "latin-1", None)
    assert not document.is_text
    assert document.preview.startswith("The café")
    assert look(write(tmp_path / "empty", pack(b""))).kind == kind
    packed_binary = write(tmp_path / "b", pack(b"\0\1\2\3" * 99))
    assert f"({kind}) holds binary" in refused(packed_binary)
    large = write(tmp_path / "large", pack(os.urandom(700_000).hex().encode()))
    assert len(look(large).preview) == 300


def test_damaged_or_greedy_archives_are_refused(tmp_path: Path) -> None:
    damaged = gzip.compress(b"x" * 99)[:10] + b"\xff" * 9
    assert "not readable as gz" in refused(write(tmp_path / "f.gz", damaged))
    packer = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}])
    honest = packer.compress(b"text") + packer.flush()
    assert look(write(tmp_path / "honest.xz", honest)).kind == "xz"
    # Byte 16 of this header is the dictionary's size: 38 is 2 GiB. Its CRC follows the padding.
    header = bytearray(honest[12:24])
    header[4] = 38
    greedy = honest[:12] + bytes(header[:8]) + zlib.crc32(header[:8]).to_bytes(4, "little") + honest[24:]
    assert "emory" in refused(write(tmp_path / "greedy.xz", greedy))


def test_zstd_is_known_by_its_magic(tmp_path: Path) -> None:
    document = look(write(tmp_path / "f.zst", b"\x28\xb5\x2f\xfd\x04\0\0\0"))
    assert (document.kind, document.preview, document.tokens) == ("zst", "", None)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x89PNG\r\n\x1a\n\0", "PNG"),
        (b"\x7fELF\2\1\1\0", "ELF"),
        (b"SQLite format 3\0", "SQLite"),
        (b"MZ\x90\0\3\0", "Windows"),
        (b"text with a \0 in it", "binary"),
        (bytes(range(1, 32)) * 9, "binary"),
        (b"\xff\xfe" + b"\x00\xd8" * 50, "binary"),
    ],
)
def test_binary_files_are_refused_by_kind(tmp_path: Path, data: bytes, says: str) -> None:
    assert re.search(says, refused(write(tmp_path / "f", data)))


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.pdf", b"%PDF-1.7\nascii only", "pdf"),
        ("a.zip", b"PK\x03\x04\x14\0", "zip"),
        ("a.docx", b"PK\x03\x04\x14\0", "docx"),
        ("a.parquet", b"PAR1\x15\x04\x15\0", "parquet"),
        ("a.tar", tarfile.TarInfo("x").tobuf() + bytes(1024), "tar"),
        ("a.html", b"<p>text", "html"),
        ("a.eml", b"From: a@b.c\n\ntext", "email"),
        ("a.txt", b"\xff\xfe\0\0t\0\0\0", "text"),
    ],
)
def test_what_text_must_be_made_of_first_is_taken_unread(
    tmp_path: Path, name: str, data: bytes, kind: str
) -> None:
    document = look(write(tmp_path / name, data))
    assert (document.kind, document.is_text, document.tokens) == (kind, False, None)


def test_the_kind_of_what_was_fetched_is_told_by_its_name_not_by_that_of_its_cache(tmp_path: Path) -> None:
    path = write(tmp_path / "blobs/0f3a", "a,b\n1,2\n")
    assert look(path, name="rows", file_name="set/rows.csv", source="hf://datasets/o/set").kind == "csv"
    assert look(path, name="rows.csv").kind == "text"


def test_an_encoding_that_is_named_is_used_and_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Größe".encode("cp437"))
    document = look(path, encoding="cp437")
    assert (document.encoding, document.given_encoding, document.preview) == ("cp437", "cp437", "Größe")
    assert not look(path, encoding="shift_jis").is_text
    with pytest.raises(DocumentError, match="cp4377"):
        look(path, encoding="cp4377")


def test_a_huge_file_costs_a_prefix(tmp_path: Path) -> None:
    path = write(tmp_path / "big.log", "line\n" * 20_000)
    with path.open("r+b") as file:
        file.seek(10 * 1024**3 - 70_000)
        file.write(b"tail\n" * 14_000)
    document = look(path)
    assert document.size_bytes == 10 * 1024**3
    assert document.encoding == "utf-8"


def test_missing_files_name_their_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "meeting-notes.txt")
    assert "Did you mean meeting-notes.txt?" in refused(tmp_path / "meeting-note.txt")
    assert "Neither does its folder" in refused(tmp_path / "no" / "file")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as sock, tempfile.TemporaryDirectory(dir="/tmp") as short:
        sock.bind(f"{short}/sock")  # its path may not have more than about 100 characters
        assert "is a socket" in refused(Path(short, "sock"))
    assert "is a named pipe" in refused(tmp_path / "pipe")
    assert "is a device" in refused(Path("/dev/null"))
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read" in refused(tmp_path / "loop")


def test_json_round_trip_and_refusal(tmp_path: Path) -> None:
    document = look(write(tmp_path / "a"))
    fields = json.loads(json.dumps(document.to_json()))
    assert Document.from_json(fields) == document
    for wrong in ({**fields, "size_bytes": "1"}, {**fields, "inode": True}, {**fields, "x": 1}, {}):
        with pytest.raises(DocumentError):
            Document.from_json(wrong)


def test_folder(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    for name in (
        "b.txt",
        "a.txt",
        "sub/a.txt",
        ".hidden",
        ".cache/x",
        "out/log.txt",
        "sub/keep.tmp",
        "x.tmp",
    ):
        write(docs / name)
    write(docs / ".gitignore", "out/\n*.tmp\n")
    write(docs / "sub" / ".gitignore", "!keep.tmp\n")
    write(docs / "pic.png", b"\x89PNG\0")
    write(tmp_path / "secret.txt")
    (docs / "leaves").symlink_to(tmp_path / "secret.txt")
    (docs / "stays").symlink_to(docs / "a.txt")
    (docs / "dangles").symlink_to("nowhere")
    expansion = expand(["docs"], cwd=tmp_path)
    assert names(expansion.documents) == ["docs/a.txt", "docs/b.txt", "docs/sub/a.txt", "docs/sub/keep.tmp"]
    reasons = {Path(path).name: reason for path, reason in expansion.skipped}
    assert reasons.keys() == {"pic.png", "leaves", "dangles"}
    assert "PNG" in reasons["pic.png"] and "leaves the folder" in reasons["leaves"]
    mount, *covers = mount_plan(expansion.documents, nothing=nothing(tmp_path))
    assert (mount.source, mount.target, mount.is_dir) == (docs.resolve(), "/data/0", True)
    assert {cover.target for cover in covers} >= {"/data/0/.gitignore", "/data/0/out"}
    assert container_path(expansion.documents[2], [mount]) == "/data/0/sub/a.txt"


def nothing(folder: Path) -> Nothing:
    (folder / "nothing").mkdir(exist_ok=True)
    return Nothing(file=write(folder / "nothing.txt", ""), folder=folder / "nothing")


def seen(folder: Path, spare: Path, *, state_dir: Path | None = None) -> set[str]:
    """What the mounts of a folder let the container see, relative to the folder."""
    documents = expand([str(folder)], cwd=folder, state_dir=state_dir).documents
    (mount, *covers) = mount_plan(documents, nothing=nothing(spare), state_dir=state_dir)
    assert mount.source == folder.resolve()
    covered = [cover.target.removeprefix("/data/0/") for cover in covers]
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return {name for name in names if not any(f"{name}/".startswith(f"{cover}/") for cover in covered)}


def test_what_must_stay_out_is_covered_in_its_folder(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for name in ("a.txt", "clean/b.txt", "deep/c.txt", "deep/er/d.txt"):
        write(top / name)
    for name in (
        ".git/config",
        ".env",
        ".npmrc",
        "deep/.env.local",
        "deep/key.pem",
        ".rlm_state/log",
        "mine/log",
    ):
        write(top / name)
    assert seen(top, tmp_path, state_dir=top / "mine") == {
        "a.txt",
        "clean/b.txt",
        "deep/c.txt",
        "deep/er/d.txt",
    }


def test_a_key_put_there_later_is_covered_too(tmp_path: Path) -> None:
    top = tmp_path / "top"
    write(top / "a.txt")
    documents = expand([str(top)], cwd=tmp_path).documents
    assert len(mount_plan(documents, nothing=nothing(tmp_path))) == 1
    write(top / "sub" / "id_rsa")
    cover = mount_plan(documents, nothing=nothing(tmp_path))[1]
    assert (cover.source, cover.target) == (tmp_path / "nothing.txt", "/data/0/sub/id_rsa")


def test_a_key_hidden_in_an_ignored_folder_is_covered(tmp_path: Path) -> None:
    top = tmp_path / "top"
    write(top / "a.txt")
    write(top / ".gitignore", "build\n")
    write(top / "build" / "x" / ".env")
    assert seen(top, tmp_path) == {"a.txt"}


def test_a_folder_with_special_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.txt")
    os.mkfifo(tmp_path / "d" / "pipe")
    with pytest.raises(DocumentError, match=r"d/pipe \(a named pipe\)"):
        expand(["d"], cwd=tmp_path)


@pytest.mark.parametrize(
    "argument",
    [".env", ".env.local", "state", "state/log", "link", "/dev/null", "/proc/self/environ", "", "a\0b"],
)
def test_what_is_never_read_is_refused_even_when_named(tmp_path: Path, argument: str) -> None:
    for name in (".env", ".env.local", "state/log"):
        write(tmp_path / name)
    (tmp_path / "link").symlink_to("state/log")
    with pytest.raises(DocumentError):
        expand([argument], cwd=tmp_path, state_dir=tmp_path / "state")


def test_patterns(tmp_path: Path) -> None:
    for name in ("a.log", "b.log", "x/c.log", "x/y/d.log", ".hid/e.log", "x.txt"):
        write(tmp_path / name)
    write(tmp_path / "x" / "bin.log", b"\0")
    (tmp_path / "x" / "round").symlink_to(tmp_path)
    write(tmp_path / "[1].log")
    assert names(expand(["[ab].log"], cwd=tmp_path).documents) == ["a.log", "b.log"]
    deep = expand(["**/*.log"], cwd=tmp_path)
    assert names(deep.documents) == ["[1].log", "a.log", "b.log", "c.log", "d.log"]
    assert [Path(path).name for path, _ in deep.skipped] == ["bin.log"]
    assert names(expand(["[1].log"], cwd=tmp_path).documents) == ["[1].log"]
    for nothing in ("*.csv", "x/y*"):
        with pytest.raises(DocumentError, match="names no file"):
            expand([nothing], cwd=tmp_path)


def test_a_pattern_does_not_follow_a_link_out(tmp_path: Path) -> None:
    write(tmp_path / "secret.txt")
    write(tmp_path / "d" / "a.txt")
    (tmp_path / "d" / "b.txt").symlink_to(tmp_path / "secret.txt")
    expansion = expand(["d/*.txt"], cwd=tmp_path)
    assert names(expansion.documents) == ["a.txt"]
    assert len(expansion.skipped) == 1


def test_a_named_binary_is_an_error_and_a_file_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    (tmp_path / "same.txt").symlink_to("a.txt")
    assert names(expand(["a.txt", "./a.txt", "same.txt", "*.txt"], cwd=tmp_path).documents) == ["a.txt"]
    write(tmp_path / "b.bin", b"\0")
    with pytest.raises(DocumentError, match="binary"):
        expand(["a.txt", "b.bin"], cwd=tmp_path)


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    for name in ("x/1/a.txt", "y/1/a.txt", "y/2/a.txt", "b.txt"):
        write(tmp_path / name)
    given = ["x/1/a.txt", "y/1/a.txt", "y/2/a.txt", "b.txt"]
    documents = expand(given, cwd=tmp_path, taken={"b.txt"}).documents
    assert names(documents) == ["x/1/a.txt", "y/1/a.txt", "2/a.txt", f"{tmp_path.name}/b.txt"]


def test_names_that_differ_unprintably_stay_unique(tmp_path: Path) -> None:
    write(tmp_path / "a\x1b")
    write(tmp_path / "a\x07")
    found = names(expand(["."], cwd=tmp_path).documents)
    assert found == [f"{tmp_path.name}/a·", f"{tmp_path.name}/a· (2)"]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.txt"
    try:
        Path(os.fsdecode(path)).write_text("x")
    except OSError:
        assert os.uname().sysname == "Darwin"  # this file system has only UTF-8 names
        return
    assert "UTF-8" in refused(Path(os.fsdecode(path)))
    assert "UTF-8" in expand(["."], cwd=tmp_path).skipped[0][1]


def test_ten_thousand_files_are_one_mount(tmp_path: Path) -> None:
    for folder in range(100):
        (tmp_path / "many" / str(folder)).mkdir(parents=True)
        for number in range(100):
            (tmp_path / "many" / str(folder) / f"{number}.txt").write_text("x")
    documents = expand(["many"], cwd=tmp_path).documents
    assert len({document.name for document in documents}) == 10_000
    assert len(mount_plan(documents, nothing=nothing(tmp_path))) == 1
    with pytest.raises(DocumentError, match="cannot be mounted one by one"):
        mount_plan(expand(["many/**/*.txt"], cwd=tmp_path).documents, nothing=nothing(tmp_path))


def test_single_files_are_mounted_under_plain_names(tmp_path: Path) -> None:
    paths = [write(tmp_path / name) for name in ("a b,c:d.txt", "..x", "日本.txt", "ok-1.txt")]
    documents = expand([str(path) for path in paths], cwd=tmp_path).documents
    plan = mount_plan(documents, nothing=nothing(tmp_path))
    targets = [container_path(document, plan) for document in documents]
    assert targets == ["/data/0/a_b_c_d.txt", "/data/1/x", "/data/2/_.txt", "/data/3/ok-1.txt"]
    assert [mount.source for mount in plan] == [path.resolve() for path in paths]
    with pytest.raises(KeyError):
        container_path(documents[0], plan[1:])


def test_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\n")
    document = look(path)
    assert changes(document) == "unchanged"
    assert changes(dataclasses.replace(document, device=document.device + 1)) == "unchanged"
    with path.open("a") as file:
        file.write("two\n")
    assert changes(document) == "grown"
    path.write_text("other, and longer\n")
    assert changes(document) == "changed"
    path.write_text("o")
    assert changes(document) == "changed"
    write(tmp_path / "b.txt", "one\n").rename(path)
    assert changes(document) == "replaced"
    path.unlink()
    assert changes(document) == "missing"
    path.symlink_to(write(tmp_path / "c.txt"))
    assert changes(document) == "replaced"


def test_touched_file_has_changed(tmp_path: Path) -> None:
    document = look(write(tmp_path / "a.txt"))
    os.utime(document.path, ns=(0, document.mtime_ns + 1))
    assert changes(document) == "changed"


def test_what_the_containers_user_cannot_read_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "d" / "sub" / "a.txt")
    path.chmod(0o644)
    path.parent.chmod(0o755)
    path.parent.parent.chmod(0o755)
    (document,) = expand(["d"], cwd=tmp_path).documents
    other = {"uid": os.getuid() + 1, "gid": os.getgid() + 1}
    require_readable_inside([document], **other)
    path.chmod(0o640)
    with pytest.raises(DocumentError) as caught:
        require_readable_inside([document], **other)
    assert caught.value.hint.startswith(f"chmod o+r {path.resolve()}")
    require_readable_inside([document], uid=os.getuid() + 1, gid=os.getgid())
    require_readable_inside([document], uid=os.getuid(), gid=os.getgid() + 1)
    path.chmod(0o644)
    path.parent.chmod(0o750)
    with pytest.raises(DocumentError, match="sub is not readable"):
        require_readable_inside([document], **other)
    alone = look(path)  # mounted as a file, the folders around it do not matter
    require_readable_inside([alone], **other)
