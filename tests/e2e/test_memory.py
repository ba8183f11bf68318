"""What a session remembers, and what a user can do in the middle of a turn."""

import asyncio
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from rlm.accept import Accept
from rlm.choose import models_of
from rlm.config import load_config
from rlm.events import (
    AskInterrupted,
    CellFinished,
    CellOutput,
    Compacted,
    Event,
    Resume,
    Resumed,
    Said,
    TurnFinished,
)
from rlm.models import close_models
from rlm.session import Session
from rlm.state import State
from tests.e2e import KEY, PATIENCE_S, Project, cell, prompts
from tests.litellm_warnings import AT_CALLS, AT_IMPORT
from tests.model_server import Fault, Json, ModelServer, Reply

pytestmark = [
    AT_IMPORT,
    AT_CALLS,
]


@dataclass
class Chat:
    """A session that can be left and come back to, with a user who follows a script."""

    project: Project
    session: Session
    resumes: list[Resume] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    on_event: Callable[[Event], None] = lambda event: None

    async def ask(self, question: str, accept: Accept | None = None) -> TurnFinished:
        self.events.clear()
        async for event in self.session.ask(question, accept):
            self.events.append(event)
            self.on_event(event)
            if isinstance(event, AskInterrupted):
                event.answer.set_result(self.resumes.pop(0))
        (finished,) = self.of(TurnFinished)
        assert isinstance(finished, TurnFinished)
        return finished

    async def come_back(self) -> None:
        """Quit, and begin again in the same folder."""
        await self.session.close()
        self.session = session(self.project, self.session.state)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def session(project: Project, state: State) -> Session:
    config = load_config(
        cwd=project.folder,
        config_file=None,
        environ={**project.environ, "OPENAI_API_KEY": KEY},
        flags={},
        confirm=None,
        user_dir=project.home,
    )
    return Session(config=config, state=state, models=models_of(config), cwd=project.folder, asks=True)


@pytest.fixture
async def chat(project: Project) -> AsyncIterator[Chat]:
    state = State.open(project.folder / ".rlm_state", create=True, key_path=project.home / "key")
    with state.lock():
        chat = Chat(project, session(project, state))
        try:
            yield chat
        finally:
            await chat.session.close()
            await close_models()


def text(finished: TurnFinished) -> str:
    return finished.answer.text.strip() if finished.answer else ""


LAST = """
rows = [row for row in history if row["turn"] == 2]
print(rows[0]["content"][-40:])
turns = sorted({row["turn"] for row in history})
FINAL([total_2 + 1, answers[1], answers[8], len(answers), len(rows), turns])
"""


async def test_the_tenth_question_costs_what_the_third_did_and_knows_the_second(
    chat: Chat, server: ModelServer
) -> None:
    """Each question prints a lot, sets a variable and answers with a fact; after the sixth the user quits."""
    tokens = []
    for number in range(1, 10):
        server.reply(
            "root",
            cell(
                f"rows_{number} = list(range(2_000))\ntotal_{number} = 4_700 + {number}\nprint(rows_{number})"
            ),
            cell(f"FINAL(f'The invoices of month {number} add up to {{total_{number}}} euros.')"),
        )
        finished = await chat.ask(f"What do the invoices of month {number} add up to?")
        assert text(finished) == f"The invoices of month {number} add up to {4_700 + number} euros."
        tokens.append(finished.usage.input_tokens)
        if number == 6:
            await chat.come_back()
    server.reply("root", cell("print(rows_2)"), cell(LAST))
    finished = await chat.ask("What would month 2 be with one euro more?")
    tokens.append(finished.usage.input_tokens)

    assert all(later <= 1.15 * tokens[2] for later in tokens[3:]), tokens
    second, ninth = (f"The invoices of month {n} add up to {4_700 + n} euros." for n in (2, 9))
    assert finished.answer and finished.answer.format == "json"
    assert text(finished).replace("\n", "").replace(" ", "") == (
        f'[4703,"{second}","{ninth}",9,5,[1,2,3,4,5,6,7,8,9,10]]'.replace(" ", "")
    )
    asked = [message["content"] for message in server.requests_for("root")[-2].json["messages"]]
    assert second in asked[1] and "total_2" in asked[1], "the fact of question two is in what is sent"
    assert next(row for row in chat.session.memory() if row.sent).title == "turns 1 to 8, in short"


async def test_all_earlier_turns_can_be_told_in_short_and_that_survives_quitting(
    chat: Chat, server: ModelServer
) -> None:
    for number in (1, 2):
        server.reply("root", cell(f"print('x' * 5_000)\nkept_{number} = 1"), cell(f"FINAL('fact {number}')"))
        await chat.ask(f"Question {number}?")
    sent = [row.text for row in chat.session.memory() if row.sent]
    assert len(sent) == 2 and "xxx" in sent[0]

    before, after = chat.session.compact()

    assert before == sum(map(len, sent)) and after < before / 2
    await chat.come_back()
    (short,) = (row for row in chat.session.memory() if row.sent)
    assert (short.title, short.chars) == ("turns 1 to 2, in short", after)
    assert short.text.splitlines()[1:] == [
        "Turn 1 (ok): Question 1? → fact 1 [answers[0], kept_1]",
        "Turn 2 (ok): Question 2? → fact 2 [answers[1], kept_2]",
    ]
    server.reply("root", cell("FINAL([kept_1 + kept_2, *answers])"))
    assert text(await chat.ask("And?")).split() == ["[", "2,", '"fact', '1",', '"fact', '2"', "]"]
    assert server.requests_for("root")[-1].json["messages"][1]["content"] == short.text


async def test_a_stopped_turn_goes_on_with_what_was_paid_for_and_what_the_user_says(
    chat: Chat, server: ModelServer
) -> None:
    """First a hint, in the same turn words typed meanwhile, then an answer now; then the user lets it be."""
    asked_sub = asyncio.Event()
    loop = asyncio.get_running_loop()

    def sub(asked: Json) -> Reply | Fault:
        if asked["messages"][-1]["content"] == "slow":
            loop.call_soon_threadsafe(asked_sub.set)
            return Fault(how="hang")
        return Reply("paid")

    def hangs(asked: Json) -> Fault:
        loop.call_soon_threadsafe(chat.session.interrupt)
        return Fault(how="hang")

    server.default("sub", sub)
    server.reply(
        "root",
        cell("found = llm_query('quick')\nllm_query('slow')"),
        cell("print(found)"),
        hangs,
        "Thinking aloud, without an end: " + "x" * 200,
        cell("FINAL(found)"),
    )
    chat.resumes = [Resume(kind="continue", hint="leave the slow one out"), Resume(kind="answer")]
    said_late = False

    def on_event(event: Event) -> None:
        nonlocal said_late
        if isinstance(event, CellFinished) and event.cell == 1:
            chat.session.say("in one word")
        if isinstance(event, TurnFinished):
            chat.session.say("too late")
            said_late = True

    chat.on_event = on_event
    turn = asyncio.create_task(chat.ask("Who?"))
    async with asyncio.timeout(PATIENCE_S):
        await asked_sub.wait()
        chat.session.interrupt()
        finished = await turn

    assert (text(finished), finished.status) == ("Thinking aloud, without an end: " + "x" * 200, "ok")
    assert [event.kind for event in chat.of(Resumed) if isinstance(event, Resumed)] == ["continue", "answer"]
    assert chat.of(Said) == [Said(text="in one word")]
    told = [message["content"] for message in server.requests_for("root")[1].json["messages"]]
    assert "interrupted; what it assigned is kept" in told[-3]
    assert told[-2].startswith("The user interrupted you.")
    assert told[-2].endswith("\nThe user says: leave the slow one out")
    assert told[-1] == "The user adds: in one word"
    assert "paid" in prompts(server)[2] and server.requests_for("root")[2].client_hung_up()
    assert "The user wants an answer now." in prompts(server)[3]
    assert (finished.usage.sub_calls, server.requests_for("sub")[1].client_hung_up()) == (2, True)
    assert said_late and chat.session.take_leftover() == "too late" and not chat.session.take_leftover()

    chat.on_event = lambda event: None
    assert text(await chat.ask("Again.")) == "paid", "the variable of the stopped cell is there"
    (newest, _) = (row.text for row in chat.session.memory() if row.title.startswith("turn "))
    assert "What the user said meanwhile:\n- leave the slow one out\n- in one word" in newest


async def test_an_answer_that_does_not_fit_is_handed_back_and_at_last_told(
    chat: Chat, server: ModelServer
) -> None:
    def accept(answer: object) -> str | None:
        return None if isinstance(answer, dict) else f"it is no object but {answer!r}."

    server.reply("root", cell("FINAL('seven')"), cell("FINAL([7])"), cell("FINAL({'n': 7})"))
    finished = await chat.ask("How many?", accept)
    assert (finished.status, text(finished)) == ("ok", '{\n  "n": 7\n}')
    assert "FINAL was not accepted: it is no object but 'seven'." in prompts(server)[1]
    assert "FINAL was not accepted: it is no object but [7]." in prompts(server)[2]
    assert not list((chat.project.folder / ".rlm_state/answers").glob("*.tmp"))

    server.default("root", "seven")
    finished = await chat.ask("How many?", accept)
    assert (finished.status, text(finished)) == ("no_answer", "seven")
    assert "The last answer does not fit: it is no object but 'seven'." in finished.message
    assert "Your answer was not accepted: it is no object but 'seven'." in str(server.requests[-1].json)


async def test_a_turn_that_the_provider_finds_too_long_goes_on_in_short_and_history_has_it_all(
    chat: Chat, server: ModelServer
) -> None:
    too_long = Fault(status=400, message="prompt is too long", code="context_length_exceeded")
    server.reply("root", cell("FINAL('first')"))
    await chat.ask("Begin.")
    steps = [cell(f"mark_{n} = {n}\nprint('seen', {n}, '.' * 15_000)", plan=f"Plan {n}.") for n in range(6)]
    look = """
        said = [row["content"] for row in history if row["turn"] == 2]
        FINAL([len(said), mark_0, len(said[2]) > 15_000])
    """
    server.reply("root", *steps, too_long, cell(textwrap.dedent(look)))

    finished = await chat.ask("Look at all.")

    assert finished.status == "ok"
    assert text(finished).split() == ["[", "14,", "0,", "true", "]"], "all that was said, and a variable"
    refused, again = (request.json["messages"] for request in server.requests_for("root")[-2:])
    assert len(str(again)) < 0.7 * len(str(refused))
    assert again[:3] == refused[:3], "the rules, the turn before, and the question"
    assert "- Plan 0.\n  saw: seen 0 ..." in again[3]["content"]
    assert "Variables assigned: mark_0, mark_1" in again[3]["content"]
    (steps_event, turn_event) = chat.of(Compacted)
    assert isinstance(steps_event, Compacted) and isinstance(turn_event, Compacted)
    assert (steps_event.what, steps_event.turn, turn_event.what) == ("steps", 2, "turn")


async def test_a_turn_abandoned_at_the_question_how_to_go_on_leaves_only_what_it_cost(
    chat: Chat, server: ModelServer
) -> None:
    server.reply(
        "root",
        cell("kept = 1\nFINAL(kept)"),
        cell("kept = 2\nprint(kept, flush=True)\nimport time\ntime.sleep(600)"),
    )
    await chat.ask("Begin.")
    asked = asyncio.Event()

    async def abandon() -> None:
        async for event in chat.session.ask("Go on."):
            if isinstance(event, CellOutput):
                chat.session.interrupt()
            if isinstance(event, AskInterrupted):
                chat.session.say("better ask this")
                asked.set()

    server.default("root", cell("FINAL([kept, len(answers), len(history)])"))
    turn = asyncio.create_task(abandon())
    async with asyncio.timeout(PATIENCE_S):
        await asked.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert chat.session.take_leftover() == "better ask this"
    await chat.session.sandbox.close()

    assert text(await chat.ask("What is left?")).split() == ["[", "1,", "1,", "5", "]"]
    assert chat.session.state.view().usage.calls == 3
