"""What scripts can rely on: `--events`, `--schema`, `-o`, wrong usage as JSON, closed and full streams."""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fcntl import ioctl
from pty import openpty
from termios import TIOCSWINSZ
from typing import Any

import pytest

from tests.e2e import MAIN, Project, asleep, cell, prompts, wait
from tests.model_server import ModelServer

PERSON = {
    "type": "object",
    "required": ["n"],
    "properties": {"n": {"type": "integer"}, "secret.txt": {"type": "string"}},
}


def rows(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_events_come_while_the_turn_runs_and_what_is_given_up_has_a_result_too(
    project: Project, server: ModelServer
) -> None:
    with asleep(project, "--events", code="print('still here')") as process:
        assert process.stdout is not None
        early: list[dict[str, Any]] = []
        while not any(row["event"] == "CellOutput" for row in early):
            early.append(json.loads(process.stdout.readline()))
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        *late, result = rows(process.stdout.read())
        code = process.wait()

    names = [row["event"] for row in early]
    assert names[0] == "TurnStarted" and {"Progress", "StepStarted", "ReplyDelta"} <= set(names)
    assert early[-1]["text"].startswith("still here")
    assert {(row["turn"], row["session"]) for row in early} == {(1, early[0]["session"])}
    assert code == 130 and "TurnFinished" not in [row["event"] for row in late]
    assert (result["event"], result["status"], result["turn"]) == ("Result", "interrupted", 1)
    assert (result["usage"]["calls"], result["usage"]["sub_calls"]) == (2, 1), "it is paid for all the same"
    assert result["session"] == early[0]["session"] and result["limits"]["max_steps"] == 30


def test_events_on_stdout_the_answer_in_a_file_and_twenty_columns_of_progress(
    project: Project, server: ModelServer
) -> None:
    project.write("out.txt", "what was there before, and is longer than the answer")
    plan = "A plan of several words that have to be wrapped."
    server.reply("root", cell("print('x' * 50)\nFINAL({'found': [1, 2]})", plan=plan))
    master, slave = openpty()
    ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    options = ("--events", "-o", "out.txt")
    with project.popen("run", "What?", *options, env={"TERM": "dumb"}, stderr=slave) as process:
        os.close(slave)
        ended = wait(process)
    shown = os.read(master, 65536).decode().replace("\r\n", "\n")
    os.close(master)

    assert ended.code == 0, shown
    assert not set(shown) & {"\x1b", "\r"}
    assert max(map(len, shown.split("\n"))) <= 20, shown
    assert json.loads((project.folder / "out.txt").read_bytes()) == {"found": [1, 2]}
    *told, result = rows(ended.out)
    assert (result["event"], result["status"], result["answer"]) == ("Result", "ok", {"found": [1, 2]})
    recorded = [row["event"] for row in project.events()]
    live = {"ReplyDelta", "CellOutput", "Progress", "SubCallsProgress"}
    assert [row["event"] for row in told if row["event"] not in live] == recorded


def test_an_answer_that_does_not_fit_the_schema_is_handed_back(project: Project, server: ModelServer) -> None:
    project.write("person.json", json.dumps(PERSON))
    project.write("secret.txt", "a file that the schema names, and the user did not\n")
    server.reply(
        "root",
        cell("FINAL({'n': 'three'})"),
        cell("FINAL('the number is three')"),
        cell("""FINAL('{"n": 3}')"""),
    )

    ended = project.ask("How many?", "--schema", "person.json", "--json")

    assert (ended.code, ended.json["answer"]) == (0, {"n": 3}), ended.err
    first, second, third = prompts(server)
    assert json.dumps(PERSON) in first and "a file that the schema names" not in first
    assert "$.n: 'three' is not of type 'integer'" in second
    assert "text that is not JSON" in third
    assert project.events()[0]["question"] == "How many?"


def test_without_a_fitting_answer_the_last_one_is_a_partial_one(
    project: Project, server: ModelServer
) -> None:
    project.write("person.json", json.dumps(PERSON))
    server.reply("root", cell("FINAL({})"), cell("FINAL({'m': 1})"))

    ended = project.ask("How many?", "--schema", "person.json", "--max-steps", "1")

    assert ended.code == 3
    assert json.loads(ended.out) in ({}, {"m": 1})
    assert "No answer within 1 step." in ended.err


@dataclass(frozen=True)
class Wrong:
    """A command line that cannot be, and what is said of it."""

    arguments: Sequence[str]
    says: str
    piped: bytes | None = None


WRONG = {
    "an option that there is not": Wrong(["--nope", "Why?"], "No such option '--nope'."),
    "no question": Wrong([], "Missing argument 'QUERY'."),
    "an empty question": Wrong([" "], "The question is empty."),
    "stdin twice": Wrong(["-", "-f", "-"], "stdin cannot be both the question and a document."),
    "a question that is no text": Wrong(["-"], "It is not UTF-8 text", piped=b"\xff\xfe?"),
    "two reports": Wrong(["Why?", "--events"], "--json and --events exclude each other."),
    "no schema": Wrong(["Why?", "--schema", "nope.json"], "The schema nope.json cannot be read."),
    "a schema that is none": Wrong(["Why?", "--schema", "a.json"], "It has no keyword of JSON Schema"),
    "no folder for the answer": Wrong(["Why?", "-o", "nope/out"], "Its folder does not exist."),
    "a folder as the answer": Wrong(["Why?", "-o", "."], ". cannot be written."),
    "below a file": Wrong(["Why?", "-o", "a.json/out"], "a.json/out cannot be written."),
    "over a document": Wrong(["Why?", "-f", "a.json", "-o", "a.json"], "It is the document 'a.json'."),
    "no document": Wrong(["Why?", "-f", "nope.txt"], "nope.txt"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_object_and_costs_nothing(
    wrong: Wrong, project: Project, server: ModelServer
) -> None:
    project.write("a.json", '{"name": "Ada"}')

    ended = project.run("run", "--json", *wrong.arguments, piped=wrong.piped)

    assert ended.code == 2, ended.err
    assert ended.out.count(b"\n") == 1
    found = json.loads(ended.out)
    assert (found["status"], found["answer"], found["turn"]) == ("error", None, None)
    assert wrong.says in found["error"]["message"]
    assert wrong.says in ended.err.replace("\n     ", " ")
    assert server.requests == []
    assert (project.folder / "a.json").read_text() == '{"name": "Ada"}'


def in_shell(project: Project, line: str) -> "subprocess.CompletedProcess[bytes]":
    """A line of shell in the project, where `$RLM` is the command."""
    environ = {**project.environ, "RLM": f"{sys.executable} {MAIN}"}
    return subprocess.run(
        ["sh", "-c", line], cwd=project.folder, env=environ, capture_output=True, timeout=60
    )


def test_streams_may_be_closed_and_a_full_disk_is_told(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("FINAL('the answer')"), cell("FINAL('another answer')"))

    closed = in_shell(project, "$RLM run 'What?' <&- >&- 2>&-")
    full = in_shell(project, "$RLM run 'What else?' > /dev/full")
    unread = in_shell(project, "$RLM run --json ' ' > /dev/full")

    assert closed.returncode == 0
    assert (project.folder / ".rlm_state/answers/0001.txt").read_text() == "the answer"
    assert full.returncode == 1
    said = full.stderr.decode()
    kept = project.folder / ".rlm_state/answers/0002.txt"
    assert "The answer could not be written to stdout." in said and f"The answer is in {kept}." in said
    assert kept.read_text() == "another answer"
    assert unread.returncode == 1
    assert (
        "The result could not be written to stdout.\n     No space left on device." in unread.stderr.decode()
    )


COLOURS = {
    "a pipe": ({}, (), False),
    "FORCE_COLOR": ({"FORCE_COLOR": "1"}, (), True),
    "a flag": ({"NO_COLOR": "1"}, ("--color", "always"), True),
    "another flag": ({"FORCE_COLOR": "1"}, ("--color", "never"), False),
}


@pytest.mark.parametrize(("env", "flags", "coloured"), COLOURS.values(), ids=COLOURS)
def test_colours_off_a_terminal(
    project: Project, env: dict[str, str], flags: tuple[str, ...], coloured: bool
) -> None:
    project.write("a.txt", "one\n")

    ended = project.run("init", "a.txt", *flags, env=env)

    assert ended.out == b""
    assert ("\x1b[" in ended.err) is coloured
