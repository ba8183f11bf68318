"""`doctor` where an engine is missing, closed, hanging, too old or not Docker, and with the real one."""

import contextlib
import hashlib
import json
import os
import platform
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm import doctor
from rlm.checks import addresses, reach
from rlm.checks.check import within
from rlm.config import load_config
from rlm.errors import SandboxError
from rlm.settings import Config
from tests.docker_proxy import DockerProxy
from tests.litellm_warnings import AT_IMPORT

pytestmark = AT_IMPORT


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a socket can be: their paths have to be short."""
    return tmp_path_factory.mktemp("s") / "d.sock"


@contextlib.contextmanager
def engine(path: Path, answer: bytes) -> Iterator[str]:
    """Something that gives this answer to `GET /_ping`, and none to anything else."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            if b"/_ping" not in line:
                ending.wait()
            self.wfile.write(answer)

    ending = threading.Event()
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            ending.set()
            server.shutdown()
            thread.join()


def http(headers: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: 2\r\nConnection: close\r\n\r\nOK".encode()


def nothing(path: Path) -> None:
    pass


def a_file(path: Path) -> None:
    path.write_text("no socket")


def nobody_listens(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize(
    ("make", "program", "says", "fix"),
    [
        (nothing, False, "Docker is not installed.", "nstall"),
        (nothing, True, "Docker is not running. There is no", "docker"),
        (a_file, True, "is not a socket.", "Remove it"),
        (nobody_listens, True, "Docker is not running. Nobody listens", "docker"),
    ],
)
def test_each_way_docker_can_be_missing_has_its_own_fix(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    program: bool,
    says: str,
    fix: str,
) -> None:
    make(path)
    if program:
        (path.parent / "docker").write_text("#!/bin/sh\n")
        (path.parent / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))
    with pytest.raises(SandboxError) as raised:
        reach.ping(f"unix://{path}", seconds=5)
    assert says in str(raised.value)
    assert fix in raised.value.hint and "rlm doctor" in raised.value.hint


@pytest.mark.parametrize(
    ("system", "release", "install", "start"),
    [
        ("Darwin", "23.5.0", "brew install colima", "open -a Docker"),
        ("Linux", "5.15.1-microsoft-standard-WSL2", "WSL integration", "Docker Desktop in Windows"),
        ("Linux", "6.1.0", "apt-get install docker.io", "start"),
    ],
)
def test_the_fix_is_that_of_the_platform(
    path: Path, monkeypatch: pytest.MonkeyPatch, system: str, release: str, install: str, start: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setenv("PATH", str(path.parent))
    with pytest.raises(SandboxError) as missing:
        reach.ping(f"unix://{path}", seconds=5)
    nobody_listens(path)
    with pytest.raises(SandboxError) as stopped:
        reach.ping(f"unix://{path}", seconds=5)
    assert install in missing.value.hint and start in stopped.value.hint


def test_an_engine_that_never_answers_is_not_waited_for(path: Path) -> None:
    with DockerProxy(path) as proxy:
        proxy.hangs = True
        with pytest.raises(SandboxError, match=r"Docker hangs\..* within 0\.2 s"):
            reach.ping(proxy.address, seconds=0.2)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "Docker is not answering"),
        (b"220 mail.example ESMTP\r\n", "not Docker"),
        (http(""), "not Docker"),
        (http("Api-Version: 1.44\r\n", "404 Not Found"), "not Docker"),
    ],
)
def test_what_is_no_docker_is_told_apart(path: Path, answer: bytes, says: str) -> None:
    with engine(path, answer) as address, pytest.raises(SandboxError, match=says) as raised:
        reach.ping(address, seconds=5)
    assert "rlm doctor" in raised.value.hint


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("docker.sock", "is not the address of a Docker engine"),
        ("unix://", "is not the address of a Docker engine"),
        ("tcp://", "is not the address of a Docker engine"),
        ("tcp://127.0.0.1:1", "cannot be reached"),
        ("tcp://127.0.0.1:port", "is not the address of a Docker engine"),
    ],
)
def test_an_address_that_cannot_be_is_told(address: str, says: str) -> None:
    with pytest.raises(SandboxError, match=says) as raised:
        reach.ping(address, seconds=5)
    assert "unset DOCKER_HOST" in raised.value.hint


def test_a_socket_that_may_not_be_opened() -> None:
    with socket.socket(socket.AF_UNIX) as listening, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.sock"
        listening.bind(str(path))
        listening.listen()
        path.chmod(0)
        path.parent.chmod(0o755)
        with unprivileged(), pytest.raises(SandboxError, match="does not let you in") as raised:
            reach.ping(f"unix://{path}", seconds=5)
    assert "usermod -aG docker" in raised.value.hint


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_engine_that_is_too_old(path: Path, tmp_path: Path) -> None:
    with (
        engine(path, http("Api-Version: 1.39\r\n")) as address,
        pytest.raises(SandboxError, match=r"too old\. Its API is 1\.39, and 1\.40") as raised,
    ):
        reach.require_engine({"DOCKER_HOST": address}, tmp_path)
    assert "Update Docker" in raised.value.hint


def test_the_engine_that_is_not_used_is_named(path: Path, tmp_path: Path) -> None:
    colima = path.parent / ".colima" / "default"
    colima.mkdir(parents=True)
    with (
        DockerProxy(colima / "docker.sock") as proxy,
        pytest.raises(SandboxError, match=r"answers at unix://.*, which is not the one") as raised,
    ):
        reach.require_engine({"DOCKER_HOST": f"unix://{path}"}, path.parent)
    assert raised.value.hint.startswith(("unset DOCKER_HOST", f"export DOCKER_HOST={proxy.address}"))


def test_the_address_is_that_of_docker_s_own_programs(tmp_path: Path) -> None:
    folder = tmp_path / ".docker"
    meta = folder / "contexts/meta" / hashlib.sha256(b"colima").hexdigest()
    meta.mkdir(parents=True)
    host = "unix:///home/me/.colima/docker.sock"
    (meta / "meta.json").write_text(json.dumps({"Name": "colima", "Endpoints": {"docker": {"Host": host}}}))

    def chosen(**environ: str) -> str:
        found = addresses.chosen(environ, tmp_path)
        return found if isinstance(found, str) else found.address

    assert chosen() == addresses.USUAL
    assert chosen(DOCKER_CONTEXT="colima") == host
    assert chosen(DOCKER_CONTEXT="gone") == "gone"
    (folder / "config.json").write_text('{"currentContext": "colima"}')
    assert chosen() == host
    assert chosen(DOCKER_CONTEXT="default") == addresses.USUAL
    assert chosen(DOCKER_HOST="tcp://there:2375", DOCKER_CONTEXT="colima") == "tcp://there:2375"
    assert chosen(DOCKER_CONFIG=str(tmp_path / "other")) == addresses.USUAL
    with pytest.raises(SandboxError, match="context 'gone' does not exist"):
        reach.require_engine({"DOCKER_CONTEXT": "gone"}, tmp_path)


def test_a_daemon_that_is_stuck_ends_the_check_and_not_the_report(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ENGINE_S", 2.0)
    with engine(path, http("Api-Version: 1.44\r\n")) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        report = examine(tmp_path, OPENAI_API_KEY="x", DOCKER_HOST=address)
    failed = [check for check in report.checks if check.failed]
    assert [(check.name, check.exit_code) for check in failed] == [("Docker", 5)]
    assert "takes too long" in failed[0].detail and failed[0].fix
    assert report.versions["docker_api"] == "1.44"
    assert {check.name for check in report.checks} >= {"root model gpt-5", "disk"}


def examine(folder: Path, **environ: str) -> doctor.Report:
    def load() -> Config:
        return load_config(
            cwd=folder, config_file=None, environ=environ, flags={}, confirm=None, user_dir=folder / "user"
        )

    return doctor.examine(load, folder / ".rlm_state", environ=environ, home=folder)


def test_the_real_engine_and_what_is_configured(tmp_path: Path) -> None:
    kept = {"DOCKER_HOST": os.environ["DOCKER_HOST"]} if "DOCKER_HOST" in os.environ else {}
    (tmp_path / ".env").write_text("ANTHROPIC_API_KEY=sk-hidden-1\n")
    config = {
        "root_llm": {"model": "gpt-55"},
        "sub_llm": {"model": "claude-haiku-4-5"},
        "aliases": {
            "far": "mistral-large-latest",
            "own": {"model": "m", "api_base": "http://127.0.0.1:9/v1"},
        },
        "sandbox": {"memory": "1000g", "cpus": 1000},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = examine(tmp_path, OPENAI_API_KEY="sk-hidden-2", **kept)
    found = {check.name: check for check in report.checks}

    assert (report.ok, report.exit_code) == (False, 5)
    assert [check.name for check in report.checks if check.failed] == ["cpus"]
    assert found["memory"].status == "warning" and "1000.0 GiB" in found["memory"].detail
    assert found["configuration"].detail == "config.json"
    root, sub = found["root model gpt-55"], found["sub model claude-haiku-4-5"]
    assert "key in OPENAI_API_KEY, from the shell; litellm does not know it" in root.detail
    assert "Did you mean gpt-5" in root.fix
    assert sub.status == "ok" and "key in ANTHROPIC_API_KEY, from .env; $" in sub.detail
    assert found['alias "far" mistral-large-latest'].status == "warning"
    assert "MISTRAL_API_KEY" in found['alias "far" mistral-large-latest'].fix
    assert "its price is not known" in found['alias "own" m'].detail
    assert report.versions.keys() == {"rlm", "python", "litellm", "system", "docker", "docker_api"}
    everything = json.dumps([check.to_json() for check in report.checks])
    assert "sk-hidden" not in everything
    assert all(check.fix for check in report.checks if check.status != "ok")


@pytest.mark.parametrize(
    ("config", "says", "fix"),
    [
        ({"limit": {}}, "limit is not a setting", "Did you mean limits?"),
        ({"root_llm": {"api_base": "https://example.com"}}, "with your key, to https://example.com", "--yes"),
    ],
)
def test_a_configuration_that_will_not_do_is_the_first_failure(
    tmp_path: Path, config: dict[str, object], says: str, fix: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = examine(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/nowhere")
    failed = [check for check in report.checks if check.failed]
    assert [check.name for check in failed] == ["configuration", "Docker"]
    assert says in failed[0].detail and fix in failed[0].fix
    assert report.exit_code == 4


def test_a_check_has_a_deadline_and_its_errors_are_its_own() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    ending = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.05, ending.wait)
    ending.set()
