"""Child RLMs in a whole turn: what they are given, what they may take, and how they are stopped."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from rlm.choose import models_of
from rlm.config import load_config
from rlm.events import ChildFinished, ChildStarted, Event, TurnFinished
from rlm.ledger import Ledger
from rlm.models import close_models
from rlm.session import Session
from rlm.state import State
from tests.e2e import KEY, PATIENCE_S, Project, cell, prompts
from tests.litellm_warnings import AT_CALLS, AT_IMPORT
from tests.model_server import Answer, Fault, Json, ModelServer, Reply

pytestmark = [
    AT_IMPORT,
    AT_CALLS,
]

DOCUMENT = "".join(f"{number:05} {'MARK' if number % 100 == 0 else 'plain'}\n" for number in range(4_000))
"""40 marked lines, 20 of them in each half."""

LOOK = """
halves = chunks(len(context) // 2)
inner = rlm_query_batched(["Count the marks."] * len(halves), halves)
FINAL({"mine": len(grep("MARK")), "inner": [int(n) for n in inner], "first": context[:5]})
"""


def test_children_of_children_work_on_pieces_of_a_document(project: Project, server: ModelServer) -> None:
    project.write("log.txt", DOCUMENT)
    ask = f'rlm_query_batched(["Look."] * 2, chunks({len(DOCUMENT) // 2}))'
    server.reply("root", cell(f"import json\nFINAL([json.loads(found) for found in {ask}])"))

    def sub(asked: Json) -> Answer:
        question = asked["messages"][1]["content"].rpartition("Question: ")[2]
        return cell(LOOK if question == "Look." else "FINAL(str(len(grep('MARK'))))")

    server.default("sub", sub)

    ended = project.ask("Count.", "-f", "log.txt", env={"RLM_MAX_DEPTH": "3"})

    assert ended.code == 0, ended.err
    assert ended.json == [
        {"mine": 20, "inner": [10, 10], "first": "00000"},
        {"mine": 20, "inner": [10, 10], "first": "02000"},
    ]
    half = f"{len(DOCUMENT) // 2:,}"
    opening = (
        f"`context` is a piece of the document 'log.txt' (text, {len(DOCUMENT):,} bytes): its characters "
        f"0 to {half} of {len(DOCUMENT):,}. It holds {half} characters"
    )
    assert any(prompt.startswith(opening) for prompt in prompts(server, "sub"))
    assert not any("02000 MARK" in str(request.json) for request in server.requests)
    rows = {
        name: [row for row in project.events() if row["event"] == name]
        for name in ("ChildStarted", "ChildFinished")
    }
    started = {row["child"]: row for row in rows["ChildStarted"]}
    assert sorted(row["depth"] for row in started.values()) == [1, 1, 2, 2, 2, 2]
    assert [started[row["parent"]]["depth"] for row in started.values() if row["parent"]] == [1] * 4
    calls = {row["child"]: row["usage"]["calls"] for row in rows["ChildFinished"]}
    assert {child: 3 if row["depth"] == 1 else 1 for child, row in started.items()} == calls


def test_what_becomes_of_a_child_stands_in_its_slot(project: Project, server: ModelServer) -> None:
    """Steps and sub-calls are those of the question: here one, and twenty, the children's own included."""
    queries = ["all", "steps", "large", "data", "budget"]
    server.reply(
        "root",
        cell(f"found = rlm_query_batched({queries}, ['x'] * 5)\nFINAL([str(item)[:300] for item in found])"),
    )
    cells = {
        "all": "FINAL('done')",
        "steps": "print('looking')",
        "budget": "import time\ntime.sleep(2)\nFINAL([llm_query(str(n)) for n in range(40)])",
        "large": "FINAL('x' * 60_000_000)",
        "data": "FINAL({'a': [1, 2]})",
    }

    def sub(asked: Json) -> Answer:
        said = [message["content"] for message in asked["messages"]]
        question = said[-1].rpartition("Question: ")[2]
        if question in cells:
            return cell(cells[question])
        return "a reply" if len(said) == 1 else "The best that I have."

    server.default("sub", sub)

    limits = {"RLM_MAX_DEPTH": "2", "RLM_MAX_STEPS": "1", "RLM_MAX_SUB_CALLS": "20", "RLM_CALL_CACHE": "0"}
    ended = project.run("run", "Ask them.", "--json", env=limits)

    assert ended.code == 0, ended.err
    done, steps, large, data, budget = ended.json["answer"]
    assert done == "done"
    assert steps.startswith("NoAnswer: A child RLM did not finish: No answer within 1 step.")
    assert steps.endswith("Its best answer so far: The best that I have.")
    assert budget.startswith("NoAnswer: A child RLM did not finish"), "its cell raised, and that was its step"
    assert large.startswith("NoAnswer: The answer of a child RLM has 60,000,000 bytes.")
    assert json.loads(data) == {"a": [1, 2]}
    assert ended.json["usage"]["sub_calls"] == 20


@dataclass
class Asked:
    """A session in this process, what it tells, and the ledgers of its questions."""

    session: Session
    events: list[Event] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)

    async def ask(self, question: str) -> str:
        async for event in self.session.ask(question):
            self.events.append(event)
        if server := self.session._requests.server:
            self.ledgers.append(server.ledger)
        (*_, last) = (event for event in self.events if isinstance(event, TurnFinished))
        return last.answer.text if last.answer else ""

    def children(self) -> dict[int, str]:
        """How each child that began has ended."""
        ends = {event.child: event.status for event in self.events if isinstance(event, ChildFinished)}
        return {
            event.child: ends.get(event.child, "") for event in self.events if isinstance(event, ChildStarted)
        }


@pytest.fixture
async def asked(project: Project) -> AsyncIterator[Asked]:
    config = load_config(
        cwd=project.folder,
        config_file=None,
        environ={**project.environ, "OPENAI_API_KEY": KEY, "RLM_MAX_DEPTH": "3"},
        flags={},
        confirm=None,
        user_dir=project.home,
    )
    state = State.open(project.folder / ".rlm_state", create=True, key_path=project.home / "key")
    with state.lock():
        session = Session(config=config, state=state, models=models_of(config), cwd=project.folder)
        try:
            yield Asked(session)
        finally:
            await session.close()
            await close_models()


HANG: dict[str, Answer] = {
    "go": Reply("Now.", together=4),
    "reply": Fault(how="hang"),
    "cell": cell("while True: pass"),
    "child": cell("rlm_query_batched(['reply', 'call'], ['x', 'y'])"),
    "call": cell("llm_query('reply')"),
}
DIES = "import os, threading\nthreading.Thread(target=lambda: llm_query('go') and os._exit(3)).start()"
"""Once three other requests have been under way: at the latest when all hang."""
LEFT = """
import os, time
for _ in range(500):
    left = [name for name in os.listdir("/proc") if name.isdigit()]
    if len(left) <= 3:
        break
    time.sleep(0.01)
FINAL([len(left), kept])
"""


@pytest.mark.parametrize("how", ["interrupt", "dies"])
async def test_children_stop_with_the_cell_that_asked(asked: Asked, server: ModelServer, how: str) -> None:
    """Their workers are gone, their model calls hung up, and nothing stays reserved."""
    ask = "rlm_query_batched(['reply', 'cell', 'child'], ['x'] * 3)"
    begins = DIES if how == "dies" else ""
    server.reply("root", cell("kept = 7\nFINAL(kept)"), cell(f"{begins}\n{ask}"), cell(LEFT))
    server.default("sub", lambda said: HANG[said["messages"][-1]["content"].rpartition("Question: ")[2]])
    assert await asked.ask("Keep.") == "7"

    turn = asyncio.create_task(asked.ask("Hang."))
    if how == "interrupt":
        # Of the root two, one of each child, one of each of a child's children, and a plain call.
        await asyncio.to_thread(server.wait_for_requests, 2 + 3 + 2 + 1, wait_s=PATIENCE_S)
        asked.session.interrupt()
        await turn
        answer = await asked.ask("What is left?")
    else:
        answer = await turn

    assert answer.split() == ["[", "3,", "7", "]"], "the supervisor, a worker, and its checkpoint"
    assert set(asked.children().values()) == {"interrupted"}
    hung = [request for request in server.requests if request.prompt.endswith("reply")]
    if how == "interrupt":
        assert (len(asked.children()), len(hung)) == (5, 3)
    assert hung and all(request.client_hung_up() for request in hung)
    assert asked.ledgers and not any(ledger.under_way for ledger in asked.ledgers)


async def test_child_that_loses_its_worker_goes_on_with_its_context(
    asked: Asked, server: ModelServer
) -> None:
    """Nothing of it is saved: without room for a checkpoint its variables are gone."""
    server.reply("root", cell("FINAL(rlm_query('How long?', 'x' * 1000))"))
    server.reply(
        "sub",
        cell("large = b'x' * 60_000_000"),
        cell("import os; os._exit(3)"),
        cell("FINAL([len(context), 'large' in globals()])"),
    )
    assert (await asked.ask("Ask.")).split() == ["[", "1000,", "false", "]"]
    assert "its variables are gone, and `context` is as it was" in prompts(server, "sub")[2]


async def test_child_may_load_what_the_session_has_and_moves_nothing(
    asked: Asked, project: Project, server: ModelServer
) -> None:
    paths = [project.write(name, f"text of {name}") for name in ("b.txt", "a.txt")]
    asked.session.load([str(path) for path in paths])
    server.reply("root", cell("found = rlm_query('Look.', context)\nFINAL([found, context])"))
    server.reply("sub", cell("FINAL(load_file('a.txt') + ', ' + str(len(files)) + ', ' + context)"))
    answer = await asked.ask("Look.")
    assert answer.split("\n")[1:3] == ['  "text of a.txt, 2, text of a.txt",', '  "text of b.txt"']


async def test_time_of_a_child_ends_before_that_of_its_asker(asked: Asked, server: ModelServer) -> None:
    """So that what it found by then can still be used."""
    limits = dataclasses.replace(asked.session.config.limits, timeout_s=5)
    config = dataclasses.replace(asked.session.config, limits=limits)
    asked.session.config = asked.session._requests.config = config
    server.reply("root", cell("found = rlm_query_batched(['Look.'], ['x'])\nFINAL(str(found[0]))"))
    server.reply("sub", Fault(how="hang"), "Some of it.")
    answer = await asked.ask("Look.")
    assert answer.startswith("NoAnswer: A child RLM did not finish: No answer within")
    assert answer.endswith("Its best answer so far: Some of it.")
    assert asked.children() == {1: "no_answer"}
