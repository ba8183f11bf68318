"""The first minutes: what each command says where nothing is there yet or something is broken; completion."""

import subprocess
import sys

import pytest

from tests.e2e import MAIN, Project

NOTHING = dict.fromkeys(("OPENAI_API_KEY", "RLM_API_BASE", "RLM_SUB_API_BASE", "RLM_MODEL", "RLM_SUB_MODEL"))
NO_KEY = "Set OPENAI_API_KEY in your shell, or as a line"

FIRST = {
    "rlm": ([], 0, "rlm init meetings.txt"),
    "init": (["init"], 2, "rlm init FILE"),
    "chat": (["chat"], 4, NO_KEY),
    "run": (["run", "Why?"], 4, NO_KEY),
    "status": (["status"], 0, "Begin with:  rlm init FILE"),
    "trace": (["trace"], 2, "rlm run"),
    "reset": (["reset"], 0, "nothing to delete"),
}


@pytest.mark.parametrize(("arguments", "code", "says"), FIRST.values(), ids=FIRST)
def test_in_an_empty_folder_the_next_thing_to_do_is_said(
    project: Project, arguments: list[str], code: int, says: str
) -> None:
    ended = project.run(*arguments, env=NOTHING)

    assert ended.code == code
    assert says in ended.out.decode() + ended.err
    assert "Traceback" not in ended.err
    assert list(project.folder.iterdir()) == []


def test_help_fits_a_narrow_terminal(project: Project) -> None:
    shown = project.run(env={"COLUMNS": "20"}).err.splitlines()

    commands = shown[shown.index("Commands:") :]
    assert max(map(len, commands)) <= 20, shown
    assert {"init", "demo"} <= {word for line in commands for word in line.split()}


BROKEN = {
    "a configuration that is not JSON": ('{"limits": {"max_steps": 3,}}', "config.json, line 1, column 2"),
    "a setting that there is not": ('{"limits": {"max_step": 3}}', "Did you mean limits.max_steps?"),
    "a key in the configuration": ('{"root_llm": {"api_key": "sk-abc"}}', "api_key"),
}


@pytest.mark.parametrize("command", [("run", "Why?"), ("status",), ("init", "config.json")])
@pytest.mark.parametrize(("config", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_configuration_is_told_with_its_place(
    project: Project, config: str, says: str, command: tuple[str, ...]
) -> None:
    project.write("config.json", config)

    ended = project.run(*command)

    assert (ended.code, ended.out) == (4, b"")
    assert says in ended.err
    assert not (project.folder / ".rlm_state").exists()


@pytest.mark.parametrize("command", [("run", "Why?"), ("chat",), ("init", "a.txt")])
def test_a_state_folder_that_cannot_be_made_is_told(project: Project, command: tuple[str, ...]) -> None:
    project.write("a.txt", "one\n")

    ended = project.run(*command, "--state-dir", "a.txt/state")

    assert ended.code == 1
    assert "a.txt/state" in ended.err and "--state-dir" in ended.err


COMPLETIONS = {
    "a command": ("rlm st", 1, ["plain,status"]),
    "all commands": (
        "rlm ",
        1,
        [f"plain,{name}" for name in "init chat run status trace doctor reset demo".split()],
    ),
    "an option": ("rlm run --sch", 2, ["plain,--schema"]),
    "a choice": ("rlm status --color ", 3, ["plain,auto", "plain,always", "plain,never"]),
    "a file": ("rlm run -f ", 3, ["file,"]),
    "files": ("rlm init ", 2, ["file,"]),
    "a folder": ("rlm run --state-dir ", 3, ["dir,"]),
}


@pytest.mark.parametrize(("words", "position", "completed"), COMPLETIONS.values(), ids=COMPLETIONS)
def test_shells_complete(project: Project, words: str, position: int, completed: list[str]) -> None:
    ended = project.run(
        env={"_RLM_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    )
    assert ended.answer.splitlines() == completed


def test_completion_loads_nothing_heavy(project: Project) -> None:
    environ = {**project.environ, "_RLM_COMPLETE": "zsh_complete", "COMP_WORDS": "rlm ", "COMP_CWORD": "1"}
    command = [sys.executable, "-X", "importtime", str(MAIN)]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "click" in loaded and "run" in ended.stdout
    assert not loaded & {"litellm", "docker", "rich", "prompt_toolkit", "httpx", "jsonschema"}
