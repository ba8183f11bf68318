"""Widen a pattern of Python's `re` to one for ripgrep that matches wherever Python's does, seldom elsewhere.

The two differ in what they know of Unicode, in what they offer (lookarounds, references) and in what they
make of bytes that are no UTF-8. So what ripgrep finds is where Python has to look, and never the answer.
Its PCRE2 is not used: that knows lookarounds and references, but differs from `re` in all the rest, so that
Python would have to look too. What is lost is that a pattern whose rest matches most lines is run by Python.
"""

import functools
import importlib
import re
from typing import Any

WIDENED_CHARS = 10_000

ASCII = frozenset(range(128))
WORD = frozenset(map(ord, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"))
CATEGORIES: dict[str, tuple[frozenset[int], str]] = {
    # The ASCII members exactly, and Unicode properties that hold all others. Unassigned code points are
    # among them since the two sides may know different versions of Unicode.
    "DIGIT": (frozenset(range(48, 58)), r"\p{Nd}\p{Cn}"),
    "SPACE": (frozenset((*range(9, 14), *range(28, 33))), r"\p{Z}\x{85}"),
    "WORD": (WORD, r"\p{L}\p{N}\p{Cn}"),
}
NOT_ASCII = r"[\x80-\xFF]{1,4}"
"""Any character beyond ASCII, or invalid bytes that are read as U+FFFD; for byte mode."""


class _CannotWidenError(Exception):
    pass


def widen(pattern: re.Pattern[str], *, ascii_only: bool = False) -> str | None:
    """A pattern for ripgrep that matches every line on which `pattern` does; `ascii_only` if the text is.

    None if there is none, or no use in one: when `pattern` can match nothing, it matches every line.
    Lookarounds are left out, a reference to a group becomes the group's own pattern, and a class that
    Unicode decides takes in every character that Python or ripgrep may count to it.
    """
    tree = _parse(pattern)
    if tree is None or tree.getwidth()[0] == 0:
        return None
    try:
        widened = _Widener(ascii_only=ascii_only).sequence(
            tree, ignore_case=bool(pattern.flags & re.IGNORECASE)
        )
    except _CannotWidenError:
        return None
    return widened if len(widened) <= WIDENED_CHARS else None


def _parse(pattern: re.Pattern[str]) -> Any:
    """The parse tree of a pattern; None where this Python does not show it."""
    try:
        parser = importlib.import_module("re._parser")
        return parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    except (ImportError, AttributeError):
        return None


def literal_of(pattern: re.Pattern[str]) -> str | None:
    """The text that a pattern stands for, if it stands for just one that lies within a line."""
    tree = _parse(pattern)
    if tree is None or pattern.flags & re.IGNORECASE or any(op.name != "LITERAL" for op, _ in tree):
        return None
    text = "".join(chr(code) for _, code in tree)
    return None if "\n" in text or "\r" in text else text


class _Widener:
    """Walks a parse tree of `re`; every method returns a pattern no narrower than the node it is given."""

    def __init__(self, *, ascii_only: bool) -> None:
        self._ascii_only = ascii_only
        self._groups: dict[int, tuple[str, bool]] = {}
        self._positions = 0

    def sequence(self, nodes: Any, *, ignore_case: bool) -> str:
        parts: list[str] = []
        for i, (op, arg) in enumerate(nodes):
            if op.name == "AT":
                beside = [(nodes[i - 1], -1)] if i else []
                beside += [(nodes[i + 1], 0)] if i + 1 < len(nodes) else []
                next_to_word = any(_is_word(node, side, ignore_case=ignore_case) for node, side in beside)
                parts.append(self._position(arg.name, next_to_word=next_to_word))
                self._positions += bool(parts[-1])
            else:
                parts.append(self._node(op.name, arg, ignore_case=ignore_case))
        if sum(map(len, parts)) > WIDENED_CHARS:
            raise _CannotWidenError
        return "".join(parts)

    def _position(self, name: str, *, next_to_word: bool) -> str:
        match name:
            case "AT_BEGINNING" | "AT_BEGINNING_STRING":
                return r"^\x{FEFF}?"  # a file searched by name may begin with a mark that is no text
            case "AT_END" | "AT_END_STRING":
                return r"\r?$"
            case "AT_BOUNDARY" if next_to_word or self._ascii_only:
                # By bytes nothing beyond ASCII is a word, so that beside an ASCII letter there is a boundary
                # wherever Python may see one.
                return r"(?-u:\b)"
            case "AT_NON_BOUNDARY" if self._ascii_only:
                return r"(?-u:\B)"
        return ""

    def _node(self, name: str, arg: Any, *, ignore_case: bool) -> str:
        match name:
            case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY":
                return self._character(name, arg, ignore_case=ignore_case)
            case "BRANCH":
                return f"(?:{'|'.join(self.sequence(b, ignore_case=ignore_case) for b in arg[1])})"
            case "SUBPATTERN":
                group, added, removed, nodes = arg
                ignore_case = bool((ignore_case or added & re.IGNORECASE) and not removed & re.IGNORECASE)
                positions = self._positions
                body = self.sequence(nodes, ignore_case=ignore_case)
                if positions == self._positions:  # elsewhere, what it says of its surroundings is not so
                    self._groups[group] = body, ignore_case
                return f"(?:{body})" if body else ""
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                low, high, nodes = arg
                body = self.sequence(nodes, ignore_case=ignore_case)
                most = "" if high >= 2**32 - 1 else high
                return f"(?:{body}){{{low},{most}}}" if body else ""
            case "ATOMIC_GROUP":
                return f"(?:{self.sequence(arg, ignore_case=ignore_case)})"
            case "GROUPREF" if arg in self._groups:
                body, any_case = self._groups[arg]
                if any_case or not ignore_case:
                    return f"(?:{body})" if body else ""
            case "ASSERT" | "ASSERT_NOT":
                return ""
        raise _CannotWidenError

    def _character(self, name: str, arg: Any, *, ignore_case: bool) -> str:
        ascii_members, others, wide = _members(name, arg, ignore_case=ignore_case)
        low = "".join(rf"\x{code:02X}" for code in sorted(ascii_members - {10}))
        if self._ascii_only:
            others, wide = "", False
        if wide:
            return f"(?-u:[{low}]|{NOT_ASCII})" if low else f"(?-u:{NOT_ASCII})"
        if not low and not others:
            raise _CannotWidenError
        return f"[{low}{others}]"


def _members(name: str, arg: Any, *, ignore_case: bool) -> tuple[frozenset[int], str, bool]:
    """What a node for one character matches: its ASCII members, all others as the inside of a class, and
    whether those may be anything beyond ASCII, invalid bytes included.
    """
    match name:
        case "IN":
            items = [(op.name, value) for op, value in arg]
        case "ANY":
            items = [("NEGATE", None), ("LITERAL", 10)]
        case "NOT_LITERAL":
            items = [("NEGATE", None), ("LITERAL", arg)]
        case _:
            items = [("LITERAL", arg)]
    negated = items[0][0] == "NEGATE"
    members: set[int] = set()
    others, wide = "", negated
    for kind, value in items[negated:]:
        if kind == "CATEGORY":
            category = value.name.removeprefix("CATEGORY_")
            ascii_members, properties = CATEGORIES[category.removeprefix("NOT_")]
            if category.startswith("NOT_"):
                members |= ASCII - ascii_members
                wide = True
            else:
                members |= ascii_members
                others += properties
            continue
        low, high = value if kind == "RANGE" else (value, value)
        spans = [(low, high)]
        if ignore_case and not negated:
            spans += [(ord(case), ord(case)) for case in _other_cases(low, high)]
        for first, last in spans:
            members.update(range(first, min(last, 127) + 1))
            if last >= 128:
                others += rf"\x{{{max(first, 128):X}}}-\x{{{last:X}}}"
            # Lone surrogates and invalid bytes reach ripgrep as bytes that are not UTF-8.
            wide = wide or first <= 0xFFFD <= last or (first <= 0xDFFF and last >= 0xD800)
    return frozenset(ASCII - members if negated else members), others, wide


def _is_word(node: Any, side: int, *, ignore_case: bool) -> bool:
    """Whether a node surely begins (side 0) or ends (side -1) with an ASCII letter, digit or underscore."""
    op, arg = node

    def edge(nodes: Any) -> bool:
        return len(nodes) > 0 and _is_word(nodes[side], side, ignore_case=ignore_case)

    match op.name:
        case "LITERAL" | "IN":
            members, others, wide = _members(op.name, arg, ignore_case=ignore_case)
            return members <= WORD and not others and not wide
        case "SUBPATTERN":
            ignore_case = bool(ignore_case or arg[1] & re.IGNORECASE)
            return edge(arg[3])
        case "MAX_REPEAT" | "MIN_REPEAT":
            return bool(arg[0] > 0 and edge(arg[2]))
        case "BRANCH":
            return all(edge(branch) for branch in arg[1])
    return False


def _other_cases(low: int, high: int) -> set[str]:
    """Everything that `re.IGNORECASE` may take for a character of the range."""
    classes = _case_classes()
    if low == high:
        return set(classes.get(chr(low), ""))
    return {case for char, cases in classes.items() if low <= ord(char) <= high for case in cases}


@functools.cache
def _case_classes() -> dict[str, str]:
    """Each character that has cases, with all it equals, by the rule of `re`: same lower or upper case."""
    classes: dict[str, str] = {}
    cased = [char for char in map(chr, range(0x1F000)) if char.lower() != char or char.upper() != char]
    keys = {char: char.lower()[0].upper()[0] for char in cased}
    for char in cased:
        classes[keys[char]] = classes.get(keys[char], "") + char
    return {char: classes[keys[char]] for char in cased}
