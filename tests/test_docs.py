"""What the documents say of the code is so."""

import re
from pathlib import Path

from rlm import protocol
from rlm.cli import COMMANDS, SUMMARIES

ROOT = Path(__file__).parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_protocol_page_names_every_message_and_no_other() -> None:
    page = read("docs/protocol.md")
    kinds = (*protocol.TO_SUPERVISOR, *protocol.TO_WORKER, *protocol.FROM_SUPERVISOR, *protocol.FROM_WORKER)
    named = set(re.findall(r"`([a-z_]+)`", page))
    tags = {kind.tag for kind in kinds}
    assert tags <= named
    notes = {"running", "idle", "took_over", "helper", "twin"}
    assert named - tags <= notes | {"ready", "final"}


def test_the_architecture_page_names_every_module() -> None:
    page = read("docs/architecture.md")
    named = set(re.findall(r"`([\w/]+)\.py`", page)) | set(re.findall(r"`(\w+)/`", page))
    for package in ("rlm", "sandbox"):
        for path in sorted((ROOT / package).glob("**/*.py")):
            inside = path.relative_to(ROOT / package).with_suffix("")
            name = inside.as_posix()
            if path.name.startswith("__") or inside.parts[0] in named:
                continue
            assert name in named, f"docs/architecture.md does not name {package}/{name}.py"


def test_every_command_has_a_summary_and_stands_in_the_readme() -> None:
    assert COMMANDS.keys() == SUMMARIES.keys()
    readme = read("README.md")
    for command in COMMANDS:
        assert f"`{command}" in readme


def test_the_readme_shows_the_two_commands_first() -> None:
    first = re.search(r"```\n(.*?)```", read("README.md"), flags=re.DOTALL)
    assert first and first[1].split("#")[0].strip() == "make demo" and "make test" in first[1]
