"""A widened pattern matches wherever Python's does, whatever Unicode and `re` make of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from sandbox.ripgrep import Ripgrep
from sandbox.search import PatternError, compile_pattern, grep
from sandbox.widen import widen
from tests.guest import document
from tests.guest.test_search import PATTERNS, by_hand, found, fragments

pieces = st.sampled_from(
    [*"aeék.^$", r"\w", r"\W", r"\d", r"\s", "[ab]", "[^a]", r"\b", r"\B", "[é-ö]", r"[^\w]"]
)
patterns = st.recursive(
    pieces,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4).map("".join)
        | inner.map("({})".format)
        | inner.map("(?:{})?".format)
        | inner.map("(?:{})+".format)
        | st.tuples(inner, inner).map("(?:{0[0]}|{0[1]})".format)
        | inner.map("(?={})".format)
        | inner.map("({})\\1".format)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("widen") / "text"


@given(st.lists(fragments, min_size=1, max_size=12).map("".join), patterns, st.booleans())
def test_random_patterns_agree(path: Path, text: str, pattern: str, ignore_case: bool) -> None:
    try:
        compiled = compile_pattern(pattern, ignore_case=ignore_case)
    except PatternError:  # \\1 inside group 1
        reject()
    assume(widen(compiled) is not None)
    for store in (text, document(path, text)):
        by_ripgrep = grep(store, compiled, max_matches=10_000, engine="ripgrep")
        assert found(by_ripgrep) == by_hand(text, compiled)


def _as_python(widened: str) -> str:
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda code: rf"\U{int(code[1], 16):08x}", widened)


def test_case_classes_hold_every_pair_that_re_takes_for_equal() -> None:
    cased = "".join(char for char in map(chr, range(sys.maxunicode + 1)) if char.lower() != char.upper())
    for char in cased:
        equal = re.findall(re.escape(char), cased, re.IGNORECASE)
        widened = widen(re.compile(re.escape(char), re.IGNORECASE))
        assert widened is not None
        assert all(re.fullmatch(_as_python(widened), other) for other in equal), (char, equal, widened)


@pytest.mark.parametrize("pattern", [r"\d", r"\w", r"\s"])
def test_categories_hold_every_character_that_python_counts_to_them(pattern: str) -> None:
    every = (char for char in map(chr, range(sys.maxunicode + 1)) if not "\ud800" <= char <= "\udfff")
    members = [char for char in every if re.fullmatch(pattern, char) and char not in "\r\n"]
    widened = widen(re.compile(pattern))
    assert widened is not None
    search = Ripgrep("\n".join(members), widened, at_once=False)
    assert [members[line - 1] for line, _ in search.lines()] == members
    assert search.complete


def test_what_widening_leaves_out() -> None:
    assert widen(re.compile("cat")) == r"[\x63][\x61][\x74]"
    assert widen(re.compile(r"\bcat(?=s)")) == r"(?-u:\b)[\x63][\x61][\x74]"
    assert widen(re.compile(r"\bé\b")) == r"[\x{E9}-\x{E9}]"
    assert widen(re.compile(r"\bé\b\w"), ascii_only=True) is None
    assert widen(re.compile(r"(ab)\1")) == widen(re.compile(r"(ab)(ab)"))
    bomb = "(a)" + "".join(rf"(\{n}\{n})" for n in range(1, 30))
    for pattern in ("a*", "(a)?(?(1)b|c)", "a\nb", r"(\ba)\1", "(?=a)", bomb):
        assert widen(re.compile(pattern)) is None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ripgrep_takes_every_widened_pattern(pattern: str) -> None:
    for ascii_only in (False, True):
        widened = widen(re.compile(pattern), ascii_only=ascii_only)
        if widened is not None:
            done = subprocess.run(["rg", "--no-config", "-q", "-e", widened, "-"], stdin=subprocess.DEVNULL)
            assert done.returncode == 1, widened
