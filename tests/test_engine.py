"""The loop: ask, run, show, until there is an answer; and what ends it when there is none."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest

from rlm import cell_runs, feedback
from rlm.box.results import CellResult
from rlm.box.wire import BytesSink
from rlm.deadline import Deadline
from rlm.engine import Bounds, Engine, Outcome
from rlm.errors import BudgetReached, Interrupted, ModelError, NoAnswer, PromptTooLarge
from rlm.events import (
    CellFinished,
    CellOutput,
    Compacted,
    Event,
    Notice,
    Reminder,
    ReplyDelta,
    ReplyFinished,
    Resume,
    Resumed,
    Said,
    StepStarted,
    Usage,
)
from rlm.ledger import Caps, Ledger, Price, Reservation
from rlm.models import ChatMessage, estimate_tokens
from rlm.parse import parse
from rlm.user_input import UserInput
from tests.scripted import Line, ScriptedCells, ScriptedModel, ScriptedStream

PRICE = Price(input_per_mtok=1.0, output_per_mtok=10.0)


def block(code: str, *, prose: str = "I look.") -> str:
    return f"{prose}\n\n```repl\n{code}\n```\n"


@dataclass
class CellsWithCalls(ScriptedCells):
    """`wait` has a sub-call under way until no more are to begin; `dear` makes one that cannot be paid."""

    ledger: Ledger | None = None
    closed: asyncio.Event | None = None

    async def run_cell(self, code: str, on_output: Callable[[str], None]) -> CellResult:
        assert self.ledger and self.closed
        if code.strip() == "wait":
            reservation = self._reserve(100)
            await self.closed.wait()
            await asyncio.sleep(0.3)
            self.ledger.settle(reservation, Usage(calls=1, cost_usd=0.01))
        elif code.strip() == "dear":
            with pytest.raises(BudgetReached):
                self._reserve(10**9)
        return await super().run_cell(code.replace("wait", "FINAL(found)"), on_output)

    def _reserve(self, output_tokens: int) -> Reservation:
        assert self.ledger
        return self.ledger.reserve(
            "sub", input_tokens=1, output_tokens=output_tokens, price=PRICE, sub_call=True
        )


class Turn:
    """An engine with scripted surroundings, and everything it said and showed."""

    def __init__(
        self,
        *lines: str | Line,
        max_steps: int = 5,
        timeout_s: float = 60.0,
        ledger: Ledger | None = None,
        price: Price | None = None,
        accept: Callable[[CellResult], str | None] = lambda result: None,
        accept_prose: Callable[[str], str | None] = lambda text: None,
        context_window: int | None = None,
        resumes: Sequence[Resume] | None = None,
    ) -> None:
        self.model = ScriptedModel(
            [Line(x) if isinstance(x, str) else x for x in lines], price=price, context_window=context_window
        )
        self.resumes = list(resumes or ())
        self.asked_at: list[int] = []
        self.closed: list[str] = []
        self.ledger = ledger or Ledger()
        self.cells = CellsWithCalls(ledger=self.ledger, closed=asyncio.Event())
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda event: None
        self.said: list[ChatMessage] = []
        self.engine = Engine(
            root=self.model,
            cells=self.cells,
            ledger=self.ledger,
            bounds=Bounds(max_steps=max_steps, timeout_s=timeout_s),
            emit=self._emit,
            messages=[ChatMessage(role="system", content="rules")],
            on_message=self.said.append,
            accept=accept,
            accept_prose=accept_prose,
            close_calls=self._close,
            user=UserInput(ask=self._resume if resumes is not None else None),
        )

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)

    async def _resume(self, step: int) -> Resume:
        """What the user answers; asked while nothing else goes on."""
        self.asked_at.append(step)
        self.cells.stopped.clear()
        self.cells.running.clear()
        return self.resumes.pop(0)

    async def run_stopped(self, moment: asyncio.Event) -> Outcome:
        """Run it, and stop it once at `moment`."""
        running = asyncio.ensure_future(self.run())
        await moment.wait()
        self.engine.interrupt()
        return await running

    def _close(self, reason: str) -> None:
        self.closed.append(reason)
        assert self.cells.closed
        self.cells.closed.set()

    async def run(self) -> Outcome:
        return await self.engine.run("what?")

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]


def value(outcome: Outcome) -> str:
    assert isinstance(outcome.value, BytesSink)
    return outcome.value.data.decode()


async def test_asks_runs_shows_until_final() -> None:
    turn = Turn(block("print(1)"), block("FINAL(42)"))
    outcome = await turn.run()
    assert (value(outcome), outcome.steps, outcome.problem) == ("42", 2, None)
    assert turn.cells.ran == ["print(1)", "FINAL(42)"]
    assert [message["role"] for message in turn.model.seen[1]] == ["system", "user", "assistant", "user"]
    assert turn.model.seen[0][1]["content"] == "what?"
    assert "ran print(1)" in turn.model.seen[1][-1]["content"]
    assert "Step 1 of 5" in turn.model.seen[1][-1]["content"]


async def test_messages_only_grow() -> None:
    """Providers cache by prefix: what was sent once is sent again as it was."""
    turn = Turn(block("a"), "prose only", block("b"), block("c"), block("FINAL(1)"))
    await turn.run()
    for earlier, later in pairwise(turn.model.seen):
        assert later[: len(earlier)] == earlier
    assert turn.engine.messages[1:] == turn.said


async def test_reply_is_cut_after_its_first_block() -> None:
    turn = Turn(block("a") + "\nOut: 17\n```repl\nFINAL(17)\n```\n", block("FINAL(1)"))
    assert value(await turn.run()) == "1"
    assert turn.cells.ran[0] == "a"
    assert "17" not in str(turn.model.seen[1])
    assert turn.model.streams[0].closed


async def test_events_tell_what_happened_in_order() -> None:
    turn = Turn(block("a", prose="Plan."), block("FINAL(1)"))
    await turn.run()
    kinds = [type(event) for event in turn.of(StepStarted, ReplyFinished, CellOutput, CellFinished)]
    assert kinds == [StepStarted, ReplyFinished, CellOutput, CellFinished] * 2
    shown = "".join(event.text for event in turn.events if isinstance(event, ReplyDelta))
    assert shown.startswith("Plan.")
    assert "```" not in shown


async def test_bare_final_is_run_as_a_cell() -> None:
    assert value(await Turn("FINAL(42)").run()) == "42"


async def test_prose_gets_one_reminder_and_then_counts() -> None:
    turn = Turn("The answer is 42.", "As I said: 42.")
    outcome = await turn.run()
    assert (outcome.text, outcome.problem) == ("As I said: 42.", None)
    assert len(turn.of(Reminder)) == 1
    assert "neither a `repl` block nor FINAL" in turn.model.seen[1][-1]["content"]


async def test_block_between_two_pieces_of_prose_earns_another_reminder() -> None:
    turn = Turn("prose", block("a"), "prose", block("FINAL(1)"))
    assert value(await turn.run()) == "1"
    assert len(turn.of(Reminder)) == 2


async def test_empty_reply_is_never_the_answer() -> None:
    outcome = await Turn("", "", "", max_steps=2).run()
    assert isinstance(outcome.problem, NoAnswer)
    assert outcome.text is None


async def test_reply_cut_by_its_length_is_not_run() -> None:
    turn = Turn(Line("```repl\ndelete(", finish_reason="length"), block("FINAL(1)"))
    assert value(await turn.run()) == "1"
    assert turn.cells.ran == ["FINAL(1)"]
    assert "cut off inside the block: it reached its limit of 10 tokens" in turn.model.seen[1][-1]["content"]


async def test_prose_cut_by_its_length_is_not_the_answer() -> None:
    cut = Line("The first of the many things to say is", finish_reason="length")
    turn = Turn("Perhaps 41.", cut, "It is 42.")
    outcome = await turn.run()
    assert (outcome.text, outcome.steps) == ("It is 42.", 3)
    assert "cut off before a repl block ended" in turn.model.seen[2][-1]["content"]


async def test_only_prose_that_was_whole_counts_as_reminded() -> None:
    turn = Turn(Line("I begin", finish_reason="length"), "", "Perhaps 41.", "It is 42.")
    assert (await turn.run()).text == "It is 42."
    assert "neither a `repl` block nor FINAL" in turn.model.seen[3][-1]["content"]


@pytest.mark.parametrize(
    ("finish_reason", "reasoning", "why"),
    [
        ("stop", "", "Your reply was empty."),
        ("stop", "Hm.", "Your reply was empty: all of it was thinking."),
        ("length", "Hm.", "Your reply was empty: its limit of 10 tokens was used up in your thinking."),
    ],
)
def test_an_empty_reply_is_told_with_its_cause(finish_reason: str, reasoning: str, why: str) -> None:
    stream = ScriptedStream(Line("", finish_reason=finish_reason), asyncio.Event(), reasoning=reasoning)
    assert feedback.without_block(parse(""), stream).startswith(f"{why} Think less")


async def test_missing_fence_of_a_reply_that_ended_by_itself_is_forgiven() -> None:
    turn = Turn("```repl\nFINAL(1)")
    assert value(await turn.run()) == "1"


async def test_step_limit_asks_for_a_last_answer() -> None:
    turn = Turn(block("a"), block("b"), "Best guess: 7.", max_steps=2)
    outcome = await turn.run()
    assert (outcome.text, outcome.steps) == ("Best guess: 7.", 2)
    assert isinstance(outcome.problem, NoAnswer)
    assert "No answer within 2 steps." in turn.model.seen[2][-1]["content"]


async def test_last_answer_may_come_from_one_more_cell() -> None:
    turn = Turn(block("a"), block("FINAL(best)"), max_steps=1)
    outcome = await turn.run()
    assert value(outcome) == "best"
    assert isinstance(outcome.problem, NoAnswer)


async def test_last_cell_that_is_no_final_leaves_the_prose() -> None:
    turn = Turn(block("a"), block("b", prose="Perhaps 7."), max_steps=1)
    outcome = await turn.run()
    assert (outcome.text, outcome.value) == ("Perhaps 7.", None)
    assert turn.model.lines == []


async def test_time_limit_stops_a_cell_and_asks_for_a_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_runs, "KEEP_S", 0.1)
    turn = Turn(block("hang"), "Best guess.", timeout_s=0.2)
    outcome = await turn.run()
    assert turn.cells.interrupts == ["time"]
    assert outcome.text == "Best guess."
    assert isinstance(outcome.problem, NoAnswer)
    assert "half" in str(turn.model.seen[1])


async def test_at_the_time_limit_a_cell_gets_the_results_that_are_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell_runs, "KEEP_S", 0.2)
    turn = Turn(block("wait"), timeout_s=0.2)
    outcome = await turn.run()
    assert value(outcome) == "found"
    assert isinstance(outcome.problem, NoAnswer)
    assert (turn.closed, turn.cells.interrupts) == (["The question is out of time: it had 0 s."], [])
    assert turn.ledger.usage.sub_calls == 1
    assert [event for event in turn.events if isinstance(event, Notice)] == [
        Notice(text="time is up; calls under way have 15 s to come back", level="info")
    ]


async def test_a_call_that_does_not_come_back_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell_runs, "KEEP_S", 0.1)
    monkeypatch.setattr(cell_runs, "SETTLE_S", 0.1)
    turn = Turn(block("hang"), "Best guess.", timeout_s=0.2)
    turn.ledger.reserve("sub", input_tokens=1, output_tokens=1, price=PRICE, sub_call=True)
    assert (await turn.run()).text == "Best guess."
    assert turn.cells.interrupts == ["time"]


async def test_a_deadline_can_be_moved_while_it_is_waited_for() -> None:
    later = Deadline.after(0.01)
    later.extend(3600)
    work = asyncio.ensure_future(asyncio.sleep(0.1))
    await later.wait(work)
    assert work.done()

    sooner, never = Deadline.after(3600), asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(sooner.wait(never))
    await asyncio.sleep(0)
    sooner.extend(-3600)
    await waiting
    assert not never.done() and not sooner.left_s


async def test_time_that_is_given_back_is_not_the_questions() -> None:
    turn = Turn(block("hang"), timeout_s=0.1)
    running = asyncio.ensure_future(turn.run())
    await turn.cells.running.wait()
    turn.engine.extend(3600)
    await asyncio.sleep(0.2)
    assert (turn.closed, turn.cells.interrupts) == ([], [])
    turn.engine.interrupt()
    assert isinstance((await running).problem, Interrupted)


@pytest.mark.parametrize(
    ("of_session", "what", "hint"),
    [
        (False, "No answer within 0 s.", "Raise --timeout"),
        (True, "No answer within the 0 s that were left to this session.", "limits.session_timeout_s"),
    ],
)
async def test_the_time_limit_names_what_to_raise(of_session: bool, what: str, hint: str) -> None:
    turn = Turn("Best guess.")
    turn.engine.bounds = Bounds(max_steps=5, timeout_s=0.0, of_session=of_session)
    problem = (await turn.run()).problem
    assert isinstance(problem, NoAnswer)
    assert problem.what == what and hint in problem.hint


async def test_time_limit_stops_a_reply_that_hangs() -> None:
    turn = Turn(Line("I think", hangs=True), "Best guess.", timeout_s=0.2)
    outcome = await turn.run()
    assert outcome.text == "Best guess."
    assert isinstance(outcome.problem, NoAnswer)
    assert turn.model.streams[0].closed


async def test_budget_leaves_enough_for_a_last_answer() -> None:
    ledger = Ledger(Caps(cost_usd=0.1))
    turn = Turn(Line(block("a"), cost_usd=0.089), "Best guess.", ledger=ledger, price=PRICE)
    outcome = await turn.run()
    assert outcome.text == "Best guess."
    assert isinstance(outcome.problem, BudgetReached)
    assert ledger.usage.calls == 2
    assert ledger.reserved_usd == 0.0


async def test_a_conversation_too_dear_for_the_reserve_is_sent_in_part_for_the_last_answer() -> None:
    ledger = Ledger(Caps(cost_usd=0.03))
    much = [Line(block(f"much{n}"), cost_usd=0.011) for n in (1, 2)]
    turn = Turn(*much, "Best guess.", ledger=ledger, price=PRICE)
    for n in (1, 2):
        turn.cells.results[f"much{n}"] = CellResult(status="ok", number=n, shown=f"{n}" * 20_000)
    outcome = await turn.run()
    assert outcome.text == "Best guess."
    assert isinstance(outcome.problem, BudgetReached)
    sent = [message["content"] for message in turn.model.seen[2]]
    assert sent[:2] == ["rules", "what?"]
    assert "1111" not in str(sent) and "2222" in sent[-2] and "This is your last reply" in sent[-1]


async def test_sub_calls_that_did_not_fit_are_told() -> None:
    turn = Turn(block("dear"), block("b"), block("FINAL(1)"), ledger=Ledger(Caps(cost_usd=1.0)), price=PRICE)
    await turn.run()
    after_dear, after_b = (seen[-1]["content"] for seen in turn.model.seen[1:])
    assert "Step 1 of 5, $0.90 left. 1 of its sub-calls did not fit the budget" in after_dear
    assert "did not fit" not in after_b


@pytest.mark.parametrize(
    ("price", "left"), [(None, ", 8,890 tokens left."), (PRICE, ", $0.90 and 8,890 tokens left.")]
)
async def test_what_is_left_is_told_in_what_is_capped(price: Price | None, left: str) -> None:
    ledger = Ledger(Caps(cost_usd=1.0, tokens=10_000))
    turn = Turn(Line(block("a"), cost_usd=0.0), block("FINAL(1)"), ledger=ledger, price=price)
    await turn.run()
    assert left in turn.model.seen[1][-1]["content"]


async def test_budget_without_even_a_reserve_ends_without_an_answer() -> None:
    ledger = Ledger(Caps(cost_usd=0.000001))
    turn = Turn(ledger=ledger, price=PRICE)
    outcome = await turn.run()
    assert isinstance(outcome.problem, BudgetReached)
    assert (outcome.text, outcome.value, turn.model.seen) == (None, None, [])


async def test_reply_is_limited_to_what_can_be_paid() -> None:
    ledger = Ledger(Caps(cost_usd=0.02))
    turn = Turn(block("FINAL(1)"), ledger=ledger, price=PRICE)
    await turn.run()
    assert turn.model.limits[0] is not None
    assert turn.model.limits[0] * 10 / 1e6 <= 0.02


async def test_every_call_is_settled_once() -> None:
    ledger = Ledger(Caps(cost_usd=10.0))
    turn = Turn(block("a"), block("b"), block("FINAL(1)"), ledger=ledger, price=PRICE)
    await turn.run()
    assert (ledger.usage.calls, ledger.reserved_usd) == (3, 0.0)


async def test_failed_call_is_the_outcome_and_costs_nothing() -> None:
    failure = ModelError("The provider refused.", "No such model.")
    ledger = Ledger(Caps(cost_usd=10.0))
    turn = Turn(Line("", error=failure), ledger=ledger, price=PRICE)
    outcome = await turn.run()
    assert outcome.problem is failure
    assert (ledger.usage.calls, ledger.reserved_usd) == (0, 0.0)


async def test_final_that_is_not_accepted_goes_on_with_the_reason() -> None:
    def accept(result: CellResult) -> str | None:
        return "it is empty" if isinstance(result.final, BytesSink) and not result.final.data else None

    turn = Turn(block("FINAL()"), block("FINAL(1)"), accept=accept)
    assert value(await turn.run()) == "1"
    assert "FINAL was not accepted: it is empty" in turn.model.seen[1][-1]["content"]


async def test_interrupt_during_a_reply_ends_the_turn_and_pays_for_what_came() -> None:
    ledger = Ledger()
    turn = Turn(Line("I think", hangs=True), ledger=ledger)
    running = asyncio.ensure_future(turn.run())
    await turn.model.stuck.wait()
    turn.engine.interrupt()
    outcome = await running
    assert isinstance(outcome.problem, Interrupted)
    assert turn.model.streams[0].closed
    assert ledger.usage.calls == 1


async def test_interrupt_before_the_first_word_pays_for_what_was_sent() -> None:
    turn = Turn(Line("", hangs=True))
    running = asyncio.ensure_future(turn.run())
    await turn.model.stuck.wait()
    turn.engine.interrupt()
    assert isinstance((await running).problem, Interrupted)
    assert (turn.ledger.usage.calls, turn.ledger.usage.input_tokens) == (1, 100)
    assert turn.ledger.under_way == 0


async def test_interrupt_during_a_cell_keeps_what_it_showed() -> None:
    turn = Turn(block("hang"))
    running = asyncio.ensure_future(turn.run())
    await turn.cells.running.wait()
    turn.engine.interrupt()
    outcome = await running
    assert isinstance(outcome.problem, Interrupted)
    assert turn.cells.interrupts == ["user"]
    assert "interrupted; what it assigned is kept" in turn.said[-1]["content"]
    assert "half" in turn.said[-1]["content"]


async def test_interrupt_during_the_last_answer_ends_the_turn() -> None:
    turn = Turn(block("a"), Line("Best", hangs=True), max_steps=1)
    running = asyncio.ensure_future(turn.run())
    await turn.model.stuck.wait()
    turn.engine.interrupt()
    assert isinstance((await running).problem, Interrupted)


async def test_error_in_a_cell_is_shown_and_the_loop_goes_on() -> None:
    turn = Turn(block("bad"), block("FINAL(1)"))
    turn.cells.results["bad"] = CellResult(
        status="error", number=1, shown="ValueError: no\n", error="ValueError"
    )
    assert value(await turn.run()) == "1"
    assert "the cell raised; what it assigned before is kept" in turn.model.seen[1][-1]["content"]


async def test_rolled_back_cell_names_its_cause() -> None:
    turn = Turn(block("bomb"), block("crash"), block("FINAL(1)"))
    turn.cells.results["bomb"] = CellResult(
        status="rolled_back", number=1, reason="memory", detail=str(2 * 1024**3)
    )
    turn.cells.results["crash"] = CellResult(
        status="rolled_back", number=2, reason="signal", detail="SIGSEGV", namespace_lost=True
    )
    await turn.run()
    assert "it ran out of memory (limit 2.0 GiB)" in turn.model.seen[1][-1]["content"]
    assert "variables are as they were before" in turn.model.seen[1][-1]["content"]
    assert "its process died of SIGSEGV" in turn.model.seen[2][-1]["content"]
    assert "last snapshot" in turn.model.seen[2][-1]["content"]


async def test_output_shown_is_bounded() -> None:
    turn = Turn(block("much"), block("FINAL(1)"))
    turn.cells.results["much"] = CellResult(status="ok", number=1, shown="x" * 1_000_000)
    await turn.run()
    assert len(turn.model.seen[1][-1]["content"]) < 22_000


# -- the user in the middle of a turn


async def test_a_stopped_cell_is_kept_and_the_turn_goes_on_with_a_hint() -> None:
    turn = Turn(block("hang"), block("FINAL(1)"), resumes=[Resume(kind="continue", hint="look at May")])
    outcome = await turn.run_stopped(turn.cells.running)
    assert (value(outcome), outcome.problem, turn.asked_at) == ("1", None, [1])
    assert turn.cells.interrupts == ["user"]
    output, told = (message["content"] for message in turn.model.seen[1][-2:])
    assert "interrupted; what it assigned is kept" in output and "half" in output
    assert told.startswith("The user interrupted you. Go on with the question:")
    assert told.endswith("\nThe user says: look at May")
    (resumed,) = (event for event in turn.events if isinstance(event, Resumed))
    assert (resumed.kind, resumed.hint) == ("continue", "look at May")


async def test_a_stopped_reply_is_shown_to_the_model_and_nothing_of_it_is_run() -> None:
    half = Line("I will delete\n```repl\nrows.clear()\n", hangs=True)
    turn = Turn(half, block("FINAL(1)"), resumes=[Resume(kind="continue")])
    assert value(await turn.run_stopped(turn.model.stuck)) == "1"
    assert turn.cells.ran == ["FINAL(1)"]
    said, told = turn.model.seen[1][-2:]
    assert (said["role"], said["content"]) == ("assistant", "I will delete\n\n```repl\nrows.clear()\n```")
    assert "interrupted your last reply, so that nothing of it was run." in told["content"]
    assert turn.ledger.usage.calls == 2


async def test_a_block_is_not_run_when_the_user_stops_as_it_arrives() -> None:
    turn = Turn(block("a"), block("FINAL(1)"), resumes=[Resume(kind="continue")])

    def on_event(event: Event) -> None:
        if isinstance(event, ReplyFinished) and event.code == "a\n":
            turn.engine.interrupt()

    turn.on_event = on_event
    assert value(await turn.run()) == "1"
    assert turn.cells.ran == ["FINAL(1)"]
    assert [message["role"] for message in turn.model.seen[1][-2:]] == ["assistant", "user"]
    assert "so that nothing of it was run" in turn.model.seen[1][-1]["content"]


@pytest.mark.parametrize(
    ("last", "text", "problem"),
    [
        ("About 7.", "About 7.", None),
        (block("FINAL(7)"), "7", None),
        (block("b", prose="Perhaps 7."), "Perhaps 7.", NoAnswer),
        ("", None, NoAnswer),
    ],
)
async def test_the_user_can_have_an_answer_now(last: str, text: str | None, problem: type | None) -> None:
    turn = Turn(block("hang"), last, resumes=[Resume(kind="answer")])
    outcome = await turn.run_stopped(turn.cells.running)
    assert (value(outcome) if outcome.value else outcome.text) == text
    assert type(outcome.problem) is (problem or type(None))
    assert "The user wants an answer now. This is your last reply" in turn.model.seen[1][-1]["content"]
    assert turn.model.lines == []


async def test_an_answer_now_can_be_stopped_too_and_the_turn_goes_on() -> None:
    turn = Turn(
        block("hang"),
        Line("Well", hangs=True),
        block("FINAL(2)"),
        resumes=[Resume(kind="answer"), Resume(kind="continue")],
    )
    running = asyncio.ensure_future(turn.run())
    for moment in (turn.cells.running, turn.model.stuck):
        await moment.wait()
        turn.engine.interrupt()
    assert value(await running) == "2"
    assert turn.asked_at == [1, 1]


async def test_a_user_who_stops_ends_the_turn() -> None:
    turn = Turn(block("hang"), resumes=[Resume(kind="stop")])
    assert isinstance((await turn.run_stopped(turn.cells.running)).problem, Interrupted)


async def test_the_clock_stands_still_while_the_user_thinks() -> None:
    turn = Turn(block("hang"), block("FINAL(1)"), timeout_s=0.5)

    async def thinks(step: int) -> Resume:
        await asyncio.sleep(0.7)
        return Resume(kind="continue")

    turn.engine.user.ask = thinks
    outcome = await turn.run_stopped(turn.cells.running)
    assert (value(outcome), outcome.problem) == ("1", None)


async def test_what_the_user_types_reaches_the_next_request_and_stays() -> None:
    turn = Turn(block("a"), block("b"), block("FINAL(1)"))
    turn.engine.user.say("only 2024")
    turn.engine.user.say("  and in euros ")
    turn.engine.user.say("   ")
    await turn.run()
    assert turn.model.seen[0][-1]["content"] == "The user adds: only 2024\nand in euros"
    assert turn.model.seen[2][2] == turn.model.seen[0][-1]
    assert [event for event in turn.events if isinstance(event, Said)] == [
        Said(text="only 2024\nand in euros")
    ]
    turn.engine.user.say("too late")
    assert (turn.engine.user.take(), turn.engine.user.take()) == ("too late", "")


# -- answers that do not fit


async def test_prose_that_is_not_accepted_goes_on_with_the_reason() -> None:
    turn = Turn("seven", "seven", block("FINAL(7)"), accept_prose=lambda text: "it is not a number.")
    assert value(await turn.run()) == "7"
    assert turn.model.seen[2][-1]["content"].startswith("Your answer was not accepted: it is not a number.")


@pytest.mark.parametrize("last", ["seven", block("FINAL(seven)")])
async def test_a_last_answer_that_is_not_accepted_is_a_partial_one(last: str) -> None:
    turn = Turn(
        block("a"),
        last,
        max_steps=1,
        accept=lambda result: "it is not a number.",
        accept_prose=lambda text: "it is not a number.",
    )
    outcome = await turn.run()
    assert (value(outcome) if outcome.value else outcome.text) == "seven"
    assert isinstance(outcome.problem, NoAnswer)
    assert str(outcome.problem) == (
        "No answer within 1 step. The last answer does not fit: it is not a number."
    )


# -- a turn that nears the window


def long_turn(*, steps: int, context_window: int | None, chars: int = 8_000) -> Turn:
    lines = [block(f"found_{n} = {n}", prose=f"Plan {n}.") for n in range(steps)]
    turn = Turn(*lines, block("FINAL(1)"), max_steps=steps + 5, context_window=context_window)
    for n in range(steps):
        turn.cells.results[f"found_{n} = {n}"] = CellResult(
            status="ok", number=n, shown=f"output {n} " + "x" * chars
        )
    return turn


async def test_near_the_window_the_middle_of_a_turn_is_told_in_short() -> None:
    turn = long_turn(steps=20, context_window=16_000)
    turn.engine.earlier = [ChatMessage(role="user", content="in short")]
    assert value(await turn.run()) == "1"

    assert all(estimate_tokens(seen) < 0.8 * 12_000 for seen in turn.model.seen)
    last = turn.model.seen[-1]
    assert [message["content"] for message in last[:2]] == ["rules", "what?"]
    assert "- Plan 0.\n  saw: output 0 xxx" in last[2]["content"]
    assert "Variables assigned: found_0, found_1" in last[2]["content"]
    assert "output 19 xxx" in last[-1]["content"] and len(last[-1]["content"]) > 8_000
    assert len(turn.engine.said) == 43, "all of it stays: question, twenty-one replies, and their outputs"
    compacted = [event for event in turn.events if isinstance(event, Compacted)]
    assert 0 < len(compacted) < 10, "not with every step"
    assert all(event.what == "steps" and event.after_chars < event.before_chars for event in compacted)


async def test_what_the_user_said_is_not_lost_when_steps_are_told_in_short() -> None:
    turn = long_turn(steps=20, context_window=16_000)
    turn.engine.user.say("only 2024")
    await turn.run()
    assert "What the user said meanwhile:\n- only 2024" in turn.model.seen[-1][2]["content"]


@pytest.mark.parametrize("steps", [1, 6])
async def test_a_prompt_that_the_provider_finds_too_long_is_made_shorter_and_sent_again(steps: int) -> None:
    turn = long_turn(steps=steps, context_window=None, chars=20_000)
    turn.model.lines.insert(steps, Line("", error=PromptTooLarge("The prompt is too long for scripted.")))
    outcome = await turn.run()
    assert (value(outcome), outcome.problem, outcome.steps) == ("1", None, steps + 1)
    refused, again = turn.model.seen[-2:]
    assert estimate_tokens(again) < 0.7 * estimate_tokens(refused)
    assert again[:2] == refused[:2]
    assert turn.ledger.usage.calls == steps + 1, "what was refused costs nothing"


async def test_a_prompt_that_cannot_be_shorter_ends_the_turn() -> None:
    refusal = PromptTooLarge("The prompt is too long for scripted.")
    outcome = await Turn(Line("", error=refusal)).run()
    assert outcome.problem is refusal


async def test_an_abandoned_turn_leaves_no_cell_behind() -> None:
    turn = Turn(block("hang"))
    running = asyncio.ensure_future(turn.run())
    await turn.cells.running.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
