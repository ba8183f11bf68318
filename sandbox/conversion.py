"""Runs the converters for the host: files in, texts out as messages, one file after the other.

What can be converted and how is in `sandbox.convert`. It keeps nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rlm import protocol
from sandbox.convert import convert
from sandbox.convert.output import ConvertError, Item, Output
from sandbox.link import BodyWriter, Link

MAX_CHARS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSink:
    """Sends the texts of one item to the host."""

    link: Link
    request: int
    item: int

    def begin(self, name: str, kind: str, encoding: str, /) -> BodyWriter:
        message = protocol.Part(
            request=self.request, item=self.item, name=name[:MAX_CHARS], kind=kind, encoding=encoding
        )
        return self.link.open_body(message)

    def skipped(self, name: str, reason: str, /) -> None:
        message = protocol.Skipped(
            request=self.request, item=self.item, name=name[:MAX_CHARS], reason=reason[:MAX_CHARS]
        )
        self.link.send(message)


def convert_all(rows: Iterable[dict[str, Any]], link: Link, request: int) -> None:
    """Convert each item; one that cannot be is reported and does not keep the others from it."""
    for number, row in enumerate(rows):
        problem, note = _convert(row, LinkSink(link=link, request=request, item=number))
        done = protocol.ItemDone(
            request=request, item=number, problem=problem[:MAX_CHARS], note=note[:MAX_CHARS]
        )
        link.send(done)


def _convert(row: dict[str, Any], sink: LinkSink) -> tuple[str, str]:
    """Why the item cannot be converted, empty if it was; and what is to be said of the text made of it."""
    try:
        item = Item.from_json(row)
        output = Output(sink, max_bytes=item.max_bytes)
        convert(item, output)
    except (ConvertError, ValueError) as error:
        return str(error), ""
    return "", output.notes
