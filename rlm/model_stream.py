"""One reply of `rlm.models.LiteLLMModel` as it streams in. It is never asked for again here."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rlm.events import Usage
from rlm.model_errors import no_reply
from rlm.model_usage import finish_reason
from rlm.thinking import ThinkSplitter

if TYPE_CHECKING:
    from rlm.models import ChatMessage, LiteLLMModel


class LiteLLMStream:
    """`ReplyStream` over litellm's."""

    def __init__(
        self, model: "LiteLLMModel", messages: "Sequence[ChatMessage]", *, max_output_tokens: int | None
    ) -> None:
        self._model = model
        self._messages = messages
        self._max_output_tokens = max_output_tokens
        self._source: Any = None
        self._split = ThinkSplitter(unopened=model.thinks_unopened)
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._total: Any = None
        self._ended = False
        self._finish_reason = ""

    async def __aenter__(self) -> Self:
        self._source = await self._model.send(
            self._messages,
            max_output_tokens=self._max_output_tokens,
            goes_on=True,
            stream=True,
            stream_options={"include_usage": True},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        response = _unclosed_response(self._source)
        await self._source.aclose()
        if response is not None:
            await response.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._ended:
            try:
                chunk = await self._model.translated(anext(self._source))
            except StopAsyncIteration:
                self._ended = True
                thoughts, text = self._split.end()
            else:
                thoughts, text = self._take(chunk)
            self._reasoning.append(thoughts)
            if text:
                self._text.append(text)
                return text
        if not (self._seen_usage() or self.text or self.reasoning):
            raise no_reply(self._model.name)
        raise StopAsyncIteration

    def _take(self, chunk: Any) -> tuple[str, str]:
        self._total = getattr(chunk, "usage", None) or self._total
        if not chunk.choices:
            return "", ""
        choice = chunk.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        if reasoning := getattr(choice.delta, "reasoning_content", None) or "":
            self._split.be_sure()
        thoughts, text = self._split.feed(choice.delta.content or "")
        return reasoning + thoughts, text

    def _seen_usage(self) -> Any:
        """Usage in what the provider sent. litellm's own final count also exists when there was none."""
        chunks = getattr(self._source, "chunks", None) or ()
        return next((usage for chunk in reversed(chunks) if (usage := getattr(chunk, "usage", None))), None)

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def finish_reason(self) -> str:
        usage = self.usage
        return finish_reason(
            self._finish_reason,
            native=str(getattr(self._source, "received_finish_reason", None) or ""),
            output_tokens=0 if usage.estimated else usage.output_tokens,
            limit=self._model.output_limit(self._max_output_tokens),
        )

    @property
    def usage(self) -> Usage:
        seen = self._seen_usage()
        if self._ended and seen and (total := self._total or seen).prompt_tokens:
            return self._model.reported_usage(total, self._source)
        return self._model.estimated_usage(self._messages, self.text + self.reasoning, seen=seen)


def _unclosed_response(source: Any) -> Any:
    """The HTTP response below litellm's stream where litellm cannot close it, else None.

    Anthropic's is held by nothing but the generator of its lines. Left open, the provider would go on
    writing, and charging for, a reply that nobody reads.
    """
    stream = getattr(source, "completion_stream", None)
    if stream is None or hasattr(stream, "aclose"):
        return None
    frame = getattr(getattr(stream, "streaming_response", None), "ag_frame", None)
    response = frame.f_locals.get("self") if frame else None
    return response if hasattr(response, "aclose") else None
