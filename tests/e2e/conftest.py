"""A folder to ask questions in, for each test its own."""

from pathlib import Path

import pytest

from tests.e2e import Project
from tests.model_server import ModelServer


@pytest.fixture
def project(tmp_path: Path, server: ModelServer) -> Project:
    folder, home = tmp_path / "project", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    return Project(folder, home=home, server=server)
