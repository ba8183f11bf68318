"""Events to show, and what the screen and a log make of them."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from rlm.events import (
    Answer,
    AskBatch,
    BatchPrice,
    CellFinished,
    ChildFinished,
    ChildStarted,
    Event,
    ReplyFinished,
    SubCallFinished,
    SubCallsStarted,
    TurnFinished,
    Usage,
)
from rlm.ui.render import Screen

from . import Pipes, Terminal, leaks

CELLS_BEFORE = 6
"""Cells are numbered across the turns of a session, steps within a turn."""
USAGE = Usage(
    calls=41, sub_calls=38, input_tokens=210_344, output_tokens=6_012, cached_tokens=90_112, cost_usd=0.09
)
SESSION = replace(USAGE, cost_usd=0.84)
CALL = Usage(calls=1, sub_calls=1, input_tokens=27_000, output_tokens=500, cost_usd=0.0095)
PRICE = BatchPrice(
    calls=900,
    cached=40,
    model="gpt-5-mini",
    input_tokens=11_000_000,
    output_tokens=1_000_000,
    cost_usd=3.1,
    left_usd=1.0,
    left_tokens=None,
    affordable=288,
)
CODE = "import re\nsample = context[:20_000]\n" + "\n".join(f"x{n} = {n}" for n in range(47))


def reply(prose: str = "", code: str | None = "x = 1", *, step: int = 1, child: int = 0) -> ReplyFinished:
    """Of the turn's own RLM, or of a child of it."""
    return ReplyFinished(
        step=step,
        cell=step + CELLS_BEFORE,
        prose=prose,
        code=code,
        reasoning="",
        usage=USAGE,
        model="gpt-5",
        depth=1 if child else 0,
        child=child,
    )


def cell(
    status: str = "ok", *, shown: str = "", error: str = "", step: int = 1, child: int = 0
) -> CellFinished:
    return CellFinished(
        step=step,
        cell=step + CELLS_BEFORE,
        status=status,
        shown=shown,
        total_chars=len(shown),
        error=error,
        duration_s=1.2,
        depth=1 if child else 0,
        child=child,
    )


def call(batch: int, done: int, total: int, *, error: str = "", child: int = 0) -> SubCallFinished:
    return SubCallFinished(
        batch=batch,
        index=done - 1,
        prompt="prompt",
        reply="reply",
        error=error,
        usage=CALL,
        duration_s=1.0,
        done=done,
        total=total,
        depth=1 if child else 0,
        child=child,
    )


def started(
    batch: int,
    total: int,
    *,
    estimate_usd: float | None = 0.34,
    recursive: bool = False,
    child: int = 0,
) -> SubCallsStarted:
    return SubCallsStarted(
        batch=batch,
        total=total,
        model="gpt-5-mini",
        estimate_usd=estimate_usd,
        recursive=recursive,
        depth=1 if child else 0,
        child=child,
    )


def child_started(question: str, child: int = 1) -> ChildStarted:
    """Of batch 1."""
    return ChildStarted(
        child=child,
        parent=0,
        batch=1,
        index=child - 1,
        question=question,
        context_chars=9_000,
        model="gpt-5-mini",
        depth=1,
    )


def child_finished(child: int = 1, *, status: str = "ok", message: str = "") -> ChildFinished:
    return ChildFinished(
        child=child,
        status=status,
        steps=3,
        answer="forty\ntwo" if status == "ok" else "",
        usage=USAGE,
        duration_s=1.0,
        message=message,
        depth=1,
    )


def ask_batch(price: BatchPrice) -> AskBatch:
    """Of batch 1. Nobody waits for its answer."""
    loop = asyncio.new_event_loop()
    loop.close()
    return AskBatch(batch=1, price=price, sampled=0, answer=asyncio.Future(loop=loop))


def finished(status: str = "ok", *, message: str = "", usage: Usage = USAGE) -> TurnFinished:
    answer = Answer(path="/a", size_bytes=3, format="text", text="yes", complete=True)
    return TurnFinished(
        turn=1,
        status=status,
        steps=3,
        answer=answer,
        usage=usage,
        session_usage=SESSION,
        duration_s=38.0,
        message=message,
    )


def shown(
    events: Iterable[Event],
    *,
    columns: int = 80,
    verbose: bool = False,
    quiet: bool = False,
    more: str = "",
) -> list[str]:
    """The screen after `events`, one second apart."""
    with Terminal(columns=columns, rows=200, verbose=verbose, quiet=quiet) as terminal:
        screen = Screen(terminal.console, more=more)
        for event in events:
            screen.show(event)
            terminal.clock.now_s += 1
        terminal.console.status("")
        assert leaks(terminal.stream) == []
        return terminal.shown


def logged(events: Iterable[Event], *, verbose: bool = False, quiet: bool = False) -> list[str]:
    """What a log gets of `events`, one second apart."""
    pipes = Pipes(verbose=verbose, quiet=quiet)
    screen = Screen(pipes.console)
    for event in events:
        screen.show(event)
        pipes.clock.now_s += 1
        screen.tick()
    assert pipes.out == b""
    assert "\x1b" not in pipes.err
    assert "\r" not in pipes.err
    return pipes.err.splitlines()
