"""A model and a sandbox that follow a script: what the loop is tested with."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rlm.box.results import CellResult
from rlm.box.wire import BytesSink
from rlm.errors import RlmError
from rlm.events import Usage
from rlm.ledger import Price
from rlm.models import ChatMessage, ModelReply


@dataclass
class Line:
    """One reply of a scripted model: pieces of text, how it ends, and whether it waits in between."""

    text: str
    finish_reason: str = "stop"
    hangs: bool = False
    error: RlmError | None = None
    cost_usd: float = 0.001


@dataclass
class ScriptedStream:
    line: Line
    stuck: asyncio.Event
    text: str = ""
    reasoning: str = ""
    closed: bool = False
    _at: int = 0

    async def __aenter__(self) -> Self:
        if self.line.error:
            raise self.line.error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.closed = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        await asyncio.sleep(0)
        if self._at >= len(self.line.text):
            if self.line.hangs:
                self.stuck.set()
                await asyncio.Event().wait()
            raise StopAsyncIteration
        piece = self.line.text[self._at : self._at + 7]
        self._at += 7
        self.text += piece
        return piece

    @property
    def finish_reason(self) -> str:
        return self.line.finish_reason

    @property
    def usage(self) -> Usage:
        return Usage(calls=1, input_tokens=100, output_tokens=10, cost_usd=self.line.cost_usd)


@dataclass
class ScriptedModel:
    """Replies in order; keeps what it was shown each time. `stuck` is set once a reply hangs."""

    lines: list[Line]
    seen: list[list[ChatMessage]] = field(default_factory=list)
    limits: list[int | None] = field(default_factory=list)
    streams: list[ScriptedStream] = field(default_factory=list)
    stuck: asyncio.Event = field(default_factory=asyncio.Event)
    name: str = "scripted"
    price: Price | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None

    def stream(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> ScriptedStream:
        self.seen.append(list(messages))
        self.limits.append(max_output_tokens)
        self.streams.append(ScriptedStream(self.lines.pop(0), self.stuck))
        return self.streams[-1]

    async def complete(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> ModelReply:
        raise AssertionError("the root model streams")


@dataclass
class ScriptedCells:
    """Runs cells by looking them up; `hang` waits until it is interrupted, FINAL(x) answers x."""

    results: dict[str, CellResult] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    interrupts: list[str] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    running: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def next_cell(self) -> int:
        return len(self.ran) + 1

    async def run_cell(self, code: str, on_output: Callable[[str], None]) -> CellResult:
        code = code.strip()
        self.ran.append(code)
        number = len(self.ran)
        on_output(f"live {number}\n")
        self.running.set()
        if code == "hang":
            await self.stopped.wait()
            return CellResult(status="interrupted", number=number, shown="half\n")
        if code.startswith("FINAL("):
            sink = BytesSink()
            sink.write(code[6:-1].encode())
            return CellResult(status="final", number=number, final=sink, final_format="text")
        return self.results.get(code, CellResult(status="ok", number=number, shown=f"ran {code}\n"))

    def interrupt(self, why: str = "user") -> None:
        self.interrupts.append(why)
        self.stopped.set()
