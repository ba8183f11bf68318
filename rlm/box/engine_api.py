"""The Docker Engine API: the one file that imports `docker`, and only when it is used.

Plain blocking calls, each with a time limit of the HTTP client's; `rlm.box.container` runs them in threads
with deadlines of its own. `docker exec`, `cp` and `commit` are not here and are not used.
"""

import platform
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlm.box import image, packages
from rlm.box.confinement import Spec, environment, host_config
from rlm.errors import SandboxError

CALL_SECONDS = 30
LABEL = "rlm.sandbox"
PROBE_BYTES = 256 * 1024**2

_COLOUR = re.compile(r"\x1b\[[\d;]*m")


class Engine:
    """A connection to the Docker engine that DOCKER_HOST, or else the current Docker context, names."""

    def __init__(self) -> None:
        import docker

        try:
            self._client = docker.from_env(timeout=CALL_SECONDS)
            self._api = self._client.api
            self._errors = docker.errors
            self._api.ping()
        except Exception as error:
            # docker, requests and urllib3 have a tree of exceptions each; all mean that nobody answered.
            raise _unreachable(error) from None

    @property
    def address(self) -> str:
        return str(self._api.base_url)

    def info(self) -> dict[str, Any]:
        """`docker info`: server version, storage, security options."""
        return dict(self._api.info())

    # -- images

    def has_image(self, name: str) -> bool:
        try:
            self._api.inspect_image(name)
        except self._errors.ImageNotFound:
            return False
        return True

    def pull(self, name: str, progress: Callable[[str], None]) -> bool:
        """Try to fetch an image; False when the registry cannot be reached or does not have it."""
        try:
            for line in self._api.pull(name, stream=True, decode=True):
                if "error" in line:
                    return False
                progress(f"pulling {name}: {line.get('status', '')}")
        except Exception:
            # The engine's errors, and those of its HTTP client: any of them means that it cannot be had.
            return False
        return True

    def build(self, tag: str, base: str, files: Mapping[str, bytes], progress: Callable[[str], None]) -> None:
        """Build the sandbox image, with its Python packages, which are downloaded first.

        `files` are those of `image.inputs`. Raises `SandboxError`, or `ConfigError` when it is
        sandbox.packages that cannot be installed, with the end of what pip or the engine said.
        """
        fetched = packages.fetch(self.platform(base), files, progress)
        failure = self._build(tag, base, files, fetched, progress)
        if failure and fetched.extra and packages.FAILED in failure[-1]:
            # pip resolved them for the Python of the host, which may need other packages than the image's.
            progress("building the sandbox image: getting sandbox.packages in the container")
            failure = self._build(tag, base, files, packages.in_container(fetched), progress)
        if failure:
            raise packages.build_error(failure, files)

    def _build(
        self,
        tag: str,
        base: str,
        files: Mapping[str, bytes],
        fetched: packages.Fetched,
        progress: Callable[[str], None],
    ) -> list[str]:
        """The output of a build that failed; nothing when it did not."""
        lines: list[str] = []
        try:
            with image.context(files, fetched.files) as context:
                for line in self._api.build(
                    fileobj=context,
                    custom_context=True,
                    tag=tag,
                    buildargs={"BASE": base, **fetched.arguments},
                    labels={LABEL: "image"},
                    rm=True,
                    forcerm=True,
                    decode=True,
                    use_config_proxy=False,
                    timeout=1800,
                ):
                    text = _COLOUR.sub("", str(line.get("stream") or line.get("error") or "")).strip()
                    if text:
                        lines += text.splitlines()
                        progress(f"building the sandbox image: {text.splitlines()[0][:120]}")
                    if "error" in line:
                        return lines
        except (self._errors.APIError, OSError) as error:
            # requests' errors are OSErrors: what an engine that ends the connection looks like.
            return [*lines, _explain(error)]
        return []

    def platform(self, base: str) -> packages.Platform:
        """For what the wheels of an image with this base have to be made, asked of the base itself."""
        spec = Spec(
            image=base,
            user="65534:65534",
            memory_bytes=PROBE_BYTES,
            cpus=1.0,
            pids=32,
            runtime=None,
            mounts=(),
            labels={LABEL: "probe"},
        )
        config = {
            "Image": base,
            "Entrypoint": ["python3", "-E", "-s", "-c", packages.PROBE],
            "Cmd": [],
            "User": spec.user,
            "Labels": dict(spec.labels),
            # What it prints is read after its end, so it neither goes at once nor keeps silent.
            "HostConfig": host_config(spec) | {"AutoRemove": False, "LogConfig": {"Type": "json-file"}},
        }
        container = ""
        try:
            container = str(self._api.create_container_from_config(config)["Id"])
            self._api.start(container)
            self._api.wait(container)
            printed = self._api.logs(container, stdout=True, stderr=False)
        except self._errors.APIError as error:
            raise packages.unfit(base, _explain(error)) from None
        finally:
            if container:
                self.remove(container)
        return packages.Platform.read(printed.decode("utf-8", "replace"), base)

    # -- containers

    def create(self, spec: Spec) -> str:
        """Create a container, hardened in every way that the engine offers; returns its id."""
        config = {
            "Image": spec.image,
            "Cmd": [str(spec.memory_bytes), *(target for _, target in spec.mounts)],
            "Hostname": "sandbox",
            "User": spec.user,
            "Env": environment(),
            "Labels": dict(spec.labels),
            # StdinOnce: when our end of the attached stream goes, however it goes, its stdin closes.
            "OpenStdin": True,
            "StdinOnce": True,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "NetworkDisabled": True,
            "HostConfig": host_config(spec),
        }
        try:
            return str(self._api.create_container_from_config(config)["Id"])
        except self._errors.APIError as error:
            raise SandboxError("Docker refused to create the container.", _explain(error)) from None

    def attach(self, container: str) -> socket.socket:
        """The raw stream: our stdin, and its stdout and stderr in the engine's framing."""
        parameters = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        wrapped = self._api.attach_socket(container, params=parameters)
        raw = getattr(wrapped, "_sock", wrapped)
        raw.settimeout(None)
        # docker-py's wrapper closes the socket when it is collected, so it lives as long as the socket.
        _KEEP_ALIVE[id(raw)] = wrapped
        assert hasattr(raw, "sendall")
        return raw  # type: ignore[no-any-return]

    def start(self, container: str) -> None:
        try:
            self._api.start(container)
        except self._errors.APIError as error:
            raise SandboxError("Docker could not start the container.", _explain(error)) from None

    def inspect(self, container: str) -> dict[str, Any]:
        return dict(self._api.inspect_container(container))

    def memory_used_bytes(self, container: str) -> int | None:
        try:
            stats = self._api.stats(container, stream=False, one_shot=True)
        except (self._errors.APIError, OSError):
            return None
        used = stats.get("memory_stats", {}).get("usage")
        return int(used) if used is not None else None

    def remove(self, container: str) -> None:
        """Kill and remove; it is no error when it is gone already."""
        try:
            self._api.remove_container(container, force=True)
        except self._errors.APIError as error:
            if error.status_code not in (404, 409):
                raise SandboxError("Docker could not remove the container.", _explain(error)) from None

    def containers(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """All containers, running or not, that have every one of `labels` (`name` or `name=value`)."""
        return list(self._api.containers(all=True, filters={"label": list(labels)}))

    def close(self) -> None:
        self._client.close()


_KEEP_ALIVE: dict[int, Any] = {}


def _explain(error: Any) -> str:
    return str(getattr(error, "explanation", None) or error)[:500]


def _unreachable(error: Exception) -> SandboxError:
    text = str(error)
    if "Permission denied" in text or "PermissionError" in text:
        return SandboxError(
            "Docker does not let you in.",
            "Your user may not open its socket.",
            hint="sudo usermod -aG docker $USER, then log in again. rlm doctor checks the rest.",
        )
    start = {
        "Darwin": "Start Docker Desktop (or: colima start).",
        "Windows": "Start Docker Desktop.",
    }.get(
        platform.system(),
        "Start it: sudo systemctl start docker (to install it: sudo apt-get install docker.io).",
    )
    return SandboxError(
        "Docker is not answering.",
        "Code of the model runs only in a container, never on your machine itself.",
        hint=f"{start} Then: rlm doctor",
    )
