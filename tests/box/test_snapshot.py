"""The namespace saved and brought back: what survives, what is named as skipped, and what it may cost."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from rlm.box.results import SnapshotResult
from rlm.box.wire import BytesSink
from rlm.protocol import BLOBS
from tests.box import Boxes, Guest, MiB, Shared, guest_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def save(guest: Guest) -> tuple[SnapshotResult, bytes]:
    result, sink = await guest.namespace.snapshot()
    assert result.ok, result
    assert isinstance(sink, BytesSink)
    return result, sink.data


@asynccontextmanager
async def saved_and_restored(guest: Guest, code: str) -> AsyncIterator[Guest]:
    """Another namespace with what `code` left in that of `guest`."""
    await guest.shows(code)
    result, data = await save(guest)
    assert result.skipped == ()
    async with guest_of(guest.box) as other:
        assert "restored" in await other.namespace.restore([data])
        yield other


@pytest.mark.parametrize(
    ("code", "check", "shown"),
    [
        ("a, b, c = 1, 'é\\udc80', b'\\0'", "a, b, c", "(1, 'é\\udc80', b'\\x00')"),
        ("import json as j, collections", "j.dumps([]), collections.Counter('aa')['a']", "('[]', 2)"),
        ("def f(n): return n if n < 2 else f(n - 1) + f(n - 2)", "f(10)", "55"),
        ("limit = 1\ndef f(): return limit", "limit = 7; f()", None),
        ("double = lambda n: 2 * n", "double(21)", "42"),
        ("def outer(n):\n    def inner(): return n\n    return inner\nseven = outer(7)", "seven()", "7"),
        (
            "class A:\n    def hi(self): return type(self) is A\na = A()",
            "a.hi(), isinstance(a, A)",
            "(True, True)",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\np = P(5)",
            "p, p == P(5)",
            "(P(x=5), True)",
        ),
        ("import enum\nclass E(enum.Enum): A = 1\ne = E.A", "e is E.A", "True"),
        ("from collections import namedtuple\nN = namedtuple('N', 'a b')\nn = N(1, 2)", "n", "N(a=1, b=2)"),
        (
            "shared = [1]; other = [shared]; shared.append(other)",
            "other[0] is shared, shared[1] is other",
            "(True, True)",
        ),
        ("import re; pattern = re.compile('a+', re.I)", "pattern.match('AA').end()", "2"),
        (
            "import datetime, decimal; d = datetime.date(2024, 2, 29); m = decimal.Decimal('1.10')",
            "d.year, m",
            "(2024, Decimal('1.10'))",
        ),
        ("import functools; add = functools.partial(sum, start=5)", "add([1])", "6"),
        ("deep = []\nfor _ in range(2_000): deep = [deep]", "len(deep)", "1"),
        ("add_buffer('found'); add_buffer({'a': 1})", "buffers", "['found', {'a': 1}]"),
        ("ask = llm_query; show = SHOW_VARS", "ask('q'), show is SHOW_VARS", "('re: q', True)"),
    ],
)
async def test_comes_back(guest: Guest, code: str, check: str, shown: str | None) -> None:
    async with saved_and_restored(guest, code) as other:
        *first, last = check.split("; ")
        for line in first:
            await other.shows(line)
        assert await other.shows(last) == f"{shown or 7}\n"


async def test_restored_functions_share_the_globals_of_the_namespace(guest: Guest) -> None:
    code = "number = 0\ndef bump():\n    global number\n    number += 1\ndef look(): return number"
    async with saved_and_restored(guest, code) as other:
        assert await other.shows("bump(); number = number + 10; bump(); look(), number") == "(12, 12)\n"


async def test_what_was_defined_later_is_seen_by_what_was_restored(guest: Guest) -> None:
    async with saved_and_restored(guest, "def calls(): return helper()") as other:
        assert await other.shows("def helper(): return 'later'\ncalls()") == "'later'\n"


async def test_answers_and_outputs_come_back(guest: Guest) -> None:
    await guest.run("FINAL({'n': 7})")
    await guest.namespace.keep_answer(None)
    long = await guest.run("print('x' * 30_000)")
    async with saved_and_restored(guest, "") as other:
        assert await other.shows(f"answers, len({long.kept_as})") == "([{'n': 7}], 30001)\n"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("numbers", "numbers = (n for n in range(3)); next(numbers)"),
        ("deep", "deep = []\nfor _ in range(50_000): deep = [deep]"),
        ("match", "import re; match = re.match('a', 'a')"),
        ("thread", "import threading; thread = threading.Thread(target=print)"),
        ("nested", "nested = {'deep': [(n for n in 'ab')]}"),
        (
            "refuses",
            "class Refuses:\n    def __reduce__(self): raise ValueError('not me')\nrefuses = Refuses()",
        ),
    ],
)
async def test_what_cannot_be_saved_is_named_and_the_rest_kept(guest: Guest, name: str, code: str) -> None:
    await guest.shows(code)
    await guest.shows("rest = {'a': [1, 2]}")
    result, data = await save(guest)
    assert [skipped for skipped, _ in result.skipped] == [name]
    assert all(reason for _, reason in result.skipped)
    async with guest_of(guest.box) as other:
        await other.namespace.restore([data])
        assert await other.shows(f"rest, '{name}' in globals()") == "({'a': [1, 2]}, False)\n"
    await guest.is_intact()


async def test_open_file_is_neither_truncated_nor_in_the_way(guest: Guest) -> None:
    """dill saves file objects: restored with mode "w" it could empty a file, or fail where there is none."""
    await guest.shows("import os; file = open('/tmp/full', 'w'); file.write('full'); file.flush(); rest = 1")
    _, data = await save(guest)
    async with guest_of(guest.box) as other:
        assert "restored" in await other.namespace.restore([data])
        assert await other.shows("rest, open('/tmp/full').read()") == "(1, 'full')\n"
        await other.shows("import os; file = None; os.remove('/tmp/full')")
    async with guest_of(guest.box) as other:
        assert "restored" in await other.namespace.restore([data])
        assert await other.shows("rest") == "1\n"


@pytest.mark.parametrize(
    "how", ["os._exit(3)", "os.kill(os.getpid(), 11)", "ctypes.string_at(0)", "os.abort()"]
)
async def test_value_that_ends_the_process_while_saved_costs_the_snapshot_only(
    guest: Guest, how: str
) -> None:
    await guest.shows(f"import ctypes, os\nclass Bad:\n    def __reduce__(self): {how}\nbad = Bad()")
    result, _ = await guest.namespace.snapshot()
    assert not result.ok
    assert "crashed" in result.reason
    await guest.shows("del bad")
    await save(guest)
    await guest.is_intact()


async def test_value_that_hangs_while_saved_does_not_hold_up_cells(guest: Guest) -> None:
    await guest.shows("class Slow:\n    def __reduce__(self):\n        while True: pass\nslow = Slow()")
    saving = asyncio.ensure_future(guest.namespace.snapshot())
    assert await guest.shows("keep") == "['kept']\n"
    guest.box.close_namespace(guest.namespace)
    saving.cancel()
    async with guest_of(guest.box) as other:
        await other.is_intact()


def misbehaving(how: str) -> str:
    """Code that leaves a variable `bad` which does `how` when it is loaded."""
    return (
        f"import os\ndef arrive():\n    {how}\n"
        "class Bad:\n    def __reduce__(self): return arrive, ()\nbad = Bad(); rest = [1]"
    )


@pytest.mark.parametrize("how", ["raise ValueError('no')", "raise SystemExit", "raise KeyboardInterrupt"])
async def test_value_that_raises_when_loaded_costs_itself_only(guest: Guest, how: str) -> None:
    await guest.shows(misbehaving(how))
    _, data = await save(guest)
    async with guest_of(guest.box) as other:
        report = await other.namespace.restore([data])
        assert [name for name, _ in report["lost"]] == ["bad"]
        assert await other.shows("rest, 'bad' in globals()") == "([1], False)\n"
        await other.is_intact(siblings=1)


@pytest.mark.parametrize("how", ["os._exit(3)", "os.abort()"])
async def test_snapshot_that_ends_the_process_when_loaded_leaves_the_namespace_as_it_was(
    guest: Guest, how: str
) -> None:
    await guest.shows(misbehaving(how))
    _, data = await save(guest)
    async with guest_of(guest.box) as other:
        report = await other.namespace.restore([data])
        assert "restored" not in report
        assert report["reason"]
        await other.is_intact(siblings=1)


async def test_code_in_a_snapshot_runs_confined(guest: Guest) -> None:
    await guest.shows(
        "import os\nclass Runs:\n    def __reduce__(self): return os.system, ('touch /tmp/ran /opt/ran',)\n"
        "runs = Runs()"
    )
    _, data = await save(guest)
    async with guest_of(guest.box) as other:
        await other.namespace.restore([data])
        assert (
            await other.shows("import os; os.path.exists('/tmp/ran'), os.path.exists('/opt/ran')")
            == "(True, False)\n"
        )


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x80\x05N.", b"\x80\x05" + b"x" * 3 * MiB])
async def test_bytes_that_are_no_snapshot_are_refused(guest: Guest, data: bytes) -> None:
    report = await guest.namespace.restore([data])
    assert "restored" not in report
    await guest.is_intact()


async def test_snapshot_that_does_not_fit_into_memory_is_refused(guest: Guest) -> None:
    async with asyncio.timeout(60):
        report = await guest.namespace.restore(bytes(MiB) for _ in range(600))
    assert "restored" not in report
    await guest.is_intact()


async def test_cells_run_while_a_snapshot_is_taken(guest: Guest) -> None:
    await guest.shows("state = 'before'; bulk = [{'n': n} for n in range(200_000)]")
    saving = asyncio.ensure_future(save(guest))
    await asyncio.sleep(0)
    await guest.shows("state = 'after'; del bulk")
    _, data = await saving
    async with guest_of(guest.box) as other:
        await other.namespace.restore([data])
        assert await other.shows("state, len(bulk)") == "('before', 200000)\n"
    await guest.is_intact()


@dataclass
class Blobs:
    """A folder of blobs that a container sees at `BLOBS`, as the host has one; what arrived since `clear`."""

    folder: Path
    arrived: list[str] = field(default_factory=list)

    def sink(self, sha256: str) -> "BlobSink":
        self.arrived.append(sha256)
        return BlobSink(self.folder / sha256)

    async def save(self, guest: Guest) -> tuple[SnapshotResult, bytes]:
        self.arrived.clear()
        guest.namespace.blob_sink = self.sink
        have = [path.name for path in self.folder.iterdir()]
        result, sink = await guest.namespace.snapshot(have=have)
        assert result.ok, result
        assert isinstance(sink, BytesSink)
        return result, sink.data


@dataclass
class BlobSink:
    path: Path

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_with_blobs(
    boxes: Boxes, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Shared, Path]]:
    folder = tmp_path_factory.mktemp("blobs")
    folder.chmod(0o755)
    for parent in (folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    shared = Shared(boxes, mounts=((str(folder), BLOBS),))
    yield shared, folder
    await shared.close()


@pytest_asyncio.fixture(loop_scope="session")
async def with_blobs(shared_with_blobs: tuple[Shared, Path]) -> AsyncIterator[tuple[Guest, Blobs]]:
    shared, folder = shared_with_blobs
    async with guest_of(await shared.box()) as guest:
        yield guest, Blobs(folder)
    for path in folder.iterdir():
        path.unlink()


async def test_large_values_are_sent_once(with_blobs: tuple[Guest, Blobs]) -> None:
    guest, blobs = with_blobs
    await guest.shows("texts = [c * (1 << 20) for c in 'abc']; memory = bytearray(1 << 20); n = 1")
    result, _ = await blobs.save(guest)
    assert len(blobs.arrived) == 4
    assert dict(result.blobs) == dict.fromkeys(blobs.arrived, MiB)
    assert all(
        hashlib.sha256((blobs.folder / name).read_bytes()).hexdigest() == name for name in blobs.arrived
    )
    for code, arrives in (("n = 2", 0), ("texts[0] += 'é'", 1), ("memory[3] = 1", 1), ("del texts[:]", 0)):
        await guest.shows(code)
        result, data = await blobs.save(guest)
        assert len(blobs.arrived) == arrives, code
        assert len(data) < 10_000
    assert len(result.blobs) == 1


async def test_large_values_come_back(with_blobs: tuple[Guest, Blobs]) -> None:
    guest, blobs = with_blobs
    await guest.shows("text = 'é' * (1 << 20); held = [text]; memory = bytearray(1 << 20); add_buffer(text)")
    _, data = await blobs.save(guest)
    async with guest_of(guest.box) as other:
        report = await other.namespace.restore([data])
        assert report["lost"] == ()
        check = "held[0] is text is buffers[0], text == 'é' * (1 << 20), memory.append(1), len(memory)"
        assert await other.shows(check) == "(True, True, None, 1048577)\n"
        await blobs.save(other)
        assert len(blobs.arrived) == 1


async def test_snapshot_with_a_damaged_blob_is_refused_by_its_name(with_blobs: tuple[Guest, Blobs]) -> None:
    guest, blobs = with_blobs
    await guest.shows("text = 'a' * (1 << 20)")
    _, data = await blobs.save(guest)
    (blobs.folder / blobs.arrived[0]).write_bytes(b"b" * MiB)
    async with guest_of(guest.box) as other:
        report = await other.namespace.restore([data])
        assert blobs.arrived[0] in report["reason"]
        await other.is_intact(siblings=1)


async def test_large_values_that_are_gone_take_no_memory(with_blobs: tuple[Guest, Blobs]) -> None:
    """A container of 384 MiB: four times 120 MiB fit only if each is let go of when the next is made."""
    guest, blobs = with_blobs
    for letter in "abcd":
        await guest.shows(f"text = '{letter}' * (120 << 20)")
        result, _ = await blobs.save(guest)
        assert [size_bytes for _, size_bytes in result.blobs] == [120 * MiB]
        await guest.shows("del text")


async def test_more_than_is_kept_is_left_out_and_named(guest: Guest) -> None:
    await guest.shows("large = 'x' * (3 << 20); small = [1]")
    result, _ = await guest.namespace.snapshot(max_bytes=MiB)
    assert result.ok
    assert result.skipped == (("large", "3.1 MB, more than is kept (sandbox.keep in config.json)"),)
    assert result.blobs == ()


async def test_report_lists_variables_with_type_and_size(guest: Guest) -> None:
    await guest.shows("words = ['a', 'b']")
    result, _ = await save(guest)
    assert {"name": "words", "type": "list", "size": "2 items"} in result.variables
    assert not [row for row in result.variables if row["name"] in ("context", "llm_query")]


async def test_documents_go_by_reference(boxes: Boxes, tmp_path: Path) -> None:
    document = tmp_path / "big.txt"
    document.write_text("line of text\n" * (20 * MiB // 13))
    status = document.stat()
    spec = {
        "name": "big.txt",
        "path": "/data/big.txt",
        "source": str(document),
        "size_bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "encoding": "utf-8",
    }
    specs = json.dumps([spec]).encode()
    box = await boxes.open(mounts=((str(document), "/data/big.txt"),))
    try:
        async with guest_of(box) as guest, guest_of(box) as other:
            assert await guest.namespace.set_documents(specs, "big.txt") == {}
            await guest.shows("mine = context; held = [context]; found = context[:4]")
            _, data = await save(guest)
            assert len(data) < MiB
            await other.namespace.set_documents(specs, "big.txt")
            await other.namespace.restore([data])
            assert await other.shows("mine is context, held[0] is context, found") == "(True, True, 'line')\n"
    finally:
        await box.close()
