"""The prompt of the chat on a terminal: every key that is promised, and how it looks."""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm.cli.chat_commands import COMMANDS
from rlm.cli.chat_completion import ChatCompleter
from rlm.cli.chat_prompt import Prompt

from .typist import PATIENCE_S, Typist, until

MARK = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
Open = Callable[..., tuple[Typist, Prompt]]


@pytest.fixture
def at_prompt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    opened: list[Typist] = []

    def open_prompt(**given: Any) -> tuple[Typist, Prompt]:
        typist = Typist(monkeypatch, **given)
        opened.append(typist)
        completer = ChatCompleter(
            {name: command.summary for name, command in COMMANDS.items()},
            arguments=lambda name: [("fast", "openai/fast"), ("slow", "")] if name == "/model" else [],
            with_paths=("/files",),
            cwd=tmp_path,
        )
        prompt = Prompt(
            typist.console,
            history=tmp_path / "history",
            completer=completer,
            bar=lambda columns: "a.txt +2 · openai/root · $0.09" if columns >= 40 else "a.txt +2 · $0.09",
        )
        return typist, prompt

    yield open_prompt
    for typist in opened:
        typist.close()


async def sent(prompt: Prompt, typist: Typist, *keys: str, text: str = "") -> str:
    """What comes of these keys, each group typed when the prompt is there to read it."""
    reading = asyncio.create_task(prompt.read(text))
    for number, group in enumerate(keys):
        await until(lambda: not typist.is_cooked() or reading.done())
        if number:
            await asyncio.sleep(0.1)
        typist.type(group)
    async with asyncio.timeout(PATIENCE_S):
        return await reading


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["How many words?\r"], "How many words?"),
        (["one\x1b\rtwo\r"], "one\ntwo"),
        (["\x1b[200~one\r\ntwo\n\x1b[201~\r"], "one\ntwo\n"),
        (["wrong\x03", "right\r"], "right"),
        (["first line\x1b\rsecond\x1b[A\x01the \r"], "the first line\nsecond"),
    ],
)
async def test_enter_sends_and_other_keys_edit(at_prompt: Open, keys: list[str], text: str) -> None:
    typist, prompt = at_prompt()
    assert await sent(prompt, typist, *keys) == text
    assert typist.is_cooked()


async def test_what_was_typed_too_late_stands_in_the_prompt(at_prompt: Open) -> None:
    typist, prompt = at_prompt()
    assert await sent(prompt, typist, " now\r", text="count them") == "count them now"


async def test_ctrl_c_at_an_empty_prompt_is_a_hint_and_ctrl_d_leaves(at_prompt: Open) -> None:
    typist, prompt = at_prompt()
    reading = asyncio.create_task(prompt.read())
    await typist.sees(MARK)
    typist.type("\x03")
    await typist.sees("Ctrl-D or /quit leaves")
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.05)
    typist.type("\x04")
    with pytest.raises(EOFError):
        async with asyncio.timeout(PATIENCE_S):
            await reading


async def test_the_history_is_kept_and_searched(at_prompt: Open) -> None:
    typist, prompt = at_prompt()
    for question in ("How many words?", "two\x1b\rlines", "Who speaks most?"):
        await sent(prompt, typist, f"{question}\r")
    again, afresh = at_prompt()
    assert await sent(afresh, again, "\x1b[A\r") == "Who speaks most?"
    assert await sent(afresh, again, "\x12", "many", "\r", "\r") == "How many words?"


async def test_a_history_that_cannot_be_kept_is_told_and_nothing_more(
    at_prompt: Open, tmp_path: Path
) -> None:
    (tmp_path / "history").mkdir()
    typist, prompt = at_prompt()
    assert await sent(prompt, typist, "Still there?\r") == "Still there?"
    await typist.sees("the history of questions is not kept")


@pytest.mark.parametrize(
    ("script", "text", "told"),
    [
        ("printf 'from the editor\\n' > \"$1\"", "from the editor", ""),
        ("exit 3", "draft", "The editor ended with status 3."),
        (None, "draft", "could not be started"),
    ],
)
async def test_the_users_editor(
    at_prompt: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    text: str,
    told: str,
) -> None:
    editor = tmp_path / "my editor"
    if script:
        editor.write_text(f"#!/bin/sh\n{script}\n")
        editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", f"'{editor}'")
    typist, prompt = at_prompt()
    reading = asyncio.create_task(prompt.read())
    await typist.sees(MARK)
    typist.type("draft\x18\x05")
    await typist.sees(told or text)
    await typist.sees(f"{MARK} {text}")
    typist.type("\r")
    async with asyncio.timeout(PATIENCE_S):
        assert await reading == text


async def test_tab_completes_commands_arguments_and_paths(at_prompt: Open, tmp_path: Path) -> None:
    (tmp_path / "notes of may.txt").touch()
    typist, prompt = at_prompt()
    reading = asyncio.create_task(prompt.read())
    await typist.sees(MARK)
    typist.type("/mod")
    await typist.sees("the root model")
    typist.type("\t")
    await typist.sees(f"{MARK} /model")
    typist.type(" f")
    await typist.sees("openai/fast")
    typist.type("\x15What is in @not")
    await typist.sees("notes of may.txt")
    typist.type("\t")
    await typist.sees('@"notes of may.txt"')
    typist.type(
        "\r",
    )
    await asyncio.sleep(0.1)
    typist.type("\r")
    async with asyncio.timeout(PATIENCE_S):
        assert await reading == 'What is in @"notes of may.txt"'


@pytest.mark.parametrize(
    ("given", "mark", "bar"),
    [
        ({}, MARK, "a.txt +2 · openai/root · $0.09"),
        ({"columns": 20}, MARK, "a.txt +2 · $0.09"),
        ({"environ": {"NO_COLOR": "1"}}, MARK, "a.txt +2 · openai/root · $0.09"),
        ({"encoding": "latin-1"}, ">", "a.txt +2 - openai/root - $0.09"),
    ],
    ids=["wide", "narrow", "no colour", "no utf-8"],
)
async def test_how_it_looks(at_prompt: Open, given: dict[str, Any], mark: str, bar: str) -> None:
    typist, prompt = at_prompt(**given)
    reading = asyncio.create_task(prompt.read())
    shown = await typist.sees(bar)
    assert shown[0] == mark
    assert shown[-1] == bar
    typist.type("/h")
    await typist.sees("/help")
    typist.type("\x03\x04")
    with pytest.raises(EOFError):
        async with asyncio.timeout(PATIENCE_S):
            await reading
    colours = re.findall(rb"\x1b\[([0-9;]*)m", typist.stream)
    assert not any(b"38;" in colour or b"48;" in colour for colour in colours), "sixteen colours are enough"
    if "environ" in given:
        assert set(b";".join(colours).split(b";")) <= {b"", b"0", b"1", b"2", b"7", b"00", b"01", b"02"}
