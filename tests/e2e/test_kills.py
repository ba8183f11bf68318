"""SIGKILL at random moments: the state always loads, and nothing that was answered is ever missing.

Most rounds kill a process that talks to scripted models, so that it starts quickly; session, state and
container are those of the program. A few kill the command line itself.
"""

import asyncio
import contextlib
import json
import multiprocessing
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from rlm.config import load_config
from rlm.events import TurnFinished
from rlm.models import ChatMessage, Model
from rlm.scripted import ScriptedModel
from rlm.session import Models, Session
from rlm.state import State
from tests.e2e import Project, cell, wait
from tests.model_server import Json, ModelServer

CHAINS, ROUNDS = 4, 26
"""Sessions side by side, and how often each of them is killed."""
LATEST_S = 2.0

CHILDREN = threading.Lock()
"""Starting a process asks after all the others, and an exit status can be read once only: one at a time."""

CELL = """
done = globals().get('done', []) + [{number}]
said = llm_query('What of {number}?')
FINAL([done, said])
"""


def code_for(question: str) -> str:
    """The root model's reply to `Question: Note N.`"""
    (number,) = re.findall(r"Question: Note (\d+)\.", question)
    return cell(CELL.format(number=number))


def scripted_models() -> Models:
    def root(messages: Sequence[ChatMessage]) -> str:
        return code_for(messages[-1]["content"])

    sub = ScriptedModel("sub", lambda messages: f"Of course: {messages[-1]['content']}")

    def choose(name: str) -> Model:
        return sub

    return Models(root=ScriptedModel("root", root), sub=sub, choose=choose)


def talk(folder: Path, acknowledged: "Connection[tuple[int, str], tuple[int, str]]") -> None:
    """Ask one question after another; tell of each that was answered, as `chat` prints the answer."""
    config = load_config(
        cwd=folder, config_file=None, environ={}, flags={}, confirm=None, user_dir=folder / "home"
    )
    state = open_state(folder)

    async def run() -> None:
        session = Session(config=config, state=state, models=scripted_models(), cwd=folder)
        while True:
            number = state.view().next_turn
            finished: TurnFinished | None = None
            async for event in session.ask(f"Note {number}."):
                if isinstance(event, TurnFinished):
                    finished = event
            assert finished
            acknowledged.send((number, finished.status))

    with state.lock():
        asyncio.run(run())


def open_state(folder: Path) -> State:
    return State.open(folder / ".rlm_state", create=True, key_path=folder / "key")


@pytest.fixture(scope="module")
def server_of_forks() -> ForkServerContext:
    """Processes that have imported everything before they begin."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "docker"])
    return context


def kill_often(context: ForkServerContext, folder: Path, chance: random.Random) -> list[int]:
    """Round after round in one folder; returns the turns that were answered."""
    answered: list[int] = []
    for _ in range(ROUNDS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=talk, args=(folder, theirs))
        with CHILDREN:
            process.start()
        theirs.close()
        time.sleep(chance.uniform(0.0, LATEST_S))
        with CHILDREN:
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended by itself"
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                number, status = ours.recv()
                assert status == "ok"
                answered.append(number)
        ours.close()
        look_at(folder, answered)
    return answered


def look_at(folder: Path, answered: list[int]) -> None:
    """The lock is free, and of each answered turn there are the record, the answer and the variables."""
    state = open_state(folder)
    with state.lock():
        view = state.view()
        ended = {turn.ended.turn: turn.ended for turn in view.turns}
        for number in answered:
            assert ended[number].status == "ok"
            done, said = json.loads(state.answer_path(number).read_text())
            assert set(done) >= {past for past in answered if past <= number}, "a variable was lost"
            assert said == f"Of course: What of {number}?"
        if answered:
            newest = state.snapshots(view)[0]
            assert newest.header.turn >= answered[-1]
            assert b"".join(state.read_snapshot(newest))
            recorded = next(row for row in view.snapshots if row.generation == newest.header.generation)
            assert {row.name for row in recorded.variables} == {"done", "said"}


def test_kill_9_at_any_moment_of_a_session_loses_nothing_that_was_answered(
    tmp_path: Path, server_of_forks: ForkServerContext
) -> None:
    folders = [tmp_path / f"chain{number}" for number in range(CHAINS)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(CHAINS) as pool:
        seeds = [random.Random(number) for number in range(CHAINS)]
        chains = list(pool.map(kill_often, [server_of_forks] * CHAINS, folders, seeds))
    assert sum(map(len, chains)) > CHAINS, "most rounds must get as far as an answer, or this shows little"


def test_kill_9_of_a_conversation_keeps_every_answer_that_was_printed(
    project: Project, server: ModelServer
) -> None:
    def root(request: Json) -> str:
        return code_for(str(request["messages"][-1]["content"]))

    server.default("root", root)
    server.default("sub", "Indeed.")
    questions = "".join(f"Note {number}.\n" for number in range(1, 1000)).encode()
    printed: list[int] = []
    for answers in (1, 2, 3):
        with project.popen("chat", stdin=subprocess.PIPE) as chat:
            assert chat.stdin and chat.stdout
            chat.stdin.write(questions)
            chat.stdin.flush()
            lines = [chat.stdout.readline()]
            while lines.count(b"]\n") < answers:
                lines.append(chat.stdout.readline())
                assert lines[-1], "it ended by itself"
            chat.kill()
            lines += chat.stdout.readlines()
        printed.append(lines.count(b"]\n"))
    status = project.run("status", "--json").json
    with project.popen("run", "Note 1000.") as last:
        done, _ = wait(last).json
    assert status["session"]["turns"] >= sum(printed)
    assert done[0] == 1 and len(done) > sum(printed) and done[-1] == 1000
