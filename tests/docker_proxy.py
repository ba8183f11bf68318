"""A socket between the program and the Docker engine that can fail as an engine that is restarted does.

It passes bytes on and knows nothing of what they mean. Containers survive all that it does.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


class DockerProxy:
    """`with DockerProxy(path) as proxy:` listens at `path`; `address` is what DOCKER_HOST has to be.

    While it `refuses`, new connections are closed at once; while it `hangs`, they are accepted and ignored.
    """

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self.refuses = False
        self.hangs = False
        self.accepted = 0
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def drop(self) -> None:
        """End all connections."""
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()  # from here on there are no new connections
        self.drop()
        for thread in self._threads:
            thread.join()
        for end in (self._listening, *self._open):
            end.close()

    def _start(self, target: Callable[..., None], *args: socket.socket) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listening socket was closed
            while True:
                client, _ = self._listening.accept()
                self.accepted += 1
                if self.refuses:
                    client.close()
                    continue
                with self._lock:
                    self._open.add(client)
                if not self.hangs:
                    self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(ENGINE)
        with self._lock:
            self._open.add(engine)
        for source, target in ((client, engine), (engine, client)):
            self._start(self._pass_on, source, target)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
