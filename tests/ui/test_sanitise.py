"""No character that steers a terminal or hides passes, and everything else does."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.ui.sanitise import columns, visible, visible_line

from . import FORBIDDEN, HOSTILE

ANY_TEXT = st.text(st.characters() | st.sampled_from("\x1b\r\n\t\x9b\u202e\u200b\ud800\U000e0041漢e\u0301"))

DRAWN_FORMAT_CHARACTERS = {
    *range(0x600, 0x606),
    *(0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD),
}
"""The signs that Unicode calls format characters although they have a shape of their own."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, naïve, 漢字, 🙂\n\tindented", "plain, naïve, 漢字, 🙂\n\tindented"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J\x7f\x00", "\\x9b2J\\x7f\\x00"),
        ("a\r\nb\rc\r", "a\nb\\x0dc\\x0d"),
        ("a\r\r\nb", "a\\x0d\nb"),
        ("\u202eevil", "\\u202eevil"),
        ("a\u200bb\u2028c\ufeff", "a\\u200bb\\u2028c\\ufeff"),
        ("\udc9b", "\\udc9b"),
        ("\U000e0041", "\\U000e0041"),
        ("already \\x1b", "already \\x1b"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_every_control_format_and_separator_character_is_escaped() -> None:
    passed = [
        hex(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and chr(code) not in "\n\t"
        and code not in DRAWN_FORMAT_CHARACTERS
        and visible(chr(code)) == chr(code)
    ]
    assert passed == []


def test_letters_marks_signs_and_emoji_pass() -> None:
    text = "Привет שלום مرحبا नमस्ते ไทย 日本語 e\u0301 €½ “quotes” ❤\ufe0f 👍🏽 \u00a0"
    assert visible(text) == text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_becomes_harmless(text: str) -> None:
    assert not FORBIDDEN.search(visible(text))
    assert not FORBIDDEN.search(visible_line(text, 30))


@given(ANY_TEXT, ANY_TEXT)
def test_no_split_makes_a_sequence_pass(left: str, right: str) -> None:
    whole = visible(left + right)
    assert not FORBIDDEN.search(whole)
    assert visible(whole) == whole
    if not (left.endswith("\r") and right.startswith("\n")):
        assert visible(left) + visible(right) == whole


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 5, "short"),
        ("longer than that", 8, "longer…"),
        ("a\nb\r\nc", 20, "a⏎b⏎c"),
        ("a\tb", 20, "a       b"),
        ("漢字漢字", 8, "漢字漢字"),
        ("漢字漢字", 7, "漢字漢…"),
        ("漢字漢字", 6, "漢字…"),
        ("\x1b[2J", 5, "\\x1b…"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
        ("", 10, ""),
        ("x" * 100, None, "x" * 100),
    ],
)
def test_visible_line(text: str, width: int | None, shown: str) -> None:
    assert visible_line(text, width) == shown


@given(ANY_TEXT, st.integers(1, 30))
def test_a_line_fits_its_width(text: str, width: int) -> None:
    line = visible_line(text, width)
    assert columns(line) <= width
    assert "\n" not in line
    assert not FORBIDDEN.search(line)
