"""Any number of documents: opened when needed, let go when nothing needs them, searched together."""

import dataclasses
import gc
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.documents import Document
from sandbox.interrupts import Interrupts
from sandbox.library import MOST_OPEN, Library
from sandbox.link import Link
from sandbox.textfile import DocumentSpec
from sandbox.workspace import Workspace
from tests.guest import write

KEPT_BYTES = 100_000


def library(specs: list[DocumentSpec], *, str_limit_bytes: int = KEPT_BYTES) -> Library:
    made = Library(str_limit_bytes=str_limit_bytes)
    for spec in specs:
        made.put(spec)
    return made


def some_files(folder: Path, count: int, text: str = "text") -> list[DocumentSpec]:
    return [write(folder / f"{number:05}.txt", f"{number} {text}".encode()) for number in range(count)]


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 3 * MOST_OPEN, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def workspace(specs: list[DocumentSpec]) -> Iterator[Workspace]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = Workspace(
            Link(ours, Interrupts()), {}, str_limit_bytes=KEPT_BYTES, memory_bytes=16 * KEPT_BYTES
        )
        made.set_documents([dataclasses.asdict(spec) for spec in specs], None)
        yield made


NAMED = {
    "logs/a.txt": b"one error\n\nerror two\n",
    "logs/b.txt": "\ufefferror with a mark before it\n".encode(),
    "logs/latin.txt": "caf\xe9 error\n".encode("latin-1"),
    "notes.md": "nothing here, é\r\n".encode(),
    "big.log": b"filler line\n" * 60_000 + b"last error\n",
    "empty": b"",
    "what?.md": b"error\r\n",
}
ENCODINGS = {"logs/b.txt": "utf-8-sig", "logs/latin.txt": "latin-1"}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("named")
    (folder / "logs").mkdir()
    specs = [
        dataclasses.replace(write(folder / name, data, encoding=ENCODINGS.get(name, "utf-8")), name=name)
        for name, data in NAMED.items()
    ]
    yield from workspace(specs)


def test_texts_nobody_uses_are_let_go_and_others_stay(tmp_path: Path) -> None:
    files = library(some_files(tmp_path, 200, "x" * 2000))
    files.active = "00000.txt"
    files["00000.txt"]
    used = [files[f"{number:05}.txt"] for number in range(1, 100)]
    for name in files:
        assert files[name].startswith(f"{int(name[:5])} x")
    kept = files.opened()
    assert all(kept[f"{number:05}.txt"] is text for number, text in enumerate(used, start=1))
    assert "00000.txt" in kept
    unused = set(kept) - {f"{number:05}.txt" for number in range(100)}
    assert 0 < len(unused) * 2000 <= KEPT_BYTES
    assert "00199.txt" in unused
    del used, kept
    for name in files:
        files[name]
    assert sum(map(sys.getsizeof, files.opened().values())) < 2 * KEPT_BYTES


def test_more_large_documents_than_files_may_be_open(tmp_path: Path, few_descriptors: None) -> None:
    specs = some_files(tmp_path, 8 * MOST_OPEN, "large" * 100)
    files = library(specs, str_limit_bytes=2 * MOST_OPEN)
    first = files["00000.txt"]
    assert isinstance(first, Document)
    for name in files:
        assert files[name][:6].startswith(f"{int(name[:5])} ")
        assert files.view(name).find("large") > 0
    assert files["00000.txt"] is first
    with pytest.raises(OSError, match="keep names of documents rather than their texts"):
        [files[name] for name in files]
    gc.collect()  # the traceback holds the list
    assert files["00001.txt"][:2] == "1 "


def test_short_texts_are_no_references(tmp_path: Path) -> None:
    files = library(
        [write(tmp_path / "empty", b""), write(tmp_path / "a", b"a"), write(tmp_path / "ab", b"ab")]
    )
    assert [files[name] for name in files] == ["", "a", "ab"]
    assert list(files.opened()) == ["ab"]


def test_a_changed_or_removed_document_is_opened_again(tmp_path: Path) -> None:
    (spec,) = some_files(tmp_path, 1)
    files = library([spec])
    assert files[spec.name] == "0 text"
    files.put(dataclasses.replace(write(Path(spec.path), b"new"), name=spec.name))
    assert (files[spec.name], files.view(spec.name)[:]) == ("new", "new")
    files.remove(spec.name)
    with pytest.raises(KeyError, match=r"no document '00000\.txt'; list_files"):
        files[spec.name]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("all", list(NAMED)),
        ("notes.md", ["notes.md"]),
        ("logs/*", ["logs/a.txt", "logs/b.txt", "logs/latin.txt"]),
        ("*.md", ["notes.md", "what?.md"]),
        ("what?.md", ["what?.md"]),
        (["empty", "*/a.*", "logs/[ab].txt"], ["empty", "logs/a.txt", "logs/b.txt"]),
        ([], []),
    ],
)
def test_which_documents_are_searched(named: Workspace, wanted: str | list[str], names: list[str]) -> None:
    holding = [name for name in names if b"error" in NAMED[name]]
    found = named.grep("error", files=wanted)
    assert list(dict.fromkeys(match.document for match in found)) == holding
    assert named.count("error", files=wanted) == len(found) == found.total


def test_many_documents_are_searched_as_each_alone(named: Workspace) -> None:
    for pattern in (
        "error",
        "^error",
        r"(?<=last )err.r$",
        r"caf\w",
        "é$",
        "^$",
        r"\w+ error",
        "(e)r{2}",
        "[^a-z]$",
    ):
        alone = [match for name in NAMED for match in named.grep(pattern, files=name)]
        assert list(named.grep(pattern, files="all")) == alone
        assert named.count(pattern, files="all") == len(alone)
    assert [match.offset for match in named.grep("^error", files="logs/*")] == [11, 0]


def test_a_search_stops_and_tells_how_many_there_are(named: Workspace) -> None:
    found = named.grep("error", max_matches=2, files="all")
    assert (len(found), found.truncated, found.total) == (2, True, 6)
    assert str(found).endswith("(first 2 of 6 matches)")
    assert named.grep("error", max_matches=6, files="all").truncated is False


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ("note.md", KeyError, r"no document 'note.md'; did you mean 'notes.md'\? list_files\(\) shows all"),
        (["notes.md", "zzz"], KeyError, r"no document 'zzz'; list_files\(\) shows all"),
        ("*.pdf", KeyError, r"no document matches '\*.pdf'"),
        ([5], TypeError, "names and patterns such as '\\*.txt', not int"),
    ],
)
def test_what_means_no_document(
    named: Workspace, wanted: str | list[str], error: type[Exception], message: str
) -> None:
    for search in (named.grep, named.count):
        with pytest.raises(error, match=message):
            search("error", files=wanted)


def test_thousands_of_documents(tmp_path: Path, few_descriptors: None) -> None:
    specs = some_files(tmp_path, 1000, "some line\n" * 20)
    with open(specs[900].path, "ab") as file:
        file.write(b"appended, not seen: needle\n")
    specs[700] = write(Path(specs[700].path), b"no\nneedle\n")
    (many,) = workspace(specs)
    assert [(m.document, m.line) for m in many.grep("needle", files="all")] == [("00700.txt", 2)]
    assert many.count(r"[s]ome line$", files="all") == 999 * 20
    assert [match.document for match in many.grep("line", max_matches=21, files="all")][-1] == "00001.txt"
    assert many.list_files().count("\n") == 999
    assert sum(len(text) for text in many.reserved()["files"].values()) > 200_000
    os.truncate(specs[500].path, 10)
    with pytest.raises(OSError, match=r"'00500\.txt' has become shorter"):
        many.grep("needle", files="all")


def test_marks_of_the_active_document(tmp_path: Path) -> None:
    pages = b"".join(b"[page %d of 3]\nline of %d\n" % (number, number) for number in (1, 2, 3))
    (opened,) = workspace([dataclasses.replace(write(tmp_path / "a.pdf", pages), mark="page")])
    assert isinstance(opened.reserved()["context"], str)
    assert [chunk.mark for chunk in opened.chunks(by="marks")] == [
        "page 1 of 3",
        "page 2 of 3",
        "page 3 of 3",
    ]
    assert repr(opened.grep("of 2$")[0]) == "a.pdf [page 2 of 3]:4: line of 2"
