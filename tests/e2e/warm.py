"""Commands without the seconds of importing: a process that has imported the program forks one for each.

What runs is `main.py` with its own arguments, environment, folder and streams; only the imports are there
already. `WarmPopen` is a `subprocess.Popen`, and the command a child of this process: whoever started the
forking process is made the parent of what it leaves behind (Linux's `PR_SET_CHILD_SUBREAPER`).
"""

import atexit
import ctypes
import functools
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

MAIN = Path(__file__).resolve().parents[2] / "main.py"
START_BYTES = 1024 * 1024
_PR_SET_CHILD_SUBREAPER = 36


class WarmPopen(subprocess.Popen[bytes]):
    """`Popen([sys.executable, MAIN, *args], …)`, forked from a process that has imported everything."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        (_, _, _, _, cwd, env, _, _, _, *pipes) = rest[:15]
        stdin, _, _, stdout, _, stderr = pipes
        start = {"args": [os.fspath(arg) for arg in args[2:]], "cwd": os.fspath(cwd), "env": dict(env)}
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.connect(_forker())
                socket.send_fds(connection, [json.dumps(start).encode()], [stdin, stdout, stderr])
                self.pid = int(connection.recv(64))
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        self._child_created = True


@functools.cache
def _forker() -> str:
    """Start the process that forks; returns its address. It ends with this one."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    address = str(Path(tempfile.mkdtemp(prefix="rlm-warm-")) / "socket")
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import {__name__} as warm; warm.serve({address!r}, {os.getpid()})"],
        cwd=MAIN.parent,
        stdin=subprocess.PIPE,
        stdout=theirs,
    )
    os.close(theirs)
    if os.read(ours, 1) != b".":
        raise RuntimeError("the forking process did not start")
    os.close(ours)
    atexit.register(process.kill)
    return address


def serve(address: str, parent: int) -> NoReturn:
    """Import everything, then fork a command for each connection, until the process that asks is gone."""
    before = set(os.environ)
    _import_all()
    added = {name: value for name, value in os.environ.items() if name not in before}
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(address)
    listening.listen(64)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    os.write(1, b".")
    while True:
        connection, _ = listening.accept()
        with connection:
            data, descriptors, _, _ = socket.recv_fds(connection, START_BYTES, 3)
            between = os.fork()
            if not between:
                if os.fork():
                    os._exit(0)  # the command has lost its parent, and the one that asked becomes it
                listening.close()
                _run(json.loads(data), descriptors, connection, added, parent)
            os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def _import_all() -> None:
    import importlib

    from rlm import models
    from rlm.cli import COMMANDS

    for name in (*COMMANDS.values(), "rlm.box.engine_api", "rlm.session", "prompt_toolkit", "rich.markdown"):
        importlib.import_module(name)
    models._litellm()


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(0)


def _run(
    start: dict[str, Any],
    descriptors: list[int],
    connection: socket.socket,
    added: dict[str, str],
    parent: int,
) -> NoReturn:
    code = 1
    try:
        while os.getppid() != parent:
            time.sleep(0.001)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        connection.send(str(os.getpid()).encode())
        connection.close()
        os.chdir(start["cwd"])
        os.environ.clear()
        os.environ.update({**added, **start["env"]})
        signal.signal(signal.SIGINT, signal.default_int_handler)
        random.seed()
        sys.argv = [str(MAIN), *start["args"]]
        sys.stdin = os.fdopen(0, "r", encoding="utf-8", errors="surrogateescape")
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", buffering=8192)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
        runpy.run_path(str(MAIN), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)
