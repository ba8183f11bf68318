"""What the root model is told before a question: the rules, and of earlier turns as much as is useful.

The newest turns are told whole or as one message each, older ones in a line, the oldest are only counted: a
conversation stays as short as it was after its third question. All of it remains data (`answers`, `history`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlm import families, prompts, summaries
from rlm.errors import ConfigError
from rlm.ledger import UNPRICED_TOKENS
from rlm.models import CHARS_PER_TOKEN, ChatMessage, Model, estimate_tokens
from rlm.records import SessionView, Turn, Variable
from rlm.settings import Config, Limits

SUMMARISED_TURNS = 2
"""The newest turns, each told by its summary."""
BRIEF_TURNS = 20
"""Of the turns before those, so many are told in a line each; the others are counted."""
STR_SHARE = 16
"""The sandbox makes a text a `str` up to this share of its memory; see `sandbox.worker`."""
"""Fewer than most text has, so that a prompt of so many characters fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """One thing that is kept of earlier turns. `sent`: the root model is sent `text`, as one message.

    What is not sent is data in the REPL: then `text` tells of it, and `chars` is how much it is.
    """

    title: str
    chars: int
    text: str
    sent: bool


def system(
    config: Config,
    sub: Model,
    *,
    root: str | None = None,
    choose: Callable[[str], Model] | None = None,
) -> ChatMessage:
    """The system prompt, with the real limits and models in it.

    `root` names the model that will read it, when it is not the configured one. `choose` gives the model
    behind an alias; without it, aliases are told without what they take.
    """
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
        sub_chars=f"{window * CHARS_PER_TOKEN:,} characters" if window else "an unknown number of characters",
        sub_limits=_sub_limits(sub, limits),
        aliases=_aliases(config, choose),
        budget=_budget(sub, limits),
        family=families.addendum(root or config.root.model),
        rlm_note=children
        if limits.max_depth > 1
        else "here the same as llm_query on the prompt followed by the context.",
    )
    return ChatMessage(role="system", content=text.rstrip())


def _sub_limits(sub: Model, limits: Limits) -> str:
    price = sub.price
    cost = (
        f"costs ${price.input_per_mtok:g} for a million tokens in and ${price.output_per_mtok:g} out"
        if price
        else "has no known price"
    )
    return f"{sub.name} {_takes(sub)}, {cost}, and answers up to {limits.parallel:,} calls at a time."


def _takes(model: Model) -> str:
    if not (window := model.context_window):
        return "takes prompts of an unknown length"
    return f"takes prompts of up to {window:,} tokens (about {window * CHARS_PER_TOKEN:,} characters)"


def _aliases(config: Config, choose: Callable[[str], Model] | None) -> str:
    told = []
    for alias, model in config.aliases.items():
        try:
            takes = f", which {_takes(choose(alias))}" if choose else ""
        except ConfigError:  # it has no key, so that no cell can use it
            continue
        told.append(f'"{alias}" for {model.model}{takes}')
    return f"`model=` takes {'; '.join(told)}." if told else ""


def _budget(sub: Model, limits: Limits) -> str:
    parts = [f"${limits.max_cost_usd:,.2f}", f"{limits.max_sub_calls:,} sub-calls"]
    if limits.max_tokens is not None:
        parts.append(f"{limits.max_tokens:,} tokens")
    elif sub.price is None:
        parts.append(f"{UNPRICED_TOKENS:,} tokens of models without a known price")
    return f"A question may take up to {', '.join(parts[:-1])} and {parts[-1]}, all calls together."


def conversation(
    view: SessionView, *, compaction: bool, limit_tokens: int | None = None
) -> list[ChatMessage]:
    """What the root model is sent of earlier turns, oldest first.

    With `compaction` off, turns are told whole. `limit_tokens` bounds all of it: newer turns are served
    first, and what no longer fits is told in a shorter form.
    """
    return [
        message
        for told in _told(view, compaction=compaction, limit_tokens=limit_tokens)
        for message in told.messages
    ]


def rows(
    view: SessionView, *, compaction: bool, variables: Sequence[Variable], limit_tokens: int | None = None
) -> list[MemoryRow]:
    """What is kept of earlier turns: first what the root model would be sent of them, then what is data."""
    sent = [
        MemoryRow(
            title=told.title,
            chars=len(message["content"]),
            text=message["content"],
            sent=True,
        )
        for told in _told(view, compaction=compaction, limit_tokens=limit_tokens)
        for message in told.messages
    ]
    return [*sent, *_data(view, variables)]


def history(view: SessionView) -> list[dict[str, object]]:
    """Every message of the session: `turn`, `role`, `content`. The `history` of the REPL."""
    return [
        {"turn": turn.ended.turn, "role": said.role, "content": said.content}
        for turn in view.turns
        for said in turn.messages
    ]


@dataclass(frozen=True, slots=True)
class _Told:
    title: str
    messages: list[ChatMessage]


def _told(view: SessionView, *, compaction: bool, limit_tokens: int | None) -> list[_Told]:
    """Earlier turns in the forms that they are sent in, oldest first."""
    left = float("inf") if limit_tokens is None else limit_tokens
    longer: list[_Told] = []
    older = list(view.turns)
    whole = not compaction
    while older and older[-1].ended.turn > view.compacted_to:
        if compaction and len(longer) == SUMMARISED_TURNS:
            break
        forms = _forms(older[-1], whole=whole)
        told = next((form for form in forms if _tokens(form) <= left), None)
        if told is None:
            break
        whole = whole and told is forms[0]  # older ones are not told in more words than newer ones
        left -= _tokens(told)
        longer.append(told)
        older.pop()
    return [*_in_short(view, older, left), *reversed(longer)]


def _forms(turn: Turn, *, whole: bool) -> list[_Told]:
    """The forms a turn can have but for the shortest, the wanted one first."""
    title = f"turn {turn.ended.turn}"
    messages = _Told(title, [ChatMessage(role=said.role, content=said.content) for said in turn.messages])
    if not turn.ended.summary:
        return [messages]
    summary = _Told(f"{title}, summary", [ChatMessage(role="user", content=turn.ended.summary)])
    return [messages, summary] if whole else [summary]


def _in_short(view: SessionView, turns: Sequence[Turn], left: float) -> list[_Told]:
    """Turns told in a line each, as one message, as many of the newest as the bound and `left` allow."""
    if not turns:
        return []
    lines: list[str] = []
    for turn in reversed(turns[-BRIEF_TURNS:]):
        line = turn.ended.brief or _brief(view, turn)
        left -= _tokens(_Told("", [ChatMessage(role="user", content=line)]))
        if left < 0:
            break
        lines.insert(0, line)
    counted = [turn.ended.turn for turn in turns[: len(turns) - len(lines)]]
    parts = ["[Earlier turns in short; their messages are in `history`, their answers in `answers`]"]
    if counted:
        parts.append(f"{_numbers(counted)}: only in `history` and `answers`.")
    title = f"{_numbers([turn.ended.turn for turn in turns]).lower()}, in short"
    return [_Told(title, [ChatMessage(role="user", content="\n".join(parts + lines))])]


def _brief(view: SessionView, turn: Turn) -> str:
    """The line of a turn that an earlier version recorded."""
    return summaries.brief(
        turn.ended.turn,
        turn.question,
        status=turn.ended.status,
        answer_index=_answers(view).get(turn.ended.turn),
    )


def _answers(view: SessionView) -> dict[int, int]:
    """The place in `answers` of each turn that has one."""
    answered = [turn.ended.turn for turn in view.turns if turn.ended.answer]
    return {turn: index for index, turn in enumerate(answered)}


def _numbers(turns: Sequence[int]) -> str:
    return f"Turn {turns[0]}" if len(turns) == 1 else f"Turns {turns[0]} to {turns[-1]}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _tokens(told: _Told) -> int:
    return estimate_tokens(told.messages)


def _data(view: SessionView, variables: Sequence[Variable]) -> list[MemoryRow]:
    ended = {turn.ended.turn: turn.ended for turn in view.turns}
    answers = [
        f"answers[{index}]: turn {turn}, {ended[turn].answer_format}, {ended[turn].answer_bytes:,} B"
        for turn, index in _answers(view).items()
    ]
    messages = [said.content for turn in view.turns for said in turn.messages]
    names = [f"{row.name}: {row.type}, {row.size}" for row in variables]
    return [
        MemoryRow(
            title="answers",
            chars=sum(end.answer_bytes for end in ended.values()),
            text="\n".join(answers) or "no answers yet",
            sent=False,
        ),
        MemoryRow(
            title="history",
            chars=sum(map(len, messages)),
            text=f"{_counted(len(messages), 'message')} of {_counted(len(ended), 'turn')}",
            sent=False,
        ),
        MemoryRow(
            title="variables",
            chars=len("\n".join(names)),
            text="\n".join(names) or "no variables",
            sent=False,
        ),
    ]
