"""Hostile cells: the network, files that are not theirs, privileges. What each meets, and that it is alive.

The same code runs a second time in the same image without our confinement, where it must succeed. Cells
that attack the process, its memory or its clock are in `test_runaway`, forged messages in `test_forgery`.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.box import Boxes, Guest, Shared
from tests.box.corpus import CASES, Case
from tests.box.plain import run_plain

on_shared_loop = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that others may read and write, with a way out of it and somebody who listens."""
    path = tmp_path_factory.mktemp("data") / "set"
    path.mkdir()
    for name in ("a.txt", "b.txt", "../outside"):
        (path / name).write_text(f"{name}\n")
        (path / name).chmod(0o666)
    path.chmod(0o777)
    (path / "absolute").symlink_to(path.parent / "outside")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path / "socket"))
        listening.listen()
        (path / "socket").chmod(0o777)
        yield path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(boxes: Boxes, dataset: Path) -> AsyncIterator[Shared]:
    shared = Shared(boxes, mounts=((str(dataset), "/data/set"),))
    yield shared
    await shared.close()


@on_shared_loop
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_confined(guest: Guest, case: Case) -> None:
    result = await guest.run(case.cell)
    assert (result.status, case.meets in result.shown) == (case.status, True), result
    await guest.run(case.clean_up)
    await guest.is_intact()


@on_shared_loop
async def test_the_dataset_is_as_it_was(guest: Guest, dataset: Path) -> None:
    before = _times(dataset)
    for case in CASES:
        if case.id.startswith("F4"):
            await guest.run(case.cell)
    assert _times(dataset) == before


def test_the_link_in_the_dataset_leads_somewhere_on_the_host(dataset: Path) -> None:
    assert (dataset / "absolute").read_text() == "../outside\n"


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_mtime_ns for path in folder.iterdir()}


@on_shared_loop
@pytest.mark.parametrize("case", [case for case in CASES if case.control], ids=lambda case: case.id)
async def test_alive_where_the_defence_is_absent(boxes: Boxes, dataset: Path, case: Case) -> None:
    printed = await asyncio.to_thread(run_plain, boxes.tag, case.cell, dataset, profile=case.profile)
    assert case.control in printed
    for name in ("a.txt", "b.txt"):
        (dataset / name).write_text(f"{name}\n")
