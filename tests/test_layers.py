"""Who may import what, and who may write to the terminal, read from the sources.

Each rule is a function of source text, and each is shown a snippet that breaks it. What a name stands for
when it is computed is not seen here; the one module that computes the names it imports is named below.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for package in ("rlm", "sandbox")
    for path in sorted((ROOT / package).rglob("*.py"))
}
HOST = {path: source for path, source in SOURCES.items() if path.startswith("rlm/")}

COMPUTED = "?"
UNPICKLERS = ("pickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
HEAVY = ("litellm", "docker", "rich", "prompt_toolkit", "pydantic")


@dataclass(frozen=True, slots=True)
class Import:
    """`name` is dotted, down to what is taken from the module; `late` when it happens inside a function."""

    name: str
    late: bool

    def within(self, *packages: str) -> bool:
        return any(f"{self.name}.".startswith(f"{package}.") for package in packages)


def imports(path: str, source: str) -> Iterator[Import]:
    """All imports of a file, those for the type checker too, and `import_module` and `__import__`."""
    folder = path.split("/")[:-1]
    for node, late in nodes(ast.parse(source)):
        match node:
            case ast.Import(names):
                yield from (Import(alias.name, late) for alias in names)
            case ast.ImportFrom(module, names, level):
                above = folder[: len(folder) - level + 1] if level else []
                start = ".".join([*above, *([module] if module else [])])
                yield from (Import(f"{start}.{alias.name}", late) for alias in names)
            case ast.Call(
                ast.Attribute(attr="import_module") | ast.Name("import_module" | "__import__"), args
            ):
                match args:
                    case [ast.Constant(str(name)), *_]:
                        yield Import(name, late)
                    case _:
                        yield Import(COMPUTED, late)


def nodes(node: ast.AST, *, late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below `node`, and whether it runs only when a function is called."""
    for child in ast.iter_child_nodes(node):
        yield child, late
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from nodes(child, late=late or inside)


def importers(sources: Mapping[str, str], *packages: str) -> dict[str, bool]:
    """The files that import any of these, and whether each of them does so late only."""
    found: dict[str, bool] = {}
    for path, source in sources.items():
        for imported in imports(path, source):
            if imported.within(*packages):
                found[path] = found.get(path, True) and imported.late
    return found


@pytest.mark.parametrize(
    ("source", "late"),
    [
        ("import docker", False),
        ("import docker.errors as e", False),
        ("from docker import errors", False),
        ("from docker.errors import APIError", False),
        ("if TYPE_CHECKING:\n    import docker", False),
        ("class A:\n    import docker", False),
        ("import importlib\nimportlib.import_module('docker.errors')", False),
        ("from importlib import import_module\nimport_module('docker')", False),
        ("__import__('docker')", False),
        ("def f():\n    import docker", True),
        ("async def f():\n    if x:\n        from docker import errors", True),
        ("class A:\n    def f(self):\n        import_module('docker')", True),
        ("f = lambda: __import__('docker')", True),
        ("def f():\n    import docker\nimport docker", False),
    ],
)
def test_an_import_is_seen_however_it_is_written(source: str, late: bool) -> None:
    assert importers({"rlm/bad.py": source, "rlm/good.py": "import dockerish"}, "docker") == {
        "rlm/bad.py": late
    }


def test_relative_imports_and_computed_names_are_seen() -> None:
    assert list(imports("rlm/box/bad.py", "from . import wire\nfrom ..ui.console import Console")) == [
        Import("rlm.box.wire", late=False),
        Import("rlm.ui.console.Console", late=False),
    ]
    assert list(imports("rlm/ui/__init__.py", "from .console import Console")) == [
        Import("rlm.ui.console.Console", late=False)
    ]
    assert importers({"rlm/bad.py": "import_module(name)"}, COMPUTED) == {"rlm/bad.py": False}


@pytest.mark.parametrize(
    ("package", "door"), [("litellm", "rlm/models.py"), ("docker", "rlm/box/engine_api.py")]
)
def test_one_module_imports_it_and_late(package: str, door: str) -> None:
    assert importers(HOST, package) == {door: True}


def test_nothing_on_the_host_can_load_a_pickle() -> None:
    assert importers({"rlm/bad.py": "def f():\n    from pickle import loads"}, *UNPICKLERS)
    assert importers(SOURCES, *UNPICKLERS).keys() - HOST.keys()  # the guest does
    assert importers(HOST, *UNPICKLERS) == {}


def test_only_the_command_line_computes_names_to_import() -> None:
    assert importers(HOST, COMPUTED) == {"rlm/cli/__init__.py": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Files, as a pattern, that import nothing of the packages `never` save what is in `save`."""

    files: str
    never: tuple[str, ...]
    save: tuple[str, ...] = ()

    def breaches(self, sources: Mapping[str, str]) -> list[tuple[str, str]]:
        return [
            (path, imported.name)
            for path, source in sources.items()
            if fnmatch(path, self.files)
            for imported in imports(path, source)
            if imported.within(*self.never) and not imported.within(*self.save)
        ]


PROTOCOL = Layer(files="rlm/protocol.py", never=("rlm", "sandbox"))
CHARSETS = Layer(files="rlm/charsets.py", never=("rlm", "sandbox"))
FORMATS = Layer(files="rlm/formats.py", never=("rlm", "sandbox"))
PROBE = Layer(files="rlm/text_probe.py", never=("rlm", "sandbox"), save=("rlm.charsets",))
BOX = Layer(files="rlm/box/*.py", never=("rlm.ui", "rlm.cli", "rlm.session"))
ENGINE = Layer(
    files="rlm/engine.py", never=("rlm.ui", "rlm.cli", "rlm.session", "rlm.state", "docker", "litellm")
)
GUEST = Layer(files="sandbox/*.py", never=("rlm",), save=("rlm.protocol", "rlm.formats", "rlm.text_probe"))


LAYERS = (PROTOCOL, CHARSETS, FORMATS, PROBE, BOX, ENGINE, GUEST)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.files)
def test_imports_point_down(layer: Layer) -> None:
    assert any(fnmatch(path, layer.files) for path in SOURCES)
    assert layer.breaches(SOURCES) == []


@pytest.mark.parametrize(
    ("layer", "path", "source", "name"),
    [
        (PROTOCOL, "rlm/protocol.py", "from rlm.errors import RlmError", "rlm.errors.RlmError"),
        (PROTOCOL, "rlm/protocol.py", "from . import errors", "rlm.errors"),
        (BOX, "rlm/box/wire.py", "def f():\n    import rlm.session", "rlm.session"),
        (BOX, "rlm/box/deep/er.py", "from rlm.ui.console import Console", "rlm.ui.console.Console"),
        (ENGINE, "rlm/engine.py", "from rlm import state", "rlm.state"),
        (ENGINE, "rlm/engine.py", "def f():\n    import litellm", "litellm"),
        (GUEST, "sandbox/cell.py", "from rlm import errors, protocol", "rlm.errors"),
        (GUEST, "sandbox/cell.py", "import rlm", "rlm"),
    ],
)
def test_an_import_that_points_up_is_a_breach(layer: Layer, path: str, source: str, name: str) -> None:
    assert layer.breaches({path: source}) == [(path, name)]


def writes(source: str) -> set[str]:
    """The ways in which a file gets at stdout and stderr, by name."""
    found = set()
    for node, _ in nodes(ast.parse(source)):
        match node:
            case ast.Call(ast.Name("print")):
                found.add("print")
            case ast.Attribute(ast.Name("click"), "echo" | "secho" as name):
                found.add(f"click.{name}")
            case ast.ImportFrom("click", names):
                found |= {f"click.{alias.name}" for alias in names if alias.name in ("echo", "secho")}
            case ast.Attribute(ast.Name("sys"), name) if name.strip("_") in ("stdout", "stderr"):
                found.add(f"sys.{name}")
            case ast.ImportFrom("sys", names):
                found |= {f"sys.{alias.name}" for alias in names if alias.name in ("stdout", "stderr")}
            case ast.Call(ast.Attribute(ast.Name("os"), "write"), [ast.Constant(1 | 2), *_]):
                found.add("os.write")
    return found


def test_only_the_console_and_the_command_line_write() -> None:
    writers = {path for path, source in HOST.items() if writes(source)}
    programs = {"rlm/schema_check.py"}  # run in a process of its own, which is read
    assert {path for path in writers if not path.startswith("rlm/cli/")} <= {"rlm/ui/console.py", *programs}
    assert "rlm/cli/__init__.py" in writers  # what is looked for is there to be seen


@pytest.mark.parametrize(
    ("source", "way"),
    [
        ("print('x')", "print"),
        ("def f():\n    print('x', file=log)", "print"),
        ("import sys\nsys.stdout.write('x')", "sys.stdout"),
        ("import sys\nout = sys.stderr", "sys.stderr"),
        ("import sys\nsys.__stdout__.write('x')", "sys.__stdout__"),
        ("from sys import stderr", "sys.stderr"),
        ("import click\nclick.echo('x')", "click.echo"),
        ("from click import secho", "click.secho"),
        ("import os\nos.write(2, b'x')", "os.write"),
    ],
)
def test_a_write_is_seen(source: str, way: str) -> None:
    assert writes(source) == {way}


def test_what_only_looks_like_a_write_is_none() -> None:
    assert writes("console.print(x)\nfile.write('print')\nos.write(fd, data)\nself.stdout = 1") == set()


REPORT = "import sys\nprint([name for name in sys.argv[1:] if name in sys.modules], file=sys.stderr)"


def loaded(script: str) -> str:
    """Which of the heavy modules a process has loaded once it ran `script`."""
    command = [sys.executable, "-c", f"{script}\n{REPORT}", *HEAVY]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr.strip()


@pytest.mark.parametrize(
    "script", ["from rlm.cli import exit_code; assert exit_code(['--help']) == 0", "import rlm.cli.status"]
)
def test_a_quick_command_loads_nothing_heavy(script: str) -> None:
    assert loaded(script) == "[]"


def test_a_heavy_module_would_be_seen() -> None:
    assert loaded("from rich.text import Text") == "['rich']"
