"""What the root model is told at the start of a turn, and what is left of a turn once it is answered.

A finished turn becomes one message: the question, the findings in the model's own words, the answer's
beginning, and the variables that hold the rest. It is made by rule, not by a model: it costs nothing, takes
no time and invents nothing; whatever it leaves out is data in the REPL (`answers`, `history`).
"""

from collections.abc import Iterable, Mapping, Sequence

from rlm import prompts
from rlm.formats import FORMATS
from rlm.models import ChatMessage, Model
from rlm.records import SessionView, Turn, Variable
from rlm.settings import Config
from rlm.texts import Text

LISTED_DOCUMENTS = 30
LISTED_VARIABLES = 40
PLAN_CHARS = 400
OUTPUT_CHARS = 400
ANSWER_CHARS = 2_000
SUMMARY_CHARS = 6_000
STR_SHARE = 16
"""The sandbox makes a text a `str` up to this share of its memory; see `sandbox.worker`."""


def system(config: Config, sub: Model) -> ChatMessage:
    """The system prompt, with the real limits and models in it."""
    limits, window = config.limits, sub.context_window
    children = (
        "like llm_query, but a child RLM with a REPL of its own works on `context`, step by step. Dearer and "
        "slower: for pieces that need code or several looks."
    )
    text = prompts.fill(
        "system",
        max_steps=limits.max_steps,
        cell_timeout=f"{limits.cell_timeout_s:.0f}",
        memory=f"{config.sandbox.memory_bytes / 1024**3:.1f} GiB",
        str_limit=f"{config.sandbox.memory_bytes // STR_SHARE // 1024**2:,} MiB in memory",
        packages="".join(f", {package}" for package in config.sandbox.packages),
        sub_model=sub.name,
        sub_chars=f"{window * 3:,} characters" if window else "an unknown number of characters",
        rlm_note=children
        if limits.max_depth > 1
        else "here the same as llm_query on the prompt followed by the context.",
    )
    return ChatMessage(role="system", content=text)


def opening(
    question: str,
    texts: Sequence[Text],
    *,
    active: str | None,
    lines: Mapping[str, int],
    variables: Sequence[Variable],
    notes: Iterable[str] = (),
) -> str:
    """The first message of a turn. `lines` has the line counts that are known, by name.

    `notes` are things to be told once: what a restore lost, say.
    """
    return prompts.fill(
        "question",
        documents=_documents(texts, active=active, lines=lines),
        namespace="\n".join([_namespace(variables), *notes]),
        question=question,
    )


def _documents(texts: Sequence[Text], *, active: str | None, lines: Mapping[str, int]) -> str:
    if not texts:
        return "No document is loaded; `context` is an empty str."
    rows = [f"Documents ({len(texts):,}):"]
    for text in texts[:LISTED_DOCUMENTS]:
        mark = " (active: this is `context`)" if text.name == active else ""
        rows.append(f"- {text.name!r}: {', '.join(_facts(text, lines.get(text.name, text.lines)))}{mark}")
        if len(texts) <= 5 and text.preview:
            rows += [f"    {line}" for line in text.preview.splitlines()[:4]]
    if len(texts) > LISTED_DOCUMENTS:
        size = sum(text.size_bytes for text in texts)
        rows.append(
            f"- … and {len(texts) - LISTED_DOCUMENTS:,} more, {size:,} bytes in all: list_files(), or "
            'grep(pattern, files="all")'
        )
    return "\n".join(rows)


def _facts(text: Text, lines: int) -> list[str]:
    known = text.document.format if text.inside else FORMATS[text.kind]
    facts = [f"text of a {known.label}" if text.inside else known.label if known.table else text.encoding]
    facts.append(f"{text.size_bytes:,} bytes")
    if lines >= 0:
        facts.append(f"{lines:,} lines")
    facts.append(f"about {text.tokens:,} tokens")
    own = FORMATS[text.kind]
    if own.mark and text.inside:
        facts.append(f"each {own.mark} begins with a line like [{own.mark} 1 …]")
    if own.table:
        facts.append("sql() can ask it")
    return facts


def _namespace(variables: Sequence[Variable]) -> str:
    if not variables:
        return "The namespace holds no variables yet."
    rows = ["Variables in the namespace:"]
    rows += [f"- {row.name}: {row.type}, {row.size}" for row in variables[:LISTED_VARIABLES]]
    if len(variables) > LISTED_VARIABLES:
        rows.append(f"- … and {len(variables) - LISTED_VARIABLES} more: SHOW_VARS()")
    return "\n".join(rows)


def conversation(view: SessionView, *, compaction: bool) -> list[ChatMessage]:
    """What the root model still sees of earlier turns: one message each, or with `compaction` off, all."""
    messages: list[ChatMessage] = []
    for turn in view.turns:
        if compaction and turn.ended and turn.ended.summary:
            messages.append(ChatMessage(role="user", content=turn.ended.summary))
        else:
            messages += [ChatMessage(role=said.role, content=said.content) for said in turn.messages]
    return messages


def history(view: SessionView) -> list[dict[str, object]]:
    """Every message of the session: `turn`, `role`, `content`. The `history` of the REPL."""
    turns: list[Turn] = list(view.turns)
    return [
        {"turn": turn.ended.turn, "role": said.role, "content": said.content}
        for turn in turns
        for said in turn.messages
    ]


def summary(
    turn: int,
    question: str,
    messages: Sequence[ChatMessage],
    *,
    answer: str,
    status: str,
    answer_index: int | None,
    variables: Sequence[Variable],
) -> str:
    """The one message that a finished turn becomes; at most about 9,000 characters."""
    findings: list[str] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            plan = content.split("```repl", 1)[0].strip()
            if plan:
                findings.append(f"- {_head(plan, PLAN_CHARS)}")
        elif content.startswith("Out ["):
            output = content.partition("\n\n")[2].strip()
            if output and output != "(no output)":
                findings.append(f"  saw: {_head(output, OUTPUT_CHARS)}")
    learned = "\n".join(findings)
    if len(learned) > SUMMARY_CHARS:
        half = SUMMARY_CHARS // 2
        learned = f"{learned[:half]}\n… (the rest is in `history`) …\n{learned[-half:]}"
    where = "" if answer_index is None else f" (whole in answers[{answer_index}])"
    names = ", ".join(f"{row.name} ({row.type}, {row.size})" for row in variables[:LISTED_VARIABLES])
    parts = [
        f"[Turn {turn}, finished: {status}]",
        f"Question: {question}",
        f"What was done and learned:\n{learned}" if learned else "",
        f"Answer{where}: {_head(answer, ANSWER_CHARS)}" if answer else "There was no answer.",
        f"Variables kept: {names}" if names else "",
    ]
    return "\n".join(part for part in parts if part)


def _head(text: str, limit: int) -> str:
    flat = " ".join(text.split()) if len(text) <= limit * 4 else " ".join(text[: limit * 4].split())
    return flat if len(flat) <= limit else f"{flat[:limit]}…"
