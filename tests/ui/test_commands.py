"""The slash commands as they are listed: in the help, and in the documentation."""

from pathlib import Path

from rlm.cli.chat_commands import COMMANDS, NAME_COLUMNS, WITH_PATHS

DOC = Path(__file__).parents[2] / "docs/chat.md"


def test_each_command_has_one_line() -> None:
    lines = [
        f"{f'{name} {command.argument}'.rstrip():<{NAME_COLUMNS}} {command.summary}"
        for name, command in COMMANDS.items()
    ]
    assert all(len(line) <= 80 and "\n" not in line for line in lines)
    assert set(WITH_PATHS) <= COMMANDS.keys()


def test_the_documentation_lists_them_as_the_help_does() -> None:
    rows = [line for line in DOC.read_text().splitlines() if line.startswith("| `/")]
    assert rows == [
        f"| `{f'{name} {command.argument}'.rstrip()}` | {command.summary} |"
        for name, command in COMMANDS.items()
    ]
