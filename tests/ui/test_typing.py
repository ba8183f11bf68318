"""Typing while a turn runs: keys arrive, the output stays whole, and the terminal is given back."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from rlm.cli.chat_typing import Typing

from .typist import Typist, until


@pytest.fixture
def typist(monkeypatch: pytest.MonkeyPatch) -> Iterator[Typist]:
    typist = Typist(monkeypatch)
    yield typist
    typist.close()


async def typed(typing: Typing, text: str) -> None:
    """Wait until the line is this."""
    await until(lambda: typing.line.text == text, lambda: f"{typing.line.text!r} is not {text!r}")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("mind the gap", "mind the gap"),
        ("mind\x7f\x7fke", "mike"),
        ("only the last\x17first", "only the first"),
        ("  \x17x", "x"),
        ("not this\x15but this", "but this"),
        ("two\x1b\rlines", "two\nlines"),
        ("e\u0301\x7fo", "o"),
        ("漢字\x7f", "漢"),
        ("\x1b[A\x1b[1;5C\t\x04\x1bxarrows", "arrows"),
        ("\x1b[200~pasted\r\nand\rkept\x1b[201~!", "pasted\nand\nkept!"),
    ],
)
async def test_keys_edit_the_line(typist: Typist, keys: str, line: str) -> None:
    typing = Typing(typist.console)
    sent: list[str] = []
    with typing.listening(send=sent.append, interrupt=lambda: None):
        typist.type(keys)
        await typed(typing, line)
        typist.type("\r")
        await typed(typing, "")
    assert sent == [line]


async def test_ctrl_c_is_a_key_and_escape_empties_the_line(typist: Typist) -> None:
    typing = Typing(typist.console)
    interrupted = asyncio.Event()
    with typing.listening(send=lambda text: None, interrupt=interrupted.set):
        assert not typist.is_cooked()
        typist.type("half a thought")
        await typist.sees("half a thought")
        typist.type("\x03")
        await until(interrupted.is_set)
        assert typing.line.text == "half a thought"
        typist.type("\x1b")
        await typed(typing, "")
        typist.type(" \r \r")
        typist.type("x")
        await typed(typing, "x")
    assert typist.is_cooked()
    assert typing.line.take() == "x", "it outlives the turn"


async def test_output_goes_above_what_is_typed(typist: Typist) -> None:
    typing, console = Typing(typist.console), typist.console
    with typing.listening(send=lambda text: None, interrupt=lambda: None):
        console.line("before")
        console.status("cell running")
        typist.type("mind the gap")
        await typist.sees("mind the gap")
        for number in range(3):
            console.write(f"  line {number}\n")
        console.write("half a ")
        await asyncio.sleep(0.11)
        console.tick()
        shown = await typist.sees("mind the gap")
        assert shown[:4] == ["before", "  line 0", "  line 1", "  line 2"]
        assert shown[4].endswith(" cell running \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} mind the gap")
        console.write("line\n")
        console.line("after")
        console.status("")
    shown = await typist.sees("after")
    assert shown[4:] == ["half a line", "after"]


async def test_a_question_gets_the_keyboard_and_the_line_comes_back(typist: Typist) -> None:
    typing = Typing(typist.console)
    with typing.listening(send=lambda text: None, interrupt=lambda: None):
        typist.type("later")
        await typed(typing, "later")
        with typing.paused():
            assert typist.is_cooked()
        assert not typist.is_cooked()
        await typist.sees("later")


async def test_the_terminal_is_given_back_whatever_happens(typist: Typist) -> None:
    typing = Typing(typist.console)
    with (
        pytest.raises(ZeroDivisionError),
        typing.listening(send=lambda text: None, interrupt=lambda: None),
    ):
        assert not typist.is_cooked()
        raise ZeroDivisionError
    assert typist.is_cooked()
    await until(lambda: typist.stream.endswith(b"\x1b[?2004l"))


async def test_ctrl_z_gives_the_terminal_back_until_the_program_goes_on(
    typist: Typist, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[tuple[int, bool]] = []
    # The signal would stop the tests as well; what is looked at is the terminal that it finds.
    monkeypatch.setattr(os, "kill", lambda pid, number: stopped.append((number, typist.is_cooked())))
    typing = Typing(typist.console)
    with typing.listening(send=lambda text: None, interrupt=lambda: None):
        typist.type("kept\x1a")
        await until(lambda: bool(stopped) and not typist.is_cooked())
        assert stopped == [(signal.SIGTSTP, True)]
        await typist.sees("kept")
    assert typist.is_cooked()
