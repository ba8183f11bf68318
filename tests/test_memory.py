"""What the root model is told at the beginning of a turn, and what is left of a turn afterwards."""

import dataclasses

from rlm import memory, prompts
from rlm.documents import Document
from rlm.events import Usage
from rlm.models import ChatMessage, estimate_tokens
from rlm.opening import opening
from rlm.records import (
    MessageAdded,
    SessionStarted,
    SessionView,
    TurnBegan,
    TurnEnded,
    TurnsCompacted,
    Variable,
)
from rlm.summaries import brief, steps, summary
from rlm.texts import Text


def text_of(name: str, *, kind: str = "text", inside: str = "", lines: int = -1) -> Text:
    fields: dict[str, object] = {
        "name": name,
        "file_name": name,
        "path": f"/files/{name}",
        "mount": f"/files/{name}",
        "size_bytes": 4000,
        "mtime_ns": 0,
        "device": 1,
        "inode": 1,
        "kind": kind,
        "encoding": "utf-8",
        "given_encoding": "",
        "head_sha256": "",
        "preview": "first line\nsecond line",
        "source": "",
    }
    return Text(
        name=name,
        document=Document.from_json(fields),
        kind=kind,
        encoding="utf-8",
        size_bytes=4000,
        lines=lines,
        preview="first line\nsecond line",
        inside=inside,
    )


def said(role: str, content: str) -> ChatMessage:
    return ChatMessage(role=role, content=content)


def test_the_opening_names_documents_and_variables_and_holds_a_few_lines_only() -> None:
    text = opening(
        "Who?",
        [
            text_of("a.txt"),
            text_of("b.pdf", kind="pdf", inside="1.txt", lines=7),
            text_of("c.csv", kind="csv"),
        ],
        active="a.txt",
        lines={"a.txt": 12},
        variables=[Variable(name="rows", type="list", size="3 items")],
        notes=["Note: something was lost."],
    )
    assert "- 'a.txt': utf-8, 4,000 bytes, 12 lines, about 1,000 tokens (active: this is `context`)" in text
    assert "    first line\n    second line" in text
    assert "- 'b.pdf': text of a PDF, 4,000 bytes, 7 lines, about 1,000 tokens, each page begins with" in text
    assert "- 'c.csv': CSV, 4,000 bytes, about 1,000 tokens, sql() can ask it" in text
    assert "- rows: list, 3 items\nNote: something was lost." in text
    assert text.endswith("Question: Who?")


def test_many_documents_are_counted_not_listed() -> None:
    texts = [text_of(f"{number}.txt") for number in range(1000)]
    text = opening("Who?", texts, active="0.txt", lines={}, variables=[])
    assert "… and 970 more, 4,000,000 bytes in all: list_files()" in text
    assert len(text) < 5000
    assert "first line" not in text


def test_no_document_and_no_variable_are_said_so() -> None:
    text = opening("Who?", [], active=None, lines={}, variables=[])
    assert "No document is loaded" in text
    assert "holds no variables yet" in text


MESSAGES = [
    said("assistant", "I count.\n\n```repl\nn = 3\n```"),
    said("user", "Out [1] ok, 0.1 s. Step 1 of 30.\n\n3 meetings"),
    said("user", prompts.fill("said", text="only in May")),
    said("user", prompts.fill("resumed", what="you", hint="\nThe user says: and in June")),
    said("user", prompts.fill("resumed", what="you", hint="")),
    said("user", prompts.fill("last", reason="The user wants an answer now.")),
    said("assistant", "```repl\nFINAL(n)\n```"),
    said("user", "Out [2] FINAL was called, 0.0 s.\n\n(no output)"),
]
VARIABLES = [Variable(name="n", type="int", size="3"), Variable(name="rows", type="list", size="9 items")]


def test_a_summary_keeps_question_plan_finding_answer_and_its_own_variables() -> None:
    text = summary(4, "How many?", MESSAGES, answer="3", status="ok", answer_index=2, variables=VARIABLES)
    assert text.splitlines() == [
        "[Turn 4, finished: ok]",
        "Question: How many?",
        "What was done and learned:",
        "- I count.",
        "  saw: 3 meetings",
        "What the user said meanwhile:",
        "- only in May",
        "- and in June",
        "Answer (whole in answers[2]): 3",
        "Variables kept: n (int, 3)",
    ]


def test_a_brief_is_a_line_with_the_fact_and_where_the_rest_is() -> None:
    text = brief(4, "How\nmany?", MESSAGES, answer="3", status="ok", answer_index=2, variables=VARIABLES)
    assert text == "Turn 4 (ok): How many? → 3 [answers[2], n]"
    assert brief(5, "Why?", status="no_answer", answer_index=None) == "Turn 5 (no_answer): Why?"


def test_both_are_bounded_however_long_the_turn() -> None:
    long = [said("assistant", "plan " * 1000), said("user", "Out [1] ok\n\n" + "x" * 20_000)] * 100
    many = [Variable(name=f"v{n}" * 50, type="int", size="1") for n in range(100)]
    code = said("assistant", "```repl\n" + " ".join(row.name for row in many) + "\n```")
    text = summary(1, "q" * 10**6, long, answer="a" * 10**6, status="ok", answer_index=0, variables=[])
    assert len(text) < 11_000
    assert "(the rest is in `history`)" in text
    line = brief(1, "q" * 999, [code], answer="a" * 10**6, status="ok", answer_index=0, variables=many)
    assert len(line) < 600 and "\n" not in line


CODE = """
import re
total, (low, high) = 3, (1, 2)
rows = [row for row in range(3)]
for line in rows:
    last = line
    def helper(argument):
        inside = argument
key = lambda item: item
"""


def test_steps_in_short_name_what_the_cells_bound_and_nothing_else() -> None:
    cells = [CODE, "\nbroken = (\n", f"\ndeep = {'1 + ' * 5_000}1\n"]
    text = steps([said("assistant", f"```repl{code}```") for code in cells])
    assert text.startswith("[The first 3 replies of this turn")
    assert text.endswith("Variables assigned: total, low, high, rows, line, last, helper, key")


def view(turns: int = 1, *, size: int = 0) -> SessionView:
    """A session of so many turns, with summaries of at least so many characters."""
    folded = SessionView.fold([SessionStarted(session="s", created="")])
    for number in range(1, turns + 1):
        folded.add(TurnBegan(turn=number, question=f"question {number}?"))
        for message in MESSAGES:
            folded.add(MessageAdded(turn=number, role=message["role"], content=message["content"]))
        folded.add(
            TurnEnded(
                turn=number,
                status="ok",
                steps=2,
                answer=f"{number:04d}.txt",
                answer_format="json",
                answer_bytes=1,
                summary=f"summary {number}{'.' * size}",
                usage=Usage(),
                by_model={},
                duration_s=1.0,
                brief=f"brief {number}",
            )
        )
    return folded


SHORT = "[Earlier turns in short; their messages are in `history`, their answers in `answers`]"


def contents(messages: list[ChatMessage]) -> list[str]:
    assert {message["role"] for message in messages} <= {"user", "assistant"}
    return [message["content"] for message in messages]


def told(*args: SessionView, compaction: bool = True, limit_tokens: int | None = None) -> list[str]:
    return contents(memory.conversation(*args, compaction=compaction, limit_tokens=limit_tokens))


def test_the_newest_turns_are_summarised_older_ones_in_a_line_the_oldest_counted() -> None:
    assert told(view(0)) == []
    assert told(view(2)) == ["summary 1", "summary 2"]
    assert told(view(4)) == [f"{SHORT}\nbrief 1\nbrief 2", "summary 3", "summary 4"]
    short, *_ = told(view(30))
    assert short.splitlines()[1:4] == [
        "Turns 1 to 8: only in `history` and `answers`.",
        "brief 9",
        "brief 10",
    ]


def test_without_compaction_all_is_told_as_far_as_the_window_goes() -> None:
    messages = contents(MESSAGES)
    assert told(view(3), compaction=False) == messages * 3
    bounded = told(view(3, size=4_000), compaction=False, limit_tokens=estimate_tokens(MESSAGES) + 50)
    assert bounded == [f"{SHORT}\nbrief 1\nbrief 2", *messages]


def test_older_turns_are_not_told_in_more_words_than_a_newer_one_that_did_not_fit() -> None:
    session = view(3)
    long = dataclasses.replace(session.turns[1].messages[0], content="long " * 1_000)
    session.turns[1] = dataclasses.replace(session.turns[1], messages=(long,))
    bounded = told(session, compaction=False, limit_tokens=1_000)
    assert bounded == ["summary 1", "summary 2", *contents(MESSAGES)]


def test_what_is_told_is_bounded_by_the_window() -> None:
    """A summary of 1,000 tokens, lines of a few, then nothing but a count."""
    long = view(5, size=4_000)
    assert [text[:9] for text in told(long, limit_tokens=1_500)] == ["[Earlier ", "summary 5"]
    assert told(long, limit_tokens=40) == [f"{SHORT}\nbrief 1\nbrief 2\nbrief 3\nbrief 4\nbrief 5"]
    assert told(long, limit_tokens=0) == [f"{SHORT}\nTurns 1 to 5: only in `history` and `answers`."]


def test_turns_are_told_in_short_when_the_user_wants_it_and_later_ones_are_not() -> None:
    compacted = view(2)
    compacted.add(TurnsCompacted(turn=2))
    assert told(compacted) == told(compacted, compaction=False) == [f"{SHORT}\nbrief 1\nbrief 2"]
    again = SessionView.fold([])
    again.add(TurnsCompacted(turn=1))
    for turn in view(2).turns:
        again.add(TurnBegan(turn=turn.ended.turn, question=turn.question))
        again.add(turn.ended)
    assert told(again) == [f"{SHORT}\nbrief 1", "summary 2"]


def test_turns_of_an_earlier_version_have_a_line_too() -> None:
    old = view(3)
    for at, turn in enumerate(old.turns):
        old.turns[at] = dataclasses.replace(turn, ended=dataclasses.replace(turn.ended, brief="", summary=""))
    short, *rest = told(old)
    assert short == f"{SHORT}\nTurn 1 (ok): question 1? [answers[0]]"
    assert rest == contents(MESSAGES) * 2, "without a summary there are only the messages"


def test_what_is_kept_is_shown_as_it_is_sent_and_as_data() -> None:
    rows = memory.rows(view(4), compaction=True, variables=VARIABLES)
    sent = [row for row in rows if row.sent]
    assert [row.text for row in sent] == told(view(4))
    assert [row.title for row in sent] == ["turns 1 to 2, in short", "turn 3, summary", "turn 4, summary"]
    assert all(row.chars == len(row.text) for row in sent)
    answers, history, variables = (row for row in rows if not row.sent)
    assert (answers.title, answers.chars) == ("answers", 4)
    assert "answers[1]: turn 2, json, 1 B" in answers.text
    assert history.text == "32 messages of 4 turns"
    assert variables.text == "n: int, 3\nrows: list, 9 items"


def test_history_has_every_message_whatever_the_compaction() -> None:
    rows = memory.history(view())
    assert [row["content"] for row in rows] == [message["content"] for message in MESSAGES]
    assert {row["turn"] for row in rows} == {1}
