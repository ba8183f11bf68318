"""Texts made in a container: a file that crashes, stalls or outgrows it costs only itself; so does a lie."""

import asyncio
import contextlib
import gzip
import os
import shutil
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from rlm import conversion, protocol
from rlm.box import namespace
from rlm.box.container import Box
from rlm.conversion import CHANGED, Outcome, make_texts
from rlm.documents import Document, Mount, Nothing, look, mount_plan
from rlm.errors import SandboxError
from rlm.text_cache import DATABASE, TextCache
from rlm.text_entries import Entry
from rlm.texts import Prepared, prepare
from tests.box import Boxes, MiB
from tests.box.peer import READY, control, data, engine_frame, whole
from tests.guest.samples import make_docx, make_html, make_pdf, make_xlsx, make_zip

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TextCache]:
    with TextCache(tmp_path / "texts", limit_bytes=64 * MiB) as cache:
        yield cache


@dataclass
class Made:
    """Documents in `folder`, and what has been asked for to make texts of them."""

    folder: Path
    cache: TextCache
    opened: list[tuple[Box, list[str]]] = field(default_factory=list)
    """Each container, and the documents that it was to convert."""
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.telling = asyncio.Event()

    def write(self, name: str, content: bytes) -> Document:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o644)
        return look(path)

    def plan(self, documents: Sequence[Document]) -> list[Mount]:
        return mount_plan(documents, nothing=Nothing(file=self.folder, folder=self.folder))

    async def convert(
        self, documents: Sequence[Document], open_box: conversion.OpenBox
    ) -> dict[str, Outcome]:
        keys = {document.name: key(number) for number, document in enumerate(documents)}
        return await make_texts(documents, keys, cache=self.cache, open_box=open_box, tell=self._tell)

    async def prepare(self, documents: Sequence[Document], open_box: conversion.OpenBox) -> Prepared:
        shown = self.folder / "shown"
        return await prepare(documents, cache=self.cache, folder=shown, open_box=open_box, tell=self._tell)

    def _tell(self, text: str) -> None:
        self.told.append(text)
        self.telling.set()

    async def is_told_of(self, name: str) -> None:
        while not any(name in text for text in self.told):
            self.telling.clear()
            await self.telling.wait()

    def kept(self) -> set[str]:
        """What the cache's folder holds, its database apart."""
        return {path.name for path in self.cache.folder.iterdir() if not path.name.startswith(DATABASE)}

    async def comes_to_keep(self, names: set[str]) -> bool:
        for _ in range(500):
            if self.kept() == names:
                return True
            await asyncio.sleep(0.02)
        return False


@pytest.fixture
def made(tmp_path: Path, cache: TextCache) -> Made:
    return Made(tmp_path, cache)


def key(number: int) -> str:
    return f"{number:064x}"


def text_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Entry), outcome
    (text,) = outcome.texts
    return text.path.read_text(encoding="utf-8")


def pdf_that_inflates(size_bytes: int) -> bytes:
    """A PDF whose one page is drawn by a stream of that size, which takes a thousandth of it in the file."""
    packer = zlib.compressobj(1)
    block = b"0 0 m " * 100_000
    stream = b"".join(packer.compress(block) for _ in range(size_bytes // len(block))) + packer.flush()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>",
        b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, obj) for number, obj in enumerate(objects, 1))
    return b"%PDF-1.7\n" + body + b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n0\n%%EOF\n"


def write_endless(made: Made, name: str = "endless.txt.gz") -> Document:
    """A gzip file with a tebibyte of zeros behind it, as padding; the disk holds none of them."""
    made.write(name, gzip.compress(b"a text\n"))
    os.truncate(made.folder / name, 1024 * 1024 * MiB)
    return look(made.folder / name)


# In a real container


@dataclass
class Real:
    """Opens containers as the program does."""

    boxes: Boxes
    made: Made

    async def open(self, documents: Sequence[Document]) -> tuple[Box, list[Mount]]:
        plan = self.made.plan(documents)
        box = await self.boxes.open(mounts=tuple((str(mount.source), mount.target) for mount in plan))
        self.made.opened.append((box, [document.name for document in documents]))
        return box, plan


@pytest.fixture
def real(boxes: Boxes, made: Made) -> Real:
    return Real(boxes, made)


async def test_files_of_many_kinds_are_made_into_text_in_one_container(made: Made, real: Real) -> None:
    documents = [
        made.write("report.pdf", make_pdf(["first page", "second page"])),
        made.write("letter.docx", make_docx(["Dear all"])),
        made.write("cut.pdf", make_pdf(["text"] * 5)[:600]),
        made.write("sums.xlsx", make_xlsx({"Budget": [["city", 12]]})),
        made.write("two.zip", make_zip({"a/x.txt": "one", "y.md": "two", "logo.png": b"\x89PNG\r\n\x1a\n"})),
        made.write("page.html", make_html("Title", "<p>words</p>")),
    ]

    outcomes = await made.convert(documents, real.open)

    assert [*outcomes] == [document.name for document in documents]
    assert text_of(outcomes["report.pdf"]).startswith("[page 1 of 2]\nfirst page\n")
    assert text_of(outcomes["letter.docx"]) == "Dear all\n"
    assert str(outcomes["cut.pdf"]).startswith("is cut off")
    assert "city\t12\n" in text_of(outcomes["sums.xlsx"])
    archive = outcomes["two.zip"]
    assert isinstance(archive, Entry)
    assert [(text.name, text.path.read_bytes()) for text in archive.texts] == [
        ("a/x.txt", b"one"),
        ("y.md", b"two"),
    ]
    assert [name for name, _ in archive.skipped] == ["logo.png"]
    assert "words" in text_of(outcomes["page.html"])
    assert made.told[0] == "making text of report.pdf (1 of 6), 0 MB"
    ((box, _),) = made.opened
    assert await real.boxes.is_gone(box.container)
    assert made.kept() == {key(number) for number in (0, 1, 3, 4, 5)}


async def test_a_file_that_crashes_its_converter_costs_only_itself(made: Made, real: Real) -> None:
    documents = [
        made.write("first.html", make_html("", "first")),
        made.write("bomb.pdf", pdf_that_inflates(400 * MiB)),
        made.write("last.html", make_html("", "last")),
    ]

    outcomes = await made.convert(documents, real.open)

    assert [*outcomes] == [document.name for document in documents]
    assert text_of(outcomes["first.html"]) == "first\n"
    assert text_of(outcomes["last.html"]) == "last\n"
    bomb = str(outcomes["bomb.pdf"])
    assert bomb.startswith("brought its converter down: it crashed")
    assert "sandbox.memory" in bomb
    assert [names for _, names in made.opened] == [["first.html", "bomb.pdf", "last.html"], ["last.html"]]
    assert "making text of last.html (3 of 3), 0 MB" in made.told
    assert made.kept() == {key(0), key(2)}


async def test_a_converter_that_makes_no_text_for_long_is_stopped(
    made: Made, real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "CONVERT_IDLE_S", 1.0)
    documents = [write_endless(made), made.write("good.html", make_html("", "good"))]

    outcomes = await made.convert(documents, real.open)

    assert "it was stopped after 1 s in which no text came of it" in str(outcomes["endless.txt.gz"])
    assert text_of(outcomes["good.html"]) == "good\n"
    assert made.kept() == {key(1)}


async def test_a_container_killed_from_outside_costs_what_it_was_at(made: Made, real: Real) -> None:
    documents = [
        made.write("first.html", make_html("", "first")),
        write_endless(made),
        made.write("good.html", make_html("", "good")),
    ]
    converting = asyncio.create_task(made.convert(documents, real.open))
    await made.is_told_of("endless.txt.gz")
    await asyncio.to_thread(real.boxes.engine.remove, made.opened[0][0].container)

    outcomes = await converting

    assert "brought its converter down: the container ended." in str(outcomes["endless.txt.gz"])
    assert text_of(outcomes["first.html"]) == "first\n"
    assert text_of(outcomes["good.html"]) == "good\n"
    assert made.kept() == {key(0), key(2)}


@pytest.mark.parametrize("times", [1, 2])
async def test_ctrl_c_leaves_neither_a_container_nor_half_a_text(made: Made, real: Real, times: int) -> None:
    documents = [made.write("whole.html", make_html("", "whole")), write_endless(made)]
    converting = asyncio.create_task(made.convert(documents, real.open))
    await made.is_told_of("endless.txt.gz")
    for _ in range(times):  # the second one, as from an impatient user, comes while the first is seen to
        converting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await converting

    ((box, _),) = made.opened
    assert await real.boxes.is_gone(box.container)
    assert await made.comes_to_keep({key(0)})
    assert made.cache.find(key(0))


async def test_what_is_larger_than_the_cache_is_refused_and_takes_no_disk(
    tmp_path: Path, boxes: Boxes
) -> None:
    with TextCache(tmp_path / "texts", limit_bytes=MiB) as cache:
        made = Made(tmp_path, cache)
        documents = [
            made.write("large.txt.gz", gzip.compress(b"0123456789\n" * 200_000)),
            made.write("half.txt.gz", gzip.compress(b"x" * (600 * 1024))),
            made.write("half too.txt.gz", gzip.compress(b"y" * (600 * 1024))),
            made.write("small.txt.gz", gzip.compress(b"z" * 1000)),
        ]

        outcomes = await made.convert(documents, Real(boxes, made).open)

        assert "unpacks to more than" in str(outcomes["large.txt.gz"])
        assert "There is no room for more" in str(outcomes["half too.txt.gz"])
        assert "raise sandbox.cache" in str(outcomes["half too.txt.gz"])
        assert made.kept() == {key(1), key(3)}
        assert sum(path.stat().st_size for path in cache.folder.glob("*/*.txt")) <= MiB


async def test_the_same_content_is_converted_once_and_known_from_then_on(made: Made, real: Real) -> None:
    page = make_html("", "the same")
    documents = [made.write(name, page) for name in ("one.html", "two.html")]
    documents += [made.write("plain.txt", b"as it is"), made.write("no.pdf", b"%PDF-1.7 nothing")]

    prepared = await made.prepare(documents, real.open)

    assert [text.name for text in prepared.texts] == ["one.html", "two.html", "plain.txt"]
    assert prepared.texts[0].inside == prepared.texts[1].inside
    shown = made.folder / "shown" / prepared.texts[0].inside
    assert shown.read_text(encoding="utf-8") == "the same\n"
    assert [*prepared.problems] == ["no.pdf"]
    assert [names for _, names in made.opened] == [["one.html", "no.pdf"]]
    again = await made.prepare(documents[:3], real.open)
    assert again.texts == prepared.texts
    assert len(made.opened) == 1


# In a container that lies


def play(peer: socket.socket, script: Iterable[bytes]) -> None:
    """Be a container: start, say `script` when asked to convert, and listen on until the host hangs up."""
    with contextlib.suppress(OSError), peer:
        hello = protocol.whole_frame(0, protocol.Hello(version=protocol.VERSION, python="3"), [b"{}"])
        assert hello
        peer.sendall(engine_frame(hello))
        hear(peer, b'"t":"spawn"')
        peer.sendall(READY)
        hear(peer, b'"t":"convert"')
        for piece in script:
            peer.sendall(piece)
        hear(peer, b"what is never said")


def hear(peer: socket.socket, words: bytes) -> None:
    heard = b""
    while words not in heard:
        if not (said := peer.recv(65536)):
            raise ConnectionResetError
        heard += said


@dataclass
class Liar:
    """Opens containers that are peers on a socket: each says the next of `scripts` when asked to convert."""

    boxes: Boxes
    made: Made
    scripts: list[Iterable[bytes]] = field(default_factory=list)

    async def open(self, documents: Sequence[Document]) -> tuple[Box, list[Mount]]:
        ours, theirs = socket.socketpair()
        box = Box(self.boxes.engine, "there-is-none", ours, self.boxes.config)
        box._wire.start()
        self.made.opened.append((box, [document.name for document in documents]))
        asyncio.get_running_loop().run_in_executor(None, play, theirs, self.scripts.pop(0))
        return box, self.made.plan(documents)


@pytest.fixture
def liar(boxes: Boxes, made: Made) -> Liar:
    return Liar(boxes, made)


def part(item: int, *chunks: bytes, name: str = "", kind: str = "pdf", body: int = 1) -> bytes:
    """The announcement of a text and the beginning of it."""
    message = protocol.Part(request=1, item=item, name=name, kind=kind, encoding="", body=body)
    return control(message) + b"".join(data(chunk, body=body) for chunk in chunks)


def a_text(item: int, text: bytes = b"text", *, name: str = "", kind: str = "pdf") -> bytes:
    return part(item, text, name=name, kind=kind) + data(b"")


def skipped(item: int) -> bytes:
    return control(protocol.Skipped(request=1, item=item, name="x", reason="is a link"))


def item_done(item: int, problem: str = "") -> bytes:
    return control(protocol.ItemDone(request=1, item=item, problem=problem, note=""))


def rolled_back(reason: str) -> bytes:
    died = protocol.RolledBack(worker=1, reason=reason, detail="", restored=True)
    return control(died, channel=0)


CONVERTED = engine_frame(whole(protocol.Converted(request=1), b""))
FIRST = a_text(0) + item_done(0)


LIES: dict[str, tuple[Iterable[bytes], str]] = {
    "a text of an item that is done": ([FIRST, a_text(1), a_text(0)], "not this item's turn"),
    "a text of an item before its turn": ([FIRST, a_text(2)], "not this item's turn"),
    "a text of an item that there is not": ([FIRST, a_text(3)], "not this item's turn"),
    "a kind that there is not": ([FIRST, a_text(1, kind="../x\x1b")], "part: unknown kind"),
    "an item done twice": ([FIRST, item_done(0)], "not this item's turn"),
    "an item done before its turn": ([FIRST, item_done(2)], "not this item's turn"),
    "an item done with nothing": ([FIRST, item_done(1)], "neither a text nor a problem"),
    "something left out of another item": ([FIRST, skipped(0)], "not this item's turn"),
    "endless texts": ([FIRST, *[a_text(1, b"x")] * 100], "part: too many of one item"),
    "endless names of what is left out": ([FIRST, *[skipped(1)] * 100], "skipped: too many of one item"),
    "an endless text": ([FIRST, part(1), *[data(bytes(32_768))] * 3000], "part: more text than it may be"),
    "data that was not announced": ([FIRST, data(b"x", body=7)], "a body that was not announced"),
    "an answer that nobody asked for": ([FIRST, part(1), CONVERTED, CONVERTED], ""),
}


@pytest.mark.parametrize(("script", "why"), LIES.values(), ids=LIES.keys())
async def test_a_lie_ends_the_container_and_nothing_of_the_item_is_kept(
    made: Made, liar: Liar, monkeypatch: pytest.MonkeyPatch, script: Iterable[bytes], why: str
) -> None:
    monkeypatch.setattr(conversion, "MAX_TEXTS", 50)
    documents = [made.write(name, make_pdf([name])) for name in ("a.pdf", "b.pdf", "c.pdf")]
    liar.scripts = [script, [FIRST, CONVERTED]]
    outcomes = await made.convert(documents, liar.open)

    assert text_of(outcomes["a.pdf"]) == text_of(outcomes["c.pdf"]) == "text"
    assert str(outcomes["b.pdf"]).startswith("brought its converter down: ")
    assert why in str(outcomes["b.pdf"])
    assert [names for _, names in made.opened] == [["a.pdf", "b.pdf", "c.pdf"], ["c.pdf"]]
    assert made.kept() == {key(0), key(2)}


async def test_a_text_that_is_not_said_to_be_done_is_not_kept(made: Made, liar: Liar) -> None:
    documents = [made.write(name, make_pdf([name])) for name in ("a.pdf", "b.pdf")]
    liar.scripts = [[a_text(0), CONVERTED], [item_done(0, "is damaged"), CONVERTED]]

    outcomes = await made.convert(documents, liar.open)

    assert str(outcomes["a.pdf"]).startswith("brought its converter down: it ended early.")
    assert outcomes["b.pdf"] == "is damaged"
    assert made.kept() == set()


async def test_names_and_problems_cannot_act_on_a_terminal(made: Made, liar: Liar) -> None:
    documents = [made.write(name, make_pdf([name])) for name in ("a.pdf", "b.pdf")]
    bad = "a\x1b[2J\nb" + "x" * 2000
    liar.scripts = [[a_text(0, name=bad), skipped(0), item_done(0), item_done(1, bad), CONVERTED]]

    outcomes = await made.convert(documents, liar.open)

    whole_one = outcomes["a.pdf"]
    assert isinstance(whole_one, Entry)
    assert whole_one.texts[0].name.startswith("a·[2J·b")
    assert len(whole_one.texts[0].name) <= conversion.MAX_NAME_CHARS
    assert str(outcomes["b.pdf"]).startswith("a·[2J·b")
    assert len(str(outcomes["b.pdf"])) <= 1000


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (
            "memory",
            "it needs more memory than the sandbox has (384 MiB); raise sandbox.memory",
        ),
        ("killed", "it was stopped after 120 s in which no text came of it"),
        ("signal", "it crashed, on a damaged file or for want of memory"),
        ("exit", "it ended its own process"),
        ("of\x1bold age", "the worker died (of·old age)"),
    ],
)
async def test_the_end_of_a_converter_is_told_in_words(
    made: Made, liar: Liar, reason: str, says: str
) -> None:
    liar.scripts = [[part(0, b"half of a te"), rolled_back(reason)]]
    outcomes = await made.convert([made.write("a.pdf", make_pdf(["a"]))], liar.open)
    assert str(outcomes["a.pdf"]).startswith(f"brought its converter down: {says}")
    assert made.kept() == set()


async def test_a_file_that_changes_while_its_text_is_made_has_none(made: Made, liar: Liar) -> None:
    document = made.write("a.pdf", make_pdf(["before"]))

    def meanwhile() -> Iterator[bytes]:
        yield a_text(0)
        (made.folder / "a.pdf").write_bytes(make_pdf(["after, and longer"]))
        yield item_done(0) + CONVERTED

    liar.scripts = [meanwhile()]
    assert await made.convert([document], liar.open) == {"a.pdf": CHANGED}
    assert made.kept() == set()


def in_a_row(count: int, *, tell: Callable[[], object] = lambda: None) -> Iterator[bytes]:
    """Items with a text each, as fast as they can be said; `tell` is called when the first is said."""
    for number in range(count):
        yield a_text(number, b"text %d" % number) + item_done(number)
        if number == 0:
            tell()


async def test_many_small_files_come_faster_than_they_are_kept(made: Made, liar: Liar) -> None:
    documents = [made.write(f"{number}.html", make_html("", str(number))) for number in range(300)]
    liar.scripts = [[b"".join(in_a_row(300)), CONVERTED]]
    outcomes = await made.convert(documents, liar.open)
    assert [text_of(outcome) for outcome in outcomes.values()] == [f"text {number}" for number in range(300)]


async def test_texts_on_their_way_when_it_is_given_up_leave_nothing_half(made: Made, liar: Liar) -> None:
    documents = [made.write(f"{number}.html", make_html("", str(number))) for number in range(300)]
    for _ in range(5):
        under_way = asyncio.Event()
        tell = partial(asyncio.get_running_loop().call_soon_threadsafe, under_way.set)
        liar.scripts = [in_a_row(300, tell=tell)]
        converting = asyncio.create_task(made.convert(documents, liar.open))
        await under_way.wait()
        converting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await converting
        assert not [name for name in made.kept() if name.endswith(".tmp")]


async def test_a_cache_that_cannot_be_written_is_told_of_each_file(made: Made, liar: Liar) -> None:
    def meanwhile() -> Iterator[bytes]:
        shutil.rmtree(made.cache.folder)
        yield FIRST + a_text(1) + item_done(1) + CONVERTED

    liar.scripts = [meanwhile()]
    documents = [made.write(name, make_pdf([name])) for name in ("a.pdf", "b.pdf")]
    outcomes = await made.convert(documents, liar.open)
    for outcome in outcomes.values():
        assert str(outcome).startswith("cannot be kept as text: Could not write ")
        assert "run the command again" in str(outcome)


async def test_without_a_worker_no_file_is_to_blame(made: Made, liar: Liar) -> None:
    async def open_box(documents: Sequence[Document]) -> tuple[Box, list[Mount]]:
        box, plan = await liar.open(documents)
        box._wire.close()
        return box, plan

    liar.scripts = [[]]
    with pytest.raises(SandboxError):
        await made.convert([made.write("a.pdf", make_pdf(["a"]))], open_box)
