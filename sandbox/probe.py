"""What the supervisor can see of its own confinement; sent to the host before any model code runs.

The host compares it with what it asked for and hangs up on any difference. It proves nothing about a
hostile supervisor, and need not: at this moment only our own code has run.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterable


def measure(targets: Iterable[str]) -> dict[str, object]:
    """Facts about this process and the mounted `targets`, as JSON-ready values.

    `mounts` holds for each target device, inode, size (bytes), mtime (ns) and whether it is writable.
    """
    status = _status()
    return {
        "uid": os.getuid(),
        "capabilities": int(status.get("CapEff", "ffffffff"), 16),
        "no_new_privileges": status.get("NoNewPrivs") == "1",
        "seccomp": int(status.get("Seccomp", "0")),
        "filters": int(status.get("Seccomp_filters", "0")),
        "read_only_root": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        "interfaces": _interfaces(),
        "sockets_denied": _sockets_denied(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "mounts": {target: _stat(target) for target in targets},
    }


def _status() -> dict[str, str]:
    with open("/proc/self/status", encoding="ascii") as lines:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _interfaces() -> list[str]:
    with open("/proc/net/dev", encoding="ascii") as lines:
        return [line.split(":")[0].strip() for line in lines if ":" in line]


def _sockets_denied() -> bool:
    for family in (socket.AF_INET, socket.AF_UNIX):
        try:
            socket.socket(family).close()
        except OSError as error:
            if error.errno != errno.EPERM:
                return False
        else:
            return False
    return True


def _stat(target: str) -> list[int] | None:
    try:
        found = os.stat(target)
        writable = not os.statvfs(target).f_flag & os.ST_RDONLY
    except OSError:
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, int(writable)]
