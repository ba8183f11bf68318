"""How the scripted server words a reply: OpenAI's chat completions and Anthropic's Messages.

Each dialect is a module-level object; it turns text and token counts into JSON, and knows no connection.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from tests.model_server import Reply, Tokens

Json: TypeAlias = dict[str, Any]


class Dialect(Protocol):
    """Events of a stream come from `begin`, one `piece` after another, and `end`; `whole` is all at once.

    `kind` of a piece is `text` or `reasoning`. `tokens` is None when the provider leaves its numbers out.
    """

    done: bytes

    def begin(self, asked: Json, tokens: "Tokens | None") -> Iterator[Json]: ...
    def piece(self, asked: Json, kind: str, text: str) -> Iterator[Json]: ...
    def end(self, asked: Json, reply: "Reply", tokens: "Tokens | None") -> Iterator[Json]: ...
    def whole(self, asked: Json, reply: "Reply", tokens: "Tokens | None") -> Json: ...


def text_of(content: Any) -> str:
    """The text of a message, which is a string or a list of blocks."""
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content)
    return str(content)


class _ChatCompletions:
    done = b"data: [DONE]\n\n"

    def begin(self, asked: Json, tokens: "Tokens | None") -> Iterator[Json]:
        yield self._chunk(asked, {"role": "assistant", "content": ""})

    def piece(self, asked: Json, kind: str, text: str) -> Iterator[Json]:
        yield self._chunk(asked, {"content" if kind == "text" else "reasoning_content": text})

    def end(self, asked: Json, reply: "Reply", tokens: "Tokens | None") -> Iterator[Json]:
        yield self._chunk(asked, {}, finish_reason=reply.finish_reason)
        if tokens and (asked.get("stream_options") or {}).get("include_usage"):
            yield {**self._chunk(asked, {}), "choices": [], "usage": self._usage(tokens)}

    def whole(self, asked: Json, reply: "Reply", tokens: "Tokens | None") -> Json:
        message = {"role": "assistant", "content": reply.text}
        if reply.reasoning:
            message["reasoning_content"] = reply.reasoning
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        whole = {**self._header(asked, "chat.completion"), "choices": [choice]}
        return {**whole, "usage": self._usage(tokens)} if tokens else whole

    def _chunk(self, asked: Json, delta: Json, *, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._header(asked, "chat.completion.chunk"), "choices": [choice]}

    def _header(self, asked: Json, kind: str) -> Json:
        return {"id": "chatcmpl-scripted", "object": kind, "created": 0, "model": asked["model"]}

    def _usage(self, tokens: "Tokens") -> Json:
        usage: Json = {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "prompt_tokens_details": {"cached_tokens": tokens.cached},
        }
        if tokens.written:
            usage["prompt_tokens_details"]["cache_write_tokens"] = tokens.written
        if tokens.reasoning:
            usage["completion_tokens_details"] = {"reasoning_tokens": tokens.reasoning}
        if tokens.cost_usd is not None:
            usage["cost"] = tokens.cost_usd
        return usage


_STOPS = {"stop": "end_turn", "length": "max_tokens"}
_BLOCKS = {"reasoning": "thinking", "text": "text"}


class _Messages:
    done = b""

    def begin(self, asked: Json, tokens: "Tokens | None") -> Iterator[Json]:
        message = {**self._header(asked), "content": [], "stop_reason": None, "stop_sequence": None}
        yield {"type": "message_start", "message": {**message, "usage": self._usage(tokens, output=1)}}
        for index, kind in enumerate(_BLOCKS.values()):
            yield {
                "type": "content_block_start",
                "index": index,
                "content_block": {"type": kind, kind: ""},
            }

    def piece(self, asked: Json, kind: str, text: str) -> Iterator[Json]:
        block = _BLOCKS[kind]
        index = list(_BLOCKS).index(kind)
        delta = {"type": f"{block}_delta", block: text}
        yield {"type": "content_block_delta", "index": index, "delta": delta}

    def end(self, asked: Json, reply: "Reply", tokens: "Tokens | None") -> Iterator[Json]:
        for index in range(len(_BLOCKS)):
            yield {"type": "content_block_stop", "index": index}
        delta = {"stop_reason": self._stop(reply), "stop_sequence": None}
        output = tokens.output if tokens else 0
        yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}
        yield {"type": "message_stop"}

    def whole(self, asked: Json, reply: "Reply", tokens: "Tokens | None") -> Json:
        content: list[Json] = []
        if reply.reasoning:
            content.append({"type": "thinking", "thinking": reply.reasoning, "signature": "scripted"})
        content.append({"type": "text", "text": reply.text})
        usage = self._usage(tokens, output=tokens.output if tokens else 0)
        return {
            **self._header(asked),
            "content": content,
            "stop_reason": self._stop(reply),
            "stop_sequence": None,
            "usage": usage,
        }

    def _stop(self, reply: "Reply") -> str:
        return _STOPS.get(reply.finish_reason, reply.finish_reason)

    def _header(self, asked: Json) -> Json:
        return {"id": "msg_scripted", "type": "message", "role": "assistant", "model": asked["model"]}

    def _usage(self, tokens: "Tokens | None", *, output: int) -> Json:
        if tokens is None:
            return {"input_tokens": 0, "output_tokens": 0}
        return {
            "input_tokens": tokens.input - tokens.cached - tokens.written,
            "cache_read_input_tokens": tokens.cached,
            "cache_creation_input_tokens": tokens.written,
            "output_tokens": output,
        }


CHAT_COMPLETIONS: Dialect = _ChatCompletions()
MESSAGES: Dialect = _Messages()
