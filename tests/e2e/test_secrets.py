"""What is not there: no key in the container or in what is kept, no network, no port, nothing left behind.

Each of these looks for something that must be absent; beside it, the same look finds what is present.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import docker

from tests.e2e import PATIENCE_S, Project, asleep, cell, prompts
from tests.model_server import ModelServer

CANARY = "sk-canary-3e9b71c4d2a85f60"
MARKER = "marker-4c1f7d08b6e2a953"
SEARCH = """
import os, pathlib, stat, subprocess

def search(wanted):
    "Where `wanted` stands: readable files, and the environment of every process that shows its own."
    found = []
    for folder, folders, names in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
        for path in (os.path.join(folder, name) for name in names):
            try:
                if stat.S_ISREG(os.stat(path).st_mode) and wanted in open(path, "rb").read():
                    found.append(path)
            except OSError:
                pass
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [str(path)] if wanted in path.read_bytes() else []
        except OSError:
            pass
    return found

kept = KEPT[::-1]
pathlib.Path("/tmp/planted").write_text(kept)
with subprocess.Popen(["sleep", "60"], env={"PLANTED": kept}) as child:
    add_buffer([search(SOUGHT[::-1].encode()), search(kept.encode()), f"/proc/{child.pid}/environ"])
    child.kill()
print(kept)
""".replace("KEPT", repr(MARKER[::-1])).replace("SOUGHT", repr(CANARY[::-1]))
"""Neither word stands in it the right way round, so that it cannot find itself."""


def test_the_key_is_nowhere_in_the_container_nor_in_what_is_kept(
    project: Project, server: ModelServer
) -> None:
    canary = {"OPENAI_API_KEY": CANARY, "SOME_OTHER_TOKEN": CANARY}
    with asleep(project, code=SEARCH, env=canary, cold=True) as process:
        assert server.requests[0].headers["authorization"] == f"Bearer {CANARY}"
        ours = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert CANARY.encode() in ours, "the key is in the orchestrator, or this test shows nothing"
        inspected = json.dumps(container_of(process.pid))
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
    server.reply("root", cell("FINAL(buffers)"))
    ((of_canary, of_marker, environ_of_child),) = project.ask("Where is it?", env=canary).json

    assert of_canary == []
    assert of_marker == ["/tmp/planted", environ_of_child]
    assert str(process.pid) in inspected and CANARY not in inspected
    state = project.folder / ".rlm_state"
    kept = {path.name: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    assert not [name for name, data in kept.items() if CANARY.encode() in data]
    with_marker = {name for name, data in kept.items() if MARKER.encode() in data}
    assert with_marker >= {"session.jsonl", "events.jsonl"}
    assert any(name.endswith(".snap") for name in with_marker)


CONNECT = """
import socket
try:
    connection = socket.create_connection(("127.0.0.1", {port}), timeout=5)
    connection.sendall(b"GET /v1/models HTTP/1.1\\r\\n\\r\\n")
    print("connected:", connection.recv(100).decode().split("\\r\\n")[0])
except OSError as error:
    print("not connected:", type(error).__name__)
"""


def test_the_container_has_no_network_but_its_sub_calls(project: Project, server: ModelServer) -> None:
    connect = CONNECT.format(port=server.url.split(":")[2].partition("/")[0])
    server.reply("root", cell(connect + "print(llm_query('Hello?'))"), cell("FINAL('done')"))
    server.reply("sub", "Hello through the host.")

    ended = project.ask("Is there a way out?")
    outside = subprocess.run([sys.executable, "-c", connect], capture_output=True, text=True, check=True)

    assert ended.answer == "done\n"
    told = prompts(server)[1]
    assert "not connected: " in told
    assert "Hello through the host." in told
    assert outside.stdout.startswith("connected: HTTP/1.1 200"), "the same code connects on the host"


def test_no_port_is_opened_on_the_host(project: Project) -> None:
    with asleep(project) as process:
        ours, container = listeners({process.pid}), container_of(process.pid)

    assert ours == set()
    assert not container["NetworkSettings"].get("Ports")
    assert container["HostConfig"]["NetworkMode"] == "none"
    assert listeners({os.getpid()}), "the model server of this process listens, and is seen"


def test_the_container_ends_with_the_command_however_it_dies(project: Project) -> None:
    with asleep(project) as process:
        assert container_of(process.pid)["State"]["Running"]
        process.kill()
        process.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while containers_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert containers_of(process.pid) == []


def container_of(pid: int) -> dict[str, Any]:
    """What the engine says of the one container that a command has started."""
    (found,) = containers_of(pid)
    return found


def containers_of(pid: int) -> list[dict[str, Any]]:
    with closing(docker.from_env()) as client:
        listed = client.api.containers(all=True, filters={"label": f"rlm.pid={pid}"})
        return [client.api.inspect_container(container["Id"]) for container in listed]


def listeners(pids: set[int]) -> set[str]:
    """Sockets on which these processes, or their children, listen: as they stand in /proc/net/tcp."""
    links = [link for pid in family(pids) for link in sockets(pid)]
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                found.add(fields[1])
    return found


def family(pids: set[int]) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with_parent = _read(stat.read_text)
        if with_parent:
            parents[int(stat.parent.name)] = int(with_parent.rpartition(")")[2].split()[1])
    grown = pids
    while (more := grown | {pid for pid, parent in parents.items() if parent in grown}) != grown:
        grown = more
    return grown


def sockets(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        link = _read(partial(os.readlink, descriptor))
        if link.startswith("socket:"):
            yield link


def _read(read: Callable[[], str]) -> str:
    try:
        return read()
    except OSError:
        return ""
