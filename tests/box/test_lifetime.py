"""When a container ends, and which of those left behind are removed; where its image comes from."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlm.box import image
from rlm.box.confinement import Spec
from rlm.box.container import _labels, ensure_image, orphans, reap
from rlm.box.engine_api import Engine
from rlm.errors import SandboxError, SandboxLost
from tests.box import MEMORY_BYTES, PUBLIC_BASE, Boxes, guest_of
from tests.box.plain import run_plain

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT = Path(__file__).parents[2]

OWNER = """
import asyncio, sys, time
from pathlib import Path
from rlm.box.container import Box
from rlm.box.engine_api import Engine
from tests.box import config_of

async def main():
    box = await Box.start(Engine(), config_of(Path(sys.argv[1])), sys.argv[2], session='test')
    print(box.container, flush=True)
    time.sleep(600)

asyncio.run(main())
"""


async def test_no_container_is_left_after_close(boxes: Boxes) -> None:
    box = await boxes.open()
    assert await boxes.exists(box.container)
    await box.close()
    assert await boxes.is_gone(box.container)


async def test_namespaces_closed_while_a_cell_runs_leave_no_process(boxes: Boxes) -> None:
    """As child RLMs do. Each process counts against the limit of the container."""
    async with boxes.start() as box, guest_of(box) as guest:
        guest.host.gate.clear()
        parent = asyncio.ensure_future(guest.run("llm_query('go')\n_strays(3)"))
        await guest.host.has_been_asked(1)
        for number in range(30):
            child = await box.open_namespace(guest.host.serve)
            if number % 2:
                await child.run_cell("x = 1", lambda text: None)
            box.close_namespace(child)
        guest.host.gate.set()
        assert (await parent).shown == "[]\n"


async def test_container_ends_when_its_owner_is_killed(boxes: Boxes, tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), boxes.tag, cwd=ROOT, stdout=subprocess.PIPE
    )
    assert owner.stdout
    container = (await owner.stdout.readline()).decode().strip()
    assert await boxes.exists(container)
    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    assert await boxes.is_gone(container)


async def test_container_that_is_removed_in_a_cell_is_told_as_lost(boxes: Boxes) -> None:
    async with boxes.start() as box, guest_of(box) as guest:
        running = asyncio.ensure_future(guest.run("llm_query('go')"))
        guest.host.gate.clear()
        await guest.host.has_been_asked(1)
        boxes.engine.remove(box.container)
        with pytest.raises(SandboxLost, match="The container was lost"):
            await running


def _spec(boxes: Boxes, labels: dict[str, str]) -> Spec:
    return Spec(
        image=boxes.tag,
        user="65534:65534",
        memory_bytes=MEMORY_BYTES,
        cpus=1.0,
        pids=32,
        runtime=None,
        mounts=(),
        labels=labels,
    )


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


async def test_reap_removes_what_the_dead_left_and_nothing_else(
    boxes: Boxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # other tests reap what is theirs
    ours = _labels(tmp_path, "test")
    made = {
        "live": boxes.engine.create(_spec(boxes, ours)),
        "dead": boxes.engine.create(_spec(boxes, ours | {"rlm.pid": str(_dead_pid())})),
        "reused pid": boxes.engine.create(_spec(boxes, ours | {"rlm.started": "1"})),
        "no pid": boxes.engine.create(_spec(boxes, ours | {"rlm.pid": ""})),
        "other machine": boxes.engine.create(
            _spec(boxes, ours | {"rlm.owner": "elsewhere", "rlm.pid": str(_dead_pid())})
        ),
    }
    try:
        found = {container["Id"] for container in orphans(boxes.engine)}
        assert {name for name, id_ in made.items() if id_ in found} == {"dead", "reused pid", "no pid"}
        assert reap(boxes.engine) >= 3
        assert {name for name, id_ in made.items() if await boxes.exists(id_)} == {"live", "other machine"}
    finally:
        for container in made.values():
            boxes.engine.remove(container)


async def test_mount_does_not_bring_what_is_mounted_below_it(boxes: Boxes) -> None:
    below = "import os; print(len(os.listdir('/data/set/fs/cgroup')))"
    printed = await asyncio.to_thread(run_plain, boxes.tag, below, Path("/sys"))
    assert int(printed) > 0
    box = await boxes.open(mounts=(("/sys", "/data/set"),))
    try:
        async with guest_of(box) as guest:
            assert await guest.shows(below) == "0\n"
    finally:
        await box.close()


@dataclass
class Shelf(Engine):
    """An engine that has these images, can pull those, and builds anything."""

    images: set[str]
    pullable: set[str] = field(default_factory=set)
    built_from: list[str] = field(default_factory=list)

    def has_image(self, name: str) -> bool:
        return name in self.images

    def pull(self, name: str, progress: Callable[[str], None]) -> bool:
        return name in self.pullable

    def build(self, tag: str, base: str, files: object, progress: Callable[[str], None]) -> None:
        self.built_from.append(base)
        self.images.add(tag)


@pytest.mark.parametrize(
    ("images", "pullable", "base"),
    [
        ({PUBLIC_BASE}, set(), PUBLIC_BASE),
        (set(), {PUBLIC_BASE}, PUBLIC_BASE),
        ({image.LOCAL_BASE}, set(), image.LOCAL_BASE),
        ({image.LOCAL_BASE}, {PUBLIC_BASE}, PUBLIC_BASE),
    ],
)
async def test_image_is_built_once_from_the_base_that_can_be_had(
    images: set[str], pullable: set[str], base: str
) -> None:
    shelf = Shelf(set(images), pullable)
    told: list[str] = []
    tag = ensure_image(shelf, PUBLIC_BASE, told.append)
    assert tag.startswith("rlm-sandbox:")
    assert ensure_image(shelf, PUBLIC_BASE, told.append) == tag
    assert shelf.built_from == [base]
    assert f"building the sandbox image from {base} (once)" in told


async def test_no_base_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(SandboxError) as refused:
        ensure_image(Shelf(set()), PUBLIC_BASE, lambda line: None)
    assert "scripts/make-base" in refused.value.hint


async def test_image_changes_its_tag_with_any_file_in_it() -> None:
    files = image.inputs()
    tags = {image.tag(files, "base"), image.tag(files, "other")}
    tags |= {image.tag({**files, name: data + b"\n"}, "base") for name, data in files.items()}
    assert len(tags) == len(files) + 2


async def test_hidden_files_of_the_host_are_not_in_the_image() -> None:
    names = set(image.inputs())
    assert {"Dockerfile", "rlm/protocol.py", "sandbox/worker.py", "packages/own/requirements.txt"} <= names
    assert not [name for name in names if os.path.basename(name).startswith(".")]
