"""The same image without our confinement: where a payload must work, or it proves nothing elsewhere."""

from pathlib import Path

import docker


def run_plain(tag: str, code: str, dataset: Path, *, profile: str = "") -> str:
    """Run `code` as root in a container such as `docker run` makes; what it printed, stderr included.

    `profile` "unconfined" also takes the engine's own system-call filter away.
    """
    client = docker.from_env()
    container = client.containers.create(
        tag,
        ["-c", code],
        entrypoint="python3",
        user="0:0",
        network_mode="none",
        mem_limit="512m",
        pids_limit=256,
        security_opt=[f"seccomp={profile}"] if profile else [],
        volumes={str(dataset): {"bind": "/data/set", "mode": "rw"}},
    )
    try:
        container.start()
        container.wait(timeout=60)
        return str(container.logs().decode("utf-8", "replace"))
    finally:
        container.remove(force=True)
        client.close()
