"""The slash commands as they are listed: in the help, and in the documentation."""

from pathlib import Path

from click.testing import CliRunner

from rlm.cli.chat import command
from rlm.cli.chat_commands import COMMANDS, NAME_COLUMNS, WITH_PATHS, show_commands

from . import Terminal

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


def test_a_narrow_terminal_gets_what_a_command_does_below_its_name() -> None:
    with Terminal(columns=20, rows=100) as terminal:
        show_commands(terminal.console)
        assert terminal.shown[:6] == [
            "/help",
            "  this list",
            "/status",
            "  documents,",
            "  variables,",
            "  session, spend",
        ]
    with Terminal() as terminal:
        show_commands(terminal.console)
        assert terminal.shown[0] == "/help              this list"


def test_the_help_of_the_chat_has_examples() -> None:
    told = CliRunner().invoke(command, ["--help"]).output
    assert "May be repeated." in told and "rlm chat -f " in told
