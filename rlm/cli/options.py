"""What all commands share: their common options, and how these become a console, a config and a state."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rlm.ui.console import Console

if TYPE_CHECKING:
    from rlm.settings import Config
    from rlm.state import State

F = TypeVar("F", bound=Callable[..., Any])

STATE_DIR = ".rlm_state"

FILES = click.Path(readable=False)
"""What names files, or patterns and addresses of them: shells complete it, and it is checked elsewhere."""

_console: Console | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The common options as they were given."""

    config: Path | None
    show_config: bool
    state_dir: Path
    flags: dict[str, object]
    quiet: bool
    verbose: bool
    color: Any
    yes: bool

    def console(self) -> Console:
        """The console of this command, made once; errors are shown on it too."""
        global _console
        _console = Console(
            stdout=sys.stdout,
            stderr=sys.stderr,
            environ=os.environ,
            color=self.color,
            quiet=self.quiet,
            verbose=self.verbose,
        )
        return _console

    @property
    def interactive(self) -> bool:
        """Whether somebody is there to answer a question."""
        return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str) -> bool:
        """Ask on the terminal, default no; `--yes` says yes."""
        if self.yes:
            return True
        if not self.interactive:
            return False
        return click.confirm(question, default=False, err=True)

    def load_config(self, console: Console) -> "Config":
        from rlm.config import load_config

        config = load_config(
            cwd=Path.cwd(),
            config_file=self.config,
            environ=os.environ,
            flags={**self.flags, "yes": self.yes},
            confirm=self.confirm if self.interactive else None,
        )
        for warning in config.warnings:
            console.note(warning, level="warning")
        return config

    @contextlib.contextmanager
    def state(self, *, command: str, create: bool = True) -> "Iterator[State]":
        """The state folder, locked for this command."""
        from rlm.state import State

        state = State.open(self.state_dir, create=create, ask=self.confirm)
        with state.lock(command=f"rlm {command}"):
            yield state


def last_console() -> Console:
    """The console of the command that ran, or a plain one if it did not get so far."""
    return _console or Console(stdout=sys.stdout, stderr=sys.stderr, environ=os.environ)


def common(*, models: bool = False, config_help: str = "") -> Callable[[F], F]:
    """Add the common options; the command gets them as `options`. `models` adds those of a question.

    With `config_help`, `--config` may stand alone: that is `options.show_config`.
    """

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def with_options(**given: Any) -> Any:
            names = ("model", "sub_model", "max_cost", "max_steps", "timeout")
            flags = {name: given.pop(name) for name in names if name in given}
            if given.pop("no_cache", False):
                flags["call_cache"] = 0
            config: str | None = given.pop("config")
            options = Options(
                config=Path(config) if config else None,
                show_config=bool(config_help) and config is not None,
                state_dir=given.pop("state_dir"),
                flags=flags,
                quiet=given.pop("quiet"),
                verbose=given.pop("verbose"),
                color=given.pop("color"),
                yes=given.pop("yes"),
            )
            return command(options, **given)

        decorated: Any = with_options
        optional: dict[str, Any] = {"is_flag": False, "flag_value": ""} if config_help else {}
        config = click.option(
            "--config",
            type=click.Path(dir_okay=False),
            metavar="[FILE]" if config_help else "FILE",
            help=config_help or "Configuration file, in place of ./config.json.",
            **optional,
        )
        for option in reversed([*(_MODELS if models else []), config, *_COMMON]):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


# The defaults stand here as text, so that no setting is loaded for --help; a test compares them.
_MODELS = [
    click.option("-m", "--model", metavar="NAME", help="The root model, or its alias.  [default: gpt-5]"),
    click.option("--sub-model", metavar="NAME", help="The model of sub-calls.  [default: gpt-5-mini]"),
    click.option("--max-cost", metavar="USD", help="What a question may cost.  [default: 1.00]"),
    click.option("--max-steps", metavar="N", help="How many steps it may take.  [default: 30]"),
    click.option("--timeout", metavar="S", help="How many seconds it may take.  [default: 1800]"),
    click.option("--no-cache", is_flag=True, help="Send every sub-call, and keep no reply."),
]
_COMMON = [
    click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=STATE_DIR,
        show_default=True,
        metavar="DIR",
        help="Folder of the session.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors on stderr."),
    click.option("-v", "--verbose", is_flag=True, help="Everything in full, tracebacks too."),
    click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="Colours in the output.",
    ),
    click.option("-y", "--yes", is_flag=True, help="Answer yes to every question."),
]
