"""What the container is made of: it is read back after the start, and anything less is refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from rlm.box.confinement import Spec, check_config, check_facts, identity
from rlm.box.container import Box, _user
from rlm.box.engine_api import Engine
from rlm.errors import SandboxError
from tests.box import MEMORY_BYTES, Boxes

pytestmark = pytest.mark.asyncio(loop_scope="session")

Change = Callable[[dict[str, Any]], object]

NO_MOUNT = {"Type": "bind", "Source": "/", "Destination": "/host", "Mode": "", "RW": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents") / "folder"
    folder.mkdir(mode=0o755)
    (folder / "a.txt").write_text("a\n")
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def inspected(boxes: Boxes, folder: Path) -> tuple[dict[str, Any], Spec]:
    """What the engine says of a running container, and what was asked for."""
    mounts = ((str(folder), "/data/folder"),)
    box = await boxes.open(mounts=mounts)
    found = boxes.engine.inspect(box.container)
    await box.close()
    config = box.config
    spec = Spec(
        image=boxes.tag,
        user=_user(),
        memory_bytes=config.memory_bytes,
        cpus=config.cpus,
        pids=config.pids,
        runtime=config.runtime,
        mounts=mounts,
        labels={},
    )
    return found, spec


async def test_configuration_is_the_golden_set(inspected: tuple[dict[str, Any], Spec]) -> None:
    found, spec = inspected
    host, config = found["HostConfig"], found["Config"]
    assert {
        "network": host["NetworkMode"],
        "read-only": host["ReadonlyRootfs"],
        "privileged": host["Privileged"],
        "dropped": host["CapDrop"],
        "added": host["CapAdd"],
        "security": [option.partition("=")[0] for option in host["SecurityOpt"]],
        "memory": (host["Memory"], host["MemorySwap"]),
        "pids": host["PidsLimit"],
        "cpus": host["NanoCpus"],
        "files": [(limit["Name"], limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]],
        "tmp": host["Tmpfs"],
        "ipc": host["IpcMode"],
        "log": host["LogConfig"]["Type"],
        "restart": host["RestartPolicy"]["Name"],
        "mounts": [(m["Destination"], m["RW"], m["Propagation"]) for m in found["Mounts"]],
        "non-recursive": [mount["BindOptions"]["NonRecursive"] for mount in host["Mounts"]],
        "stdin": (config["OpenStdin"], config["StdinOnce"], config["Tty"]),
        "proxies": [line for line in config["Env"] if "proxy" in line.lower()],
    } == {
        "network": "none",
        "read-only": True,
        "privileged": False,
        "dropped": ["ALL"],
        "added": None,
        "security": ["no-new-privileges"],
        "memory": (MEMORY_BYTES, MEMORY_BYTES),
        "pids": spec.pids,
        "cpus": 2_000_000_000,
        "files": [("nofile", 1024, 1024), ("core", 0, 0)],
        "tmp": {"/tmp": f"rw,noexec,nosuid,nodev,size={MEMORY_BYTES // 8},nr_inodes=16384,mode=1777"},
        "ipc": "private",
        "log": "none",
        "restart": "no",
        "mounts": [("/data/folder", False, "rprivate")],
        "non-recursive": [True],
        "stdin": (True, True, False),
        "proxies": [],
    }
    assert config["User"] not in ("", "0", "0:0", "root")
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= set(host["MaskedPaths"])


def _host(**fields: object) -> Change:
    return lambda found: found["HostConfig"].update(fields)


def _config(**fields: object) -> Change:
    return lambda found: found["Config"].update(fields)


WEAKER: dict[str, Change] = {
    "network": _host(NetworkMode="bridge"),
    "host network": _host(NetworkMode="host"),
    "writable root": _host(ReadonlyRootfs=False),
    "privileged": _host(Privileged=True),
    "capabilities kept": _host(CapDrop=[]),
    "capabilities kept, null": _host(CapDrop=None),
    "one capability kept": _host(CapDrop=["CAP_NET_RAW"]),
    "capability added": _host(CapAdd=["SYS_PTRACE"]),
    "device": _host(Devices=[{"PathOnHost": "/dev/kvm"}]),
    "device by request": _host(DeviceRequests=[{"Driver": "nvidia", "Count": -1}]),
    "bind": _host(Binds=["/:/host"]),
    "volumes of another": _host(VolumesFrom=["other"]),
    "published port": _host(PortBindings={"80/tcp": [{"HostPort": "80"}]}),
    "no memory limit": _host(Memory=0),
    "more memory": _host(Memory=MEMORY_BYTES + 1),
    "swap": _host(MemorySwap=-1),
    "no pids limit": _host(PidsLimit=None),
    "no cpu limit": _host(NanoCpus=0),
    "no limit on files": _host(Ulimits=None),
    "tmp without limits": _host(Tmpfs={"/tmp": ""}),
    "another tmpfs": lambda found: found["HostConfig"]["Tmpfs"].update({"/opt": "rw,exec"}),
    "nothing masked": _host(MaskedPaths=[]),
    "proc writable": _host(ReadonlyPaths=[]),
    "host ipc": _host(IpcMode="host"),
    "host pids": _host(PidMode="host"),
    "host names": _host(UTSMode="host"),
    "host users": _host(UsernsMode="host"),
    "further group": _host(GroupAdd=["docker"]),
    "logged": _host(LogConfig={"Type": "json-file", "Config": {}}),
    "restarted": _host(RestartPolicy={"Name": "always"}),
    "root": _config(User=""),
    "stdin stays open": _config(StdinOnce=False),
    "proxy": lambda found: found["Config"]["Env"].append("HTTPS_PROXY=http://user:key@proxy"),
    "gaining privileges": _host(SecurityOpt=[]),
    "gaining privileges, said": _host(SecurityOpt=["no-new-privileges:false"]),
    "no profile": _host(SecurityOpt=["no-new-privileges", "seccomp=unconfined"]),
    "no apparmor": _host(SecurityOpt=["no-new-privileges", "apparmor=unconfined"]),
    "writable mount": lambda found: found["Mounts"][0].update(RW=True),
    "further mount": lambda found: found["Mounts"].append(NO_MOUNT),
    "mount elsewhere": lambda found: found["Mounts"][0].update(Destination="/opt/rlm"),
    "missing mount": lambda found: found["Mounts"].clear(),
    "volume": lambda found: found["Mounts"].append({**NO_MOUNT, "Type": "volume", "RW": True}),
    "recursive mount": lambda found: found["HostConfig"]["Mounts"][0]["BindOptions"].clear(),
}


async def test_what_was_asked_for_is_accepted(inspected: tuple[dict[str, Any], Spec]) -> None:
    check_config(*inspected)


@pytest.mark.parametrize("change", WEAKER.values(), ids=WEAKER.keys())
async def test_anything_weaker_is_refused(inspected: tuple[dict[str, Any], Spec], change: Change) -> None:
    found, spec = copy.deepcopy(inspected[0]), inspected[1]
    change(found)
    with pytest.raises(SandboxError, match="less confined than it has to be"):
        check_config(found, spec)


FACTS: dict[str, Any] = {
    "uid": 65534,
    "capabilities": 0,
    "no_new_privileges": True,
    "seccomp": 2,
    "filters": 2,
    "read_only_root": True,
    "interfaces": ["lo"],
    "sockets_denied": True,
}


def _facts(file: Path, **changes: object) -> dict[str, Any]:
    dev, inode, size, mtime = identity(str(file))
    return {**FACTS, "mounts": {"/data/a": [dev, inode, size, mtime, 0]}, **changes}


async def test_measured_facts_are_accepted(folder: Path) -> None:
    file = folder / "a.txt"
    check_facts(_facts(file), {"/data/a": identity(str(file))})


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": 0},
        {"uid": None},
        {"capabilities": 1 << 21},
        {"capabilities": None},
        {"no_new_privileges": False},
        {"no_new_privileges": 1},
        {"seccomp": 0},
        {"seccomp": 1},
        {"filters": 1},
        {"read_only_root": False},
        {"interfaces": ["lo", "eth0"]},
        {"sockets_denied": False},
        {"mounts": {}},
        {"mounts": None},
        {"mounts": []},
        {"mounts": {"/data/a": None}},
        {"mounts": {"/data/a": [0, 0, 0, 0, 0]}},
        {"mounts": {"/data/b": [0, 0, 0, 0, 0]}},
    ],
    ids=str,
)
async def test_facts_that_fall_short_are_refused(folder: Path, changes: dict[str, object]) -> None:
    file = folder / "a.txt"
    with pytest.raises(SandboxError):
        check_facts(_facts(file, **changes), {"/data/a": identity(str(file))})


@pytest.mark.parametrize("missing", FACTS)
async def test_fact_that_is_missing_is_refused(folder: Path, missing: str) -> None:
    """An older image or a broken probe says less, never more."""
    file = folder / "a.txt"
    facts = _facts(file)
    del facts[missing]
    with pytest.raises(SandboxError):
        check_facts(facts, {"/data/a": identity(str(file))})


async def test_writable_mount_inside_is_refused(folder: Path) -> None:
    file = folder / "a.txt"
    facts = _facts(file)
    facts["mounts"]["/data/a"][4] = 1
    with pytest.raises(SandboxError):
        check_facts(facts, {"/data/a": identity(str(file))})


class Swapping(Engine):
    """The real engine, on a machine where somebody replaces a document while the container is made."""

    def __init__(self, document: Path) -> None:
        super().__init__()
        self._document = document
        self.made = ""

    def create(self, spec: Spec) -> str:
        other = self._document.with_name("other")
        other.write_text("something else\n")
        other.rename(self._document)
        self.made = super().create(spec)
        return self.made


async def test_document_swapped_before_the_start_is_refused_and_nothing_left(
    boxes: Boxes, tmp_path: Path
) -> None:
    document = tmp_path / "agreed.txt"
    document.write_text("agreed\n")
    engine = Swapping(document)
    mounts = ((str(document), "/data/agreed.txt"),)
    try:
        with pytest.raises(SandboxError, match="not the file that was agreed to"):
            await Box.start(engine, boxes.config_with(mounts=mounts), boxes.tag, session="test")
        assert await boxes.is_gone(engine.made)
    finally:
        engine.close()


async def test_document_left_alone_is_accepted(boxes: Boxes, tmp_path: Path) -> None:
    document = tmp_path / "agreed.txt"
    document.write_text("agreed\n")
    box = await boxes.open(mounts=((str(document), "/data/agreed.txt"),))
    await box.close()
