"""Cells that attack their process, memory, clock or output: each costs at most itself.

After every one the container lives, the next cell works, a variable of before is there, nothing runs on.
"""

import asyncio

import pytest

from rlm.errors import SandboxLost
from tests.box import Guest, Shared, final_text, guest_of
from tests.box.attacks import ENDLESS, MEMORY, OUTPUT, PROCESS, Attack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("attack", [*MEMORY, *PROCESS, *OUTPUT], ids=lambda attack: attack.id)
async def test_costs_at_most_its_cell(guest: Guest, attack: Attack) -> None:
    result = await guest.run(attack.cell)
    assert result.status in attack.ends, result
    assert attack.meets in f"{result.shown} {result.reason} {result.detail}"
    await guest.is_intact()


@pytest.mark.parametrize("attack", ENDLESS, ids=lambda attack: attack.id)
async def test_endless_cell_ends_at_its_time_limit(hasty: Guest, attack: Attack) -> None:
    result = await hasty.run(attack.cell)
    assert result.status in attack.ends, result
    assert result.timed_out
    assert attack.meets in f"{result.shown} {result.reason} {result.detail}"
    await hasty.is_intact()


async def test_memory_filled_step_by_step_is_an_error_and_can_be_freed(guest: Guest) -> None:
    filled = await guest.run("blocks = []\nwhile True: blocks.append(bytearray(b'x' * 2**20))")
    assert filled.error == "MemoryError"
    assert await guest.shows("len(blocks) > 100; del blocks") == ""
    await guest.is_intact()


async def test_cell_without_room_for_a_checkpoint_runs_and_says_so(guest: Guest) -> None:
    await guest.shows("block = b'x' * (200 << 20)")
    result = await guest.run("len(block)")
    assert (result.shown, result.checkpoint) == ("209715200\n", False)
    await guest.shows("del block")
    assert (await guest.run("keep")).checkpoint


async def test_worker_that_dies_without_a_checkpoint_is_replaced_and_the_loss_told(guest: Guest) -> None:
    await guest.shows("block = b'x' * (200 << 20)")
    result = await guest.run("import os; os._exit(1)")
    assert (result.status, result.namespace_lost) == ("rolled_back", True)
    await guest.namespace.ready()
    assert (await guest.run("keep")).error == "NameError: name 'keep' is not defined"
    await guest.remember()
    await guest.is_intact()


async def test_fork_that_returns_twice_gives_one_answer(guest: Guest) -> None:
    result = await guest.run("import os; child = os.fork(); FINAL('parent' if child else 'child')")
    assert final_text(result) == "parent"
    await guest.is_intact()


async def test_thread_left_behind_does_not_disturb_later_cells(guest: Guest) -> None:
    await guest.shows(
        "import threading\nend, printed = threading.Event(), threading.Event()\n"
        "def late():\n    while not end.wait(0.001): print('late'); printed.set()\n"
        "threading.Thread(target=late, daemon=True).start()"
    )
    shown = await guest.shows("printed.clear(), printed.wait(9); 6 * 7")
    await guest.shows("end.set()")
    assert shown.endswith("42\n")
    await guest.is_intact()


async def test_code_that_hangs_the_worker_between_cells_is_given_up_on(hasty: Guest) -> None:
    """There is no checkpoint between cells, so this costs the container; never the program."""
    await hasty.shows(
        "import sys\ndef hang(name, args):\n    while name == 'os.fork': pass\nsys.addaudithook(hang)"
    )
    with pytest.raises(SandboxLost, match="did not react"):
        await hasty.run("1")


async def test_sibling_that_kills_everything_does_not_end_the_container(shared: Shared) -> None:
    box = await shared.box()
    async with guest_of(box) as parent, guest_of(box) as child:
        parent.host.gate.clear()
        waiting = asyncio.ensure_future(parent.run("rlm_query('go')"))
        await parent.host.has_been_asked(1)
        await child.run("import os; os.kill(-1, 9)")
        assert (await waiting).status == "rolled_back"
        assert await child.shows("keep") == "['kept']\n"
        await parent.namespace.ready()
        assert await parent.shows("6 * 7") == "42\n"


async def test_checkpoint_is_there_after_every_cell(guest: Guest) -> None:
    """Also right after a cell, when the supervisor sweeps up what that cell left."""
    for number in range(40):
        await guest.shows(f"last = {number}")
        crashed = await guest.run("import os; os._exit(1)")
        assert not crashed.namespace_lost, f"round {number}"
        assert await guest.shows("last") == f"{number}\n"


async def test_siblings_that_crash_at_the_same_time_each_keep_their_checkpoint(shared: Shared) -> None:
    """Whose cell ends has what it left swept up, not the checkpoints and workers of the others."""

    async def crash_often(guest: Guest) -> None:
        for number in range(25):
            await guest.shows(f"last = {number}")
            crashed = await guest.run("import os; os._exit(1)")
            assert (crashed.detail, crashed.namespace_lost) == ("1", False), f"round {number}"
            assert await guest.shows("last") == f"{number}\n"

    box = await shared.box()
    async with guest_of(box) as one, guest_of(box) as two, guest_of(box) as three:
        await asyncio.gather(*map(crash_often, (one, two, three)))
