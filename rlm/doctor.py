"""Puts the checks of `rlm doctor` together: what a run needs, each with the fix where it is missing.

Nothing is changed, and nothing is waited for without end. No model is called unless `ping` is asked for.
"""

import asyncio
import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlm import __version__
from rlm.checks.check import Check, failure, ok, warning, within
from rlm.checks.reach import require_engine
from rlm.errors import ConfigError, SandboxError
from rlm.settings import Config, SandboxConfig

DISK_BYTES = 2 * 1024**3
ENGINE_S = 20.0
DISK_S = 5.0


@dataclass(slots=True)
class Report:
    """`versions` has rlm, python, litellm, system, docker (the engine) and docker_api, as far as known."""

    checks: list[Check] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not any(check.failed for check in self.checks)

    @property
    def exit_code(self) -> int:
        """That of the first failure; 0 without one."""
        return next((check.exit_code for check in self.checks if check.failed), 0)


def examine(
    load_config: Callable[[], Config],
    state_dir: Path,
    *,
    environ: Mapping[str, str],
    home: Path,
    ping: bool = False,
) -> Report:
    """Look at everything. `environ` are the variables of the shell; `load_config` may raise `ConfigError`."""
    report = Report(versions=_versions())
    versions = report.versions
    detail = f"{versions['rlm']}, Python {versions['python']}, litellm {versions['litellm']}"
    report.checks.append(ok("program", "rlm", f"{detail}, {versions['system']}"))
    config: Config | None = None
    try:
        config = load_config()
    except ConfigError as error:
        report.checks.append(failure("config", "configuration", error))
    else:
        report.checks += _configuration(config)
    report.checks += _engine(config.sandbox if config else SandboxConfig(), environ, home, versions)
    if config:
        from rlm.checks.models import check_models, pings

        report.checks += check_models(config, environ)
        if ping:
            report.checks += asyncio.run(pings(config))
    report.checks.append(_disk(state_dir))
    return report


def _versions() -> dict[str, str]:
    return {
        "rlm": __version__,
        "python": platform.python_version(),
        "litellm": importlib.metadata.version("litellm"),
        "system": f"{platform.system()} {platform.release()}",
    }


def _configuration(config: Config) -> list[Check]:
    sources = sorted({source for source in config.sources.values() if source != "default"})
    detail = ", ".join(sources) if sources else "the defaults"
    checks = [ok("config", "configuration", detail)]
    checks += [
        warning("config", "configuration", text, fix="See docs/configuration.md.") for text in config.warnings
    ]
    return checks


def _engine(
    settings: SandboxConfig, environ: Mapping[str, str], home: Path, versions: dict[str, str]
) -> list[Check]:
    checks: list[Check] = []

    def look() -> None:
        from rlm.checks.engine import check_engine

        checks.extend(check_engine(settings, address, versions))

    try:
        address, api = require_engine(environ, home)
        if api:
            versions["docker_api"] = ".".join(map(str, api))
        within(ENGINE_S, look)
    except SandboxError as error:
        return [*checks, failure("sandbox", "Docker", error)]
    except TimeoutError:
        hangs = SandboxError(
            "Docker answers, but takes too long.",
            f"It did not say within {ENGINE_S:g} s what it is and has.",
            hint="Restart Docker, then: rlm doctor",
        )
        return [*checks, failure("sandbox", "Docker", hangs)]
    except OSError:  # what the engine's client raises when the connection goes
        gone = SandboxError("Docker went away while it was asked.", hint="Start it again, then: rlm doctor")
        return [*checks, failure("sandbox", "Docker", gone)]
    return checks


def _disk(state_dir: Path) -> Check:
    """Free space where the state folder is, or will be."""
    fix = "Snapshots and answers need room there: free some, or name another folder with --state-dir."
    try:
        there, free_bytes = within(DISK_S, lambda: _free(state_dir.absolute()))
    except (TimeoutError, OSError):
        return warning("disk", "disk", f"{state_dir} cannot be looked at", fix=fix)
    detail = f"{free_bytes / 1024**3:.1f} GiB free at {there}"
    return warning("disk", "disk", detail, fix=fix) if free_bytes < DISK_BYTES else ok("disk", "disk", detail)


def _free(folder: Path) -> tuple[Path, int]:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there, shutil.disk_usage(there).free
