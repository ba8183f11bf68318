"""What goes away or is damaged under a session: it is told, what was saved is there, and questions go on.

Session, state and container are those of the program; the models follow a script.
"""

import asyncio
import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlm.box.confinement import Spec
from rlm.box.container import _labels
from rlm.box.engine_api import LABEL, Engine
from rlm.config import load_config
from rlm.doctor import examine
from rlm.events import Event, Notice, TurnFinished
from rlm.models import ChatMessage, Model
from rlm.scripted import ScriptedModel
from rlm.session import Models, Session
from rlm.settings import Config
from rlm.state import State
from tests.box import MEMORY_BYTES, Boxes
from tests.docker_proxy import DockerProxy

LIMIT = "0.4 GiB"
"""MEMORY_BYTES as it is told."""


def cell(code: str) -> str:
    return f"Let me look.\n\n```repl\n{code.strip()}\n```"


@dataclass
class Talk:
    """One session in `folder`. `in_cell` is called whenever a cell makes a sub-call, in the middle of it."""

    folder: Path
    in_cell: Callable[[], object] = lambda: None
    replies: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    """What the root model was shown, step by step."""
    notices: list[str] = field(default_factory=list)
    finished: TurnFinished | None = None
    _session: Session | None = None

    @property
    def state(self) -> State:
        return State.open(self.folder / ".rlm_state", create=True, key_path=self.folder / "key")

    def config(self) -> Config:
        config = load_config(
            cwd=self.folder, config_file=None, environ={}, flags={}, confirm=None, user_dir=self.folder
        )
        sandbox = dataclasses.replace(config.sandbox, memory_bytes=MEMORY_BYTES)
        return dataclasses.replace(config, sandbox=sandbox)

    def _models(self) -> Models:
        def root(messages: Sequence[ChatMessage]) -> str:
            self.prompts.append(messages[-1]["content"])
            return self.replies.pop(0)

        def sub(messages: Sequence[ChatMessage]) -> str:
            self.in_cell()
            return "done"

        model = ScriptedModel("sub", sub)

        def choose(name: str) -> Model:
            return model

        return Models(root=ScriptedModel("root", root), sub=model, choose=choose)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Talk"]:
        state = self.state
        with state.lock():
            session = Session(config=self.config(), state=state, models=self._models(), cwd=self.folder)
            self._session = session
            try:
                yield self
            finally:
                await session.close()

    async def ask(self, *cells: str) -> str:
        """A turn in which these cells are run; returns the answer, empty without one."""
        assert self._session
        self.replies = [cell(code) for code in cells]
        async for event in self._session.ask("Go on."):
            self._see(event)
        return self._answer()

    def _answer(self) -> str:
        assert self.finished
        answer = self.finished.answer
        return Path(answer.path).read_text().strip() if answer else ""

    def _see(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.text)
        elif isinstance(event, TurnFinished):
            self.finished = event

    def container(self, engine: Engine) -> str:
        (found,) = engine.containers([f"{LABEL}=container", f"rlm.state={self.state.path}"])
        return str(found["Id"])


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    return Talk(tmp_path)


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerProxy]:
    """A connection to the engine that can fail; the program of this test uses it."""
    with DockerProxy(tmp_path / "docker.sock") as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.address)
        yield proxy


FILL = """
lost = 1
import mmap
pages = mmap.mmap(-1, 1 << 30)
for start in range(0, 1 << 30, 1 << 20):
    pages[start : start + (1 << 20)] = bytes(1 << 20)
"""


async def test_memory_that_runs_out_is_named_with_its_limit_and_costs_the_cell(talk: Talk) -> None:
    async with talk.opened():
        answer = await talk.ask("kept = 7", FILL, "FINAL([kept, 'lost' in globals()])")
    told = talk.prompts[2]
    assert f"it ran out of memory (limit {LIMIT}); work in smaller pieces" in told
    assert "the cell had no effect" in told and "your variables are as they were before it" in told
    assert answer == "[\n  7,\n  false\n]"


WITHIN = "half = 1\nllm_query('now')\nimport time\ntime.sleep(600)"
LEFT = "FINAL([kept, 'half' in globals()])"


@pytest.mark.parametrize("fault", ["kill", "drop", "restart"])
async def test_a_container_that_goes_away_in_a_cell_is_replaced_with_what_was_saved(
    talk: Talk, engine: Engine, proxy: DockerProxy, fault: str
) -> None:
    def go_away() -> None:
        container = talk.container(engine)
        if fault in ("drop", "restart"):
            proxy.drop()
        if fault in ("kill", "restart"):
            engine._api.kill(container)

    talk.in_cell = go_away
    async with talk.opened():
        await talk.ask("kept = 7\nFINAL('saved')")
        answer = await talk.ask(WITHIN, LEFT)
    told = talk.prompts[-1]
    assert "the cell had no effect: its container was lost" in told
    assert "your variables are those of the last snapshot" in told
    assert answer == "[\n  7,\n  false\n]"
    assert any("Starting another one." in notice for notice in talk.notices)


async def test_an_engine_that_is_down_costs_the_turn_and_no_more(
    talk: Talk, engine: Engine, proxy: DockerProxy
) -> None:
    def go_down() -> None:
        container = talk.container(engine)
        proxy.refuses = True
        proxy.drop()
        engine.remove(container)

    talk.in_cell = go_down
    async with talk.opened():
        await talk.ask("kept = 7\nFINAL('saved')")
        assert await talk.ask(WITHIN) == ""
        assert talk.finished and talk.finished.status == "error"
        assert talk.finished.error == "SandboxError" and "Docker" in talk.finished.message
        assert "rlm doctor" in talk.finished.hint
        proxy.refuses = False
        assert await talk.ask(LEFT) == "[\n  7,\n  false\n]"


async def test_a_crash_right_after_a_save_costs_its_cell_only(talk: Talk) -> None:
    """The checkpoint that takes over was made while the process that saved was still watched."""
    async with talk.opened():
        for number in range(5):
            await talk.ask(f"kept = {number}\nFINAL('saved')")
            left = await talk.ask("kept = -1\nimport os; os._exit(3)", "kept += 1", "FINAL(kept)")
            assert left == str(number + 1)
    assert talk.notices == []


GARBAGE = """
import os
for descriptor in range(1024):
    try:
        os.write(descriptor, bytes([255]) * 4096)
    except OSError:
        pass
"""


@pytest.mark.parametrize("code", [GARBAGE, "import os\nos.closerange(0, 1024)"], ids=["garbage", "close"])
async def test_a_cell_that_ruins_every_descriptor_costs_at_most_its_container(talk: Talk, code: str) -> None:
    """What was saved is there, at the latest when the cell after it has been asked for once more."""
    async with talk.opened():
        await talk.ask("kept = 7\nFINAL('saved')")
        assert await talk.ask(f"half = 1\n{code}", *["FINAL(kept)"] * 2) == "7"
        assert await talk.ask(*["FINAL(kept + 1)"] * 2) == "8"


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


async def test_whatever_is_in_the_place_of_the_newest_snapshot_the_one_before_is_restored(talk: Talk) -> None:
    async with talk.opened():
        await talk.ask("steps = [0]\nFINAL(steps)")
    for number, damage in enumerate((_empty, _cut, _flip, _folder, _fifo, _link), start=1):
        async with talk.opened():
            await talk.ask(f"steps.append({number})\nFINAL(steps)")
        damage(max(talk.state.path.glob("snapshots/*.snap")))
        async with talk.opened():
            assert await talk.ask("FINAL(steps)") == "[\n  0\n]", damage.__name__
        told = f"The variables are those of turn {2 * number - 1}, as no later snapshot is there to restore."
        assert told in talk.prompts[-1], damage.__name__


@pytest.mark.parametrize(("python", "told"), [("", False), ("2.7", True)])
async def test_a_snapshot_of_another_python_is_not_loaded_and_that_of_another_image_is(
    talk: Talk, python: str, told: bool
) -> None:
    async with talk.opened():
        await talk.ask("steps = [0]\nFINAL(steps)")
    _save_again(talk.state, python=python)
    async with talk.opened():
        assert await talk.ask("FINAL(steps)") == "[\n  0\n]"
    assert ("it was made by Python 2.7" in talk.prompts[-1]) == told
    assert ("could not be restored" in talk.prompts[-1]) == told


def _save_again(state: State, *, python: str) -> None:
    """The newest snapshot once more, as another image would make it, and perhaps another Python."""
    with state.lock():
        view = state.view()
        newest, header = state.snapshots(view)[0], state.snapshots(view)[0].header
        writer = state.new_snapshot(
            header.turn,
            python=python or header.python,
            image="another",
            protocol=header.protocol,
            dill=header.dill,
        )
        for piece in state.read_snapshot(newest):
            writer.write(piece)
        info = writer.commit(newest.blobs)
        state.append(
            dataclasses.replace(view.snapshots[-1], generation=info.header.generation, sha256=info.sha256)
        )


async def test_a_disk_without_room_for_the_snapshot_costs_the_snapshot_only(talk: Talk) -> None:
    """A limit on the size of files stands in for a disk that is full: both end a write in the middle."""
    async with talk.opened():
        await talk.ask("kept = 7\nFINAL(kept)")
        with _largest_file(2_000_000):
            assert await talk.ask("import os\nkept = os.urandom(4_000_000)\nFINAL('found')") == "found"
        assert talk.finished and talk.finished.status == "ok"
    assert any("The namespace was not saved. " in notice for notice in talk.notices)
    assert any("File too large" in notice for notice in talk.notices)
    async with talk.opened():
        assert await talk.ask("FINAL(kept)") == "7"
    assert "The variables are those of turn 1, as no later snapshot" in talk.prompts[-1]
    assert not list(talk.state.path.rglob("*.tmp"))


@contextmanager
def _largest_file(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


async def test_what_the_dead_left_is_shown_and_removed_and_the_living_are_left_alone(
    talk: Talk, boxes: Boxes, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # other tests reap what is theirs
    deleted = tmp_path / "deleted" / ".rlm_state"
    labels = _labels(deleted, "test") | {"rlm.pid": str(_dead_pid())}
    spec = Spec(
        image=boxes.tag,
        user="65534:65534",
        memory_bytes=MEMORY_BYTES,
        cpus=1.0,
        pids=32,
        runtime=None,
        mounts=(),
        labels=labels,
    )
    async with boxes.start() as living:
        dead = engine.create(spec)
        report = await asyncio.to_thread(examine, talk.config, tmp_path, environ=os.environ, home=tmp_path)
        (shown,) = [check.detail for check in report.checks if check.name == "containers"]
        async with talk.opened():
            assert await talk.ask("FINAL('here')") == "here"
        assert await boxes.is_gone(dead)
        assert await boxes.exists(living.container)
    assert f"{dead[:12]} of {deleted} (deleted)" in shown
    assert living.container[:12] not in shown
