"""Whether a Docker engine answers at an address, and if not, why: each way has its own sentence and fix.

It asks for `/_ping` and nothing else, by plain HTTP with a deadline; `rlm.box.engine_api` does the rest.
"""

import contextlib
import grp
import http.client
import os
import platform
import re
import shutil
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from rlm.checks.addresses import USUAL, Address, chosen, others
from rlm.checks.check import within
from rlm.errors import SandboxError

ANSWER_S = 5.0
OTHER_ANSWER_S = 1.0
NEEDED_API = (1, 40)
"""That of Docker 19.03: the first with mounts that are not recursive."""
CLIENT_ONLY = ("ssh", "npipe", "https", "fd")
TLS_PORT = 2376

Api = tuple[int, ...]


class _Connection(http.client.HTTPConnection):
    """HTTP over the unix socket at `path`, or over TCP when there is none."""

    def __init__(self, path: Path | None, host: str, port: int | None, *, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def require_engine(environ: Mapping[str, str], home: Path) -> tuple[Address, Api | None]:
    """Where an engine answers, and its API as of `ping`.

    Raises `SandboxError` that says why none does, and what to do.
    """
    address = chosen(environ, home)
    if isinstance(address, str):
        raise SandboxError(
            f"The Docker context {address!r} does not exist.",
            hint=_then("docker context ls lists them; docker context use default."),
        )
    try:
        version = ping(address.address, seconds=ANSWER_S)
    except SandboxError as error:
        if answering := _answering(environ, home, than=address):
            what = f"{error.what} {error.why}".strip()
            why = f"{answering.source} answers at {answering.address}, which is not the one that is used."
            raise SandboxError(what, why, hint=_then(_use(answering, environ))) from None
        raise
    if version is not None and version < NEEDED_API:
        api, needed = (".".join(map(str, number)) for number in (version, NEEDED_API))
        raise SandboxError(
            "The Docker engine is too old.",
            f"Its API is {api}, and {needed} (Docker 19.03) is needed.",
            hint=_then("Update Docker: https://docs.docker.com/engine/install."),
        )
    return address, version


def ping(address: str, *, seconds: float) -> Api | None:
    """The API version of the engine at an address; None where only Docker's own client can ask (ssh, TLS).

    Raises `SandboxError`.
    """
    url = urlsplit(address)
    if url.scheme in CLIENT_ONLY:
        return None
    port, valid = _port(url)
    if not valid:
        raise SandboxError(
            f"{address!r} is not the address of a Docker engine.",
            hint=_then(f"unset DOCKER_HOST, or make it one like {USUAL}."),
        )
    if port == TLS_PORT:
        return None
    path = Path(address.removeprefix("unix://")) if url.scheme == "unix" else None
    try:
        status, api = within(seconds, lambda: _ask(path, url.hostname or "localhost", port, seconds))
    except TimeoutError:
        raise _hangs(address, seconds) from None
    except OSError as error:
        raise (_socket_error(path, error) if path else _unreachable(address, error)) from None
    except http.client.HTTPException:
        raise _no_docker(address) from None
    version = re.fullmatch(r"(\d+)\.(\d+)", api)
    if status != http.HTTPStatus.OK or version is None:
        raise _no_docker(address)
    return int(version[1]), int(version[2])


def _port(url: SplitResult) -> tuple[int | None, bool]:
    """The port, and whether it is an address at all."""
    try:
        port = url.port
    except ValueError:
        return None, False
    return port, bool(url.path if url.scheme == "unix" else url.scheme in ("tcp", "http") and url.hostname)


def _ask(path: Path | None, host: str, port: int | None, seconds: float) -> tuple[int, str]:
    """The status, and the API version as the answer has it."""
    with contextlib.closing(_Connection(path, host, port, timeout_s=seconds)) as connection:
        connection.request("GET", "/_ping")
        answer = connection.getresponse()
        answer.read(1024)
        return answer.status, answer.headers.get("Api-Version", "")


def _answering(environ: Mapping[str, str], home: Path, *, than: Address) -> Address | None:
    for other in others(environ, home, than=than.address):
        try:
            ping(other.address, seconds=OTHER_ANSWER_S)
        except SandboxError:
            continue
        return other
    return None


def _use(answering: Address, environ: Mapping[str, str]) -> str:
    if answering.address == USUAL:
        return "unset DOCKER_HOST" if environ.get("DOCKER_HOST") else "docker context use default"
    return f"export DOCKER_HOST={answering.address}"


def _socket_error(path: Path, error: OSError) -> SandboxError:
    if isinstance(error, PermissionError):
        return _no_permission(path)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if shutil.which("docker") is None:
            why = f"There is neither a program docker nor the socket {path}."
            return SandboxError("Docker is not installed.", why, hint=_then(_install()))
        return SandboxError("Docker is not running.", f"There is no {path}.", hint=_then(_start()))
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        return SandboxError(
            f"{path} is not a socket.",
            "Something else has taken the place of Docker's.",
            hint=_then("Remove it, or set DOCKER_HOST, and start Docker again."),
        )
    if isinstance(error, ConnectionRefusedError):
        why = f"Nobody listens at {path}."
        return SandboxError("Docker is not running.", why, hint=_then(_start()))
    why = f"{path} ends the connection ({error.strerror or type(error).__name__})."
    return SandboxError("Docker is not answering.", why, hint=_then(_restart()))


def _no_permission(path: Path) -> SandboxError:
    what = "Docker does not let you in."
    try:
        status = path.stat()
        group = grp.getgrgid(status.st_gid)
    except (OSError, KeyError):
        return SandboxError(what, f"You may not look at {path}.", hint=_then("Ask who set up Docker here."))
    if not status.st_gid or not status.st_mode & stat.S_IWGRP:
        why = f"{path} is not open to a group that you could join."
        start = "sudo groupadd -f docker && sudo usermod -aG docker $USER"
        return SandboxError(what, why, hint=_then(f"{start}, restart Docker and log in again."))
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    if user in group.gr_mem and group.gr_gid not in os.getgroups():
        why = f"You are in the group {group.gr_name}, but were not when you logged in."
        return SandboxError(what, why, hint=_then(f"Log in again (in this shell: newgrp {group.gr_name})."))
    why = f"You may not open {path}; its group is {group.gr_name}."
    return SandboxError(what, why, hint=_then(f"sudo usermod -aG {group.gr_name} $USER, then log in again."))


def _unreachable(address: str, error: OSError) -> SandboxError:
    return SandboxError(
        "Docker is not answering.",
        f"{address} cannot be reached ({error.strerror or error}).",
        hint=_then("Start the engine there, or unset DOCKER_HOST for the one of this machine."),
    )


def _hangs(address: str, seconds: float) -> SandboxError:
    return SandboxError(
        "Docker hangs.",
        f"{address} took the question and did not answer within {seconds:g} s.",
        hint=_then(_restart()),
    )


def _no_docker(address: str) -> SandboxError:
    return SandboxError(
        "What answers is not Docker.",
        f"Something else listens at {address}.",
        hint=_then("Set DOCKER_HOST to the engine's address, or unset it."),
    )


# -- what to do, by platform


def _then(step: str) -> str:
    return f"{step.removesuffix('.')}, then: rlm doctor"


def _install() -> str:
    match _system():
        case "Darwin":
            return "Install Docker Desktop, or: brew install colima docker && colima start."
        case "WSL":
            return "Install Docker Desktop in Windows, and turn on its WSL integration."
    return "sudo apt-get install docker.io (other systems: https://docs.docker.com/engine/install)."


def _start() -> str:
    match _system():
        case "Darwin":
            return "Start Docker Desktop (open -a Docker), or: colima start."
        case "WSL":
            return "Start Docker Desktop in Windows, with its WSL integration."
        case "no systemd":
            return "sudo service docker start"
    return "sudo systemctl start docker"


def _restart() -> str:
    match _system():
        case "Darwin" | "WSL":
            return "Restart Docker Desktop."
        case "no systemd":
            return "sudo service docker restart"
    return "sudo systemctl restart docker"


def _system() -> str:
    if platform.system() != "Linux":
        return platform.system()
    if "microsoft" in platform.release().lower():
        return "WSL"
    return "Linux" if Path("/run/systemd/system").is_dir() else "no systemd"
