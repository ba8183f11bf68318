"""`status` says what is so: of documents, variables, snapshots and the container, with Docker and without."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.docker_proxy import DockerProxy
from tests.e2e import Project, asleep, cell, wait
from tests.model_server import ModelServer

FIRST = """
rows = [1, 2, 3]
stream = (row for row in rows)
add_buffer('one'), add_buffer('two')
FINAL(len(rows))
"""


def status(project: Project, **env: str) -> tuple[Any, str]:
    """What `status` says, as JSON and as text."""
    plain = project.run("status", env=env)
    assert "Traceback" not in plain.err
    return project.run("status", "--json", env=env).json, plain.answer


def aged(path: Path) -> None:
    """Of a file that was written just now, nothing is remembered: it may change within the same instant."""
    os.utime(path, (time.time() - 60,) * 2)


def test_what_is_kept_is_told_with_and_without_docker(
    project: Project, server: ModelServer, tmp_path: Path
) -> None:
    for name in "abc":
        aged(project.write(f"{name}.txt", f"{name}\n"))
    server.reply("root", cell(FIRST))
    assert project.ask("How many?", "-f", "a.txt", "-f", "b.txt", "-f", "c.txt").answer == "3\n"
    (project.folder / "b.txt").write_text("b\nand more\n")
    (project.folder / "c.txt").unlink()

    found, text = status(project, DOCKER_HOST=f"unix://{tmp_path}/nothing.sock")

    assert {row["name"]: row["state"] for row in found["documents"]} == {
        "a.txt": "unchanged",
        "b.txt": "grown",
        "c.txt": "missing",
    }
    assert {"name": "rows", "type": "list", "size": "3 items"} in found["variables"]
    assert [row["name"] for row in found["not_saved"]] == ["stream"]
    assert found["buffers"] == 2
    snapshot = found["snapshot"]
    assert snapshot["turn"] == 1 and snapshot["size_bytes"] > 0 and snapshot["age_s"] >= 0
    assert snapshot["on_disk"]["snapshots"] == 1 and snapshot["image"].startswith("rlm-sandbox:")
    assert found["snapshots_lost"] == 0
    assert found["session"]["turns"] == 1 and found["spend"]["calls"] == 1
    assert found["container"] == {"running": False}
    for line in (
        "b.txt  2 B · 1 line · grown since it was loaded",
        "c.txt  2 B · 1 line · missing since it was loaded",
        "list rows (3 items)",
        "buffers    2",
        "not saved: stream (",
        "snapshot   of turn 1, ",
        "container  not running",
        "1 turn, since 20",
    ):
        assert line in text


def test_a_container_is_told_or_that_docker_does_not_tell(project: Project, tmp_path: Path) -> None:
    with asleep(project) as process:
        found, text = status(project)
        down, down_text = status(project, DOCKER_HOST=f"unix://{tmp_path}/nothing.sock")
        with DockerProxy(tmp_path / "docker.sock") as proxy:
            proxy.hangs = True
            _, hung_text = status(project, DOCKER_HOST=proxy.address)
        process.send_signal(signal.SIGINT)
        wait(process)

    container = found["container"]
    assert (container["running"], container["state"]) == (True, "running")
    assert 0 < container["memory_used_bytes"] < container["memory_limit_bytes"]
    assert f", {container['image']}, no network" in text
    assert f"(pid {process.pid}, since " in found["held_by"]
    assert down["container"]["running"] is None and down["held_by"] == found["held_by"]
    assert "container  not known: Docker is not answering." in down_text
    assert "container  not known: Docker does not react." in hung_text


def test_a_damaged_snapshot_is_not_counted_on(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("first = 1\nFINAL(first)"), cell("second = 2\nFINAL(second)"))
    project.run("chat", piped="One?\nTwo?\n")
    max((project.folder / ".rlm_state/snapshots").glob("*.snap")).write_bytes(b"")

    found, text = status(project)

    assert [row["name"] for row in found["variables"]] == ["first"]
    assert (found["snapshot"]["turn"], found["snapshots_lost"]) == (1, 1)
    assert "1 later one cannot be used: damaged, or removed" in text
