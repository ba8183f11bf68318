"""`llm_query` and its relatives: questions to a model, sent to the host, which alone can reach one.

Whether a reply fits a schema is decided here; what is sent, bounded and paid is the host's business.
"""

import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlm.protocol import SubCalls, pack_strings, unpack_strings
from sandbox.documents import Document
from sandbox.link import Link, RequestFailed
from sandbox.schemas import Form, NotFitting

MAX_PROMPTS = 100_000
MAX_PROMPT_CHARS = 50_000_000
MAX_BATCH_BYTES = 200 * 1024 * 1024
"""The host takes 256 MiB in one request, and ends a sandbox that sends more."""
MANY_PROMPTS = 100
TINY_CHARS = 500
"""So many prompts of a cell, so short on average: the model is told to pack them."""
LONG_CHARS = 10_000
"""A prompt beyond is nobody's line."""


_PLACE = re.compile(r"\{(\w+)\}")


class SubCallError(Exception):
    """A sub-call that failed. In a batch it stands in its slot: false, and printed as what went wrong."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<failed: {self}>"


class SubCaller:
    """The functions that a cell sees. Each call is one request, whether it holds one prompt or many.

    `refer` tells of a value which piece of a document it is, as JSON; "" when it is none.
    """

    def __init__(self, link: Link, refer: Callable[[Any], str] = lambda value: "") -> None:
        self._link = link
        self._refer = refer
        self._counting = threading.Lock()
        self._prompts = self._chars = 0
        self._told = False

    def begin_cell(self) -> None:
        """Count anew what a cell sends."""
        self._prompts = self._chars = 0
        self._told = False

    # -- what a cell calls

    def llm_query(
        self, prompt: str, *, system: str | None = None, schema: Any = None, model: str | None = None
    ) -> Any:
        """Ask the sub model one thing; returns its reply, with `schema` as data. Raises SubCallError."""
        return _single(self._ask([_text(prompt, "prompt")], system, schema, model))

    def llm_query_batched(
        self,
        prompts: Iterable[str],
        *,
        system: str | None = None,
        schema: Any = None,
        model: str | None = None,
    ) -> list[Any]:
        """Ask many things at once; the replies are in the order of `prompts`, one for each.

        A prompt that failed has a SubCallError in its place, which is false and says why. With `schema`
        (JSON Schema, or a dict such as {"name": str}) each reply is data that fits it.
        """
        texts = [_text(prompt, f"prompts[{index}]") for index, prompt in enumerate(_several(prompts))]
        return self._ask(texts, system, schema, model)

    def llm_map(
        self,
        prompt: str | Callable[[Any], str],
        items: Iterable[Any],
        *,
        system: str | None = None,
        schema: Any = None,
        model: str | None = None,
    ) -> list[Any]:
        """Ask the same of each item, at once: `prompt` has {item} where it goes, or is a function of it.

        Of an item that is a dict, {name} is the value under `name`. Results as of llm_query_batched.
        """
        make = prompt if callable(prompt) else _template(prompt)
        return self.llm_query_batched(
            [make(item) for item in items], system=system, schema=schema, model=model
        )

    def rlm_query(self, prompt: str, context: Any = "", *, model: str | None = None) -> str:
        """Let a child RLM with its own namespace answer `prompt` over `context`. Raises SubCallError."""
        reply: str = _single(self._delegate([_text(prompt, "prompt")], [context], model))
        return reply

    def rlm_query_batched(
        self, prompts: Iterable[str], contexts: Any = None, *, model: str | None = None
    ) -> list[Any]:
        """Several child RLMs at once. `contexts` is a list as long as `prompts`, or one text for all."""
        asked = [_text(prompt, f"prompts[{index}]") for index, prompt in enumerate(_several(prompts))]
        one = contexts is None or isinstance(contexts, str | Document) or self._refer(contexts) != ""
        given = ["" if contexts is None else contexts] * len(asked) if one else list(contexts)
        if len(given) != len(asked):
            raise ValueError(f"{len(asked)} prompts but {len(given)} contexts")
        return self._delegate(asked, given, model)

    # -- inside

    def _ask(self, prompts: Sequence[str], system: str | None, schema: Any, model: str | None) -> list[Any]:
        if schema is None:
            return self._send("llm", len(prompts), [system or "", *prompts], prompts, model)
        form = Form(schema)
        results = self._send("llm", len(prompts), [system or "", *map(form.prompt, prompts)], prompts, model)
        again: dict[int, str] = {}
        for index, reply in enumerate(results):
            if not isinstance(reply, SubCallError):
                try:
                    results[index] = form.read(reply)
                except NotFitting as why:
                    again[index] = form.prompt_again(prompts[index], reply, str(why))
        if again:
            replies = self._send("llm", len(again), [system or "", *again.values()], (), model)
            for index, reply in zip(again, replies, strict=True):
                results[index] = _read_last(form, reply)
        return results

    def _delegate(self, prompts: Sequence[str], contexts: Sequence[Any], model: str | None) -> list[Any]:
        texts: list[str] = []
        for index, (prompt, context) in enumerate(zip(prompts, contexts, strict=True)):
            piece = self._refer(context)
            texts += [prompt, piece, "" if piece else _text(context, f"contexts[{index}]")]
        results = self._send("rlm", len(prompts), texts, (), model)
        if results and results[0] is None:  # there are no children here: a plain call needs the text
            texts = [
                part
                for prompt, context in zip(prompts, contexts, strict=True)
                for part in (prompt, "", _text(context, "context"))
            ]
            results = self._send("rlm", len(prompts), texts, (), model)
        return results

    def _send(
        self, kind: str, count: int, texts: Sequence[str], prompts: Sequence[str], model: str | None
    ) -> list[Any]:
        """Replies and SubCallErrors, or None for each when the text of pieces is needed."""
        if count == 0:
            return []
        if count > MAX_PROMPTS:
            raise ValueError(f"{count:,} prompts in one batch; at most {MAX_PROMPTS:,}")
        _require_room(sum(map(len, texts)))  # at least; a copy that cannot be sent is not made
        body = pack_strings(texts)
        _require_room(len(body))
        self._count(prompts)
        request = self._link.new_request()
        message = SubCalls(request=request, kind=kind, count=count, model=model)
        try:
            answer = self._link.ask(message, request, [body])
        except RequestFailed as refused:
            raise SubCallError(str(refused)) from None
        strings = unpack_strings(answer, 2 * count)
        pairs = list(zip(strings[::2], strings[1::2], strict=True))
        cut = [index for index, (status, _) in enumerate(pairs) if status == "cut"]
        if cut:
            _note(
                f"{len(cut):,} of {count:,} replies were cut off at their length limit "
                f"(index {', '.join(map(str, cut[:10]))}{', …' if len(cut) > 10 else ''}). "
                "Ask for shorter replies, or about smaller pieces."
            )
        return [_result(status, text) for status, text in pairs]

    def _count(self, prompts: Sequence[str]) -> None:
        """Tell the model when it sends short prompts by the hundred."""
        short = [prompt for prompt in prompts if len(prompt) <= LONG_CHARS]
        if not short:
            return
        # Instructions that all begin with are not what is asked about.
        shared = len(os.path.commonprefix([min(short), max(short)])) if len(short) > 1 else 0  # noqa: RUF071
        with self._counting:
            self._prompts += len(short)
            self._chars += sum(map(len, short)) - shared * len(short)
            if self._told or self._prompts < MANY_PROMPTS or self._chars > self._prompts * TINY_CHARS:
                return
            self._told = True
        _note(
            f"{self._prompts:,} prompts of about {self._chars // self._prompts:,} characters. That is slow "
            "and dear: put many items into one prompt (about 100,000 characters), ask for JSON with one "
            "entry for each, or decide it in Python."
        )


def _require_room(size_bytes: int) -> None:
    if size_bytes > MAX_BATCH_BYTES:
        raise ValueError(f"a batch of {size_bytes:,} bytes; at most {MAX_BATCH_BYTES:,}: send it in parts")


def _result(status: str, text: str) -> Any:
    if status in ("ok", "cut"):
        return text
    return None if status == "whole" else SubCallError(f"{status}: {text}")


def _read_last(form: Form, reply: Any) -> Any:
    if isinstance(reply, SubCallError):
        return reply
    try:
        return form.read(reply)
    except NotFitting as why:
        return SubCallError(
            f"the reply did not fit the schema, asked twice: {why}. It began: {reply[:200]!r}"
        )


def _template(prompt: str) -> Callable[[Any], str]:
    def make(item: Any) -> str:
        values = {"item": item, **item} if isinstance(item, Mapping) else {"item": item}
        text = _PLACE.sub(lambda place: str(values.get(place[1], place[0])), prompt)
        return text if text != prompt else f"{prompt}\n\n{item}"

    return make


def _note(text: str) -> None:
    sys.stdout.write(f"Note: {text}\n")


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


def _single(results: list[Any]) -> Any:
    result = results[0]
    if isinstance(result, SubCallError):
        raise result
    return result
