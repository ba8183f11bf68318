"""The messages and their framing: what goes in comes out, and anything else is refused."""

import dataclasses
import json
import types
import typing
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm import protocol
from rlm.protocol import (
    BODY_ID,
    CONTROL,
    DATA,
    HEADER,
    KINDS,
    MAX_CHUNK_BYTES,
    MAX_CONTROL_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_SAFE_INT,
    Frame,
    FrameReader,
    Message,
    ProtocolError,
)

ALL = protocol.TO_SUPERVISOR + protocol.TO_WORKER + protocol.FROM_SUPERVISOR + protocol.FROM_WORKER

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
numbers = st.integers(0, MAX_SAFE_INT)
VALUES: dict[object, st.SearchStrategy[Any]] = {
    int: numbers,
    str: texts,
    bool: st.booleans(),
    str | None: st.none() | texts,
}


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    types_of = typing.get_type_hints(kind)
    fields = {field.name: VALUES[types_of[field.name]] for field in dataclasses.fields(kind)}
    return st.builds(kind, **fields)


every_message = st.sampled_from(ALL).flatmap(messages)


@given(every_message)
def test_message_comes_back_as_it_was(message: Message) -> None:
    assert protocol.decode(protocol.encode(message), ALL) == message


def test_every_message_is_in_the_table_of_its_direction() -> None:
    unions = (protocol.ToSupervisor, protocol.ToWorker, protocol.FromSupervisor, protocol.FromWorker)
    tables = (protocol.TO_SUPERVISOR, protocol.TO_WORKER, protocol.FROM_SUPERVISOR, protocol.FROM_WORKER)
    for union, table in zip(unions, tables, strict=True):
        assert isinstance(union, types.UnionType)
        assert union.__args__ == table
    there_are = {it for it in vars(protocol).values() if isinstance(it, type) and issubclass(it, Message)}
    assert there_are == {Message, *ALL}
    assert len({kind.tag for kind in ALL}) == len(ALL)


@given(every_message)
def test_message_is_legal_in_its_direction_only(message: Message) -> None:
    legal = [kind for kind in ALL if kind is not type(message)]
    with pytest.raises(ProtocolError, match="unknown or illegal"):
        protocol.decode(protocol.encode(message), legal)


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_text_a_message_holds_the_other_side_can_read_it(error: str, active: str) -> None:
    message = protocol.CellDone(
        cell=1, status="error", error=error, total_chars=0, kept_as="", checkpoint=True, active=active
    )
    read = protocol.decode(protocol.encode(message), ALL)
    assert isinstance(read, protocol.CellDone)
    if error.isascii():
        assert read.error == error


@pytest.mark.parametrize("lone", ["\ud800", "\udc80", "\ud83d", "\udfff"])
def test_lone_surrogate_is_replaced_and_the_text_around_it_kept(lone: str) -> None:
    """A cell can put one into what it prints and raises."""
    read = protocol.decode(protocol.encode(protocol.Output(cell=1, text=f'é"\\{lone}\\😀')), ALL)
    assert isinstance(read, protocol.Output)
    assert read.text.startswith('é"\\')
    assert read.text.endswith("\\😀")


def spawn(**changes: object) -> bytes:
    return json.dumps({"t": "spawn", "body": 0, "worker": 1, "memory_bytes": 2, **changes}).encode()


def test_spelled_by_hand_it_is_accepted() -> None:
    assert protocol.decode(spawn(), ALL) == protocol.Spawn(worker=1, memory_bytes=2)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"spawn"',
        b"{}",
        b"\xff",
        b"\xef\xbb\xbf" + spawn(),
        spawn().decode().encode("utf-16"),
        spawn() + b"x",
        spawn(t="Spawn"),
        spawn(t=None),
        spawn(t=["spawn"]),
        spawn(worker="1"),
        spawn(worker=1.0),
        spawn(worker=True),
        spawn(worker=None),
        spawn(worker=[1]),
        spawn(worker=-1),
        spawn(worker=MAX_SAFE_INT + 1),
        spawn(worker=float("nan")),
        spawn(worker=float("inf")),
        spawn(worker=float("-inf")),
        spawn(body=None),
        spawn(more=1),
        b'{"t":"spawn","worker":1,"memory_bytes":2}',
        b'{"t":"spawn","body":0,"worker":1,"memory_bytes":2,"worker":2}',
        b'{"t":"spawn","body":0,"worker":1e400,"memory_bytes":2}',
        b'{"t":"spawn","body":0,"worker":' + b"1" * 5000 + b"}",
        b'{"t":"spawn","body":0,"worker":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"t":"output","body":0,"cell":1,"text":"\\ud800"}',
        b'{"t":"output","body":0,"cell":1,"text":"\xed\xa0\x80"}',
        b'{"t":"output","body":0,"cell":1,"text":null}',
        b'{"t":"ready","body":0' + b" " * MAX_CONTROL_BYTES + b"}",
    ],
    ids=lambda payload: repr(payload[:60]),
)
def test_anything_else_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(payload, ALL)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_read_and_never_anything_else(payload: bytes) -> None:
    try:
        message = protocol.decode(payload, ALL)
    except ProtocolError:
        return
    assert isinstance(message, ALL)


def test_message_that_does_not_fit_a_frame_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="do not fit a control frame"):
        protocol.encode(protocol.Output(cell=1, text="x" * MAX_CONTROL_BYTES))


# What a frame holds, in any cut of the stream.

frames = st.lists(
    st.builds(Frame, st.sampled_from(KINDS), st.integers(0, 2**16 - 1), st.binary(max_size=300)), max_size=8
)


def stream(sent: list[Frame]) -> bytes:
    return b"".join(HEADER.pack(f.kind, f.channel, len(f.payload)) + f.payload for f in sent)


@given(frames, st.lists(st.integers(0, 2500), max_size=12))
def test_frames_do_not_depend_on_how_the_stream_is_cut(sent: list[Frame], cuts: list[int]) -> None:
    data = stream(sent)
    reader = FrameReader()
    read: list[Frame] = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        read += reader.feed(data[start:end])
    assert read == sent
    assert not reader.partial


def test_reader_knows_that_a_frame_has_begun() -> None:
    reader = FrameReader()
    data = stream([Frame(CONTROL, 1, b"abc")])
    assert reader.feed(data[:-1]) == []
    assert reader.partial
    assert reader.feed(data[-1:]) == [Frame(CONTROL, 1, b"abc")]
    assert not reader.partial


@pytest.mark.parametrize("length", [MAX_PAYLOAD_BYTES + 1, 2 * 1024 * 1024, 2**32 - 1])
def test_length_beyond_the_limit_is_refused_at_the_header(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"frame of {length} bytes"):
        FrameReader().feed(HEADER.pack(CONTROL, 1, length))


@pytest.mark.parametrize("kind", [b"\0", b"S", b"L", b"X", b"c", b"\xff"])
def test_unknown_kind_is_refused(kind: bytes) -> None:
    with pytest.raises(ProtocolError, match="unknown frame kind"):
        FrameReader().feed(HEADER.pack(kind, 1, 0))


def test_largest_frame_is_read() -> None:
    frame = Frame(DATA, 65535, bytes(MAX_PAYLOAD_BYTES))
    assert FrameReader().feed(stream([frame])) == [frame]


@given(st.integers(0, 2**32 - 1), st.binary(max_size=200) | st.just(bytes(3 * MAX_CHUNK_BYTES + 1)))
def test_body_travels_in_frames_and_ends_with_an_empty_one(body: int, data: bytes) -> None:
    sent = b"".join(protocol.data_frames(7, body, data)) + protocol.end_frame(7, body)
    pieces = [protocol.split_chunk(frame.payload) for frame in FrameReader().feed(sent)]
    assert {number for number, _ in pieces} == {body}
    assert b"".join(piece for _, piece in pieces) == data
    assert [len(piece) for _, piece in pieces].index(0) == len(pieces) - 1


@pytest.mark.parametrize("size", range(BODY_ID.size))
def test_data_without_a_body_number_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match="without a body id"):
        protocol.split_chunk(b"\0" * size)


@given(every_message, st.binary(max_size=300))
def test_short_body_travels_with_its_message(message: Message, body: bytes) -> None:
    whole = protocol.whole_frame(3, message, [body])
    assert whole is not None
    (frame,) = FrameReader().feed(whole)
    control, inline = protocol.split_whole(frame.payload)
    assert (protocol.decode(control, ALL), inline) == (message, body)


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", BODY_ID.pack(1), BODY_ID.pack(2**32 - 1) + b"{}"])
def test_whole_frame_that_is_cut_short_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="whole frame"):
        protocol.split_whole(payload)


def test_message_and_body_that_each_fit_make_a_frame_that_can_be_read() -> None:
    """A long message and its body: each within its limit. What does not fit is not made."""
    message = protocol.LoadFile(request=1, path="s" * 60_000)
    room = protocol.MAX_PAYLOAD_BYTES - BODY_ID.size - len(protocol.encode(message))
    frame = protocol.whole_frame(1, message, [bytes(room - 1), b"\0"])
    assert frame is not None
    assert len(FrameReader().feed(frame)) == 1
    assert protocol.whole_frame(1, message, [bytes(room), b"\0"]) is None


# Bodies.


@given(st.lists(texts, max_size=20))
def test_strings_come_back(strings: list[str]) -> None:
    assert protocol.unpack_strings(protocol.pack_strings(strings), len(strings)) == strings


def test_lone_surrogates_in_strings_are_escaped() -> None:
    assert protocol.unpack_strings(protocol.pack_strings(["a\udc80"]), 1) == ["a\\udc80"]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 1),
        (b"\0" * 7, 1),
        (b"\0" * 8, 0),
        (b"\0" * 8, 2),
        (b"\0" * 7 + b"\x05abc", 1),
        (b"\xff" * 8 + b"abc", 1),
        (b"\0" * 7 + b"\x01\xff", 1),
        (b"\0" * 7 + b"\x01ab", 1),
        (b"", 2**40),
    ],
)
def test_packed_strings_that_do_not_add_up_are_refused(data: bytes, count: int) -> None:
    with pytest.raises(ProtocolError, match="packed strings"):
        protocol.unpack_strings(data, count)


@pytest.mark.parametrize("data", [b"", b"NaN", b'{"a":1,"a":2}', b"\xff", b"[" * 50_000, b"[Infinity]"])
def test_body_that_is_not_plain_json_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="body is not JSON"):
        protocol.json_body(data)


def test_json_body_has_a_limit() -> None:
    assert protocol.json_body(b'{"a": [1, null]}') == {"a": [1, None]}
    with pytest.raises(ProtocolError, match="JSON body of 12 bytes"):
        protocol.json_body(b'"0123456789"', most_bytes=11)
