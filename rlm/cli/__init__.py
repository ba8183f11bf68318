"""The command line: flags in, exit codes out. Each command is a module of its own, imported when it is run.

One of the two places where errors are caught: here an `RlmError` becomes sentences on stderr (and, with
`--json`, an object on stdout) and its exit code.
"""

import difflib
import importlib
import os
import shutil
import signal
import sys
from typing import Any

import click

from rlm import __version__
from rlm.errors import Interrupted, RlmError, UsageError

COMMANDS = {
    "init": "rlm.cli.init",
    "chat": "rlm.cli.chat",
    "run": "rlm.cli.run",
    "status": "rlm.cli.status",
    "trace": "rlm.cli.trace",
    "doctor": "rlm.cli.doctor",
    "reset": "rlm.cli.reset",
    "demo": "rlm.cli.demo",
}

EXAMPLES = """\
\b
  rlm init meetings.txt
  rlm run "Who speaks most, and about what?"
"""

START = """\
rlm doctor says what is missing, rlm demo shows a whole run without a key, and rlm COMMAND --help tells more.
"""

EXIT_CODES = """\
\b
Exit codes: 0 answered, 1 failed, 2 wrong usage, 3 no answer within limits,
4 configuration, 5 sandbox (Docker), 6 budget reached, 130 interrupted.
"""


class _Formatter(click.HelpFormatter):
    """On a narrow terminal what an option does begins below its name, and has most of the line."""

    def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl(rows, min(col_max, max(4, self.width // 2 - 8)), col_spacing)


click.Context.formatter_class = _Formatter


class LazyGroup(click.Group):
    """A group whose commands are imported by name, so that `--help` loads nothing but click."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: Any = importlib.import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))

    def short_help_text(self, ctx: click.Context) -> str:
        """What `rlm` alone shows: how to begin, and the commands."""
        formatter = ctx.make_formatter()
        formatter.write(EXAMPLES.removeprefix("\b\n"))
        self.format_commands(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(START)
        return formatter.getvalue().rstrip("\n")


SUMMARIES = {
    "init": "Register files, folders or patterns; needs neither a key nor Docker.",
    "chat": "Ask one question after another.",
    "run": "Ask one question; the answer goes to stdout.",
    "status": "What is loaded, kept and spent.",
    "trace": "What happened in a turn, step by step.",
    "doctor": "Check Docker, image, keys and models, with the fix for each failure.",
    "reset": "Delete the state of this folder.",
    "demo": "A full run with scripted model replies: no key, no network.",
}


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    help=f"{EXAMPLES}\nAsk anything of any amount of data. {START}",
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="rlm")
@click.pass_context
def cli(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        assert isinstance(ctx.command, LazyGroup)
        click.echo(ctx.command.short_help_text(ctx), err=True)


def main() -> None:
    """Run the command line and exit."""
    _open_closed_streams()
    code = exit_code(sys.argv[1:])
    # A reader that goes away (`| head`) is met where we write; Python would complain of it once more at exit.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _open_closed_streams() -> None:
    """Give streams that were closed (`>&-`) the null device, so that no file we open gets their number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)  # noqa: FBT003 - it takes no name
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = ("stdin", "stdout", "stderr").index(name)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open


def _narrow() -> int | None:
    """The width of help texts where click would take 50 columns that are not there."""
    columns = shutil.get_terminal_size().columns
    return columns - 2 if 10 < columns < 52 else None


def exit_code(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        result = cli.main(arguments, prog_name="rlm", standalone_mode=False, terminal_width=_narrow())
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        return Interrupted.exit_code
    except RlmError as error:
        from rlm.cli.options import last_console

        last_console().error(error)
        return error.exit_code
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except Exception as bug:
        from rlm.cli.options import last_console
        from rlm.cli.result import explained

        failure = explained(bug)
        last_console().error(failure)
        return failure.exit_code
    return result if isinstance(result, int) else 0
