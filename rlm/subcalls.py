"""Serves what cells ask of models: `llm_query`, `rlm_query` and their batches.

A batch is priced before it is sent, and a dear one asked about; prompts that cannot fit are refused. All
depths share one ledger, one cache and the places of one `Retry`. How a call is made is `rlm.calls`' business,
how items run side by side `rlm.batch`'s. It knows nothing of screens: it emits events.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlm.batch import Batch, Item, Work
from rlm.batch_price import price_of, price_of_children, refusal
from rlm.box.namespace import RequestRefused
from rlm.call_cache import CallCache, call_key
from rlm.calls import Call, Caller, CallReply, require_fits
from rlm.deadline import SETTLE_S, answered
from rlm.errors import ConfigError, PromptTooLarge
from rlm.events import AskBatch, BatchChoice, BatchPrice, Event, Usage
from rlm.ledger import Ledger
from rlm.models import ChatMessage, Model
from rlm.protocol import SubCalls, pack_strings, unpack_strings
from rlm.retry import Retry
from rlm.settings import ModelConfig

MOST_PROMPTS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildTask:
    """What a child RLM is to do: number `child` of the turn, at `depth`, asked by the RLM `parent`.

    Its context is the text `context`, or else a `piece` of a document: JSON as in `sandbox.pieces`. It pays
    with `ledger`.
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
    ledger: Ledger


class Child(Protocol):
    """Runs a child RLM; its answer, and what it took. Raises `RlmError`."""

    def __call__(self, task: ChildTask) -> Awaitable[CallReply]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks: the RLM number `child` at `depth`, which pays with `ledger`."""

    depth: int
    child: int
    ledger: Ledger


@dataclass(slots=True, kw_only=True)
class SubCallServer:
    """One for a question. `child` is None where recursion ends; then `rlm_query` is a plain sub-call.

    Without a `cache`, each call is sent, equal ones too. `asks` tells whether there is a user to answer
    `AskBatch`; the time that takes is given back through `extend`.
    """

    sub: Model
    choose: Callable[[str], Model]
    """The model that an alias or name stands for. Raises `ConfigError` when it is not allowed."""
    settings: Callable[[str | None], ModelConfig]
    """What is configured of that model, or of the sub model for None: equal calls are told by it."""
    ledger: Ledger
    retry: Retry
    emit: Callable[[Event], None]
    max_depth: int = 1
    max_children: int = 4
    confirm_above_usd: float = float("inf")
    asks: bool = False
    cache: CallCache | None = None
    child: Child | None = None
    extend: Callable[[float], None] = lambda seconds: None
    _caller: Caller = field(init=False)
    _children: "defaultdict[int, asyncio.Semaphore]" = field(init=False)
    _active: set[Item] = field(default_factory=set)
    _closed: str = ""
    _taken: Usage = field(default_factory=Usage)
    """What child RLMs took that have finished; `_finished` is how many."""
    _finished: int = 0
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _batches: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _child_numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._caller = Caller(self.retry, self.cache, closed=lambda: self._closed)
        # One for each depth: a child that waits for its own children must not hold back those.
        self._children = defaultdict(lambda: asyncio.Semaphore(self.max_children))

    async def serve(
        self, request: SubCalls, body: bytes, *, depth: int, child: int = 0, ledger: Ledger | None = None
    ) -> bytes:
        """Answer one request of a cell: packed (status, text) pairs, one for each prompt.

        The status is `ok`, `cut` for a reply that ended at its length limit, `whole` where the text of a
        piece is needed to go on, or the name of an error.
        """
        if request.kind not in ("llm", "rlm") or not 0 < request.count <= MOST_PROMPTS:
            raise RequestRefused("a request that cannot be")
        try:
            model = self.choose(request.model) if request.model else self.sub
        except ConfigError as error:
            raise RequestRefused(str(error)) from None
        asker = Asker(depth=depth, child=child, ledger=ledger or self.ledger)
        if request.kind == "llm":
            system, *prompts = unpack_strings(body, 1 + request.count)
            results = await self._ask_model(asker, model, request.model, prompts, system=system)
        else:
            strings = unpack_strings(body, 3 * request.count)
            tasks = list(zip(strings[::3], strings[1::3], strings[2::3], strict=True))
            if self.child is not None and depth + 1 < self.max_depth:
                results = await self._run_children(asker, model, tasks)
            elif any(piece for _, piece, _ in tasks):
                results = [("whole", "")] * len(tasks)
            else:
                prompts = [f"{query}\n\n{context}" if context else query for query, _, context in tasks]
                results = await self._ask_model(asker, model, request.model, prompts)
        return pack_strings(itertools.chain.from_iterable(results))

    def close(self, reason: str) -> None:
        """Begin nothing more; what is under way may come back for `SETTLE_S`. Cells read `reason`."""
        if self._closed:
            return
        self._closed = reason
        for item in list(self._active):
            if not item.under_way:
                item.give_up(reason)
        asyncio.get_running_loop().call_later(SETTLE_S, self._give_up)

    def _give_up(self) -> None:
        for item in list(self._active):
            item.give_up(self._closed)

    # -- calls

    async def _ask_model(
        self, asker: Asker, model: Model, name: str | None, prompts: Sequence[str], *, system: str = ""
    ) -> list[tuple[str, str]]:
        # In a thread: a batch may hold a gigabyte to hash, and its price wait for litellm's import.
        items = await asyncio.to_thread(self._items, asker, model, self.settings(name), prompts, system)
        batch = self._batch(asker, model, len(items))
        too_large: list[tuple[Item, PromptTooLarge]] = []
        for item in items:
            try:
                assert item.call
                require_fits(item.call)
            except PromptTooLarge as error:
                too_large.append((item, error))
        refused = {item for item, _ in too_large}
        fitting = [item for item in items if item not in refused]

        def price_of_them(left: Sequence[Item]) -> BatchPrice:
            return self._price(left, model, asker)

        price = price_of_them(fitting)
        async with batch.open(price.cost_usd):
            for item, reason in too_large:
                batch.fail(item, reason)
            await self._send_as_agreed(batch, fitting, price, price_of_them, self._answer, asker)
        return [item.result for item in items]

    def _items(
        self, asker: Asker, model: Model, settings: ModelConfig, prompts: Sequence[str], system: str
    ) -> list[Item]:
        items = []
        for index, prompt in enumerate(prompts):
            messages = [ChatMessage(role="system", content=system)] if system else []
            messages.append(ChatMessage(role="user", content=prompt))
            key = call_key(settings, messages) if self.cache else ""
            items.append(Item(index, prompt, Call(model, messages, asker.ledger, key)))
        return items

    def _price(self, items: Sequence[Item], model: Model, asker: Asker) -> BatchPrice:
        """Of those that have to be sent: equal calls once, and not what is kept."""
        calls = [item.call for item in items if item.call]
        if self.cache:
            by_key = {call.key: call for call in calls}
            missing = self.cache.missing(by_key)
            to_send = [call for key, call in by_key.items() if key in missing]
        else:
            to_send = calls
        return price_of(to_send, cached=len(calls) - len(to_send), model=model, ledger=asker.ledger)

    async def _send_as_agreed(
        self,
        batch: Batch,
        items: Sequence[Item],
        price: BatchPrice,
        price_of_them: Callable[[Sequence[Item]], BatchPrice],
        work: Work,
        asker: Asker,
    ) -> None:
        """Send all, or as many as the user agrees to; the others keep the result that they were not.

        `price` is that of all; what is left after a part is priced anew.
        """
        sent = 0
        while sent < len(items):
            left = items[sent:]
            if sent:
                price = price_of_them(left)
            dear = self.asks and (price.cost_usd or 0.0) > self.confirm_above_usd
            if dear or (sent and price.calls):
                choice = await self._ask_user(batch, price, sampled=sent)
            else:
                left_calls = asker.ledger.remaining_sub_calls()
                if len(items) > 1 and price.affordable < price.calls:
                    raise RequestRefused(refusal(price, left_calls=left_calls, children=batch.recursive))
                choice = BatchChoice(kind="run")
            if choice.kind == "cancel":
                if not sent:
                    raise RequestRefused(
                        f"The user said no to this batch of {len(items):,} calls. Plan a smaller one."
                    )
                for item in left:
                    item.result = ("NotSent", "The user stopped the batch here.")
                return
            count = len(left) if choice.kind == "run" else max(1, choice.calls)
            await batch.send(left[:count], work)
            sent += count

    async def _answer(self, item: Item) -> CallReply:
        assert item.call
        return await self._caller.answer(item.call)

    async def _ask_user(self, batch: Batch, price: BatchPrice, *, sampled: int) -> BatchChoice:
        async with self._asking:
            answer: asyncio.Future[BatchChoice] = asyncio.get_running_loop().create_future()
            batch.emit(
                AskBatch(
                    batch=batch.number,
                    price=price,
                    sampled=sampled,
                    answer=answer,
                    depth=batch.depth,
                    child=batch.child,
                )
            )
            return await answered(answer, self.extend)

    # -- children

    async def _run_children(
        self, asker: Asker, model: Model, tasks: Sequence[tuple[str, str, str]]
    ) -> list[tuple[str, str]]:
        items = [
            Item(index, query, child=next(self._child_numbers)) for index, (query, _, _) in enumerate(tasks)
        ]
        batch = self._batch(asker, model, len(items), recursive=True)
        places = self._children[asker.depth]

        async def run(item: Item) -> CallReply:
            assert self.child
            query, piece, context = tasks[item.index]
            async with places:
                item.running, item.started_s = True, time.monotonic()
                reply = await self.child(
                    ChildTask(
                        child=item.child,
                        parent=asker.child,
                        batch=batch.number,
                        index=item.index,
                        depth=asker.depth + 1,
                        query=query,
                        context=context,
                        piece=piece,
                        model=model,
                        ledger=asker.ledger,
                    )
                )
                self._taken += reply.usage
                self._finished += 1
                return reply

        def price_of_them(left: Sequence[Item]) -> BatchPrice:
            return price_of_children(
                len(left), model=model, ledger=asker.ledger, taken=self._taken, finished=self._finished
            )

        price = price_of_them(items)
        async with batch.open(price.cost_usd):
            await self._send_as_agreed(batch, items, price, price_of_them, run, asker)
        return [item.result for item in items]

    def _batch(self, asker: Asker, model: Model, total: int, *, recursive: bool = False) -> Batch:
        return Batch(
            number=next(self._batches),
            total=total,
            model=model.name,
            recursive=recursive,
            depth=asker.depth,
            child=asker.child,
            emit=self.emit,
            active=self._active,
            closed=lambda: self._closed,
        )
