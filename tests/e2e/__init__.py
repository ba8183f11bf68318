"""Tests of the whole program: a real process, a real container, litellm over HTTP to a scripted server.

    project.write("a.txt", "one\ntwo\n")
    server.reply("root", cell("FINAL(len(context))"))
    ended = project.ask("How long is it?", "-f", "a.txt")
    assert ended.answer == "8\n"

Nothing of this program is imported by the tests that use a `Project`: what counts is what comes out of it.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.e2e.warm import WarmPopen
from tests.model_server import ModelServer

MAIN = Path(__file__).resolve().parents[2] / "main.py"
KEY = "sk-e2e-not-a-real-key-5f1d8a"
PATIENCE_S = 30.0
"""How long anything may take before a test gives up on it; no test passes or fails by being slower."""


def cell(code: str, *, plan: str = "Let me look.") -> str:
    """What a root model says to run `code`."""
    return f"{plan}\n\n```repl\n{code.strip()}\n```"


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: exit code, stdout byte for byte, stderr as text."""

    code: int
    out: bytes
    err: str

    @property
    def answer(self) -> str:
        """All of stdout, of a command that succeeded."""
        assert self.code == 0, f"exit code {self.code}:\n{self.err}"
        return self.out.decode("utf-8")

    @property
    def json(self) -> Any:
        """The one object on stdout, whatever the exit code."""
        return json.loads(self.out)


class Project:
    """A folder to work in, with a home and a user configuration of its own."""

    def __init__(self, folder: Path, *, home: Path, server: ModelServer) -> None:
        self.folder = folder
        self.home = home
        self.server = server

    @property
    def environ(self) -> dict[str, str]:
        """All that a command is told: nothing of the caller's shell but where programs and Docker are."""
        kept = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST") if name in os.environ}
        return kept | {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "LANG": "C.UTF-8",
            "OPENAI_API_KEY": KEY,
            "RLM_MODEL": "openai/root",
            "RLM_SUB_MODEL": "openai/sub",
            "RLM_API_BASE": self.server.url,
            "RLM_SUB_API_BASE": self.server.url,
        }

    def write(self, name: str, contents: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        return path

    def events(self) -> list[dict[str, Any]]:
        """What was written for `trace`, of all turns."""
        lines = (self.folder / ".rlm_state/events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def configure(self, **groups: object) -> None:
        """Write the project's `config.json`."""
        self.write("config.json", json.dumps(groups))

    def popen(
        self,
        *args: str,
        env: Mapping[str, str | None] | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        cold: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a command. `env` adds variables; those that are None are left out.

        With `cold` it is a program started anew, as users do; else one is forked that has imported itself.
        """
        changed = {**self.environ, **(env or {})}
        # What Python itself heeds when it starts needs a start.
        cold = cold or any(name.startswith(("PYTHON", "LC_", "LANG")) for name in env or {})
        return (subprocess.Popen if cold else WarmPopen)(
            [sys.executable, str(MAIN), *args],
            cwd=self.folder,
            env={name: value for name, value in changed.items() if value is not None},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    def run(
        self, *args: str, piped: str | bytes | None = None, env: Mapping[str, str | None] | None = None
    ) -> Ended:
        """Run a command to its end. Without `piped`, stdin is empty."""
        stdin = subprocess.DEVNULL if piped is None else subprocess.PIPE
        with self.popen(*args, env=env, stdin=stdin) as process:
            return wait(process, piped=piped)

    def ask(
        self,
        question: str,
        *options: str,
        piped: str | bytes | None = None,
        env: Mapping[str, str | None] | None = None,
    ) -> Ended:
        """`rlm run QUESTION`."""
        return self.run("run", question, *options, piped=piped, env=env)


def wait(process: subprocess.Popen[bytes], *, piped: str | bytes | None = None) -> Ended:
    """Let a command come to its end; one that does not is killed, and the test fails."""
    data = piped.encode() if isinstance(piped, str) else piped
    try:
        out, err = process.communicate(data, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ended(process.returncode, out or b"", (err or b"").decode("utf-8"))


def prompts(server: ModelServer, model: str = "root") -> list[str]:
    """The last message of each request to `model`: what the model was shown, step by step."""
    return [request.prompt for request in server.requests_for(model)]


@contextlib.contextmanager
def asleep(
    project: Project,
    *options: str,
    code: str = "",
    env: Mapping[str, str | None] | None = None,
    cold: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A `run` in the middle of a turn: its cell has assigned `found`, run `code`, and sleeps."""
    server = project.server
    server.reply("root", cell(f"found = 41\n{code}\nllm_query('Good night.')\nimport time\ntime.sleep(600)"))
    server.reply("sub", "Good night.")
    with project.popen("run", "Sleep.", *options, env=env, cold=cold) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not server.requests_for("sub"):
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    raise AssertionError(wait(process).err)
                time.sleep(0.05)
            assert server.requests_for("sub")[-1].done.wait(PATIENCE_S)
            yield process
        finally:
            process.kill()
