"""For all tests: a model server, and names that are the same in each process that collects them."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.model_server import ModelServer


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes give no name: packed ones hold the time at which they were made."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture
async def closed_connections() -> AsyncIterator[None]:
    """For those who call models on the loop of the test: nothing of litellm's outlives it."""
    from rlm.models import close_models

    yield
    await close_models()
