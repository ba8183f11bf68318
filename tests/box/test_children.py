"""Workers of child RLMs in a real container: pieces by reference, shares of memory, ends without remains."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from rlm.box.container import Box
from rlm.box.namespace import Namespace, Request
from rlm.errors import SandboxError
from rlm.protocol import SubCalls, pack_strings, unpack_strings
from tests.box import Boxes, Guest, Host, guest_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

MiB = 1024 * 1024
SHARE_BYTES = 96 * MiB
LINES = "".join(f"{number:06},été {number % 7}\n" for number in range(40_000))
LARGE = LINES * 30
"""More than one `str` of a child holds."""


@dataclass
class Pieces:
    """Keeps the references with which cells ask for children, and answers each with its query."""

    found: list[str] = field(default_factory=list)

    async def serve(self, request: Request, body: bytes) -> bytes:
        assert isinstance(request, SubCalls)
        strings = unpack_strings(body, 3 * request.count)
        assert not any(strings[2::3]), "text was sent beside a reference"
        self.found += strings[1::3]
        return pack_strings(text for query in strings[::3] for text in ("ok", query))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def box(boxes: Boxes, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Box]:
    folder = tmp_path_factory.mktemp("documents")
    folder.chmod(0o755)
    for name, text in (("lines.csv", LINES), ("large.csv", LARGE)):
        (folder / name).write_text(text)
    box = await boxes.open(mounts=((str(folder), "/data/set"),))
    yield box
    await box.close()


def specs() -> bytes:
    rows = [("lines.csv", LINES), ("large.csv", LARGE)]
    return json.dumps(
        [
            {
                "name": name,
                "path": f"/data/set/{name}",
                "source": f"/somewhere/{name}",
                "size_bytes": len(text.encode()),
                "mtime_ns": 0,
                "kind": "csv",
            }
            for name, text in rows
        ]
    ).encode()


async def shows(namespace: Namespace, code: str) -> str:
    result = await namespace.run_cell(code, lambda text: None)
    assert result.status == "ok", result
    return result.shown


@contextlib.asynccontextmanager
async def child_of(box: Box, *, piece: str = "", text: str = "") -> AsyncIterator[Guest]:
    host = Host()
    namespace = await box.open_namespace(host.serve, memory_bytes=SHARE_BYTES)
    try:
        assert await namespace.set_context(piece or text, piece=bool(piece)) == ""
        yield Guest(box, namespace, host)
    finally:
        namespace.close()


async def references(box: Box, *contexts: str) -> list[str]:
    """What is sent for these contexts, which are expressions."""
    pieces = Pieces()
    namespace = await box.open_namespace(pieces.serve)
    try:
        assert await namespace.set_documents(specs(), "lines.csv") == {}
        count = len(contexts)
        await shows(namespace, f"rlm_query_batched(['q'] * {count}, [{', '.join(contexts)}])")
    finally:
        namespace.close()
    return pieces.found


async def test_chunk_is_handed_over_by_reference_and_read_as_it_was(box: Box) -> None:
    (chunk,) = await references(box, "chunks(100_000)[2]")
    assert len(chunk) < 1000
    async with child_of(box, piece=chunk) as child:
        text = LINES[200_000:300_000]
        assert await child.shows("len(context), hash(context) == hash(context[:]), context[:30]") == (
            f"(100000, True, {text[:30]!r})\n"
        )
        line = next(line for line in text.splitlines()[1:] if line.endswith("6"))
        assert await child.shows(f"m = grep({line!r})[0]; (m.document, m.line, m.offset)") == (
            f"('context', {text[: text.index(line)].count(chr(10)) + 1}, {text.index(line)})\n"
        )
        second = text.splitlines(keepends=True)[1]
        assert await child.shows("peek(0, 9) + lines(2, 2)") == f"{text[:9] + second!r}\n"
        shown = await child.shows("len(chunks(30_000)), chunks(30_000)[3].text == context[90_000:]")
        assert shown == "(4, True)\n"


async def test_child_may_look_around_in_the_document_of_its_piece(box: Box) -> None:
    (chunk,) = await references(box, "chunks(100_000)[2]")
    async with child_of(box, piece=chunk) as child:
        assert "* lines.csv" in await child.shows("list_files()")
        assert await child.shows("list(files), len(files['lines.csv'])") == f"(['lines.csv'], {len(LINES)})\n"
        assert await child.shows("sql('select count(*) from doc')[0]") == "(39999,)\n"
        assert await child.shows("len(switch_to('lines.csv')), len(context)") == f"({len(LINES)}, 100000)\n"


async def test_piece_of_a_piece_is_a_piece_of_the_document(box: Box) -> None:
    (chunk,) = await references(box, "chunks(100_000)[2]")
    pieces = Pieces()
    child = await box.open_namespace(pieces.serve, memory_bytes=SHARE_BYTES)
    assert await child.set_context(chunk, piece=True) == ""
    await shows(child, "rlm_query('q', chunks(10_000)[1]); rlm_query('q', context)")
    child.close()
    inner, whole = map(json.loads, pieces.found)
    assert (inner["document"]["name"], inner["start"], inner["end"]) == ("lines.csv", 210_000, 220_000)
    assert whole == json.loads(chunk)
    async with child_of(box, piece=pieces.found[0]) as grandchild:
        assert await grandchild.shows("context[:40]") == repr(LINES[210_000:210_040]) + "\n"


async def test_documents_and_their_texts_go_by_name(box: Box) -> None:
    contexts = ("context", "files['lines.csv']", "files['large.csv']")
    one, other, large = await references(box, *contexts)
    assert one == other
    async with child_of(box, piece=one) as child:
        assert await child.shows("len(context), context is files['lines.csv']") == f"({len(LINES)}, True)\n"
    async with child_of(box, piece=large) as child:
        assert await child.shows("type(context).__name__, len(context)") == f"('Document', {len(LARGE)})\n"


async def test_piece_too_large_for_a_str_is_read_lazily(box: Box) -> None:
    half = len(LARGE) // 2
    (chunk,) = await references(box, f"chunks({half}, text=files['large.csv'])[1]")
    async with child_of(box, piece=chunk) as child:
        shown = await child.shows("type(context).__name__, len(context), context[:20], context[-20:]")
        assert shown == f"('PieceText', {half}, {LARGE[half : half + 20]!r}, {LARGE[-20:]!r})\n"
        assert await child.shows("grep('^039999', max_matches=99).total") == "15\n"


async def test_piece_that_is_not_there_is_a_reason_and_no_end(box: Box) -> None:
    (chunk,) = await references(box, "chunks(100_000)[2]")
    piece = json.loads(chunk)
    child = await box.open_namespace(Host().serve, memory_bytes=SHARE_BYTES)
    wrong = [
        piece | {"last_byte": 10**12},
        piece | {"document": piece["document"] | {"path": "/data/set/none"}},
        {"start": 1},
        [],
    ]
    reasons = [await child.set_context(json.dumps(it), piece=True) for it in wrong]
    assert "there are no bytes" in reasons[0] and "No such file" in reasons[1] and all(reasons)
    assert await child.set_context("text") == ""
    assert await shows(child, "context") == "'text'\n"
    child.close()


BOMBS = {
    "heap": "taken = [bytes(8 << 20) for _ in range(1000)]",
    "shared": (
        "import mmap\npages = mmap.mmap(-1, 1 << 30)\n"
        "for at in range(0, 1 << 30, 1 << 20): pages[at : at + (1 << 20)] = bytes(1 << 20)"
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_child_that_takes_all_memory_costs_its_own_cell_only(box: Box, bomb: str) -> None:
    async with guest_of(box) as parent, child_of(box, text="a") as greedy, child_of(box, text="b") as modest:
        parent.host.gate.clear()
        waiting = asyncio.ensure_future(parent.run("big = b'x' * (40 << 20)\nrlm_query('go')"))
        await parent.host.has_been_asked(1)
        await greedy.shows("kept = 1")
        modest.host.gate.clear()
        running = asyncio.ensure_future(modest.run("mine = b'y' * (20 << 20)\nllm_query('wait')"))
        await modest.host.has_been_asked(1)
        exploded = await greedy.run(BOMBS[bomb])
        if bomb == "heap":
            assert exploded.error.startswith("MemoryError")
        else:
            assert (exploded.status, exploded.reason) == ("rolled_back", "memory")
        modest.host.gate.set()
        parent.host.gate.set()
        assert (await running).status == "ok"
        assert (await waiting).status == "ok"
        assert await greedy.shows("kept, context") == "(1, 'a')\n"


async def test_share_bounds_what_a_child_holds_and_what_it_has_as_str(box: Box) -> None:
    code = "import resource; resource.getrlimit(resource.RLIMIT_DATA)"
    async with guest_of(box) as parent, child_of(box, text="a") as child:
        whole = box.config.memory_bytes
        assert await parent.shows(code) == f"({whole * 3 // 4}, {whole * 17 // 20})\n"
        assert await child.shows(code) == f"({SHARE_BYTES * 3 // 4}, {SHARE_BYTES * 17 // 20})\n"


DAEMON = """
import subprocess
line = subprocess.run(["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"], capture_output=True).stdout
print(int(line))
"""


async def test_end_of_one_child_leaves_processes_of_the_others_alone(box: Box) -> None:
    """Those too that have lost their parent: they are in the session of a cell that still runs."""
    async with child_of(box, text="a") as working:
        working.host.gate.clear()
        running = asyncio.ensure_future(
            working.run(f"{DAEMON}\nllm_query('wait')\nimport os; os.kill(int(line), 0)")
        )
        await working.host.has_been_asked(1)
        async with child_of(box, text="b") as other:
            await other.shows(DAEMON)
            await other.shows("7")
        async with child_of(box, text="c") as other:
            assert await other.shows("8") == "8\n"
        working.host.gate.set()
        result = await running
        assert (result.status, result.error) == ("ok", "")


ENDLESS = ("while True: pass", "llm_query('wait')", "for n in range(10**9): print(n)", "FINAL('x' * 10**8)")


async def test_close_ends_a_cell_and_everybody_who_waits_for_it(box: Box) -> None:
    async with guest_of(box) as parent:
        parent.host.gate.clear()
        waiting = asyncio.ensure_future(parent.run("rlm_query('go')\n_strays(3)"))
        await parent.host.has_been_asked(1)
        for code in ENDLESS:
            host, begun = Host(), asyncio.Event()
            host.gate.clear()

            def on_output(text: str, begun: asyncio.Event = begun) -> None:
                begun.set()

            child = await box.open_namespace(host.serve)
            running = asyncio.ensure_future(child.run_cell(f"print('begun')\n{code}", on_output))
            await begun.wait()
            child.close()
            with pytest.raises(asyncio.CancelledError):
                await running
        parent.host.gate.set()
        assert (await waiting).shown == "[]\n"


async def test_channels_are_used_again_and_hold_nothing_of_those_before(box: Box) -> None:
    channels = set()
    async with guest_of(box) as parent:
        parent.host.gate.clear()
        waiting = asyncio.ensure_future(parent.run("rlm_query('go')"))
        await parent.host.has_been_asked(1)
        for number in range(12):
            async with child_of(box, text=str(number)) as child:
                channels.add(child.namespace.channel)
                assert await child.shows("'before' in globals(), context") == f"(False, '{number}')\n"
                await child.shows("before = 1")
        parent.host.gate.set()
        assert (await waiting).status == "ok"
    assert len(channels) < 12


async def test_worker_for_which_there_is_no_process_is_an_error_and_no_end(boxes: Boxes) -> None:
    few = dataclasses.replace(boxes, config=dataclasses.replace(boxes.config, pids=16))
    async with few.start() as box, guest_of(box) as parent:
        opened: list[Namespace] = []
        with pytest.raises(SandboxError, match="could not be started"):
            for _ in range(16):
                opened.append(await box.open_namespace(parent.host.serve, memory_bytes=SHARE_BYTES))  # noqa: PERF401
        assert opened
        for namespace in opened:
            namespace.close()
        assert await parent.shows("keep") == "['kept']\n"
        again = await box.open_namespace(parent.host.serve, memory_bytes=SHARE_BYTES)
        assert await shows(again, "1 + 1") == "2\n"


async def test_text_context_leaves_documents_to_be_opened_when_asked(box: Box) -> None:
    async with child_of(box, text="mine") as child:
        assert await child.namespace.set_documents(specs(), None) == {}
        shown = await child.shows("context, len(files), len(files['lines.csv'])")
        assert shown == f"('mine', 2, {len(LINES)})\n"
