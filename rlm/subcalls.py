"""Serves what cells ask of models: `llm_query`, `rlm_query` and their batches.

A batch keeps its order and its length; each prompt becomes a result of its own, and one that fails becomes
the name and text of its error. Everything that runs, at all depths, shares one semaphore and one ledger;
money is reserved just before a call is sent. It knows nothing of screens: it emits events.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlm.box.namespace import RequestRefused
from rlm.errors import ConfigError, RlmError
from rlm.events import Event, SubCallFinished, SubCallsFinished, SubCallsStarted, Usage
from rlm.ledger import Ledger
from rlm.models import ChatMessage, Model, estimate_tokens
from rlm.protocol import SubCalls, pack_strings, unpack_strings

SUB_OUTPUT_TOKENS = 8_192
LEAST_OUTPUT_TOKENS = 256
HEAD_CHARS = 2_000
CHILDREN_AT_ONCE = 4


class Child(Protocol):
    """Runs a child RLM: query, context and depth in, answer out. Raises `RlmError`."""

    def __call__(self, query: str, context: str, *, depth: int) -> Awaitable[str]: ...


@dataclass(slots=True)
class SubCallServer:
    """One for a question. `child` is None where recursion ends; then `rlm_query` is a plain sub-call."""

    sub: Model
    choose: Callable[[str], Model]
    """The model that an alias or name stands for. Raises `ConfigError` when it is not allowed."""
    ledger: Ledger
    parallel: int
    max_depth: int
    emit: Callable[[Event], None]
    child: Child | None = None
    _gate: asyncio.Semaphore = field(init=False)
    _children: asyncio.Semaphore = field(init=False)
    _batches: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._gate = asyncio.Semaphore(self.parallel)
        self._children = asyncio.Semaphore(CHILDREN_AT_ONCE)

    async def serve(self, request: SubCalls, body: bytes, *, depth: int) -> bytes:
        """Answer one request of a cell at `depth`: packed (status, text) pairs, one for each prompt."""
        recursive = request.kind == "rlm"
        if request.kind not in ("llm", "rlm") or not 0 < request.count <= 100_000:
            raise RequestRefused("a request that cannot be")
        strings = unpack_strings(body, request.count * (2 if recursive else 1))
        pairs = (
            list(zip(strings[::2], strings[1::2], strict=True)) if recursive else [(s, "") for s in strings]
        )
        try:
            model = self.choose(request.model) if request.model else self.sub
        except ConfigError as error:
            raise RequestRefused(str(error)) from None
        grows = recursive and self.child is not None and depth + 1 < self.max_depth
        batch = _Batch(self, next(self._batches), model, depth, request.system, as_children=grows)
        results = await batch.run(pairs)
        return pack_strings(itertools.chain.from_iterable(results))


@dataclass(slots=True)
class _Batch:
    server: SubCallServer
    number: int
    model: Model
    depth: int
    system: str | None
    as_children: bool
    done: int = 0
    failed: int = 0

    async def run(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        started = time.monotonic()
        server = self.server
        server.emit(
            SubCallsStarted(
                batch=self.number,
                total=len(pairs),
                model=self.model.name,
                estimate_usd=self._estimate_usd(pairs),
                depth=self.depth,
            )
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._one(index, query, context, total=len(pairs)))
                    for index, (query, context) in enumerate(pairs)
                ]
        finally:
            server.emit(
                SubCallsFinished(
                    batch=self.number,
                    total=len(pairs),
                    failed=self.failed + len(pairs) - self.done,
                    duration_s=time.monotonic() - started,
                    depth=self.depth,
                )
            )
        return [task.result() for task in tasks]

    async def _one(self, index: int, query: str, context: str, *, total: int) -> tuple[str, str]:
        usage = Usage()
        error = ""
        started = time.monotonic()
        try:
            if self.as_children:
                assert self.server.child is not None
                async with self.server._children:
                    text = await self.server.child(query, context, depth=self.depth + 1)
            else:
                prompt = f"{query}\n\n{context}" if context else query
                async with self.server._gate:
                    started = time.monotonic()
                    text, usage = await self._ask(prompt)
            result = ("ok", text)
        except RlmError as failure:
            error = str(failure)
            result = (type(failure).__name__, error)
            self.failed += 1
        self.done += 1
        self.server.emit(
            SubCallFinished(
                batch=self.number,
                index=index,
                prompt=query[:HEAD_CHARS],
                reply=result[1][:HEAD_CHARS] if not error else "",
                error=error,
                usage=usage,
                duration_s=time.monotonic() - started,
                done=self.done,
                total=total,
                depth=self.depth,
            )
        )
        return result

    async def _ask(self, prompt: str) -> tuple[str, Usage]:
        messages = self._messages(prompt)
        input_tokens = estimate_tokens(messages)
        model, ledger = self.model, self.server.ledger
        wanted = min(SUB_OUTPUT_TOKENS, model.max_output_tokens or SUB_OUTPUT_TOKENS)
        limit = ledger.affordable_output_tokens(wanted, input_tokens=input_tokens, price=model.price)
        limit = max(limit, LEAST_OUTPUT_TOKENS)
        reservation = ledger.reserve(
            model.name, input_tokens=input_tokens, output_tokens=limit, price=model.price, sub_call=True
        )
        usage: Usage | None = None
        try:
            reply = await model.complete(messages, max_output_tokens=limit)
            usage = reply.usage
        finally:
            # A call that failed or was cancelled has no numbers; nothing is counted for it.
            if usage is None:
                ledger.release(reservation)
            else:
                ledger.settle(reservation, usage)
        return reply.text, usage

    def _messages(self, prompt: str) -> list[ChatMessage]:
        head = [ChatMessage(role="system", content=self.system)] if self.system else []
        return [*head, ChatMessage(role="user", content=prompt)]

    def _estimate_usd(self, pairs: Sequence[tuple[str, str]]) -> float | None:
        """What the batch will cost, if replies are a tenth as long as the limit; None when unpriced."""
        price = self.model.price
        if price is None or self.as_children:
            return None
        tokens = sum((len(query) + len(context)) // 4 + 1 for query, context in pairs)
        return price.cost_usd(input_tokens=tokens, output_tokens=len(pairs) * SUB_OUTPUT_TOKENS // 10)
