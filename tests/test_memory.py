"""What the root model is told at the beginning of a turn, and what is left of a turn afterwards."""

from rlm import memory
from rlm.documents import Document
from rlm.events import Usage
from rlm.models import ChatMessage
from rlm.records import MessageAdded, SessionStarted, SessionView, TurnBegan, TurnEnded, Variable
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
    text = memory.opening(
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
    text = memory.opening("Who?", texts, active="0.txt", lines={}, variables=[])
    assert "… and 970 more, 4,000,000 bytes in all: list_files()" in text
    assert len(text) < 5000
    assert "first line" not in text


def test_no_document_and_no_variable_are_said_so() -> None:
    text = memory.opening("Who?", [], active=None, lines={}, variables=[])
    assert "No document is loaded" in text
    assert "holds no variables yet" in text


MESSAGES = [
    said("assistant", "I count.\n\n```repl\nn = 3\n```"),
    said("user", "Out [1] ok, 0.1 s. Step 1 of 30.\n\n3 meetings"),
    said("assistant", "```repl\nFINAL(n)\n```"),
    said("user", "Out [2] FINAL was called, 0.0 s.\n\n(no output)"),
]


def test_a_summary_keeps_question_plan_finding_answer_and_variables() -> None:
    text = memory.summary(
        4,
        "How many?",
        MESSAGES,
        answer="3",
        status="ok",
        answer_index=2,
        variables=[Variable(name="n", type="int", size="3")],
    )
    assert text.splitlines() == [
        "[Turn 4, finished: ok]",
        "Question: How many?",
        "What was done and learned:",
        "- I count.",
        "  saw: 3 meetings",
        "Answer (whole in answers[2]): 3",
        "Variables kept: n (int, 3)",
    ]


def test_a_summary_is_bounded_however_long_the_turn() -> None:
    long = [said("assistant", "plan " * 1000), said("user", "Out [1] ok\n\n" + "x" * 20_000)] * 100
    text = memory.summary(1, "q", long, answer="a" * 10**6, status="ok", answer_index=0, variables=[])
    assert len(text) < 9_000
    assert "(the rest is in `history`)" in text


def view() -> SessionView:
    usage = Usage()
    return SessionView.fold(
        [
            SessionStarted(session="s", created=""),
            TurnBegan(turn=1, question="How many?"),
            *(MessageAdded(turn=1, role=m["role"], content=m["content"]) for m in MESSAGES),
            TurnEnded(
                turn=1,
                status="ok",
                steps=2,
                answer="0001.txt",
                answer_format="json",
                answer_bytes=1,
                summary="[Turn 1] in short",
                usage=usage,
                by_model={},
                duration_s=1.0,
            ),
        ]
    )


def test_with_compaction_a_turn_is_one_message_without_it_all() -> None:
    assert memory.conversation(view(), compaction=True) == [said("user", "[Turn 1] in short")]
    assert memory.conversation(view(), compaction=False) == MESSAGES


def test_history_has_every_message_whatever_the_compaction() -> None:
    rows = memory.history(view())
    assert [row["content"] for row in rows] == [message["content"] for message in MESSAGES]
    assert {row["turn"] for row in rows} == {1}
