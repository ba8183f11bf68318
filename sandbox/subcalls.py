"""`llm_query` and its relatives: questions to a model, sent to the host, which alone can reach one."""

from collections.abc import Iterable, Sequence
from typing import Any

from rlm.protocol import ProtocolError, SubCalls, encode, pack_strings, unpack_strings
from sandbox.documents import Document
from sandbox.link import Link, RequestFailed

MAX_PROMPTS = 100_000
MAX_PROMPT_CHARS = 50_000_000


class SubCallError(Exception):
    """A sub-call that failed. In a batch it stands in its slot: false, and printed as what went wrong."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<failed: {self}>"


class SubCaller:
    """The functions that a cell sees. Each call is one request, whether it holds one prompt or many."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def llm_query(self, prompt: str, *, system: str | None = None, model: str | None = None) -> str:
        """Ask the sub model one thing; returns its reply. Raises SubCallError."""
        return _single(self._send("llm", [_text(prompt, "prompt")], 1, model, system))

    def llm_query_batched(
        self, prompts: Iterable[str], *, system: str | None = None, model: str | None = None
    ) -> list[str | SubCallError]:
        """Ask many things at once; the replies are in the order of `prompts`, one for each.

        A prompt that failed has a SubCallError in its place, which is false and says why.
        """
        texts = [_text(prompt, f"prompts[{index}]") for index, prompt in enumerate(_several(prompts))]
        return self._send("llm", texts, len(texts), model, system)

    def rlm_query(self, prompt: str, context: Any = "", *, model: str | None = None) -> str:
        """Let a child RLM with its own namespace answer `prompt` over `context`. Raises SubCallError."""
        return _single(
            self._send("rlm", [_text(prompt, "prompt"), _text(context, "context")], 1, model, None)
        )

    def rlm_query_batched(
        self, prompts: Iterable[str], contexts: Any = None, *, model: str | None = None
    ) -> list[str | SubCallError]:
        """Several child RLMs at once. `contexts` is a list as long as `prompts`, or one text for all."""
        asked = list(_several(prompts))
        given = (
            [contexts or ""] * len(asked)
            if contexts is None or isinstance(contexts, str | Document)
            else list(contexts)
        )
        if len(given) != len(asked):
            raise ValueError(f"{len(asked)} prompts but {len(given)} contexts")
        texts = []
        for index, (prompt, context) in enumerate(zip(asked, given, strict=True)):
            texts += [_text(prompt, f"prompts[{index}]"), _text(context, f"contexts[{index}]")]
        return self._send("rlm", texts, len(asked), model, None)

    def _send(
        self, kind: str, texts: Sequence[str], count: int, model: str | None, system: str | None
    ) -> list[str | SubCallError]:
        if count == 0:
            return []
        if count > MAX_PROMPTS:
            raise ValueError(f"{count:,} prompts in one batch; at most {MAX_PROMPTS:,}")
        request = self._link.new_request()
        message = SubCalls(request=request, kind=kind, count=count, model=model, system=system)
        try:
            encode(message)
        except ProtocolError:
            raise ValueError(
                "system is too long (about 50,000 characters fit); put text into the prompt"
            ) from None
        try:
            reply = self._link.ask(message, request, [pack_strings(texts)])
        except RequestFailed as refused:
            raise SubCallError(str(refused)) from None
        strings = unpack_strings(reply, 2 * count)
        return [
            text if status == "ok" else SubCallError(f"{status}: {text}")
            for status, text in zip(strings[::2], strings[1::2], strict=True)
        ]


def _several(prompts: Iterable[str]) -> Iterable[str]:
    if isinstance(prompts, str | Document):
        raise TypeError("a batch takes a list of prompts; for one prompt use llm_query or rlm_query")
    return prompts


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        if type(value).__module__.startswith("sandbox."):
            return str(value)  # a chunk, or a document: which refuses with a sentence when it is too large
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if len(value) > MAX_PROMPT_CHARS:
        raise ValueError(f"{what} has {len(value):,} characters; split it with chunks()")
    return value


def _single(results: list[str | SubCallError]) -> str:
    result = results[0]
    if isinstance(result, SubCallError):
        raise result
    return result
