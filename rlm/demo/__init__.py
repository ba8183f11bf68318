"""The demo: a question about Python's standard library, answered in the real container by a script.

The root model's replies stand in `replies.md`; the sub model's are taken from the text it is given, by
rule. Everything between is real: the files, the mounts, the code, the fan-out, the answer by variable.
"""

import importlib.resources
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from rlm.documents import Document, expand
from rlm.errors import DocumentError
from rlm.models import ChatMessage, Model
from rlm.scripted import ScriptedModel, in_order
from rlm.session import Models

QUESTION = (
    "Which are the largest modules of Python's standard library, what is each one for, "
    "and where do the most unfinished spots (TODO, XXX, FIXME) stand?"
)
WORD_S = 0.01
_OTHERS = frozenset({"site-packages", "dist-packages", "__pycache__"})
"""What lies beside the sources of the library and is none."""


def documents() -> tuple[Document, ...]:
    """The sources of the standard library on this machine, without what was installed beside them."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = expand([str(folder)], cwd=folder, without=_OTHERS).documents
    sources = tuple(document for document in found if document.path.suffix == ".py")
    if not sources:
        raise DocumentError(
            "This Python has no sources of its standard library.", f"None were found in {folder}."
        )
    return sources


def models() -> Models:
    root = ScriptedModel("script (no model)", in_order(_replies()), word_s=WORD_S)
    sub = ScriptedModel("script (no model)", _describe, word_s=WORD_S)

    def choose(name: str) -> Model:
        return sub

    return Models(root=root, sub=sub, choose=choose)


def _replies() -> list[str]:
    text = importlib.resources.files(__name__).joinpath("replies.md").read_text(encoding="utf-8")
    return [reply.strip() for reply in re.split(r"^---$", text, flags=re.MULTILINE)]


def _describe(messages: Sequence[ChatMessage]) -> str:
    """What a sub model might say of a module: the first sentence of its docstring, or of its comments."""
    source = messages[-1]["content"].partition("SOURCE:")[2]
    found = re.search(r'^[rRuU]?"""(.+?)(?:"""|\n\s*\n)', source, flags=re.MULTILINE | re.DOTALL)
    text = found[1] if found else " ".join(re.findall(r"^#+ ?(\w.*)$", source, flags=re.MULTILINE)[:3])
    return " ".join(text.split())[:160] or "It does not say."
