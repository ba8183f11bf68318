"""Turns as rows with times: one that has something of everything, and one of very many sub-calls."""

import datetime
import json
from typing import Any

from rlm.events import (
    Answer,
    CellFinished,
    ChildFinished,
    ChildStarted,
    Event,
    Notice,
    ReplyFinished,
    StepStarted,
    SubCallFinished,
    SubCallsFinished,
    SubCallsStarted,
    TurnFinished,
    TurnStarted,
    Usage,
    to_json,
)

Row = dict[str, Any]

BEGAN = datetime.datetime(2026, 3, 12, 10, 0, 1, tzinfo=datetime.UTC)
QUESTION = "Which endpoints got slower in March, and what do the tickets say of the reason?"
ANSWER = """Two endpoints got slower in March:

1. **/cart** went from 120 ms to 840 ms (p95) on 9 March.
2. **/search** went from 200 ms to 310 ms on 17 March.

The tickets OPS-412 and OPS-431 name the same reason: the new price service is asked once an item.
"""
ROOT = Usage(calls=1, input_tokens=3_120, output_tokens=240, cached_tokens=2_048, cost_usd=0.011)
TOTAL = Usage(
    calls=18, sub_calls=11, input_tokens=359_680, output_tokens=6_700, cached_tokens=8_192, cost_usd=0.0734
)
SUB = Usage(calls=1, sub_calls=1, input_tokens=24_800, output_tokens=410, cost_usd=0.0021)
PLAN = "First I look at what there is, and how the log is built."
LOOK = '''import re
from collections import defaultdict

# Day, endpoint and time of each request.
LINE = re.compile(r"^(\\d{4}-\\d\\d-\\d\\d)T\\S+ (?:GET|POST) (/\\w+) (\\d+)ms")
times = defaultdict(list)
for match in LINE.finditer(context):
    day, endpoint, took = match.groups()
    times[endpoint, day].append(int(took))

def p95(values):
    """The value that 95 in 100 do not exceed."""
    return sorted(values)[int(len(values) * 0.95)]

for endpoint in sorted({endpoint for endpoint, _ in times}):
    print(endpoint, [p95(times[endpoint, f"2026-03-{day:02}"]) for day in (1, 8, 9, 16, 17, 31)])
'''
SHOWN = """/cart [118, 121, 839, 842, 840, 846]
/login [40, 41, 40, 42, 41, 40]
/search [199, 201, 200, 204, 309, 312]
"""
TRACEBACK = """Traceback (most recent call last):
  File "<cell 5>", line 2, in <module>
    tickets = files["tickets.md"]
KeyError: "no document 'tickets.md'; did you mean 'tickets/2026-03.md'?"
"""


MARKUP = "</script><img src=x onerror=alert(1)> <!-- <script> & &lt; ]]> {{data}} {{script}}"


class Recorder:
    """Writes rows as a session does; `at_s` is the time since the turn began."""

    def __init__(self, turn: int = 3) -> None:
        self.turn = turn
        self.rows: list[Row] = []

    def add(self, at_s: float, *events: Event) -> None:
        ts = (BEGAN + datetime.timedelta(seconds=at_s)).isoformat(timespec="milliseconds")
        for event in events:
            row = {"ts": ts, "session": "k3f9", "turn": self.turn, **to_json(event)}
            self.rows.append(json.loads(json.dumps(row)))


def step(number: int, *, child: int = 0) -> StepStarted:
    return StepStarted(step=number, max_steps=30, child=child, depth=1 if child else 0)


def reply(
    number: int, code: str | None, prose: str = "", *, child: int = 0, reasoning: str = ""
) -> ReplyFinished:
    """The cell in it is number + 3, as it is in a session where others ran before."""
    return ReplyFinished(
        step=number,
        cell=number + 3 if code is not None else None,
        prose=prose,
        code=code,
        reasoning=reasoning,
        usage=SUB if child else ROOT,
        model="openai/gpt-5-mini" if child else "anthropic/claude-opus-4-5",
        child=child,
        depth=1 if child else 0,
    )


def cell(
    number: int, status: str = "ok", shown: str = "", *, error: str = "", took_s: float = 0.1, child: int = 0
) -> CellFinished:
    return CellFinished(
        step=number,
        cell=number + 3,
        status=status,
        shown=shown,
        total_chars=len(shown),
        error=error,
        duration_s=took_s,
        child=child,
        depth=1 if child else 0,
    )


def batch(number: int, total: int, *, recursive: bool = False) -> SubCallsStarted:
    return SubCallsStarted(
        batch=number, total=total, model="openai/gpt-5-mini", estimate_usd=0.1, recursive=recursive
    )


def call(number: int, index: int, total: int, took_s: float, **more: Any) -> SubCallFinished:
    fields: Row = {
        "prompt": f"Which tickets in part {index} speak of slowness?\n\n# Tickets {index * 40} to …",
        "reply": f'{{"part": {index}, "tickets": ["OPS-{400 + index}"]}}',
        "error": "",
        "usage": SUB,
    }
    return SubCallFinished(
        batch=number, index=index, duration_s=took_s, done=index + 1, total=total, **{**fields, **more}
    )


def finished(
    at_s: float, *, answer: str = ANSWER, status: str = "ok", message: str = "", usage: Usage = TOTAL
) -> TurnFinished:
    return TurnFinished(
        turn=3,
        status=status,
        steps=4,
        answer=Answer(
            path="/state/answers/0003.txt",
            size_bytes=len(answer.encode("utf-8", "replace")),
            format="text",
            text=answer,
            complete=True,
        ),
        usage=usage,
        session_usage=Usage(calls=90, cost_usd=0.84),
        duration_s=at_s,
        message=message,
    )


def child_rows(recorder: Recorder, number: int, from_s: float, to_s: float, *, status: str = "ok") -> None:
    """A child RLM of batch 2, from its beginning to its end."""
    third = (to_s - from_s) / 3
    question = f"What does ticket OPS-4{number}2 give as the reason?"
    recorder.add(
        from_s,
        ChildStarted(
            child=number,
            parent=0,
            batch=2,
            index=number - 1,
            question=question,
            context_chars=26_000 * number,
            model="openai/gpt-5-mini",
            depth=1,
        ),
        step(1, child=number),
    )
    recorder.add(from_s + third, reply(1, 'print(grep("reason"))', "I look for it.", child=number))
    recorder.add(from_s + 2 * third, cell(1, "ok", f"14: the reason of {number}", child=number))
    recorder.add(
        to_s,
        ChildFinished(
            child=number,
            status=status,
            steps=1,
            answer="One request an item." if status == "ok" else "",
            usage=SUB,
            duration_s=to_s - from_s,
            message="" if status == "ok" else "No answer within 1 step.",
            depth=1,
        ),
        SubCallFinished(
            batch=2,
            index=number - 1,
            prompt=question,
            reply="One request an item." if status == "ok" else "",
            error="" if status == "ok" else "NoAnswer: No answer within 1 step.",
            usage=Usage(),
            duration_s=to_s - from_s,
            done=number,
            total=3,
            answered_by=number,
        ),
    )


def rich_turn() -> list[Row]:
    """Four steps in 38 s: a look, a failure, a batch with every mark, children, and the answer."""
    recorder = Recorder()
    add = recorder.add
    add(0, TurnStarted(turn=3, question=QUESTION), step(1))
    add(3.1, reply(1, LOOK, PLAN, reasoning="The log has a line for each request. A regex settles it."))
    add(3.9, cell(1, "ok", SHOWN, took_s=0.8), step(2))
    add(6.2, reply(2, 'found = []\ntickets = files["tickets.md"]', "Now the tickets."))
    add(6.3, cell(2, "error", TRACEBACK, error="KeyError: no document 'tickets.md'"))
    add(6.4, Notice(text="'app.log' has grown on disk since it was loaded."), step(3))
    ask = "parts = chunks(100_000)\nfound = llm_query_batched([ASK + part.text for part in parts])\nfound[:2]"
    add(9.0, reply(3, ask, "Under another name; in parallel."))
    add(9.1, batch(1, 12))
    add(9.2, call(1, 3, 12, 0.1, cached=True, usage=Usage()))
    for index, end_s in (
        (0, 12.0),
        (1, 12.4),
        (2, 11.1),
        (4, 14.5),
        (6, 14.0),
        (7, 15.2),
        (8, 17.0),
        (9, 16.1),
    ):
        add(end_s, call(1, index, 12, 2.0 + index / 5))
    add(19.0, call(1, 5, 12, 9.5, retries=2))
    add(20.0, call(1, 10, 12, 4.0, cut=True))
    add(21.5, call(1, 11, 12, 12.0, reply="", error="Timeout: no reply within 12 s.", retries=1))
    add(21.6, SubCallsFinished(batch=1, total=12, failed=1, duration_s=12.5))
    add(22.0, batch(2, 3, recursive=True))
    child_rows(recorder, 1, 22.1, 27.0)
    child_rows(recorder, 2, 22.1, 31.0)
    child_rows(recorder, 3, 23.0, 33.0, status="no_answer")
    add(33.1, SubCallsFinished(batch=2, total=3, failed=1, duration_s=11.1))
    add(33.2, cell(3, "ok", "['{\"part\": 0}', '{\"part\": 1}']\n", took_s=24.2), step(4))
    add(37.5, reply(4, "FINAL(summary)", "I have what I need."))
    add(37.6, cell(4, "final"))
    add(38.0, finished(38.0))
    recorder.rows.sort(key=lambda row: str(row["ts"]))
    return recorder.rows


def spoiled(value: Any, text: str, key: str = "") -> Any:
    """Rows in which every text is `text`, but for what tells what they are."""
    if isinstance(value, dict):
        return {name: spoiled(inner, text, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [spoiled(inner, text, key) for inner in value]
    return text if isinstance(value, str) and key not in ("event", "ts") else value


def large_turn(calls: int = 10_000, *, at_once: int = 50, prompt_chars: int = 2_000) -> list[Row]:
    """One batch of very many calls; of 500, one fails, and one of 100 was cached."""
    recorder = Recorder()
    add = recorder.add
    add(0, TurnStarted(turn=3, question="Label every review."), step(1))
    add(4, reply(1, "labels = llm_query_batched(prompts)", "All of them, at once."))
    add(4.1, batch(1, calls))
    for index in range(calls):
        took_s = 1 + index * 7919 % 100 / 50
        prompt = f"Review {index}: " + "it is fine " * (prompt_chars // 11)
        more: Row = {"prompt": prompt, "reply": f"label {index % 7}"}
        if index % 500 == 499:
            more |= {"reply": "", "error": "RateLimited: too many requests."}
        elif index % 100 == 50:
            more |= {"cached": True, "usage": Usage()}
        add(4.1 + 3 + index / at_once * 2, call(1, index, calls, took_s, **more))
    end_s = 10 + calls / at_once * 2
    add(end_s, SubCallsFinished(batch=1, total=calls, failed=20, duration_s=end_s - 4.1))
    add(end_s, cell(1, "final", took_s=end_s - 4), finished(end_s, answer="Done."))
    return recorder.rows
