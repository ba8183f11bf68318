"""What the Docker engine is and has: limits, seccomp, memory, room, the image, what dead commands left."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlm.box import image
from rlm.box.container import orphans
from rlm.box.engine_api import Engine
from rlm.checks.addresses import Address
from rlm.checks.check import Check, failure, ok, warning
from rlm.errors import SandboxError
from rlm.settings import SandboxConfig

AREA = "sandbox"
LISTED_CONTAINERS = 5
LIMITS = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "CPUs"}
ROOT_BYTES = 4 * 1024**3
"""The image, and what a build of it takes."""
GIB = 1024**3


def check_engine(settings: SandboxConfig, address: Address, versions: dict[str, str]) -> Iterator[Check]:
    """Adds that of the engine to `versions`. Raises `SandboxError` or `OSError` when the engine goes away."""
    engine = Engine()
    try:
        info = engine.info()
        versions["docker"] = str(info.get("ServerVersion"))
        rootless = ", rootless" if _has(info, "rootless") else ""
        detail = f"{info.get('ServerVersion')} on {info.get('OperatingSystem')}, {info.get('Architecture')}"
        api = f", API {versions['docker_api']}" if "docker_api" in versions else ""
        yield ok(AREA, "Docker", f"{detail}{rootless}{api}, at {address.address} ({address.source})")
        yield from _confinement(info)
        yield from _size(info, settings)
        yield from _room(info)
        yield _image(engine, settings)
        if dead := orphans(engine):
            detail = f"{len(dead)} left by commands that died: {_whose(dead)}"
            yield warning(AREA, "containers", detail, fix="The next chat or run removes them.")
    finally:
        engine.close()


def _confinement(info: Mapping[str, Any]) -> Iterator[Check]:
    """Nothing is run without a seccomp profile and limits."""
    if info.get("OSType", "linux") != "linux":
        error = SandboxError(
            "The engine runs Windows containers.",
            hint="Switch to Linux containers in the menu of Docker Desktop, then: rlm doctor",
        )
        yield failure(AREA, "containers", error)
    if not _has(info, "seccomp"):
        error = SandboxError(
            "The engine has no seccomp profile, and nothing is run without one.",
            hint="Use an engine with seccomp (the default of Docker's packages).",
        )
        yield failure(AREA, "seccomp", error)
    if missing := [name for key, name in LIMITS.items() if info.get(key) is False]:
        error = SandboxError(
            f"The engine cannot limit {', '.join(missing)}, and nothing is run without limits.",
            hint="Rootless engines need cgroup v2 with all controllers delegated:"
            " https://docs.docker.com/engine/security/rootless/tips/#limiting-resources",
        )
        yield failure(AREA, "limits", error)


def _size(info: Mapping[str, Any], settings: SandboxConfig) -> Iterator[Check]:
    memory_bytes, cpus = int(info.get("MemTotal") or 0), int(info.get("NCPU") or 0)
    if memory_bytes and settings.memory_bytes > memory_bytes:
        yield warning(
            AREA,
            "memory",
            f"sandbox.memory is {settings.memory_bytes / GIB:.1f} GiB, and the engine has"
            f" {memory_bytes / GIB:.1f} GiB in all",
            fix="Set sandbox.memory to less, or give the engine's virtual machine more.",
        )
    elif memory_bytes:
        detail = f"{settings.memory_bytes / GIB:.1f} of the engine's {memory_bytes / GIB:.1f} GiB"
        yield ok(AREA, "memory", detail)
    if cpus and settings.cpus > cpus:
        error = SandboxError(
            f"sandbox.cpus is {settings.cpus:g}, and the engine has {cpus}.",
            "It starts no container with more than it has.",
            hint=f"Set sandbox.cpus to {cpus} (RLM_CPUS={cpus}).",
        )
        yield failure(AREA, "cpus", error)


def _room(info: Mapping[str, Any]) -> Iterator[Check]:
    """Free space at Docker's root; nothing is said of one that is inside a virtual machine, or elsewhere."""
    root = Path(str(info.get("DockerRootDir") or "/nowhere"))
    try:
        free_bytes = shutil.disk_usage(root).free
    except OSError:
        return
    detail = f"{free_bytes / GIB:.1f} GiB free at {root}"
    if free_bytes < ROOT_BYTES:
        fix = "docker system df shows what takes room; docker system prune removes what is not used."
        yield warning(AREA, "Docker's disk", detail, fix=fix)
    else:
        yield ok(AREA, "Docker's disk", detail)


def _image(engine: Engine, settings: SandboxConfig) -> Check:
    files = image.inputs(settings.packages)
    bases = (settings.image, image.LOCAL_BASE)
    tags = [image.tag(files, base) for base in bases]
    if built := next((tag for tag in tags if engine.has_image(tag)), None):
        return ok(AREA, "image", built)
    if at_hand := next((base for base in bases if engine.has_image(base)), None):
        detail = f"not built yet for this version; it will be, from {at_hand}, at the first question"
        return ok(AREA, "image", detail)
    detail = f"not built yet; its base {settings.image} will be pulled at the first question"
    return warning(
        AREA, "image", detail, fix="Offline, make a base from Debian's packages: scripts/make-base"
    )


def _has(info: Mapping[str, Any], option: str) -> bool:
    return any(option in given for given in info.get("SecurityOptions") or ())


def _whose(containers: Sequence[Mapping[str, Any]]) -> str:
    """The first few containers, with the state folder that each belongs to."""
    named = []
    for container in containers[:LISTED_CONTAINERS]:
        folder = Path(container["Labels"].get("rlm.state", "?"))
        named.append(f"{container['Id'][:12]} of {folder}{'' if folder.exists() else ' (deleted)'}")
    more = len(containers) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
