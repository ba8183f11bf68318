"""The texts that models read: Markdown files with `$name` places, filled here."""

import functools
import importlib.resources
import string


@functools.cache
def _template(name: str) -> string.Template:
    text = importlib.resources.files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")
    return string.Template(text.strip())


def fill(name: str, **values: object) -> str:
    """The prompt `name` with its places filled. KeyError when one is missing."""
    return _template(name).substitute({key: str(value) for key, value in values.items()})
