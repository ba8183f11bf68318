"""The calls of the root model in one turn: what each may take, what goes with it, and where reading ends.

What the messages say, and what becomes of a reply, is the engine's business.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rlm.errors import ConfigError, Interrupted, ModelError, PromptTooLarge
from rlm.ledger import Ledger, Reservation
from rlm.models import ChatMessage, Model, ReplyStream, estimate_tokens
from rlm.parse import Reply, ReplyCutter
from rlm.window import ROOT_OUTPUT_TOKENS, Window

LEAST_OUTPUT_TOKENS = 256
ENOUGH_OUTPUT_TOKENS = 4_096
LANDED_TICK_S = 0.1
AFTER_BLOCK_S = 1.0
"""How long the stream may go on being silent after the block, so that the provider can send its numbers."""
BROKEN_AGAIN = 2
"""How often a reply is asked for again that broke off in its middle."""
SHORTENED_AGAIN = 3
"""How often one request is made shorter when the provider finds it too long."""


@dataclass(slots=True, kw_only=True)
class RootCalls:
    """`messages` are those of the turn, which may be more than is sent: `window` decides.

    `unless_stopped` awaits a reply and cancels it when the turn is to end. `on_shorter` is told how many
    characters would have been sent, and how many are from now on.
    """

    root: Model
    ledger: Ledger
    messages: list[ChatMessage]
    window: Window
    unless_stopped: Callable[[Awaitable[None]], Awaitable[None]]
    on_prose: Callable[[str], None]
    on_shorter: Callable[[int, int], None]
    broken_off: str | None = None
    """The part that came of a reply which the user stopped; None when none was."""
    _begun: bool = False
    """Whether the request that failed last had brought something."""

    async def ask(self, *, final: bool = False) -> tuple[Reply, ReplyStream]:
        """Send the messages and read the reply up to the end of its first block.

        Where they near the model's window, or the provider finds them too long, they are made shorter.
        `final`: it may be paid from the reserve. Raises `BudgetReached`, `ModelError`, `ConfigError`, and
        what `unless_stopped` does.
        """
        if self.window.is_near(self.messages):
            self._shorten()
        for _ in range(SHORTENED_AGAIN):
            sent = self.window.sent(self.messages)
            try:
                return await self._whole(sent, final=final)
            except PromptTooLarge:
                self.window.was_too_small(sent)
                if not self._shorten():
                    raise
        return await self._whole(self.window.sent(self.messages), final=final)

    async def _whole(self, messages: list[ChatMessage], *, final: bool) -> tuple[Reply, ReplyStream]:
        """A reply to its end: nothing of one that broke off has been acted upon, so it is asked for again."""
        for _ in range(BROKEN_AGAIN):
            try:
                return await self._request(messages, final=final)
            except ModelError as error:
                # Before its first text, a reply was asked for again by `rlm.retry` already.
                if not error.retryable or not self._begun:
                    raise
                self.on_prose("\n(The reply broke off. It is asked for again.)\n")
        return await self._request(messages, final=final)

    def _shorten(self) -> bool:
        before = chars(self.window.sent(self.messages))
        if not self.window.shorten(self.messages):
            return False
        self.on_shorter(before, chars(self.window.sent(self.messages)))
        return True

    async def _request(self, messages: list[ChatMessage], *, final: bool) -> tuple[Reply, ReplyStream]:
        if final:
            messages = what_can_be_paid(self.root, messages, self.ledger, opening=self.window.question_at)
        # What is short now may be there when the calls of others land; they seldom take all they reserved.
        while self.ledger.any_under_way and not _enough(self.root, messages, self.ledger, final=final):
            await self.unless_stopped(asyncio.sleep(LANDED_TICK_S))
        reservation, limit = reserve(self.root, messages, self.ledger, final=final)
        cutter = ReplyCutter()
        stream = self.root.stream(messages, max_output_tokens=limit)
        charged = True
        try:
            await self.unless_stopped(read(stream, cutter, self.on_prose))
        except (ModelError, ConfigError):
            charged = self._begun = bool(stream.text or stream.reasoning)
            raise
        except Interrupted:
            self.broken_off = as_said(cutter.finish())
            raise
        finally:
            # What was broken off here had been sent: its input at least is charged for.
            if charged:
                self.ledger.settle(reservation, stream.usage)
            else:
                self.ledger.release(reservation)
        self.window.counted(messages, stream.usage)
        reply = cutter.finish()
        if reply.code is not None and not reply.closed and stream.finish_reason != "length":
            reply = Reply(reply.prose, reply.code)  # it ended by itself, and only the fence is missing
        return reply, stream


def chars(messages: Sequence[ChatMessage]) -> int:
    return sum(len(message["content"]) for message in messages)


def reserve(
    root: Model, messages: Sequence[ChatMessage], ledger: Ledger, *, final: bool = False
) -> tuple[Reservation, int]:
    """Money for a call, and how long its reply may be, in tokens. Raises `BudgetReached`."""
    input_tokens = estimate_tokens(messages)
    limit = ledger.affordable_output_tokens(
        min(ROOT_OUTPUT_TOKENS, root.max_output_tokens or ROOT_OUTPUT_TOKENS),
        input_tokens=input_tokens,
        price=root.price,
        final=final,
    )
    limit = max(limit, LEAST_OUTPUT_TOKENS)
    reservation = ledger.reserve(
        root.name, input_tokens=input_tokens, output_tokens=limit, price=root.price, final=final
    )
    return reservation, limit


def what_can_be_paid(
    root: Model, messages: list[ChatMessage], ledger: Ledger, *, opening: int
) -> list[ChatMessage]:
    """The conversation to send for the last answer.

    When the whole of it is too dear: the system prompt, the question (number `opening`), and as many of the
    newest messages as can be paid. With none that can, all of it.
    """
    head, rest = [messages[0], messages[opening]], messages[opening + 1 :]
    shorter = ([*head, *rest[start:]] for start in range(len(rest)))
    return next((part for part in (messages, *shorter) if _affordable(root, part, ledger)), messages)


async def read(stream: ReplyStream, cutter: ReplyCutter, on_prose: Callable[[str], None]) -> None:
    """Read a reply up to the end of its first block; `on_prose` gets what is not code as it comes."""
    async with stream:
        pieces = aiter(stream)
        while not cutter.done:
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            if prose := cutter.feed(piece):
                on_prose(prose)
        # Nothing more is read as text. A model that ends here is given a moment to send its usage.
        with contextlib.suppress(TimeoutError, StopAsyncIteration, ModelError):
            async with asyncio.timeout(AFTER_BLOCK_S):
                while not (await anext(pieces)).strip():
                    continue


def as_said(reply: Reply) -> str:
    """A reply as the message that the model is shown of itself."""
    if reply.code is None:
        return reply.prose
    return f"{reply.prose}\n\n```repl\n{reply.code.rstrip()}\n```".strip()


def _enough(root: Model, messages: Sequence[ChatMessage], ledger: Ledger, *, final: bool) -> bool:
    most = min(ENOUGH_OUTPUT_TOKENS, root.max_output_tokens or ENOUGH_OUTPUT_TOKENS)
    affordable = ledger.affordable_output_tokens(
        most, input_tokens=estimate_tokens(messages), price=root.price, final=final
    )
    return affordable >= most


def _affordable(root: Model, messages: Sequence[ChatMessage], ledger: Ledger) -> bool:
    affordable = ledger.affordable_output_tokens(
        LEAST_OUTPUT_TOKENS, input_tokens=estimate_tokens(messages), price=root.price, final=True
    )
    return affordable >= LEAST_OUTPUT_TOKENS
