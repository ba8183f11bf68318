"""A model that is none: it says what it was given to say. For the demo, and for whoever tries things offline.

It implements `rlm.models.Model`, so everything around it is the real thing. It costs nothing and its usage
is estimated as any model's would be.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from rlm.errors import ModelError
from rlm.events import Usage
from rlm.ledger import Price
from rlm.models import ChatMessage, ModelReply, estimate_tokens

Script = Callable[[Sequence[ChatMessage]], str]


class ScriptedModel:
    """Replies come from `script`, which sees the messages. `word_s` seconds pass between two words."""

    price = Price(input_per_mtok=0.0, output_per_mtok=0.0)
    context_window: int | None = 200_000
    max_output_tokens: int | None = None

    def __init__(self, name: str, script: Script, *, word_s: float = 0.0) -> None:
        self.name = name
        self._script = script
        self._word_s = word_s

    def stream(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> "ScriptedStream":
        return ScriptedStream(messages, self._script(messages), self._word_s)

    async def complete(
        self, messages: Sequence[ChatMessage], *, max_output_tokens: int | None = None
    ) -> ModelReply:
        text = self._script(messages)
        await asyncio.sleep(self._word_s * len(text.split()))
        usage = _usage(messages, text)
        return ModelReply(text=text, reasoning="", usage=usage, finish_reason="stop", model=self.name)


class ScriptedStream:
    """`rlm.models.ReplyStream`, a word at a time."""

    reasoning = ""
    finish_reason = "stop"

    def __init__(self, messages: Sequence[ChatMessage], reply: str, word_s: float) -> None:
        self._messages = messages
        self._words: Iterator[str] = iter(re.findall(r"\s*\S+\s*", reply))
        self._word_s = word_s
        self.text = ""

    @property
    def usage(self) -> Usage:
        return _usage(self._messages, self.text)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        await asyncio.sleep(self._word_s)
        for word in self._words:
            self.text += word
            return word
        raise StopAsyncIteration


def in_order(replies: Iterable[str]) -> Script:
    """A script that gives the replies one after another, whatever was said."""
    left = iter(replies)

    def script(messages: Sequence[ChatMessage]) -> str:
        for reply in left:
            return reply
        raise ModelError("The script is at its end.", "It has no reply to this.")

    return script


def _usage(messages: Sequence[ChatMessage], reply: str) -> Usage:
    return Usage(
        calls=1, input_tokens=estimate_tokens(messages), output_tokens=-(-len(reply) // 4), estimated=True
    )
