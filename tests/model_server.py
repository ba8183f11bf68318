"""A scripted model server on this machine: the model of every end-to-end test.

    with ModelServer() as server:
        server.reply("root", "Let me look.\\n```repl\\nFINAL(42)\\n```")    # queued, one for each request
        server.default("sub", lambda request: request["messages"][-1]["content"].upper())
        ...                                       # ask "openai/root" at api_base=server.url
        assert server.requests[0].prompt == "..."

A reply is text, a `Reply` (usage, pace, reasoning), a `Fault` (what goes wrong), or a function from the
request's JSON to any of these. Functions run on the server's loop: to wait is `Reply(delay_s=...)`'s job;
what they raise comes out of the `with`. A model without a script is unknown (404); a queue that ran dry
with no default is a 400, which nobody retries.

It listens on 127.0.0.1, in a thread of its own, and speaks only what is needed: `POST` to any
`…/chat/completions` (OpenAI) or `…/messages` (Anthropic), streamed or whole, and `GET …/models`. It does not
check keys; it records every request as it came.
"""

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from tests.dialects import CHAT_COMPLETIONS, MESSAGES, Dialect, text_of

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What the server says a call took. `cached` and `written` are parts of `input`, `reasoning` of `output`.

    `cost_usd` is what some providers add themselves.
    """

    input: int
    output: int
    cached: int = 0
    written: int = 0
    reasoning: int = 0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model says, in pieces of `chunk_size` characters when streamed.

    `usage` None counts a token for four characters; `send_usage` False leaves it out. `delay_s` passes
    before the first byte, `chunk_delay_s` before each further piece. The reply waits until `together`
    requests (of any model) have been under way at once: a test of parallel calls needs no clock.
    """

    text: str
    usage: Tokens | None = field(default=None, kw_only=True)
    send_usage: bool = field(default=True, kw_only=True)
    reasoning: str = field(default="", kw_only=True)
    finish_reason: str = field(default="stop", kw_only=True)
    chunk_size: int = field(default=64, kw_only=True)
    delay_s: float = field(default=0.0, kw_only=True)
    chunk_delay_s: float = field(default=0.0, kw_only=True)
    together: int = field(default=1, kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong, after `delay_s`.

    `how` is `status` (an error of HTTP `status` with `message`, `code` and perhaps a retry-after),
    `garbage` (200 with a body that is not JSON), `truncated` (`text` begins, the connection closes),
    `reset` (the same with a TCP reset) or `hang` (nothing more, until the client goes).
    """

    how: Literal["status", "garbage", "truncated", "reset", "hang"] = "status"
    status: int = 500
    message: str = "scripted fault"
    code: str | None = None
    retry_after_s: float | None = None
    text: str = ""
    delay_s: float = 0.0


Answer: TypeAlias = str | Reply | Fault
Script: TypeAlias = Answer | Callable[[Json], Answer]


@dataclass(slots=True, kw_only=True)
class Request:
    """One request as it came. `json` is its body, `time_s` a reading of `time.monotonic`."""

    model: str
    json: Json
    headers: dict[str, str]
    time_s: float
    done: threading.Event = field(default_factory=threading.Event, repr=False)
    hung_up: bool = False

    @property
    def prompt(self) -> str:
        """The last message's text."""
        return text_of(self.json["messages"][-1]["content"])

    def client_hung_up(self, *, wait_s: float = 10.0) -> bool:
        """Whether the client left before the reply was whole; waits for the one or the other."""
        if not self.done.wait(wait_s):
            raise TimeoutError("the request is still being answered")
        return self.hung_up


class ModelServer:
    """See the top of the file. Scripts may be added at any time, also while requests run."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.peak_parallel = 0
        self._queues: defaultdict[str, deque[Script]] = defaultdict(deque)
        self._defaults: dict[str, Script] = {}
        self._failures: list[BaseException] = []
        self._running = 0
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._peak = asyncio.Condition()
        self._ready = threading.Event()
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="model-server", daemon=True)

    def reply(self, model: str, *replies: Script) -> None:
        """Queue replies for a model, to be used up in order."""
        self._queues[model].extend(replies)

    def default(self, model: str, reply: Script) -> None:
        """What a model says whenever its queue is empty."""
        self._defaults[model] = reply

    def requests_for(self, model: str) -> list[Request]:
        return [request for request in self.requests if request.model == model]

    def wait_for_requests(self, count: int, *, wait_s: float = 10.0) -> None:
        """Block until so many requests have come in all, answered or not. Raises `TimeoutError`."""
        with self._came:
            if not self._came.wait_for(lambda: len(self.requests) >= count, wait_s):
                raise TimeoutError(f"only {len(self.requests)} of {count} requests came")

    @property
    def url(self) -> str:
        """The `api_base` to use."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        if error is None and self._failures:
            raise self._failures[0]

    # ---- the server's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._listen())

    async def _listen(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        def connect() -> _Connection:
            return _Connection(
                lambda connection: connections.add(asyncio.create_task(self._serve(connection)))
            )

        server = await self._loop.create_server(connect, "127.0.0.1", 0, backlog=512)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, connection: "_Connection") -> None:
        try:
            while (received := await connection.receive()) is not None:
                path, headers, body = received
                if path.endswith("/models"):
                    names = sorted({*self._queues, *self._defaults})
                    connection.send_json({"object": "list", "data": [{"id": name} for name in names]})
                elif path.endswith(("/chat/completions", "/messages")):
                    dialect = MESSAGES if path.endswith("/messages") else CHAT_COMPLETIONS
                    await self._complete(connection, json.loads(body), headers, dialect)
                else:
                    connection.send_json({"error": {"message": f"no such path: {path}"}}, status=404)
        finally:
            connection.close()

    async def _complete(
        self, connection: "_Connection", asked: Json, headers: dict[str, str], dialect: Dialect
    ) -> None:
        request = Request(model=asked["model"], json=asked, headers=headers, time_s=time.monotonic())
        with self._came:
            self.requests.append(request)
            self._came.notify_all()
        self._running += 1
        self.peak_parallel = max(self.peak_parallel, self._running)
        async with self._peak:
            self._peak.notify_all()
        answering = asyncio.create_task(self._answer(connection, asked, dialect))
        leaving = asyncio.create_task(connection.gone.wait())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            request.hung_up = not answering.done()
        finally:
            self._running -= 1
            answering.cancel()
            leaving.cancel()
            request.done.set()
        if answering.done() and (failure := answering.exception()):
            self._failures.append(failure)
            connection.send_json({"error": {"message": f"the script failed: {failure!r}"}}, status=400)

    async def _answer(self, connection: "_Connection", asked: Json, dialect: Dialect) -> None:
        answer = self._next(asked)
        if isinstance(answer, str):
            answer = Reply(answer)
        await asyncio.sleep(answer.delay_s)
        if isinstance(answer, Fault):
            await _fail(connection, asked, answer, dialect)
            return
        async with self._peak:
            await self._peak.wait_for(lambda: self.peak_parallel >= answer.together)
        if asked.get("stream"):
            await _stream(connection, asked, answer, dialect)
        else:
            connection.send_json(dialect.whole(asked, answer, _tokens(asked, answer)))

    def _next(self, asked: Json) -> Answer:
        model = asked["model"]
        if queue := self._queues.get(model):
            script = queue.popleft()
        elif model in self._defaults:
            script = self._defaults[model]
        elif model in self._queues:
            return Fault(status=400, message=f"the script of {model!r} has no more replies")
        else:
            return Fault(status=404, message=f"the model {model!r} does not exist", code="model_not_found")
        return script(asked) if callable(script) else script


async def _fail(connection: "_Connection", asked: Json, fault: Fault, dialect: Dialect) -> None:
    if fault.how == "status":
        error = {"message": fault.message, "type": "scripted", "code": fault.code}
        extra = {} if fault.retry_after_s is None else {"retry-after": f"{fault.retry_after_s:g}"}
        connection.send_json({"type": "error", "error": error}, status=fault.status, headers=extra)
    elif fault.how == "garbage":
        connection.send(b"<html>this is not JSON</html>", kind="application/json")
    elif fault.how == "hang":
        await asyncio.Event().wait()
    else:
        if fault.text and asked.get("stream"):
            connection.start_events()
            connection.send_events(dialect.begin(asked, _tokens(asked, Reply(fault.text))))
            connection.send_events(dialect.piece(asked, "text", fault.text))
            await asyncio.sleep(0.05)  # a reset overtakes what was not yet read
        connection.close(reset=fault.how == "reset")


async def _stream(connection: "_Connection", asked: Json, reply: Reply, dialect: Dialect) -> None:
    tokens = _tokens(asked, reply)
    connection.start_events()
    connection.send_events(dialect.begin(asked, tokens))
    for kind, text in (("reasoning", reply.reasoning), ("text", reply.text)):
        for start in range(0, len(text), reply.chunk_size):
            if reply.chunk_delay_s:
                await asyncio.sleep(reply.chunk_delay_s)
            connection.send_events(dialect.piece(asked, kind, text[start : start + reply.chunk_size]))
            await connection.drain()
    connection.send_events(dialect.end(asked, reply, tokens))
    connection.end_events(dialect.done)


def _tokens(asked: Json, reply: Reply) -> Tokens | None:
    """What the call took, as the script has it or else counted; None when it is to be left out."""
    if not reply.send_usage:
        return None
    sent = [asked.get("system", ""), *(message.get("content") for message in asked["messages"])]
    chars = sum(len(text_of(content)) for content in sent)
    return reply.usage or Tokens(input=-(-chars // 4), output=-(-len(reply.text + reply.reasoning) // 4))


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, kept alive, that knows at once when the client goes."""

    def __init__(self, serve: Callable[["_Connection"], None]) -> None:
        self.gone = asyncio.Event()
        self._serve = serve
        self._received = bytearray()
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._serve(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._more.set()

    def connection_lost(self, exc: Exception | None) -> None:
        for event in (self.gone, self._more, self._writable):
            event.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def drain(self) -> None:
        await self._writable.wait()

    async def receive(self) -> tuple[str, dict[str, str], bytes] | None:
        """Path, headers (names in lower case) and body of the next request; None when the client is gone."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if not await self._wait_for_more():
                return None
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        del self._received[: end + 4]
        length = int(headers.get("content-length", 0))
        while len(self._received) < length:
            if not await self._wait_for_more():
                return None
        body = bytes(self._received[:length])
        del self._received[:length]
        return first.split(" ")[1], headers, body

    async def _wait_for_more(self) -> bool:
        self._more.clear()
        if not self.gone.is_set():
            await self._more.wait()
        return not self.gone.is_set()

    def send_json(self, value: Json, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(value).encode(), status=status, kind="application/json", headers=headers)

    def send(
        self, body: bytes, *, kind: str, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self._head(status, {"content-type": kind, "content-length": str(len(body)), **(headers or {})})
        self._write(body)

    def start_events(self) -> None:
        self._head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})

    def send_events(self, values: Iterable[Json]) -> None:
        for value in values:
            name = f"event: {value['type']}\n" if "type" in value else ""
            self._write_chunk(f"{name}data: {json.dumps(value)}\n\n".encode())

    def end_events(self, done: bytes) -> None:
        if done:
            self._write_chunk(done)
        self._write(b"0\r\n\r\n")

    def close(self, *, reset: bool = False) -> None:
        assert self._transport is not None
        if reset and (raw := self._transport.get_extra_info("socket")) is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.close()

    def _head(self, status: int, headers: dict[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._write(f"HTTP/1.1 {status} scripted\r\n{lines}\r\n".encode())

    def _write_chunk(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        if not self.gone.is_set():
            self._transport.write(data)
