"""The messages between host and sandbox and their framing: the one file that both sides run.

A frame is `kind · channel · length · payload`. Channel 0 is the supervisor, every other channel is one
worker (one namespace). A control frame (`C`) holds one message as JSON. A message that announces a body
is followed by data frames (`D`: body id, then raw bytes), ended by an empty one; bodies may interleave.
A message and a short body travel together as one whole frame (`W`).

What it does not do: read or write anything, or decide which message is legal when. That is the job of
the two ends; the host's is `rlm.box.channel`. docs/protocol.md tells the same in prose.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

VERSION = 1

HEADER = struct.Struct(">cHI")
BODY_ID = struct.Struct(">I")
CONTROL, DATA, WHOLE = b"C", b"D", b"W"
KINDS = (CONTROL, DATA, WHOLE)

MAX_CONTROL_BYTES = 64 * 1024
"""One control frame. Anything longer travels as a body."""
MAX_CHUNK_BYTES = 64 * 1024
"""One data frame. Below the packet size of the hop between supervisor and worker."""
MAX_PAYLOAD_BYTES = MAX_CHUNK_BYTES + BODY_ID.size
WINDOW_BYTES = 1024 * 1024
"""How much of one body the host sends before the worker has to acknowledge some of it."""

MAX_SAFE_INT = 2**53

BLOBS = "/data/blobs"
"""Where the container finds the blobs of a snapshot at `Restore`: files named by the sha256 in hex."""
MAX_BLOBS = 100_000
"""So many blobs one snapshot refers to; what is large beyond that stays in its stream."""
DIGEST_BYTES = 32


AGREED = "agreed, and there from the next step on"
"""In the refusal of a `LoadFile` that the user agreed to: the container cannot see the file yet."""


class ProtocolError(Exception):
    """The other side sent something that is not in this file. There is no recovery but to hang up."""


class Frame(NamedTuple):
    kind: bytes
    channel: int
    payload: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message. `body` is the number of the body that follows, 0 for none or for one that came along."""

    tag: ClassVar[str] = ""
    body: int = 0


# ---- host to supervisor (channel 0) -------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spawn(Message):
    """Start a worker with an empty namespace. Answered by `Ready` on its channel.

    `memory_bytes` is its share of the container's memory: all of it, or less for a child RLM.
    """

    tag: ClassVar[str] = "spawn"
    worker: int
    memory_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt(Message):
    """Send SIGINT to the process group of the worker's cell. Nothing happens outside a cell."""

    tag: ClassVar[str] = "interrupt"
    worker: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kill(Message):
    """Kill the worker's cell. Its checkpoint takes over; answered by `RolledBack`."""

    tag: ClassVar[str] = "kill"
    worker: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Close(Message):
    """End a worker and forget its namespace. Answered by `RolledBack` with the reason `closed`."""

    tag: ClassVar[str] = "close"
    worker: int


# ---- host to worker -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetDocuments(Message):
    """Which documents exist. Body: JSON, a list of objects as in `sandbox.textfile.DocumentSpec`.

    Answered by `Done` with a JSON object: what is wrong, by name.
    """

    tag: ClassVar[str] = "documents"
    request: int
    active: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetContext(Message):
    """Give the namespace a context that is no document: the text in the body, or with `piece` a reference.

    A reference is JSON as in `sandbox.pieces.Piece`. Answered by `Done` with a JSON object: `problem` says
    what is wrong, empty for nothing.
    """

    tag: ClassVar[str] = "context"
    request: int
    piece: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ListVariables(Message):
    """What the namespace holds. Answered by `Done` with a JSON list of objects: name, type, size."""

    tag: ClassVar[str] = "list_variables"
    request: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunCell(Message):
    """Run one cell. Body: its source. Ends with `CellDone`, or `RolledBack` when the worker was lost."""

    tag: ClassVar[str] = "run"
    cell: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TakeSnapshot(Message):
    """Save the namespace. Answered by any number of `Blob`, `Snapshot`, `SnapshotReport`; cells go on.

    Body: the sha256 of each blob that the host has, `DIGEST_BYTES` each. `max_bytes` bounds the stream and
    all blobs it needs together: variables that do not fit, the largest first, are left out and named.
    """

    tag: ClassVar[str] = "take_snapshot"
    request: int
    max_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Restore(Message):
    """Replace the namespace by a snapshot. Body: what `Snapshot` carried. Answered by `Restored`.

    The blobs it needs are files in `BLOBS`.
    """

    tag: ClassVar[str] = "restore"
    request: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeepAnswer(Message):
    """The turn is answered: append to `answers` the value of the last FINAL, or the body's text.

    Not answered itself.
    """

    tag: ClassVar[str] = "keep_answer"
    final: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Convert(Message):
    """Make text of files. Body: JSON, a list of objects as in `sandbox.convert.Item`.

    For each item in turn come its `Part` and `Skipped` messages, then `ItemDone`; `Converted` at the end.
    """

    tag: ClassVar[str] = "convert"
    request: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Message):
    """The answer to a worker's request. Body: depends on the request; the reason when not `ok`."""

    tag: ClassVar[str] = "reply"
    request: int
    ok: bool


# ---- supervisor to host (channel 0) -------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """First frame of all: what the supervisor measured of its own confinement, before any model code.

    Body: JSON, the fields of `sandbox.probe`.
    """

    tag: ClassVar[str] = "hello"
    version: int
    python: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack(Message):
    """The worker died. `restored` tells whether its checkpoint took over; else the namespace is lost.

    `reason` is one of `signal`, `exit`, `memory`, `killed`; `detail` the signal, status or limit. The reason
    `closed` answers a `Close`, or a `Spawn` that could not be (`detail` says why): then there is no worker,
    and nothing more comes on its channel.
    """

    tag: ClassVar[str] = "rolled_back"
    worker: int
    reason: str
    detail: str
    restored: bool


# ---- worker to host -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Message):
    """The worker waits for its first message."""

    tag: ClassVar[str] = "ready"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done(Message):
    """Answers `SetDocuments`, `SetContext`, `ListVariables`. Body, if any: JSON, see there."""

    tag: ClassVar[str] = "done"
    request: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Output(Message):
    """What a cell printed, as it happens. Bounded; the whole is in the cell's `CellDone` and namespace."""

    tag: ClassVar[str] = "output"
    cell: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Final(Message):
    """A cell called FINAL. Body: the value as UTF-8. `format` is `text`, `json` or `repr`."""

    tag: ClassVar[str] = "final"
    cell: int
    format: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellDone(Message):
    """A cell ended. `status` is `ok`, `error`, `interrupted` or `final`.

    Body: what the model is shown of the output. `kept_as` names the whole of it in the namespace when
    `total_chars` was more than was shown. `checkpoint` is False when the cell ran without one.
    """

    tag: ClassVar[str] = "cell_done"
    cell: int
    status: str
    error: str
    total_chars: int
    kept_as: str
    checkpoint: bool
    active: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SubCalls(Message):
    """Code called `llm_query` or `rlm_query`, one or a batch. Body: packed strings.

    `kind` is `llm` (strings: a system prompt or "", then the prompts) or `rlm` (strings: query, piece,
    context, for each; a piece is JSON as in `sandbox.pieces`, or "" and the context is text).
    Answered by a `Reply` with packed strings: status, text, for each prompt. The status is `ok`, `cut` (at
    the reply's length limit), `whole` (no child RLM here: ask again with the text itself), or an error's
    name.
    """

    tag: ClassVar[str] = "sub_calls"
    request: int
    kind: str
    count: int
    model: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadFile(Message):
    """Code asks for a path that is not among the documents. Answered by a `Reply`."""

    tag: ClassVar[str] = "load_file"
    request: int
    path: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadHistory(Message):
    """Code reads `history`. Answered by a `Reply` whose body is JSON, a list of messages."""

    tag: ClassVar[str] = "read_history"
    request: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blob(Message):
    """A large value of the namespace, that the host does not have. Body: its bytes, of this sha256 in hex.

    It is whole before the `Snapshot` that needs it is.
    """

    tag: ClassVar[str] = "blob"
    request: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Message):
    """The namespace, saved. Body: the bytes for a later `Restore`; empty when it could not be saved.

    A second one for the same request replaces the first.
    """

    tag: ClassVar[str] = "snapshot"
    request: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotReport(Message):
    """Follows a `Snapshot` body. Body: JSON.

    `sha256` of the stream, `blobs` it needs (`[[sha256, size in bytes], …]`, at most `MAX_BLOBS`), `skipped`
    (`[[name, reason], …]`), `variables`, `took_s`; `reason` when not `ok`.
    """

    tag: ClassVar[str] = "snapshot_report"
    request: int
    ok: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Restored(Message):
    """Answers `Restore`. Body: JSON, `{"restored": [name, …], "lost": [[name, reason], …]}` or `reason`."""

    tag: ClassVar[str] = "restored"
    request: int
    ok: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Message):
    """So many bytes of a body from the host have been taken in."""

    tag: ClassVar[str] = "ack"
    stream: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part(Message):
    """A text that an item of a `Convert` holds. Body: the text as UTF-8.

    `name` is its path in an archive, empty for a file that is one text. `kind` is a key of
    `rlm.formats.FORMATS`, `encoding` the codec it was decoded with, empty where that means nothing.
    """

    tag: ClassVar[str] = "part"
    request: int
    item: int
    name: str
    kind: str
    encoding: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Skipped(Message):
    """What an archive holds under `name` was left out, for a reason."""

    tag: ClassVar[str] = "skipped"
    request: int
    item: int
    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ItemDone(Message):
    """An item of a `Convert` is done. With a `problem` nothing of it is to be kept.

    `note` tells what the user should know of a text that was made, empty for nothing.
    """

    tag: ClassVar[str] = "item_done"
    request: int
    item: int
    problem: str
    note: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Converted(Message):
    """All items of a `Convert` are done."""

    tag: ClassVar[str] = "converted"
    request: int


ToSupervisor = Spawn | Interrupt | Kill | Close
ToWorker = (
    SetDocuments
    | SetContext
    | ListVariables
    | RunCell
    | TakeSnapshot
    | Restore
    | KeepAnswer
    | Convert
    | Reply
)
FromSupervisor = Hello | RolledBack
FromWorker = (
    Ready
    | Done
    | Output
    | Final
    | CellDone
    | SubCalls
    | LoadFile
    | ReadHistory
    | Blob
    | Snapshot
    | SnapshotReport
    | Restored
    | Part
    | Skipped
    | ItemDone
    | Converted
    | Ack
)

TO_SUPERVISOR: tuple[type[Message], ...] = (Spawn, Interrupt, Kill, Close)
TO_WORKER: tuple[type[Message], ...] = (
    SetDocuments,
    SetContext,
    ListVariables,
    RunCell,
    TakeSnapshot,
    Restore,
    KeepAnswer,
    Convert,
    Reply,
)
FROM_SUPERVISOR: tuple[type[Message], ...] = (Hello, RolledBack)
FROM_WORKER: tuple[type[Message], ...] = (
    Ready,
    Done,
    Output,
    Final,
    CellDone,
    SubCalls,
    LoadFile,
    ReadHistory,
    Blob,
    Snapshot,
    SnapshotReport,
    Restored,
    Part,
    Skipped,
    ItemDone,
    Converted,
    Ack,
)

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """The payload of a control frame. Raises `ProtocolError` when it would be too long."""
    fields = {"t": message.tag}
    for name, _ in _fields(type(message)):
        fields[name] = getattr(message, name)
    payload = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    if len(payload) > MAX_CONTROL_BYTES:
        raise ProtocolError(f"{message.tag}: {len(payload)} bytes do not fit a control frame")
    return payload


def decode(payload: bytes, legal: Iterable[type[Message]]) -> Message:
    """Parse and check a control payload: one of `legal`, exactly its fields, each of its type.

    Raises `ProtocolError` for everything else: NaN, repeated keys, lone surrogates, deep nesting.
    """
    if len(payload) > MAX_CONTROL_BYTES:
        raise ProtocolError("control frame too long")
    try:
        fields = json.loads(payload.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"control frame is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("control frame is not an object")
    tag = fields.pop("t", None)
    for kind in legal:
        if kind.tag == tag:
            return _build(kind, fields)
    raise ProtocolError(f"unknown or illegal message {str(tag)[:40]!r}")


def _build(kind: type[M], fields: dict[str, object]) -> M:
    expected = _fields(kind)
    if fields.keys() != {name for name, _ in expected}:
        raise ProtocolError(f"{kind.tag}: wrong fields")
    for name, types in expected:
        value = fields[name]
        if type(value) not in types:
            raise ProtocolError(f"{kind.tag}.{name}: wrong type")
        if isinstance(value, str) and not _encodable(value):
            raise ProtocolError(f"{kind.tag}.{name}: lone surrogate")
        if type(value) is int and not 0 <= value <= MAX_SAFE_INT:
            raise ProtocolError(f"{kind.tag}.{name}: out of range")
        if isinstance(value, float) and not math.isfinite(value):
            raise ProtocolError(f"{kind.tag}.{name}: not finite")
    return kind(**fields)  # type: ignore[arg-type]  # each field was checked above


_TYPES: dict[object, tuple[type, ...]] = {
    int: (int,),
    str: (str,),
    bool: (bool,),
    float: (float, int),
    str | None: (str, type(None)),
    int | None: (int, type(None)),
}
_FIELDS: dict[type[Message], list[tuple[str, tuple[type, ...]]]] = {}


def _fields(kind: type[Message]) -> list[tuple[str, tuple[type, ...]]]:
    if kind not in _FIELDS:
        _FIELDS[kind] = [(field.name, _TYPES[field.type]) for field in dataclasses.fields(kind)]
    return _FIELDS[kind]


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("repeated key")
    return fields


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def control_frame(channel: int, message: Message) -> bytes:
    payload = encode(message)
    return HEADER.pack(CONTROL, channel, len(payload)) + payload


def whole_payload(message: Message, pieces: Sequence[bytes]) -> bytes | None:
    """The payload of a whole frame: length of the control part, control part, body.

    None when that is more than a frame holds: then the body has to travel by itself.
    """
    control = encode(message)
    if BODY_ID.size + len(control) + sum(map(len, pieces)) > MAX_PAYLOAD_BYTES:
        return None
    return b"".join((BODY_ID.pack(len(control)), control, *pieces))


def whole_frame(channel: int, message: Message, pieces: Sequence[bytes]) -> bytes | None:
    """A message and its body in one frame; None when they do not fit one."""
    payload = whole_payload(message, pieces)
    return None if payload is None else HEADER.pack(WHOLE, channel, len(payload)) + payload


def split_whole(payload: bytes) -> tuple[bytes, bytes]:
    """Control part and body of a whole payload."""
    if len(payload) < BODY_ID.size:
        raise ProtocolError("whole frame without a length")
    (length,) = BODY_ID.unpack_from(payload)
    if BODY_ID.size + length > len(payload):
        raise ProtocolError("whole frame shorter than its message")
    return payload[BODY_ID.size : BODY_ID.size + length], payload[BODY_ID.size + length :]


def data_frames(channel: int, body: int, data: bytes | memoryview) -> Iterator[bytes]:
    """Frames that carry `data` as a piece of body `body`, without its end."""
    view = memoryview(data)
    for start in range(0, len(view), MAX_CHUNK_BYTES):
        chunk = view[start : start + MAX_CHUNK_BYTES]
        yield b"".join((HEADER.pack(DATA, channel, BODY_ID.size + len(chunk)), BODY_ID.pack(body), chunk))


def end_frame(channel: int, body: int) -> bytes:
    """The frame that ends body `body`."""
    return HEADER.pack(DATA, channel, BODY_ID.size) + BODY_ID.pack(body)


def split_chunk(payload: bytes) -> tuple[int, memoryview]:
    """Body id and bytes of a data payload; no bytes mean the end of that body."""
    if len(payload) < BODY_ID.size:
        raise ProtocolError("data frame without a body id")
    return BODY_ID.unpack_from(payload)[0], memoryview(payload)[BODY_ID.size :]


class FrameReader:
    """Cuts a byte stream into frames, as it arrives, holding at most one frame and one read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises `ProtocolError` on a header that cannot be."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start = 0
        while len(buffer) - start >= HEADER.size:
            kind, channel, length = HEADER.unpack_from(buffer, start)
            if kind not in KINDS:
                raise ProtocolError(f"unknown frame kind {kind!r}")
            if length > MAX_PAYLOAD_BYTES:
                raise ProtocolError(f"frame of {length} bytes")
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            frames.append(Frame(kind, channel, bytes(buffer[start + HEADER.size : end])))
            start = end
        del buffer[:start]
        return frames

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)


LENGTH = struct.Struct(">Q")


def pack_strings(strings: Iterable[str]) -> bytes:
    """Strings as one body: each its length in bytes (u64), then its UTF-8."""
    parts: list[bytes] = []
    for text in strings:
        data = text.encode("utf-8", "backslashreplace")
        parts += (LENGTH.pack(len(data)), data)
    return b"".join(parts)


def unpack_strings(data: bytes, count: int) -> list[str]:
    """Undo `pack_strings`; raises `ProtocolError` unless there are exactly `count` and nothing else."""
    strings: list[str] = []
    position = 0
    for _ in range(count):
        if position + LENGTH.size > len(data):
            raise ProtocolError("packed strings: too few")
        (length,) = LENGTH.unpack_from(data, position)
        position += LENGTH.size
        if position + length > len(data):
            raise ProtocolError("packed strings: length beyond the end")
        try:
            strings.append(data[position : position + length].decode())
        except UnicodeDecodeError:
            raise ProtocolError("packed strings: not UTF-8") from None
        position += length
    if position != len(data):
        raise ProtocolError("packed strings: bytes left over")
    return strings


def json_body(data: bytes, *, most_bytes: int = 1024 * 1024) -> Any:
    """Parse a JSON body that came out of the sandbox. Raises `ProtocolError`; the caller checks the shape."""
    if len(data) > most_bytes:
        raise ProtocolError(f"JSON body of {len(data)} bytes")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"body is not JSON: {error}") from None
