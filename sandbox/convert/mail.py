"""E-mails and mailboxes: the headers people read, the text, and what is attached.

One message is in memory at a time. It checks no signature and loads nothing that a message points to.
"""

import codecs
import io
import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import Message

from rlm.formats import kind_of
from rlm.text_probe import SAMPLE_BYTES, NotText, one_line
from sandbox.convert.output import ConvertError, Output, Write, as_convert_error
from sandbox.convert.packed import convert_stream
from sandbox.convert.plain import Peekable, encoding_of, require_codec, write_decoded
from sandbox.documents import human_size

MAX_MESSAGE_BYTES = 128 * 1024 * 1024
MAX_HEADER_CHARS = 20_000
MAX_DEPTH = 20
"""How deep messages and their parts may lie in each other."""
LINE_BYTES = 1024 * 1024

_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_EXPECTED = {*map(str.lower, _SHOWN), "received", "message-id", "return-path", "mime-version", "content-type"}
_FROM_LINE = re.compile(rb"From (?=.*\d:\d\d)(?=.*\b(?:19|20)\d\d\b)")
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)

Mail = Message
Leaf = tuple[Mail, bool]
"""A part of a message that holds no others, and whether it is attached rather than part of the text."""


def convert_email(path: str, write: Write) -> None:
    """Write the text of a message. Raises `ConvertError` when it is none, or larger than 128 MB."""
    with open(path, "rb") as file:
        data = file.read(MAX_MESSAGE_BYTES + 1)
    if len(data) > MAX_MESSAGE_BYTES:
        raise ConvertError(f"is larger than {human_size(MAX_MESSAGE_BYTES)}: save what is attached by itself")
    message = _parsed(data)
    if not _EXPECTED & {name.lower() for name in message}:
        raise ConvertError("has no headers of an e-mail, such as From: or Subject:")
    write(_text(message))


def convert_mbox(path: str, write: Write) -> None:
    """Write the messages of a mailbox, each begun by a line `[message 12]`.

    Those that cannot be read are named. Raises `ConvertError` when there is none that can.
    """
    found = False
    with open(path, "rb") as file:
        for number, data in enumerate(_messages(file), start=1):
            if len(data) > MAX_MESSAGE_BYTES:
                text = f"(left out: it is larger than {human_size(MAX_MESSAGE_BYTES)})\n"
            else:
                try:
                    with as_convert_error("an e-mail"):
                        text = _text(_parsed(data))
                        found = True
                except ConvertError as error:
                    text = f"(left out: it {error})\n"
            write(f"[message {number}]\n{text}\n")
    if not found:
        raise ConvertError(
            "holds no message that can be read: each begins with a line such as 'From x Tue Jan 2 03:04 2024'"
        )


def _messages(file: io.BufferedIOBase) -> Iterator[bytes]:
    """The messages of a mailbox without their `From ` lines; of one that is too large the beginning.

    Such a line comes first or after an empty one, and has a time and a year.
    """
    lines: list[bytes] = []
    size = 0
    started, blank, fresh = False, True, True
    while line := file.readline(LINE_BYTES):
        if fresh and blank and _FROM_LINE.match(line):
            if started:
                yield _QUOTED_FROM.sub(rb"\1", b"".join(lines))
            lines, size, started = [], 0, True
        elif started and size <= MAX_MESSAGE_BYTES:
            lines.append(line)
            size += len(line)
        blank = fresh and not line.strip()
        fresh = line.endswith(b"\n")
    if started:
        yield _QUOTED_FROM.sub(rb"\1", b"".join(lines))


def _parsed(data: bytes) -> Mail:
    """A message in the older of the two forms that `email` has: it takes what the newer one stumbles over."""
    return message_from_bytes(data, policy=policy.compat32)


def _text(message: Mail, depth: int = 0) -> str:
    """Headers, text and attachments of a message."""
    headers = "".join(f"{name}: {value}\n" for name in _SHOWN if (value := _header(message, name)))
    texts = [_leaf_text(leaf, attached=attached, depth=depth) for leaf, attached in _leaves(message, depth)]
    return "\n".join([headers, *filter(str.strip, texts)])


def _header(message: Mail, name: str) -> str:
    """A header as people read it, in one line; empty if there is none."""
    return _decoded(
        next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")
    )


def _decoded(stored: str) -> str:
    """A header or name with its encoded words decoded; as it was sent where that fails.

    Bytes beyond ASCII, which the parser keeps as surrogates, are read as UTF-8.
    """
    text = stored[:MAX_HEADER_CHARS].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = " ".join(text.split())
    try:
        # As if each were a subject: the grammar of addresses refuses much of what is sent.
        text = str(policy.default.header_factory("Subject", text)) if "=?" in text else text
    except Exception:
        return one_line(text)
    return one_line(text)


def _leaves(message: Mail, depth: int) -> Iterator[Leaf]:
    """The parts to show, in order. Of alternatives the plain text is taken if there is any, else HTML."""
    if depth > MAX_DEPTH:
        raise ConvertError(f"has parts that lie more than {MAX_DEPTH} deep in each other")
    parts = _parts(message)
    if message.get_content_type() == "message/rfc822" or not parts:
        yield message, _is_attached(message)
    elif message.get_content_type() == "multipart/alternative":
        yield from _alternative([list(_leaves(part, depth + 1)) for part in parts])
    else:
        for part in parts:
            yield from _leaves(part, depth + 1)


def _alternative(choices: list[list[Leaf]]) -> Iterator[Leaf]:
    """The leaves of one choice, and what is attached to the others."""
    chosen = next((c for kind in ("text/plain", "text/html") for c in choices if _says(c, kind)), choices[-1])
    yield from chosen
    for choice in choices:
        if choice is not chosen:
            yield from ((leaf, attached) for leaf, attached in choice if attached)


def _says(leaves: list[Leaf], content_type: str) -> bool:
    return any(
        leaf.get_content_type() == content_type and _payload(leaf).strip() and not attached
        for leaf, attached in leaves
    )


def _parts(message: Mail) -> list[Mail]:
    payload = message.get_payload()
    return [part for part in payload if isinstance(part, Message)] if isinstance(payload, list) else []


def _is_attached(leaf: Mail) -> bool:
    plainly_text = leaf.get_content_type() in ("text/plain", "text/html") and not leaf.get_filename()
    return leaf.get_content_disposition() == "attachment" or not plainly_text


def _payload(leaf: Mail) -> bytes:
    payload = leaf.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _leaf_text(leaf: Mail, *, attached: bool, depth: int) -> str:
    content_type = leaf.get_content_type()
    if content_type == "message/rfc822":
        inner = "".join(_text(part, depth + 1) for part in _parts(leaf))
        return f"[part: {_name(leaf) or 'message'}]\n{inner}"
    name, data = _name(leaf) or content_type, _payload(leaf)
    try:
        with as_convert_error("what it is called"):
            if not attached:
                return _body(leaf)
            return f"[part: {name}]\n{_attachment(data, content_type, name, _charset(leaf))}"
    except ConvertError as error:
        reason = "not text" if isinstance(error.__cause__, NotText) else str(error)
        return f"[part: {name} ({content_type}, {human_size(len(data))}, {reason})]\n"


def _name(leaf: Mail) -> str:
    """The name of a part, without what would end its mark."""
    return _decoded(leaf.get_filename() or "").replace("[", "(").replace("]", ")")


def _charset(leaf: Mail) -> str:
    """The codec that a part names, empty for none, one that is not known, or ASCII, which many claim."""
    charset = leaf.get_content_charset() or ""
    try:
        require_codec(charset)
    except ConvertError:
        return ""
    return "" if codecs.lookup(charset).name == "ascii" else charset


def _body(leaf: Mail) -> str:
    """The text of a part that is shown. Raises `NotText` and `ConvertError`."""
    data, charset = _payload(leaf), _charset(leaf)
    if leaf.get_content_type() == "text/html":
        from sandbox.convert.markup import html_text

        return _with_newlines(html_text(data, charset))
    stream = Peekable(io.BytesIO(data))
    pieces: list[str] = []
    write_decoded(stream, encoding_of(stream, named=charset), pieces.append)
    return _with_newlines("".join(pieces))


def _attachment(data: bytes, content_type: str, name: str, charset: str) -> str:
    """The text of an attachment. Raises what `convert_stream` raises."""
    kind = kind_of(data[:SAMPLE_BYTES], name)
    held = _Held()
    convert_stream(
        Peekable(io.BytesIO(data)),
        name,
        "html" if kind == "text" and content_type == "text/html" else kind,
        Output(held),
        encoding=charset,
    )
    return _with_newlines(held.data.decode())


def _with_newlines(text: str) -> str:
    """With the line ends of everything else here, and one at the end."""
    return text.replace("\r\n", "\n").rstrip("\n") + "\n"


class _Held:
    """Keeps the text of an attachment until it is known to be whole."""

    def __init__(self) -> None:
        self.data = bytearray()

    def begin(self, name: str, kind: str, encoding: str, /) -> "_Held":
        return self

    def write(self, piece: bytes, /) -> None:
        self.data += piece

    def close(self) -> None:
        """There is only one text."""

    def skipped(self, name: str, reason: str, /) -> None:
        """Archives are not looked into, so nothing is ever left out."""
