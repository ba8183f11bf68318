"""What a session reads: names, order and problems of its texts, and when nothing has to be converted."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlm import texts
from rlm.box.container import Box
from rlm.conversion import NO_ROOM
from rlm.documents import TEXTS, Document, Mount, look
from rlm.text_cache import TextCache
from rlm.texts import Prepared, Text, identity_of, known_texts, options_of, prepare
from tests.guest.samples import make_pdf, make_zip

MiB = 1024 * 1024
OLD = 1_000_000_000
"""A time so long ago that the cache remembers what it knows of the file."""


@dataclass
class Session:
    """Documents in `folder`, the texts of which are all in the cache already."""

    folder: Path
    cache: TextCache
    told: list[str] = field(default_factory=list)

    def write(self, name: str, content: bytes | str, *, called: str = "") -> Document:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(path, (OLD, OLD))
        return look(path, name=called)

    def keep(self, document: Document, made: dict[str, str], *, kind: str) -> None:
        """Put into the cache what converters would make of the document: texts by their names."""
        key = self.cache.key_of(document.path, options=options_of(document))
        with self.cache.writer(key, limit_bytes=MiB) as writer:
            for name, text in made.items():
                writer.begin(name, kind=kind, encoding="utf-8").write(text.encode())
            writer.commit()

    async def prepare(self, *documents: Document) -> Prepared:
        shown = self.folder / "shown"
        return await prepare(
            documents, cache=self.cache, folder=shown, open_box=no_box, tell=self.told.append
        )

    def read(self, text: Text) -> str:
        """What the container finds behind a text that was made."""
        path = str(
            text.to_spec([Mount(source=text.document.mount, target="/data/0/x", is_dir=False)])["path"]
        )
        return (self.folder / "shown" / path.removeprefix(f"{TEXTS}/")).read_text(encoding="utf-8")


async def no_box(documents: Sequence[Document]) -> tuple[Box, list[Mount]]:
    raise AssertionError(f"a container for {[document.name for document in documents]}")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with TextCache(tmp_path / "cache", limit_bytes=MiB) as cache:
        yield Session(tmp_path, cache)


async def test_texts_come_in_the_order_of_documents_with_archives_as_folders(session: Session) -> None:
    report = session.write("report.pdf", make_pdf(["x"]))
    notes = session.write("notes.md", "as it is\n")
    archive = session.write("set.zip", make_zip({"b": "x"}))
    session.keep(archive, {"b/2.csv": "1,2\n", "a/1.csv": "3,4\n5,6\n"}, kind="csv")
    session.keep(report, {"": "[page 1 of 1]\nx\n"}, kind="pdf")

    prepared = await session.prepare(archive, notes, report)

    assert [(text.name, text.kind, text.lines) for text in prepared.texts] == [
        ("set.zip/b/2.csv", "csv", 1),
        ("set.zip/a/1.csv", "csv", 2),
        ("notes.md", "text", -1),
        ("report.pdf", "pdf", 2),
    ]
    assert [session.read(text) for text in prepared.texts if text.inside] == [
        "1,2\n",
        "3,4\n5,6\n",
        "[page 1 of 1]\nx\n",
    ]
    assert (prepared.problems, prepared.notes, session.told) == ({}, (), [])


async def test_every_name_is_taken_once(session: Session) -> None:
    archive = session.write("a.zip", make_zip({"b": "x"}))
    session.keep(archive, {"x.txt": "1", "x.txt ": "2", "x.txt (2)": "3"}, kind="text")
    plain = [session.write(f"{n}/x.txt", str(n), called=name) for n, name in enumerate(("a.zip/x.txt",) * 2)]

    prepared = await session.prepare(plain[0], archive, plain[1])

    names = [text.name for text in prepared.texts]
    assert names == [
        "a.zip/x.txt",
        "a.zip/x.txt (2)",
        "a.zip/x.txt ",
        "a.zip/x.txt (2) (2)",
        "a.zip/x.txt (3)",
    ]


async def test_documents_of_the_same_content_share_their_texts_and_keep_their_names(session: Session) -> None:
    content = make_pdf(["x"])
    one, two = session.write("one.pdf", content), session.write("two.pdf", content)
    session.keep(one, {"": "text\n"}, kind="pdf")

    prepared = await session.prepare(one, two)

    assert [text.name for text in prepared.texts] == ["one.pdf", "two.pdf"]
    assert [text.document for text in prepared.texts] == [one, two]
    assert len({text.inside for text in prepared.texts}) == 1
    assert len([*(session.folder / "shown").iterdir()]) == 1


async def test_the_same_bytes_read_as_another_kind_are_another_text(session: Session) -> None:
    packed = make_zip({"word/document.xml": "<x/>"})
    archive, letter = session.write("letter.zip", packed), session.write("letter.docx", packed)
    session.keep(archive, {"word/document.xml": "<x/>"}, kind="text")
    session.keep(letter, {"": "Dear all\n"}, kind="docx")
    prepared = await session.prepare(archive, letter)
    assert [(text.name, session.read(text)) for text in prepared.texts] == [
        ("letter.zip/word/document.xml", "<x/>"),
        ("letter.docx", "Dear all\n"),
    ]


async def test_what_is_not_asked_for_any_more_is_not_shown(session: Session) -> None:
    documents = [session.write(f"{number}.pdf", make_pdf([str(number)])) for number in range(2)]
    for document in documents:
        session.keep(document, {"": document.name}, kind="pdf")
    await session.prepare(*documents)
    prepared = await session.prepare(documents[1])
    assert [text.name for text in prepared.texts] == ["1.pdf"]
    (shown,) = (session.folder / "shown").iterdir()
    assert shown.read_text(encoding="utf-8") == "1.pdf"
    assert (await session.prepare()).texts == ()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (Path.unlink, "cannot be read. No such file or directory."),
        (lambda path: (path.unlink(), path.symlink_to("good.pdf")), "cannot be read. "),
    ],
)
async def test_a_problem_has_the_name_of_its_document_and_costs_no_other(
    session: Session, spoil: Callable[[Path], object], problem: str
) -> None:
    good, bad = session.write("good.pdf", make_pdf(["x"])), session.write("bad.pdf", make_pdf(["y"]))
    session.keep(good, {"": "text"}, kind="pdf")
    spoil(bad.path)

    prepared = await session.prepare(bad, good)

    assert [text.name for text in prepared.texts] == ["good.pdf"]
    assert [*prepared.problems] == ["bad.pdf"]
    assert prepared.problems["bad.pdf"].startswith(problem)


async def test_without_room_in_the_cache_no_container_is_started(tmp_path: Path) -> None:
    with TextCache(tmp_path / "cache", limit_bytes=0) as cache:
        session = Session(tmp_path, cache)
        documents = [session.write(f"{number}.pdf", make_pdf([str(number)])) for number in range(2)]
        prepared = await session.prepare(*documents)
    assert prepared.problems == {"0.pdf": NO_ROOM, "1.pdf": NO_ROOM}


async def test_a_large_file_that_has_to_be_read_is_told_of(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = make_pdf(["x"]), make_pdf(["x"] * 99)
    for name, content in (("small copy.pdf", small), ("large copy.pdf", large)):
        session.keep(session.write(name, content), {"": name}, kind="pdf")
    monkeypatch.setattr(texts, "SLOW_BYTES", len(large))
    documents = session.write("small.pdf", small), session.write("large.pdf", large)
    prepared = await session.prepare(*documents)
    assert [session.read(text) for text in prepared.texts] == ["small copy.pdf", "large copy.pdf"]
    assert session.told == ["reading large.pdf, 0 MB"]
    await session.prepare(*documents)
    assert len(session.told) == 1


async def test_known_texts_are_those_that_prepare_finds_without_reading(session: Session) -> None:
    archive = session.write("set.zip", make_zip({"b": "x"}))
    unknown = session.write("unknown.pdf", make_pdf(["x"]))
    plain = session.write("notes.md", "1\n2\n")
    session.keep(archive, {"a.txt": "1", "b.txt": "2"}, kind="text")
    session.cache.remember_lines({identity_of(plain): 2})

    known = known_texts([plain, unknown, archive], cache=session.cache)

    assert [(text.name, text.lines) for text in known] == [
        ("notes.md", 2),
        ("set.zip/a.txt", 1),
        ("set.zip/b.txt", 1),
    ]
    assert not (session.folder / "shown").exists()
    prepared = await session.prepare(plain, archive)
    assert [text.name for text in prepared.texts] == [text.name for text in known]
