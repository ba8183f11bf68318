"""Text laid out by rich for one stream: Markdown that hides nothing, and SGR sequences alone to style it.

rich is imported when something is laid out: `status` and `--help` do without it. Nothing is written here.
"""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlm.ui.sanitise import visible

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import ConsoleOptions, RenderableType
    from rich.segment import Segment


def markdown(text: str, *, code_theme: str) -> "RenderableType":
    """Markdown that hides nothing: HTML and image addresses are text, and a line break stays one."""
    from markdown_it import MarkdownIt
    from rich.markdown import Markdown

    rendered = Markdown("", code_theme=code_theme, hyperlinks=False)
    rendered.parsed = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).parse(text)
    for token in rendered.parsed:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
            elif child.type == "image":
                child.type, child.tag, child.children = "text", "", None
                child.content = f"![{child.content}]({child.attrs['src']})"
    return rendered


def laid_out(renderable: "RenderableType", *, width: int, color: bool, indent: str = "") -> str:
    """`renderable` in lines of `width` columns, with SGR sequences if `color` and no other ones."""
    from rich.console import Console as RichConsole

    console = RichConsole(
        file=io.StringIO(),
        width=max(width, 1),
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        markup=False,
        highlight=False,
        emoji=False,
        _environ={},
    )
    with console.capture() as capture:
        console.print(_Visible(renderable, indent), end="", crop=False)
    return capture.get()


class _Visible:
    """Passes a rich renderable on with its text made visible and its links and control codes left out.

    Sanitising what goes into rich is not enough: Markdown turns `&rlm;` into the character it names.
    """

    def __init__(self, renderable: "RenderableType", indent: str) -> None:
        self._renderable = renderable
        self._indent = indent

    def __rich_console__(self, console: "RichConsole", options: "ConsoleOptions") -> "Iterator[Segment]":
        from rich.segment import Segment

        inner = options.update(width=max(1, options.max_width - len(self._indent)))
        for line in console.render_lines(self._renderable, inner, pad=False):
            yield Segment(self._indent)
            for text, style, control in line:
                if not control:
                    yield Segment(visible(text), style.update_link(None) if style and style.link else style)
            yield Segment("\n")
