"""Where a Docker engine is looked for, and where else one may be. It connects to nothing.

In the order of Docker's own programs: DOCKER_HOST, DOCKER_CONTEXT, the current context, the usual socket.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USUAL = "unix:///var/run/docker.sock"
AT_HOME = (
    (".docker/run/docker.sock", "Docker Desktop"),
    (".docker/desktop/docker.sock", "Docker Desktop"),
    (".colima/default/docker.sock", "Colima"),
    (".colima/docker.sock", "Colima"),
    (".rd/docker.sock", "Rancher Desktop"),
    (".orbstack/run/docker.sock", "OrbStack"),
    (".local/share/containers/podman/machine/podman.sock", "Podman"),
)
IN_RUNTIME_DIR = (("docker.sock", "rootless Docker"), ("podman/podman.sock", "Podman"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """`address` is what DOCKER_HOST would be; `source` says who names it, in a few words."""

    address: str
    source: str

    @property
    def socket(self) -> Path | None:
        """The path of a unix socket."""
        return Path(self.address.removeprefix("unix://")) if self.address.startswith("unix://") else None


def chosen(environ: Mapping[str, str], home: Path) -> Address | str:
    """Where the engine is looked for; or the name of a context that there is not."""
    if host := environ.get("DOCKER_HOST"):
        return Address(address=host, source="DOCKER_HOST")
    folder = Path(environ.get("DOCKER_CONFIG") or home / ".docker")
    name = environ.get("DOCKER_CONTEXT") or _fields(folder / "config.json").get("currentContext") or "default"
    if name == "default":
        return Address(address=USUAL, source="the usual socket")
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    try:
        host = str(_fields(meta)["Endpoints"]["docker"]["Host"])
    except (KeyError, TypeError):
        return str(name)
    return Address(address=host, source=f"the Docker context {name!r}")


def others(environ: Mapping[str, str], home: Path, *, than: str) -> list[Address]:
    """Sockets of engines that exist but are not the one that is used."""
    places = [(Path(USUAL.removeprefix("unix://")), "Docker")]
    places += [(home / path, program) for path, program in AT_HOME]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        places += [(Path(runtime) / path, program) for path, program in IN_RUNTIME_DIR]
    places.append((Path("/run/podman/podman.sock"), "Podman"))
    found = [Address(address=f"unix://{path}", source=program) for path, program in places if _there(path)]
    used = Path(than.removeprefix("unix://")).resolve()
    return [other for other in found if other.socket and other.socket.resolve() != used]


def _there(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:
        return False


def _fields(path: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}
