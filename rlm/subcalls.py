"""Serves what cells ask of models: `llm_query`, `rlm_query` and their batches.

A batch keeps its order and its length; each prompt becomes a result of its own, and one that fails becomes
the name and text of its error. Everything that runs, at all depths, shares one semaphore and one ledger;
money is reserved just before a call is sent. With a cache, equal calls are sent once. It knows nothing of
screens: it emits events.
"""

import asyncio
import functools
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from rlm.box.namespace import RequestRefused
from rlm.call_cache import CallCache, Kept, call_key
from rlm.errors import ConfigError, RlmError
from rlm.events import Event, SubCallFinished, SubCallsFinished, SubCallsStarted, Usage
from rlm.ledger import Ledger
from rlm.models import ChatMessage, Model, ModelReply, estimate_tokens
from rlm.protocol import SubCalls, pack_strings, unpack_strings
from rlm.settings import ModelConfig

T = TypeVar("T")

SUB_OUTPUT_TOKENS = 8_192
LEAST_OUTPUT_TOKENS = 256
HEAD_CHARS = 2_000
CHILDREN_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildTask:
    """What a child RLM is to do: number `child` of the turn, at `depth`, asked by the RLM `parent`.

    Its context is the text `context`, or else a `piece` of a document: JSON as in `sandbox.pieces`.
    """

    child: int
    parent: int
    batch: int
    index: int
    depth: int
    query: str
    context: str
    piece: str
    model: Model


class Child(Protocol):
    """Runs a child RLM and returns its answer. Raises `RlmError`."""

    def __call__(self, task: ChildTask) -> Awaitable[str]: ...


class SingleFlight(Generic[T]):
    """Of equal calls that are under way at once, runs one; the others get its result, or its failure.

    When the one that runs is cancelled, one of the others takes over.
    """

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[T]] = {}

    async def run(self, key: str, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, or of an equal one that is under way under the same `key`."""
        while (running := self._running.get(key)) is not None:
            await asyncio.wait([running])  # to give up waiting for it must not end it
            if not running.cancelled():
                return running.result()
        running = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            result = await call()
        except Exception as failure:
            running.set_exception(failure)
            running.exception()  # perhaps nobody waits for it
            raise
        except BaseException:
            running.cancel()
            raise
        else:
            running.set_result(result)
            return result
        finally:
            del self._running[key]


@dataclass(slots=True)
class SubCallServer:
    """One for a question. `child` is None where recursion ends; then `rlm_query` is a plain sub-call.

    Without a `cache`, each call is sent, equal ones too.
    """

    sub: Model
    choose: Callable[[str], Model]
    """The model that an alias or name stands for. Raises `ConfigError` when it is not allowed."""
    settings: Callable[[str | None], ModelConfig]
    """What is configured of that model, or of the sub model for None: equal calls are told by it."""
    ledger: Ledger
    parallel: int
    max_depth: int
    emit: Callable[[Event], None]
    cache: CallCache | None = None
    child: Child | None = None
    _flights: SingleFlight[Kept] = field(default_factory=SingleFlight)
    _gate: asyncio.Semaphore = field(init=False)
    _children: asyncio.Semaphore = field(init=False)
    _batches: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _child_numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

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
        batch = _Batch(
            self,
            next(self._batches),
            model,
            self.settings(request.model),
            depth,
            request.system,
            as_children=grows,
        )
        results = await batch.run(pairs)
        return pack_strings(itertools.chain.from_iterable(results))


@dataclass(slots=True)
class _Call:
    """One prompt of a batch: the call it comes to, and what became of it. `key` is empty without a cache."""

    index: int
    query: str
    context: str
    messages: Sequence[ChatMessage]
    key: str = ""
    started: float = field(default_factory=time.monotonic)
    sent: bool = False
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True)
class _Batch:
    server: SubCallServer
    number: int
    model: Model
    settings: ModelConfig
    depth: int
    system: str | None
    as_children: bool
    done: int = 0
    failed: int = 0

    async def run(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        started = time.monotonic()
        server = self.server
        calls = [self._call(index, query, context) for index, (query, context) in enumerate(pairs)]
        server.emit(
            SubCallsStarted(
                batch=self.number,
                total=len(calls),
                model=self.model.name,
                estimate_usd=self._estimate_usd(calls),
                depth=self.depth,
            )
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(call, total=len(calls))) for call in calls]
        finally:
            server.emit(
                SubCallsFinished(
                    batch=self.number,
                    total=len(calls),
                    failed=self.failed + len(calls) - self.done,
                    duration_s=time.monotonic() - started,
                    depth=self.depth,
                )
            )
        return [task.result() for task in tasks]

    def _call(self, index: int, query: str, context: str) -> _Call:
        prompt = f"{query}\n\n{context}" if context else query
        messages = [ChatMessage(role="system", content=self.system)] if self.system else []
        messages.append(ChatMessage(role="user", content=prompt))
        key = call_key(self.settings, messages) if self.server.cache and not self.as_children else ""
        return _Call(index, query, context, messages, key)

    async def _one(self, call: _Call, *, total: int) -> tuple[str, str]:
        error = ""
        cached = False
        try:
            if self.as_children:
                assert self.server.child is not None
                async with self.server._children:
                    task = ChildTask(
                        child=next(self.server._child_numbers),
                        parent=0,
                        batch=self.number,
                        index=call.index,
                        depth=self.depth + 1,
                        query=call.query,
                        context=call.context,
                        piece="",
                        model=self.model,
                    )
                    text = await self.server.child(task)
            else:
                text = await self._answer(call)
                cached = not call.sent
            result = ("ok", text)
        except RlmError as failure:
            error = str(failure)
            result = (type(failure).__name__, error)
            self.failed += 1
        self.done += 1
        self.server.emit(
            SubCallFinished(
                batch=self.number,
                index=call.index,
                prompt=call.query[:HEAD_CHARS],
                reply=result[1][:HEAD_CHARS] if not error else "",
                error=error,
                usage=call.usage,
                duration_s=time.monotonic() - call.started,
                done=self.done,
                total=total,
                cached=cached,
                depth=self.depth,
            )
        )
        return result

    async def _answer(self, call: _Call) -> str:
        """The reply: kept, from an equal call that is under way, or paid for now."""
        cache = self.server.cache
        if cache is None:
            return (await self._send(call)).text
        kept = await self.server._flights.run(call.key, functools.partial(self._find_or_send, call, cache))
        if not call.sent:
            cache.count_hit(call.key, kept.usage)
        return kept.text

    async def _find_or_send(self, call: _Call, cache: CallCache) -> Kept:
        if kept := cache.find(call.key):
            return kept
        reply = await self._send(call)
        # Nothing is awaited once the reply is there: what was paid for is kept before anybody gets it.
        cache.keep(call.key, reply)
        return Kept(reply.text, reply.usage)

    async def _send(self, call: _Call) -> ModelReply:
        async with self.server._gate:
            call.started = time.monotonic()
            reply = await self._paid(call.messages)
        call.sent = True
        call.usage = reply.usage
        return reply

    async def _paid(self, messages: Sequence[ChatMessage]) -> ModelReply:
        input_tokens = estimate_tokens(messages)
        model, ledger = self.model, self.server.ledger
        wanted = min(SUB_OUTPUT_TOKENS, model.max_output_tokens or SUB_OUTPUT_TOKENS)
        limit = ledger.affordable_output_tokens(wanted, input_tokens=input_tokens, price=model.price)
        limit = max(limit, LEAST_OUTPUT_TOKENS)
        reservation = ledger.reserve(
            model.name, input_tokens=input_tokens, output_tokens=limit, price=model.price, sub_call=True
        )
        reply: ModelReply | None = None
        try:
            reply = await model.complete(messages, max_output_tokens=limit)
        finally:
            # A call that failed or was cancelled has no numbers; nothing is counted for it.
            if reply is None:
                ledger.release(reservation)
            else:
                ledger.settle(reservation, reply.usage)
        return reply

    def _estimate_usd(self, calls: Sequence[_Call]) -> float | None:
        """What the batch will cost, if replies are a tenth as long as the limit; None when unpriced."""
        price, cache = self.model.price, self.server.cache
        if price is None or self.as_children:
            return None
        if cache:
            by_key = {call.key: call for call in calls}
            calls = [by_key[key] for key in cache.missing(by_key)]
        tokens = sum((len(call.query) + len(call.context)) // 4 + 1 for call in calls)
        return price.cost_usd(input_tokens=tokens, output_tokens=len(calls) * SUB_OUTPUT_TOKENS // 10)
