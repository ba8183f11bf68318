"""The Python packages of the image: which are in it, where they come from, what if they cannot be had."""

import asyncio
import hashlib
import importlib.metadata
import itertools
import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rlm.box import image, packages
from rlm.box.container import Box, ensure_image
from rlm.box.engine_api import Engine
from rlm.box.packages import EXTRA, OWN, Fetched, Platform
from rlm.errors import ConfigError, RlmError, SandboxError
from tests.box import PUBLIC_BASE, Boxes, Guest, guest_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

PINS = dict(line.split()[0].split("==") for line in image.inputs()[OWN].decode().splitlines() if "==" in line)
DEBIAN = Platform(version="3.11", abi="cp311", machine="x86_64", glibc=(2, 36))


@pytest.fixture(scope="session")
def base(engine: Engine, boxes: Boxes) -> str:
    """What the image of `boxes` was built from."""
    return next(name for name in (PUBLIC_BASE, image.LOCAL_BASE) if engine.has_image(name))


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A new cache, and a pip with no index that answers; the folder is for packages that it may have."""
    found = tmp_path / "found"
    found.mkdir()
    settings = {"INDEX_URL": "http://127.0.0.1:9/simple", "EXTRA_INDEX_URL": "", "RETRIES": "1"}
    settings |= {"FIND_LINKS": str(found), "CONFIG_FILE": "/dev/null"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield found


def wheel(folder: Path, name: str, *needs: str) -> str:
    """A wheel with one empty module; returns its hash."""
    info = f"{name}-1.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1", *(f"Requires-Dist: {n}" for n in needs)]
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def inputs(own: str = "", extra: Sequence[str] = ()) -> dict[str, bytes]:
    return {OWN: own.encode(), EXTRA: "".join(f"{line}\n" for line in extra).encode()}


# -- in the container


async def test_all_packages_can_be_imported_in_a_cell(guest: Guest) -> None:
    modules = (
        "duckdb pypdfium2 docx pptx python_calamine inscriptis lxml.etree PIL.Image charset_normalizer dill"
    )
    assert await guest.shows(f"import {', '.join(modules.split())}") == ""
    assert await guest.shows("duckdb.sql('select 6 * 7').fetchall()") == "[(42,)]\n"


async def test_packages_have_the_pinned_versions_and_pip_is_not_among_them(guest: Guest) -> None:
    expected = {name: version for name, version in PINS.items() if name != "pip"}
    await guest.shows("from importlib.metadata import version")
    found = await guest.shows(f"import json; print(json.dumps({{n: version(n) for n in {[*expected]}}}))")
    assert json.loads(found) == expected
    assert await guest.shows("import importlib.util; importlib.util.find_spec('pip')") == ""
    assert await guest.shows("import os; print(os.path.exists('/packages'), os.listdir('/opt'))") == (
        "False ['rlm']\n"
    )


async def test_a_cell_cannot_change_a_package(guest: Guest) -> None:
    result = await guest.run("import dill; open(dill.__file__, 'a').write('#')")
    assert "Read-only file system" in result.shown or "Permission denied" in result.shown


@pytest.mark.parametrize(
    ("package", "code", "shown"),
    [
        ("humanize==4.12.3", "import humanize; print(humanize.intcomma(1234567))", "1,234,567\n"),
        ("docopt==0.6.2", "import docopt; print(docopt.__version__)", "0.6.2\n"),  # has no wheel
    ],
)
async def test_a_package_of_the_user_is_there(boxes: Boxes, package: str, code: str, shown: str) -> None:
    told: list[str] = []
    tag = await asyncio.to_thread(ensure_image, boxes.engine, PUBLIC_BASE, told.append, (package,))
    assert tag != boxes.tag
    box = await Box.start(boxes.engine, boxes.config, tag, session="test")
    try:
        async with guest_of(box) as guest:
            assert await guest.shows(code) == shown
    finally:
        await box.close()


# -- the build


async def test_a_change_of_our_code_downloads_and_installs_nothing(engine: Engine, base: str) -> None:
    told: list[str] = []
    files = {**image.inputs(), "sandbox/another.py": b"pass\n"}
    engine.build("rlm-sandbox:rebuilt-by-a-test", base, files, told.append)
    steps = "\n".join(told).split("Step ")
    packages_steps = [step for step in steps if "pip" in step or "packages/" in step]
    assert len(packages_steps) >= 4
    assert all("Using cache" in step for step in packages_steps), packages_steps
    assert not [line for line in told if line.startswith("downloading")]


async def test_the_tag_is_of_the_packages_and_not_of_their_order() -> None:
    def tag(*names: str) -> str:
        return image.tag(image.inputs(names), "base")

    assert tag() == image.tag(image.inputs(), "base")
    assert tag("a", "b") == tag("b", " a ", "a")
    assert len({tag(), tag("a"), tag("a", "b"), tag("a==1")}) == 4


async def test_the_pinned_list_is_complete_without_markers() -> None:
    """pip would read markers for the Python of the host, which is not that of the image."""
    lines = [line for line in image.inputs()[OWN].decode().splitlines() if line and not line.startswith(" ")]
    assert [line for line in lines if ";" in line or "==" not in line] == []
    assert PINS["dill"] == importlib.metadata.version("dill")


@pytest.mark.parametrize(
    ("package", "why"),
    [
        ("no-such-package-of-rlm", "No matching distribution found for no-such-package-of-rlm"),
        ("lxml<5", f"lxml=={PINS['lxml']}"),
    ],
)
async def test_a_package_that_cannot_be_had_is_named(
    engine: Engine, base: str, package: str, why: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        ensure_image(engine, base, lambda line: None, (package,))
    assert package in refused.value.what and why in refused.value.why and refused.value.hint


async def test_a_base_that_is_none_is_told(engine: Engine, boxes: Boxes) -> None:
    assert engine.platform(boxes.tag).version in ("3.11", "3.12")
    with pytest.raises(SandboxError, match="sha256:0000"):
        engine.platform(f"sha256:{'0' * 64}")


# -- on the host


async def test_wheels_of_the_newest_glibc_come_first() -> None:
    options = DEBIAN.options()
    assert "--only-binary=:all:" in options
    platforms = [value for name, value in itertools.pairwise(options) if name == "--platform"]
    assert platforms[0] == "manylinux_2_36_x86_64"
    assert platforms.index("manylinux_2_28_x86_64") < platforms.index("manylinux_2_17_x86_64")
    assert "manylinux_2_37_x86_64" not in platforms


@pytest.mark.parametrize(
    ("printed", "why"),
    [
        ("", "did not tell which Python"),
        ("[]", "did not tell which Python"),
        ('{"version": "3.12", "abi": "cp312", "machine": "x86_64", "libc": ""}', "no glibc"),
    ],
)
async def test_a_base_without_what_wheels_need_is_refused(printed: str, why: str) -> None:
    with pytest.raises(SandboxError, match=f"alpine.*{why}"):
        Platform.read(printed, "alpine")


async def test_wheels_are_fetched_once(nowhere: Path) -> None:
    wheel(nowhere, "mine", "other")
    wheel(nowhere, "other")
    fetched = packages.fetch(DEBIAN, inputs(extra=["mine"]), lambda line: None)
    assert {name.rpartition("/")[2] for name in fetched.files} == {
        "constraints.txt",
        "mine-1-py3-none-any.whl",
        "other-1-py3-none-any.whl",
    }
    shutil.rmtree(nowhere)
    again = packages.fetch(DEBIAN, inputs(extra=["mine"]), lambda line: None)
    assert again == fetched and all(path.is_file() for path in again.files.values())


async def test_a_package_that_the_image_has_anyway_needs_no_network(nowhere: Path) -> None:
    own = f"mine==1 --hash=sha256:{wheel(nowhere, 'mine')}"
    fetched = packages.fetch(DEBIAN, inputs(own, ["mine"]), lambda line: None)
    assert not fetched.arguments
    assert [name for name in fetched.files if name.endswith(".whl")] == [
        "packages/own/mine-1-py3-none-any.whl"
    ]


async def test_no_code_of_a_package_runs_on_the_host(nowhere: Path, tmp_path: Path) -> None:
    """Not even that of a source package which a wheel names by its address."""
    ran = tmp_path / "ran"
    source = tmp_path / "trap.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("trap-1/setup.py", f"open({str(ran)!r}, 'w').close()\n")
        archive.writestr(
            "trap-1/pyproject.toml",
            "[build-system]\nrequires = []\nbuild-backend = 'setup'\nbackend-path = ['.']\n",
        )
    wheel(nowhere, "bait", f"trap @ {source.as_uri()}")
    fetched = packages.fetch(DEBIAN, inputs(extra=["bait"]), lambda line: None)
    assert fetched.arguments["OFFLINE"] == ""
    assert not ran.exists()


async def test_only_the_container_fetches_from_an_address(nowhere: Path) -> None:
    fetched = packages.fetch(DEBIAN, inputs(extra=["a @ https://127.0.0.1:9/a.whl"]), lambda line: None)
    assert (
        fetched.arguments["OFFLINE"] == "" and [name for name in fetched.files if name.endswith(".whl")] == []
    )


@pytest.mark.parametrize(
    ("own", "extra", "kind", "what", "hint"),
    [
        (
            "dill==0.4.1 --hash=sha256:" + "0" * 64,
            (),
            SandboxError,
            "could not be downloaded",
            "PIP_INDEX_URL",
        ),
        ("", ["humanize"], SandboxError, "could not be downloaded", "PIP_INDEX_URL"),
        ("mine==1 --hash=sha256:" + "0" * 64, (), SandboxError, "not the file that", "pip config list"),
        ("mine==1 --hash=sha256:{mine}", ["mine>1"], ConfigError, "together: mine>1", "other versions"),
        ("", ["mine>=x"], ConfigError, "not understood: mine>=x", ""),
    ],
)
async def test_what_cannot_be_downloaded_is_told(
    nowhere: Path, own: str, extra: Sequence[str], kind: type[RlmError], what: str, hint: str
) -> None:
    digest = wheel(nowhere, "mine")
    with pytest.raises(kind) as told:
        packages.fetch(DEBIAN, inputs(own.replace("{mine}", digest), extra), lambda line: None)
    assert what in told.value.what and told.value.why.startswith("pip says: ") and hint in told.value.hint
    assert not list(packages.cache_folder().glob("new-*"))


async def test_a_cache_that_cannot_be_written_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SandboxError, match=r"could not be kept.*Not a directory") as told:
        packages.fetch(DEBIAN, inputs(), lambda line: None)
    assert "XDG_CACHE_HOME" in told.value.hint


async def test_a_container_gets_the_settings_of_pip_that_mean_something_there(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificates = tmp_path / "ca.pem"
    certificates.touch()
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://file.example/simple\ncert = /no/such/file\n"
        "extra-index-url = file:///here\n  https://b.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.example/simple")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL")
    monkeypatch.delenv("PIP_CERT", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates))
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    fetched = packages.in_container(Fetched(files={}))
    assert fetched.files == {"packages/extra/ca.pem": certificates}
    assert fetched.arguments == {
        "OFFLINE": "",
        "PIP_INDEX_URL": "https://env.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://b.example/simple",
        "HTTPS_PROXY": "http://proxy.example:3128",
    }


@pytest.mark.parametrize(
    ("output", "kind", "what"),
    [
        (["write /x: no space left on device"], SandboxError, "Docker's disk is full"),
        (
            ["ERROR: wheel not built", "error: command 'gcc' failed", f"The command {packages.FAILED}"],
            ConfigError,
            "pip says: error: command 'gcc' failed",
        ),
        (["ERROR: Max retries exceeded", packages.FAILED], SandboxError, "fetched in the container"),
        (["ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"], SandboxError, "was not installed"),
        (["apt-get failed"], SandboxError, "apt-get failed"),
    ],
)
async def test_what_a_build_failed_of_is_told(output: list[str], kind: type[RlmError], what: str) -> None:
    error = packages.build_error(output, inputs(extra=["mine"]))
    assert type(error) is kind and what in str(error) and error.hint
