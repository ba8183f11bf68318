"""The Python packages of the sandbox image: fetched as wheels by the host's own pip, kept between builds.

No code of a package runs on the host. What has no wheel is left to the build of the image, in a container;
this module only collects the settings that pip needs there.
"""

import ast
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlm.errors import ConfigError, RlmError, SandboxError

OWN = "packages/own/requirements.txt"
"""In the build context: what is always installed, pinned by hash. The wheels lie beside it."""
EXTRA = "packages/extra/requirements.txt"
"""In the build context: sandbox.packages, one a line; empty when there are none."""
FAILED = "returned a non-zero code: 9"
"""How the engine says that a step of the build failed in which sandbox.packages are installed."""

PROBE = """
import json, os, platform, sys
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "abi": "cp%d%d%s" % (*sys.version_info[:2], sys.abiflags),
    "machine": platform.machine(),
    "libc": os.confstr("CS_GNU_LIBC_VERSION") or "",
}))
"""
"""Run by the base image's Python, it prints what `Platform.read` reads."""

_OLDEST_GLIBC = 5
_COMPLETE = "complete"

# `pip download` would run the setup of a source package that a wheel names by its address, --only-binary or
# not. So pip may start no program here, save the one that it may ask for a password.
_PIP = """
import os, runpy, sys
def refuse(event, arguments):
    if event == "subprocess.Popen" and os.path.basename(str(arguments[0])) != "keyring":
        raise PermissionError("no program is started on the host")
sys.addaudithook(refuse)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""

_OFFLINE = re.compile(
    r"connection broken by|ssl certificate|Could not fetch URL|ConnectionError|ReadTimeout|Max retries"
    r"|Could not resolve host"
)
_FAILED_COMMAND = re.compile(r"^(fatal|error: (command|\[Errno))\b")
_ERROR = re.compile(r"^(ERROR|error):")
_NOISE = re.compile(
    r"is ignored: it is neither|^Removing intermediate|^The command '/bin/sh|^\[notice\]"
    r"|^To fix this you could|^\d\. |ResolutionImpossible"
)
_PROXIES = "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY".split()
_CERTIFICATES = "PIP_CERT SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE".split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """For what wheels have to be made: `version` as "3.11", `abi` as "cp311", `glibc` as (2, 36)."""

    version: str
    abi: str
    machine: str
    glibc: tuple[int, int]

    @classmethod
    def read(cls, printed: str, base: str) -> "Platform":
        """From what `PROBE` printed. Raises `SandboxError` when the base image is none for us."""
        try:
            found = json.loads(printed)
            libc = re.fullmatch(r"glibc (\d+)\.(\d+)", found["libc"])
            version, abi, machine = str(found["version"]), str(found["abi"]), str(found["machine"])
        except (ValueError, KeyError, TypeError):
            raise unfit(base, "It did not tell which Python it has.") from None
        if libc is None:
            raise unfit(base, "It has no glibc.")
        return cls(version=version, abi=abi, machine=machine, glibc=(int(libc[1]), int(libc[2])))

    def options(self) -> list[str]:
        """pip's options for wheels of this platform, and nothing but wheels."""
        major, newest = self.glibc
        names = [f"manylinux_{major}_{minor}" for minor in range(newest, _OLDEST_GLIBC - 1, -1)]
        names += ["manylinux2014", "manylinux2010", "manylinux1", "linux"]
        options = ["--only-binary=:all:", "--implementation", "cp"]
        options += ["--python-version", self.version, "--abi", self.abi]
        return [*options, *(part for name in names for part in ("--platform", f"{name}_{self.machine}"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a build needs beside `rlm.box.image.inputs`.

    `files` are files of the host by their path in the build context. `arguments` are build arguments.
    `extra` is the folder with the wheels of sandbox.packages, None when they are built in the container.
    """

    files: Mapping[str, Path]
    arguments: Mapping[str, str] = field(default_factory=dict)
    extra: Path | None = None


def cache_folder() -> Path:
    """Where wheels are kept, one folder for each list of packages and platform."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlm" / "wheels"


def fetch(platform: Platform, files: Mapping[str, bytes], tell: Callable[[str], None]) -> Fetched:
    """Have the wheels for this build context at hand, downloading what is not. May take minutes.

    Raises `SandboxError` when they cannot be had, and `ConfigError` for what is wrong with sandbox.packages.
    """
    own = _own_wheels(platform, files[OWN], tell)
    found = _in_context(own, OWN)
    wanted = files[EXTRA].decode().splitlines()
    if not wanted:
        return Fetched(files=found)
    found["packages/extra/constraints.txt"] = own / "constraints.txt"
    extra = _extra_wheels(platform, own, wanted, tell)
    fetched = Fetched(files=found | _in_context(extra, EXTRA), extra=extra)
    return fetched if (extra / _COMPLETE).exists() else in_container(fetched)


def in_container(fetched: Fetched) -> Fetched:
    """The same, with sandbox.packages built in the container: by its network and the host's pip settings."""
    arguments, certificates = _index_settings()
    files = dict(fetched.files)
    if fetched.extra:
        (fetched.extra / _COMPLETE).unlink(missing_ok=True)
    if certificates:
        files["packages/extra/ca.pem"] = certificates
    return Fetched(files=files, arguments={"OFFLINE": "", **arguments})


def build_error(output: Sequence[str], files: Mapping[str, bytes]) -> RlmError:
    """The error for a build that failed with this output."""
    text = "\n".join(output)
    if "no space left on device" in text.lower():
        return SandboxError(
            "The sandbox image could not be built.",
            "Docker's disk is full.",
            hint="docker system df shows what takes the space; docker system prune frees what nobody uses.",
        )
    if "DO NOT MATCH THE HASHES" in text:
        return _tampered(output, hint=f"Remove {cache_folder()} and try again.")
    names = ", ".join(files[EXTRA].decode().splitlines())
    if FAILED in text and _OFFLINE.search(text):
        return SandboxError(
            f"sandbox.packages could not be fetched in the container that builds them: {names}.",
            _said(output),
            hint="It has pip's settings of this machine (PIP_INDEX_URL, PIP_CERT, HTTPS_PROXY), but reaches"
            " neither its localhost nor its files.",
        )
    if FAILED in text:
        return ConfigError(
            f"sandbox.packages cannot be installed: {names}.",
            _said(output),
            hint="A package without a wheel is built in a container, with its network and what the base image"
            " has. A base with compilers, such as python:3.12-bookworm, can be named as sandbox.image.",
        )
    return SandboxError(
        "The sandbox image could not be built.",
        " ".join(output[-3:])[-600:],
        hint="rlm doctor shows the engine; docs/configuration.md tells of sandbox.image.",
    )


# -- wheels


def _own_wheels(platform: Platform, requirements: bytes, tell: Callable[[str], None]) -> Path:
    def download(folder: Path) -> None:
        path = folder / "requirements.txt"
        path.write_bytes(requirements)
        (folder / "constraints.txt").write_text(_constraints(requirements.decode()), encoding="utf-8")
        # The list is complete, so nothing depends on markers, which pip would read for the host's Python.
        options = ["--no-deps", "--require-hashes", "--requirement", str(path)]
        output, ended_well = _pip("download", *platform.options(), "--dest", str(folder), *options, tell=tell)
        if not ended_well:
            raise _own_error(output, platform)

    return _kept(download, platform.options(), requirements)


def _extra_wheels(platform: Platform, own: Path, wanted: Sequence[str], tell: Callable[[str], None]) -> Path:
    """The folder with wheels of sandbox.packages, save our own; marked when no other packages are needed."""

    def download(folder: Path) -> None:
        if any("://" in requirement for requirement in wanted):
            return
        options = ["--find-links", str(own), "--constraint", str(own / "constraints.txt")]
        output, ended_well = _pip(
            "download", *platform.options(), "--dest", str(folder), *options, "--", *wanted, tell=tell
        )
        for wheel in folder.glob("*.whl"):
            if not ended_well or (own / wheel.name).exists():
                wheel.unlink()
        if ended_well:
            (folder / _COMPLETE).touch()
        elif not _has_source(output):
            raise _extra_error(output, wanted)

    return _kept(download, platform.options(), (own / "requirements.txt").read_bytes(), *wanted)


def _kept(download: Callable[[Path], None], platform: Sequence[str], *wanted: bytes | str) -> Path:
    """The folder of the cache for this list; a complete one or none, whenever the program ends."""
    key = hashlib.sha256(repr((platform, wanted)).encode()).hexdigest()[:24]
    kept = cache_folder() / key
    if kept.is_dir():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=kept.parent, prefix="new-"))
        try:
            download(made)
            with contextlib.suppress(FileExistsError):  # another command was quicker
                made.rename(kept)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise _not_written(error) from None
    return kept


def _in_context(folder: Path, beside: str) -> dict[str, Path]:
    return {_place(wheel, beside): wheel for wheel in sorted(folder.glob("*.whl"))}


def _place(wheel: Path, beside: str) -> str:
    return f"{beside.rpartition('/')[0]}/{wheel.name}"


def _constraints(requirements: str) -> str:
    """The pins of a list without their hashes, which pip would then ask of every other package as well."""
    return "".join(f"{line.split()[0]}\n" for line in requirements.splitlines() if re.match(r"\w\S*==", line))


# -- pip


def _pip(*arguments: str, tell: Callable[[str], None] = lambda text: None) -> tuple[list[str], bool]:
    """What the host's pip says, and whether it ended well. -P: no import from the present folder."""
    command = [sys.executable, "-P", "-c", _PIP, arguments[0], "--no-input", "--no-color"]
    command += ["--disable-pip-version-check", *arguments[1:]]
    output = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PIP_PROGRESS_BAR": "off"},
    ) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line.rstrip())
            if news := _news(line):
                tell(news)
    return output, process.returncode == 0


def _news(line: str) -> str:
    """What a line of pip's output tells the user, if anything."""
    if found := re.match(r"\s+(?:Downloading|Using cached) (?:\S*/)?([\w.]+)-\S+\.whl(?: \((.+)\))?", line):
        return " ".join(["downloading packages:", found[1].replace("_", "-"), found[2] or ""]).strip()
    if "Retrying" in line:
        return "downloading packages: the package index does not answer, trying again"
    return ""


def _has_source(output: Sequence[str]) -> bool:
    """Whether all that kept pip from going on is a package that has no wheel for the platform."""
    text = "\n".join(output)
    if "no program is started on the host" in text:
        return True
    missing = re.search(r"No matching distribution found for ([A-Za-z0-9._-]+)", text)
    return missing is not None and not _OFFLINE.search(text) and _pip("index", "versions", missing[1])[1]


def _index_settings() -> tuple[dict[str, str], Path | None]:
    """The build arguments that let pip reach the same index from a container; the certificates to trust.

    Taken from pip's own settings and the environment. Folders of this machine as an index are left out.
    """
    settings: dict[str, str] = {}
    for line in _pip("config", "list")[0]:
        # Later lines have precedence: the files first, then the environment.
        if found := re.fullmatch(r"(?:global|install|download|:env:)\.([\w-]+)=('.*'|\".*\")", line):
            settings[found[1]] = str(ast.literal_eval(found[2]))
    arguments = {
        f"PIP_{name.upper().replace('-', '_')}": " ".join(
            word for word in settings.get(name, "").split() if not word.startswith(("file:", "/", "."))
        )
        for name in ("index-url", "extra-index-url", "trusted-host", "proxy")
    }
    for name in _PROXIES:
        arguments[name] = os.environ.get(name) or os.environ.get(name.lower(), "")
    bundles = [settings.get("cert", ""), *(os.environ.get(name, "") for name in _CERTIFICATES)]
    certificates = next((Path(bundle) for bundle in bundles if bundle and Path(bundle).is_file()), None)
    return {name: value for name, value in arguments.items() if value}, certificates


# -- errors


def _own_error(output: Sequence[str], platform: Platform) -> RlmError:
    text = "\n".join(output)
    if "DO NOT MATCH THE HASHES" in text:
        return _tampered(output, hint="Look at pip's index settings: pip config list")
    if "No matching distribution" in text and not _OFFLINE.search(text):
        return SandboxError(
            "The sandbox's packages are not to be had for its base image.",
            f"It has Python {platform.version} on {platform.machine}. {_said(output)}",
            hint="Name another base as sandbox.image, such as python:3.12-slim-bookworm.",
        )
    return _download_error(output)


def _extra_error(output: Sequence[str], wanted: Sequence[str]) -> RlmError:
    text = "\n".join(output)
    if "ResolutionImpossible" in text:
        return ConfigError(
            f"sandbox.packages cannot be installed together: {', '.join(wanted)}.",
            _said(output),
            hint="A constraint is a version that the sandbox itself needs. Ask for other versions.",
        )
    if "No matching distribution" in text and not _OFFLINE.search(text):
        return ConfigError(
            f"sandbox.packages cannot be had: {', '.join(wanted)}.",
            _said(output),
            hint="Look for a mistake in the name, whether the package is made for Linux, and at pip's index"
            " settings: pip config list",
        )
    if "nvalid requirement" in text:
        return ConfigError(f"sandbox.packages is not understood: {', '.join(wanted)}.", _said(output))
    return _download_error(output)


def _download_error(output: Sequence[str]) -> SandboxError:
    text = "\n".join(output)
    if f"[Errno {errno.ENOSPC}]" in text:
        return _not_written(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    if "No module named pip" in text:
        hint = f"Install it: {sys.executable} -m ensurepip"
    else:
        hint = (
            "Go online once. pip's own settings apply: PIP_INDEX_URL, PIP_CERT, HTTPS_PROXY, pip config list"
        )
    return SandboxError("The sandbox's packages could not be downloaded.", _said(output), hint=hint)


def _tampered(output: Sequence[str], *, hint: str) -> SandboxError:
    return SandboxError(
        "A package is not the file that this program was made with, and was not installed.",
        _said(output),
        hint=hint,
    )


def _not_written(error: OSError) -> SandboxError:
    return SandboxError(
        "The sandbox's packages could not be kept.",
        f"{cache_folder()}: {error.strerror or error}.",
        hint="Make room there, or name another folder with XDG_CACHE_HOME.",
    )


def unfit(base: str, why: str) -> SandboxError:
    """The error for a base image that no sandbox image can be built from."""
    return SandboxError(
        f"The base image {base} cannot be used.",
        why,
        hint="sandbox.image needs Debian with Python 3.11 or newer, such as python:3.12-slim-bookworm.",
    )


def _said(output: Sequence[str]) -> str:
    """The end of what pip said, on one line: where it was offline, what failed in a build, or its errors."""
    lines = [line.strip() for line in output]
    lines = [line for line in lines if line and not _NOISE.search(line)]
    offline, failed, wrong = (
        [index for index, line in enumerate(lines) if pattern.search(line)]
        for pattern in (_OFFLINE, _FAILED_COMMAND, _ERROR)
    )
    start = [*offline[-1:], *failed[:1], *wrong[:1], -3][0]
    text = " ".join(line.removeprefix("ERROR: ") for line in lines[start:])
    text = re.sub(r"\(from versions: (.{60}).{60,}?(.{30})\)", r"(from versions: \1 … \2)", text)
    return f"pip says: {text if len(text) < 600 else f'{text[:400]} … {text[-180:]}'}"
