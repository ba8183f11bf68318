"""What a cell costs: `x = 1` with contexts of several sizes, beside a bare echo over the same kind of stream.

Run: .venv/bin/python benchmarks/cell.py [--cells 300]. Prints medians in milliseconds. The echo is a loop in
the same image, attached in the same way, that sends back what it gets with a length in front: the floor
under anything that runs in the container. All variants take turns within one run.
"""

import argparse
import asyncio
import json
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rlm.box.container import Box, BoxConfig, ensure_image
from rlm.box.engine_api import Engine
from rlm.box.namespace import Namespace, Request
from rlm.settings import SandboxConfig

MB = 1_000_000
SIZES_MB = (1, 10, 100, 1000)
ECHO = """
import struct, sys
read, write, flush = sys.stdin.buffer.read, sys.stdout.buffer.write, sys.stdout.buffer.flush
while head := read(4):
    write(head + read(struct.unpack(">I", head)[0])); flush()
"""


async def refuse(request: Request, body: bytes) -> bytes:
    raise AssertionError("no cell here asks for anything")


class Echo:
    """A container that sends everything back."""

    def __init__(self, engine: Engine, tag: str) -> None:
        import docker

        self._api = docker.from_env().api
        host = self._api.create_host_config(network_mode="none", log_config={"Type": "none"})
        self._id = self._api.create_container(
            tag, entrypoint=["python3", "-u", "-c", ECHO], host_config=host, stdin_open=True, detach=False
        )["Id"]
        wrapped = self._api.attach_socket(self._id, params={"stdin": 1, "stdout": 1, "stream": 1})
        self._wrapped = wrapped
        self._socket: socket.socket = wrapped._sock
        self._socket.settimeout(None)
        self._api.start(self._id)

    def once(self) -> None:
        message = b"x = 1"
        self._socket.sendall(struct.pack(">I", len(message)) + message)
        wanted, got = 8 + 4 + len(message), 0
        while got < wanted:
            got += len(self._socket.recv(4096))

    def close(self) -> None:
        self._socket.close()
        self._api.remove_container(self._id, force=True)


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await call()
    return (time.perf_counter() - started) * 1000


async def open_context(engine: Engine, tag: str, folder: Path, size_mb: int) -> tuple[Box, Namespace]:
    path = folder / f"{size_mb}.log"
    line = b"2026-01-01T00:00:00 INFO request served path=/cart status=200 ms=12\n"
    with path.open("wb") as file:
        for _ in range(size_mb * MB // (len(line) * 1000)):
            file.write(line * 1000)
    target = f"/data/0/{path.name}"
    settings = SandboxConfig()
    config = BoxConfig(
        base=settings.image,
        memory_bytes=settings.memory_bytes,
        cpus=settings.cpus,
        pids=settings.pids,
        runtime=None,
        cell_timeout_s=60,
        state_dir=folder,
        mounts=[(str(path), target)],
    )
    path.chmod(0o644)
    box = await Box.start(engine, config, tag, session="benchmark")
    namespace = await box.open_namespace(refuse)
    spec = {"name": path.name, "path": target, "source": str(path), "size_bytes": path.stat().st_size}
    spec |= {"mtime_ns": path.stat().st_mtime_ns, "encoding": "utf-8"}
    await namespace.set_documents(json.dumps([spec]).encode(), path.name)
    return box, namespace


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=300, help="cells of each kind (default 300)")
    cells = parser.parse_args().cells
    engine = Engine()
    tag = ensure_image(engine, SandboxConfig().image, print)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # noqa: ASYNC240
        echo = Echo(engine, tag)
        opened = [await open_context(engine, tag, Path(folder), size) for size in SIZES_MB]
        names = ["bare echo", *(f"{size:,} MB" for size in SIZES_MB)]
        took: dict[str, list[float]] = {name: [] for name in names}

        async def echo_once() -> None:
            echo.once()

        for _ in range(cells):
            took["bare echo"].append(await timed(echo_once))
            for size, (_, namespace) in zip(SIZES_MB, opened, strict=True):
                cell = namespace.run_cell
                took[f"{size:,} MB"].append(await timed(lambda cell=cell: cell("x = 1", lambda text: None)))  # type: ignore[misc]
        for box, _ in opened:
            await box.close()
        echo.close()
    floor = statistics.median(took["bare echo"])
    print(f"{'':>12}  median ms  p90 ms  over the echo")
    for name, values in took.items():
        median, p90 = statistics.median(values), statistics.quantiles(values, n=10)[8]
        print(f"{name:>12}  {median:9.2f}  {p90:6.2f}  {median - floor:13.2f}")


if __name__ == "__main__":
    asyncio.run(main())
