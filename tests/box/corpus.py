"""Hostile cells that reach for the network, for files that are not theirs and for privileges, as a table."""

import platform
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """`meets` is in what the cell shows; `control` in what the same code prints without confinement.

    "unconfined" as the `profile` of the control takes the engine's own system-call filter away as well: it
    refuses the same today, and ours must not depend on that. Cases without a control ask for what a plain
    container does not have either.
    """

    id: str
    cell: str
    meets: str
    status: str = "error"
    clean_up: str = ""
    control: str = ""
    profile: str = ""


SYSCALL = """
import ctypes, os, signal
libc, names = ctypes.CDLL(None, use_errno=True), ctypes.CDLL('libseccomp.so.2')
def call(name, *args):
    result = libc.syscall(names.seccomp_syscall_resolve_name(name.encode()), *args)
    return os.strerror(ctypes.get_errno()) if result < 0 else 'done'
"""

EMPTY = """
import glob, os
file = None
for path in glob.glob('/tmp/*') + glob.glob('/dev/shm/*'):
    os.remove(path)
"""

DENIED = "Operation not permitted"


_CASES = (
    # -- N: the network
    Case(
        id="N1-connect",
        cell="import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(server.getsockname(), 5)\nprint('connected')",
        meets="PermissionError",
        control="connected",
    ),
    Case(
        id="N1-far",
        cell="import socket; socket.create_connection(('1.1.1.1', 53), 2)",
        meets="PermissionError",
    ),
    Case(
        id="N2-lookup", cell="import socket; print(socket.getaddrinfo('example.org', 80))", meets="gaierror"
    ),
    Case(
        id="N3-metadata",
        cell="import urllib.request; urllib.request.urlopen('http://169.254.169.254/', timeout=2)",
        meets="URLError",
    ),
    Case(
        id="N4-unix",
        cell="import socket\nsocket.socket(socket.AF_UNIX).connect('/data/set/socket')\nprint('connected')",
        meets="PermissionError",
        control="connected",
    ),
    Case(
        id="N5-vsock",
        cell="import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); print('made')",
        meets="PermissionError",
        control="made",
    ),
    Case(
        id="N6-alg",
        # Many kernels lack it; what matters is who says no.
        cell="import socket\ntry:\n    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0)\n"
        "except PermissionError:\n    raise\nexcept OSError:\n    pass\nprint('reached the kernel')",
        meets="PermissionError",
        control="reached the kernel",
    ),
    Case(
        id="N7-netlink",
        cell="import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); print('made')",
        meets="PermissionError",
        control="made",
    ),
    Case(
        id="N8-pip",
        cell="import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-m', 'pip', 'install', '--retries', '0', 'six'], "
        "capture_output=True).returncode != 0)",
        meets="True",
        status="ok",
    ),
    # -- F: files
    Case(id="F1-root", cell="open('/root/.ssh/id_rsa')", meets="PermissionError"),
    Case(
        id="F1-home", cell="import os; open(os.path.expanduser('~/.ssh/id_rsa'))", meets="FileNotFoundError"
    ),
    Case(
        id="F2-shadow", cell="print(open('/etc/shadow').read()[:5])", meets="PermissionError", control="root:"
    ),
    Case(
        id="F3-root", cell="open('/owned', 'w').write('x'); print('wrote')", meets="OSError", control="wrote"
    ),
    Case(
        id="F4-append",
        cell="open('/data/set/a.txt', 'a').write('x'); print('wrote')",
        meets="Error",
        control="wrote",
    ),
    Case(
        id="F4-delete",
        cell="import os; os.remove('/data/set/b.txt'); print('gone')",
        meets="Error",
        control="gone",
    ),
    Case(
        id="F5-source",
        cell="open('/opt/rlm/sandbox/worker.py', 'a').write('#'); print('wrote')",
        meets="Error",
        control="wrote",
    ),
    Case(id="F6-docker", cell="import os; os.stat('/var/run/docker.sock')", meets="FileNotFoundError"),
    Case(id="F7-symlink", cell="print(open('/data/set/absolute').read())", meets="FileNotFoundError"),
    Case(
        id="F8-pids",
        cell="import os\nprint(sorted(int(p) for p in os.listdir('/proc') if p.isdigit())[0], "
        "max(int(p) for p in os.listdir('/proc') if p.isdigit()) < 10000)",
        meets="1 True",
        status="ok",
    ),
    Case(
        id="F9-mem", cell="open('/proc/1/mem', 'rb'); print('open')", meets="PermissionError", control="open"
    ),
    Case(
        id="F9-fd", cell="import os; print(os.listdir('/proc/1/fd'))", meets="PermissionError", control="'0'"
    ),
    Case(
        id="F9-environ",
        cell="print(open('/proc/1/environ').read())",
        meets="PermissionError",
        control="PATH=",
    ),
    Case(id="F10-core", cell="open('/proc/sys/kernel/core_pattern', 'w').write('|/tmp/x')", meets="Error"),
    Case(
        id="F11-tmp",
        cell="file = open('/tmp/big', 'wb')\nfor _ in range(300):\n    file.write(bytes(2**20))\n"
        "file.flush()\nprint('fits')",
        meets="No space left",
        clean_up=EMPTY,
        control="fits",
    ),
    Case(
        id="F12-inodes",
        cell="for i in range(20_000):\n    open(f'/tmp/{i}', 'w').close()\nprint('fits')",
        meets="No space left",
        clean_up=EMPTY,
        control="fits",
    ),
    Case(
        id="F13-shm",
        cell="file = open('/dev/shm/big', 'wb')\nfor _ in range(40):\n    file.write(bytes(2**20))\n"
        "file.flush()\nprint('fits')",
        meets="No space left",
        clean_up=EMPTY,
        control="fits",
    ),
    Case(
        id="F14-exec",
        cell="import os, subprocess\nopen('/tmp/x', 'w').write('#!/bin/sh\\necho ran')\n"
        "os.chmod('/tmp/x', 0o755)\n"
        "print(subprocess.run(['/tmp/x'], capture_output=True, text=True).stdout)",
        meets="PermissionError",
        control="ran",
    ),
    Case(
        id="F15-fds",
        cell="files = []\nfor _ in range(2000):\n    files.append(open('/dev/null'))\nprint('open')",
        meets="Too many open files",
        clean_up="del files",
        control="open",
    ),
    # -- P: privileges
    Case(
        id="P1-setuid", cell="import os; os.setuid(0); print('root')", meets="PermissionError", control="root"
    ),
    Case(
        id="P2-su",
        cell="import subprocess\n"
        "print(subprocess.run(['su', '-c', 'id'], stdin=subprocess.DEVNULL, capture_output=True, text=True))",
        meets="returncode=1",
        status="ok",
        control="uid=0",
    ),
    Case(
        id="P3-userns",
        cell=f"{SYSCALL}\nprint(call('unshare', 0x10000000))",
        meets=DENIED,
        status="ok",
        control="done",
        profile="unconfined",
    ),
    Case(
        id="P3-clone",
        cell=f"{SYSCALL}\nprint(call('clone', 0x10000000 | 17, 0, 0, 0, 0))",
        meets=DENIED,
        status="ok",
        control="done",
        profile="unconfined",
    ),
    Case(
        id="P3-clone3",
        cell=f"{SYSCALL}\nprint(call('clone3', 0, 0))",
        meets="Function not implemented",
        status="ok",
        control="Invalid argument",
        profile="unconfined",
    ),
    Case(
        id="P3-mount",
        cell=f"{SYSCALL}\nprint(call('mount', b'none', b'/tmp', b'tmpfs', 0, 0))",
        meets=DENIED,
        status="ok",
    ),
    Case(
        id="P4-uring",
        cell=f"{SYSCALL}\nprint(call('io_uring_setup', 1, ctypes.create_string_buffer(120)))",
        meets=DENIED,
        status="ok",
        control="done",
    ),
    Case(
        id="P5-bpf",
        cell=f"{SYSCALL}\nprint(call('bpf', 0, 0, 0))",
        meets=DENIED,
        status="ok",
        control="Invalid argument",
        profile="unconfined",
    ),
    Case(
        id="P5-keyctl",
        cell=f"{SYSCALL}\nprint(call('keyctl', 0, -3, 0))",
        meets=DENIED,
        status="ok",
        control="done",
        profile="unconfined",
    ),
    Case(
        id="P5-uffd",
        cell=f"{SYSCALL}\nprint(call('userfaultfd', 1))",
        meets=DENIED,
        status="ok",
        control="done",
        profile="unconfined",
    ),
    Case(id="P6-ptrace-1", cell=f"{SYSCALL}\nprint(call('ptrace', 16, 1, 0, 0))", meets=DENIED, status="ok"),
    Case(
        id="P6-ptrace",
        cell=f"{SYSCALL}\nchild = os.fork()\nif not child:\n    signal.pause()\n"
        "print(call('ptrace', 16, child, 0, 0))\nos.kill(child, 9)",
        meets=DENIED,
        status="ok",
        control="done",
    ),
)

_X86_CASES = (
    Case(
        id="P7-int80",
        cell="import ctypes, mmap\n"
        "code = bytes.fromhex('53 b867010000 bb02000000 b901000000 31d2 cd80 5b c3')\n"
        "page = mmap.mmap(-1, 4096, prot=7)\npage.write(code)\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
        "print('result', call())",
        meets="result -1\n",
        status="ok",
        control="result 3",
    ),
)

CASES = _CASES + (_X86_CASES if platform.machine() == "x86_64" else ())
"""32-bit calls are a matter of one architecture."""
