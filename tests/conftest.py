"""For all tests: the name of a test must be the same in each process that collects it."""

import pytest


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes give no name: packed ones hold the time at which they were made."""
    return argname if isinstance(val, bytes) else None
