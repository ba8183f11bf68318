"""Makes text of unknown origin safe to show: what could steer a terminal or hide becomes a visible escape.

Nothing is parsed and nothing is stripped, so a sequence that is split, nested or never ended leaves no gap.
Text goes in, text comes out; who writes it to a stream is `rlm.ui.console`.
"""

import re

_ASCII = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_ANY = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u206a-\u206f"  # no width
    "\u3164\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # surrogates: always lone in a str
    "\U000e0000-\U000e0fff"  # tags and other invisible carriers
    "]"
)


def visible(text: str) -> str:
    r"""`text` with every control, invisible or direction-changing character as an escape such as `\x1b`.

    Newline and tab stay, CRLF becomes a newline, any other carriage return is shown as `\x0d`. Text without
    such characters comes back as it is, after one scan.
    """
    hidden = _ASCII if text.isascii() else _ANY  # the short one is three times as fast
    return hidden.sub(_escape, text.replace("\r\n", "\n"))


def visible_line(text: str, width: int | None = None) -> str:
    """`visible` on one line: newlines become ⏎, tabs spaces, and beyond `width` columns it is cut with …."""
    if width is None:
        return visible(text).replace("\n", "⏎").expandtabs()
    if width < 1:
        return ""
    # What is beyond four characters a column is cut anyway: a huge line must not be worked through.
    head = text[: 4 * width]
    line = visible(head).replace("\n", "⏎").expandtabs()
    if len(head) == len(text) and columns(line) <= width:
        return line
    if columns(line) >= width:
        from rich.cells import set_cell_size

        line = set_cell_size(line, width - 1).rstrip()
    return line + "…"


def columns(text: str) -> int:
    """How many terminal columns `text` takes, which should be `visible` and of one line."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
