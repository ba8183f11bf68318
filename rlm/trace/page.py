"""Makes one self-contained HTML page of a turn: its data as JSON, and a style and a script that show it.

The page asks nothing of any server, and its policy forbids it to. What the data says gets into the page as
text only. Nothing is written to files here.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import re
from collections.abc import Iterable

from rlm.trace.rows import Row
from rlm.trace.tree import tree
from rlm.ui.sanitise import visible_line

SCRIPTS = ("nodes.js", "page.js", "colours.js", "search.js", "timeline.js")
TITLE_COLUMNS = 70


def page(rows: Iterable[Row]) -> str:
    """The page of the turn that `rows` (of `turn_rows`) tell."""
    turn = tree(rows)
    style, script = _part("page.css"), "\n".join(_part(name) for name in SCRIPTS)
    policy = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    title = f"{visible_line(turn.get('question', ''), TITLE_COLUMNS)} · turn {turn.get('turn', '?')}"
    parts = {
        "policy": "; ".join(policy),
        "title": html.escape(title),
        "style": style,
        "script": script,
        # No `<` in it: neither an end tag nor a comment can begin there.
        "data": json.dumps(turn, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("page.html"))


def _part(name: str) -> str:
    return importlib.resources.files(__name__.rpartition(".")[0]).joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
