"""One engine and one image for all; one container for a module; a namespace of it for each test."""

import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from rlm.box.container import ensure_image
from rlm.box.engine_api import Engine
from tests.box import Boxes, Guest, Shared, config_of, guest_of
from tests.box.peer import Link

HASTY_S = 1.5


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def boxes(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    config = config_of(tmp_path_factory.mktemp("state"))
    tag = ensure_image(engine, config.base, lambda line: None)
    return Boxes(engine=engine, tag=tag, config=config)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(boxes: Boxes) -> AsyncIterator[Shared]:
    shared = Shared(boxes)
    yield shared
    await shared.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_hasty(boxes: Boxes) -> AsyncIterator[Shared]:
    shared = Shared(boxes, cell_timeout_s=HASTY_S)
    yield shared
    await shared.close()


@pytest_asyncio.fixture(loop_scope="session")
async def guest(shared: Shared) -> AsyncIterator[Guest]:
    async with guest_of(await shared.box()) as guest:
        yield guest


@pytest_asyncio.fixture(loop_scope="session")
async def hasty(shared_hasty: Shared) -> AsyncIterator[Guest]:
    """A namespace whose cells may compute for 1.5 s."""
    async with guest_of(await shared_hasty.box()) as guest:
        yield guest


@pytest_asyncio.fixture
async def link() -> AsyncIterator[Link]:
    ours, theirs = socket.socketpair()
    link = Link(theirs)
    connected = link.connect(ours)
    yield link
    connected.close()
    theirs.close()
