"""How a container is confined: what is asked of the engine, and the check that this is what there is.

One table serves both. The engine is asked for `host_config`; after the start, `check_config` compares what
the engine says with it, field by field, and `check_facts` what the supervisor measured inside before any
model code ran. Anything weaker is refused: there is no fallback.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm.errors import SandboxError

MiB = 1024 * 1024

_MASKED_PATHS = (
    # the engine's own list, which a list of ours replaces
    "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list "
    "/proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap "
    # what tells of the host and is of no use inside
    "/proc/cmdline /proc/version /proc/kallsyms /proc/modules /proc/sys/kernel/random/boot_id /sys/class"
).split()
_READ_ONLY_PATHS = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()

_NOTHING = (
    "Privileged CapAdd Devices DeviceRequests DeviceCgroupRules Binds VolumesFrom PortBindings "
    "PublishAllPorts PidMode UTSMode UsernsMode GroupAdd Links Sysctls OomKillDisable"
).split()
"""Fields of the engine's host configuration that must be empty, whatever that looks like there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a container is made with. `mounts` are (source on the host, target) pairs, all read-only."""

    image: str
    user: str
    memory_bytes: int
    cpus: float
    pids: int
    runtime: str | None
    mounts: Sequence[tuple[str, str]]
    labels: Mapping[str, str]


def host_config(spec: Spec) -> dict[str, Any]:
    """The engine's `HostConfig`: everything that confines the container, explicitly."""
    tmp_bytes = max(16 * MiB, min(256 * MiB, spec.memory_bytes // 8))
    config: dict[str, Any] = {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Memory": spec.memory_bytes,
        "MemorySwap": spec.memory_bytes,
        "NanoCpus": int(spec.cpus * 1e9),
        "PidsLimit": spec.pids,
        "IpcMode": "private",
        "ShmSize": max(8 * MiB, min(64 * MiB, spec.memory_bytes // 16)),
        "Tmpfs": {"/tmp": f"rw,noexec,nosuid,nodev,size={tmp_bytes},nr_inodes=16384,mode=1777"},  # noqa: S108
        "Ulimits": [
            {"Name": "nofile", "Soft": 1024, "Hard": 1024},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": True,
        "MaskedPaths": list(_MASKED_PATHS),
        "ReadonlyPaths": list(_READ_ONLY_PATHS),
        "Mounts": [
            {
                "Type": "bind",
                "Source": source,
                "Target": target,
                "ReadOnly": True,
                "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
            }
            for source, target in spec.mounts
        ],
    }
    return config | ({"Runtime": spec.runtime} if spec.runtime else {})


def environment() -> list[str]:
    """All that the container is told.

    Large texts lie in huge pages, so that a fork copies few entries. DuckDB's allocator gives back what it no
    longer needs: it would count against the worker's limit.
    """
    return [
        "HOME=/tmp",
        "LANG=C.UTF-8",
        "PYTHONDONTWRITEBYTECODE=1",
        "GLIBC_TUNABLES=glibc.malloc.hugetlb=1",
        "DUCKDB_JE_MALLOC_CONF=retain:false",
    ]


def check_config(found: Mapping[str, Any], spec: Spec) -> None:
    """Compare what `inspect` says with what was asked for. Raises `SandboxError` naming what differs."""
    host, config = found["HostConfig"], found["Config"]
    wrong = [name for name, value in host_config(spec).items() if (host.get(name) or []) != (value or [])]
    wrong += [name for name in _NOTHING if host.get(name)]
    if config["User"] != spec.user:
        wrong.append("User")
    if config["StdinOnce"] is not True:
        wrong.append("StdinOnce")
    # The image brings variables of its own (PATH, versions); proxies can only come from the engine's client.
    if any("proxy" in line.partition("=")[0].lower() for line in config["Env"]):
        wrong.append("Env")
    mounts = sorted(
        (mount["Destination"], mount["RW"]) for mount in found["Mounts"] if mount["Type"] != "tmpfs"
    )
    if mounts != sorted((target, False) for _, target in spec.mounts):
        wrong.append("Mounts")
    if wrong:
        raise _refusal(wrong)


Identity = tuple[int, int, int, int]
"""Device, inode, size (bytes), mtime (ns) of what is mounted, as it was when the user's consent held."""


def identity(source: str) -> Identity:
    found = Path(source).stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_facts(facts: Mapping[str, Any], identities: Mapping[str, Identity]) -> None:
    """Compare what the supervisor measured. `identities` are those of the mounted paths, by target."""
    as_it_should = {
        "user": facts.get("uid") not in (0, None),
        "capabilities": facts.get("capabilities") == 0,
        "no-new-privileges": facts.get("no_new_privileges") is True,
        # 2: filter mode. Of two filters one is ours; a single one means that the engine has none. A kernel
        # that does not count them (gVisor's) says 0.
        "seccomp": facts.get("seccomp") == 2 and facts.get("filters") not in (None, 1),
        "read-only root": facts.get("read_only_root") is True,
        "network interfaces": not set(facts.get("interfaces", ["?"])) - {"lo"},
        "sockets": facts.get("sockets_denied") is True,
    }
    mounts = facts.get("mounts")
    if not isinstance(mounts, dict) or mounts.keys() != identities.keys():
        as_it_should["mounts"] = False
    elif any(not _same_file(expected, mounts[target]) for target, expected in identities.items()):
        raise SandboxError(
            "A document is not the file that was agreed to.",
            "It was replaced while the container started, or cannot be read in it.",
            hint="Try again; if it persists, check that the file's owner and mode let others read it.",
        )
    if wrong := [name for name, holds in as_it_should.items() if not holds]:
        raise _refusal(wrong)


def _same_file(expected: Identity, inside: object) -> bool:
    """Device and inode agree; where the engine runs in a VM and maps them, size and time."""
    if not isinstance(inside, list) or len(inside) != 5 or inside[4] != 0:
        return False
    in_vm = os.uname().sysname != "Linux"
    return inside[:2] == list(expected[:2]) or (in_vm and inside[2:4] == list(expected[2:]))


def _refusal(wrong: list[str]) -> SandboxError:
    return SandboxError(
        "The container is less confined than it has to be, so nothing was run in it.",
        f"Not as asked for: {', '.join(wrong)}.",
        hint="rlm doctor shows the engine; docs/architecture.md lists what is required.",
    )
