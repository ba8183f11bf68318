"""What is left of steps and turns when they are told in short: by rule, not by a model.

So it costs nothing, takes no time and invents nothing; whatever it leaves out is data in the REPL (`answers`,
`history`). When which form is sent, `rlm.memory` and `rlm.window` decide.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence

from rlm.models import ChatMessage
from rlm.records import Variable

PLAN_CHARS = 400
OUTPUT_CHARS = 400
USER_CHARS = 1_000
QUESTION_CHARS = 2_000
ANSWER_CHARS = 2_000
FINDINGS_CHARS = 6_000
LISTED_VARIABLES = 40
BRIEF_QUESTION_CHARS = 100
BRIEF_ANSWER_CHARS = 140
BRIEF_VARIABLES = 6

_CODE = re.compile(r"```repl\n(.*?)\n```", re.DOTALL)
_OWN_SCOPE = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)
_WORD = re.compile(r"\w+")
_FROM_USER = re.compile(r"(?:The user adds|The user interrupted .*\nThe user says): (.*)", re.DOTALL)
"""Messages made of `prompts/said.md`, and of `prompts/resumed.md` with a hint."""


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
    """The one message that a finished turn becomes; at most about 11,000 characters, and what the user said.

    Of the variables those are named that its cells name. `answer_index` is its place in `answers`.
    """
    learned, added = findings(messages), from_user(messages)
    where = "" if answer_index is None else f" (whole in answers[{answer_index}])"
    names = ", ".join(
        f"{row.name} ({row.type}, {row.size})" for row in used(variables, messages)[:LISTED_VARIABLES]
    )
    parts = [
        f"[Turn {turn}, finished: {status}]",
        f"Question: {question if len(question) <= QUESTION_CHARS else head(question, QUESTION_CHARS)}",
        f"What was done and learned:\n{learned}" if learned else "",
        f"What the user said meanwhile:\n{added}" if added else "",
        f"Answer{where}: {head(answer, ANSWER_CHARS)}" if answer else "There was no answer.",
        f"Variables kept: {names}" if names else "",
    ]
    return "\n".join(part for part in parts if part)


def brief(
    turn: int,
    question: str,
    messages: Sequence[ChatMessage] = (),
    *,
    answer: str = "",
    status: str,
    answer_index: int | None,
    variables: Sequence[Variable] = (),
) -> str:
    """The one line that is told of an older turn; at most about 500 characters."""
    line = f"Turn {turn} ({status}): {head(question, BRIEF_QUESTION_CHARS)}"
    if answer:
        line += f" → {head(answer, BRIEF_ANSWER_CHARS)}"
    where = [] if answer_index is None else [f"answers[{answer_index}]"]
    where += [head(row.name, 40) for row in used(variables, messages)[:BRIEF_VARIABLES]]
    return f"{line} [{', '.join(where)}]" if where else line


def steps(messages: Sequence[ChatMessage]) -> str:
    """The one message that stands for the first steps of a turn under way, of at most 14,000 characters."""
    added = from_user(messages)
    count = sum(1 for message in messages if message["role"] == "assistant")
    names = list(dict.fromkeys(name for code in _cells(messages) for name in _assigned(code)))
    parts = [
        f"[The first {count} replies of this turn, and what came out, in short. The whole of it is in "
        "`history`, long outputs are in `outputs`, and variables are as your cells left them.]",
        f"What was done and learned:\n{findings(messages)}",
        f"What the user said meanwhile:\n{added}" if added else "",
        f"Variables assigned: {', '.join(names[:LISTED_VARIABLES])}" if names else "",
    ]
    return "\n".join(part for part in parts if part)


def findings(messages: Iterable[ChatMessage]) -> str:
    """The plans in the root model's own words, and the beginning of each output."""
    return _bounded("\n".join(_findings(messages)))


def from_user(messages: Iterable[ChatMessage]) -> str:
    """What the user said while the turn ran, a line each."""
    said = (match[1] for message in messages if (match := _FROM_USER.match(message["content"])))
    return _bounded("\n".join(f"- {head(text, USER_CHARS)}" for text in said))


def _bounded(text: str) -> str:
    if len(text) <= FINDINGS_CHARS:
        return text
    half = FINDINGS_CHARS // 2
    return f"{text[:half]}\n… (the rest is in `history`) …\n{text[-half:]}"


def _findings(messages: Iterable[ChatMessage]) -> Iterator[str]:
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            if plan := content.split("```repl", 1)[0].strip():
                yield f"- {head(plan, PLAN_CHARS)}"
        elif content.startswith("Out ["):
            output = content.partition("\n\n")[2].strip()
            if output and output != "(no output)":
                yield f"  saw: {head(output, OUTPUT_CHARS)}"


def used(variables: Sequence[Variable], messages: Iterable[ChatMessage]) -> list[Variable]:
    """Those of the variables that the cells in `messages` name, but for modules."""
    words = {word for code in _cells(messages) for word in _WORD.findall(code)}
    return [row for row in variables if row.name in words and row.type != "module"]


def _cells(messages: Iterable[ChatMessage]) -> Iterator[str]:
    for message in messages:
        if message["role"] == "assistant" and (match := _CODE.search(message["content"])):
            yield match[1]


def _assigned(code: str) -> list[str]:
    """Names that a cell binds in the namespace; none for code that does not parse or nests too deeply."""
    try:
        return list(_bound(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _bound(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif not isinstance(child, _OWN_SCOPE):
            yield from _bound(child)


def head(text: str, limit: int) -> str:
    """The beginning of a text as one line."""
    flat = " ".join(text[: limit * 4].split())
    return flat if len(flat) <= limit and len(text) <= limit * 4 else f"{flat[:limit]}…"
