"""What the page of a turn holds, what the script of its cells does, and how the command gives them."""

import base64
import hashlib
import json
import re
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import BashComplete

from rlm.cli import exit_code
from rlm.cli.trace import command
from rlm.documents import Document, look
from rlm.events import Compacted, Resumed, Said, TurnStarted, Usage
from rlm.records import TurnBegan, TurnEnded, TurnUndone
from rlm.register import add_documents, begin_session
from rlm.state import State
from rlm.trace.page import page
from rlm.trace.script import NAMES, script
from rlm.trace.tree import tree
from sandbox.interrupts import Interrupts
from sandbox.link import Link
from sandbox.workspace import Workspace
from tests.browser.samples import (
    MARKUP,
    Recorder,
    batch,
    call,
    cell,
    finished,
    reply,
    rich_turn,
    spoiled,
    step,
)
from tests.ui import ALL_HOSTILE, FORBIDDEN, HOSTILE

Row = dict[str, Any]


class Parts(HTMLParser):
    """The texts of the page's style and scripts, by the tag and its type, and all that has an address."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.addresses: list[str | None] = []
        self.policy = ""
        self._in = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in = f"{tag} {given.get('type') or ''}".strip()
        self.addresses += [given[name] for name in ("src", "href", "action", "style") if name in given]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in:
            self.texts[self._in] = self.texts.get(self._in, "") + data


# -- the tree


def test_steps_calls_and_children_have_their_place_and_their_time() -> None:
    turn = tree(rich_turn())

    first, second, note, third, fourth = turn["items"]
    assert (turn["turn"], turn["when"], turn["end"]) == (3, "2026-03-12 10:00:01", 38.0)
    assert (first["start"], first["replied"], first["end"], first["cell"]) == (0.0, 3.1, 3.9, 4)
    assert (second["status"], second["error"]) == ("error", "KeyError: no document 'tickets.md'")
    assert (note["kind"], note["level"], note["at"]) == ("note", "warning", 6.4)
    assert (fourth["status"], fourth["replied"]) == ("final", 37.5)
    plain, recursive = third["batches"]
    assert [row["index"] for row in plain["calls"]] == list(range(12))
    assert (plain["start"], plain["end"]) == (9.1, 21.6)
    cached, retried, cut, failed = (plain["calls"][index] for index in (3, 5, 10, 11))
    assert cached["cached"] and cached["start"] == cached["end"] == 9.2
    assert (retried["retries"], retried["start"], retried["end"]) == (2, 9.5, 19.0)
    assert cut["cut"] and failed["error"] == "Timeout: no reply within 12 s."
    children = [row["child"] for row in recursive["calls"]]
    assert [(row["child"], row["start"], row["end"]) for row in children] == [
        (1, 22.1, 27.0),
        (2, 22.1, 31.0),
        (3, 23.0, 33.0),
    ]
    assert [row["items"][0]["shown"] for row in children] == [f"14: the reason of {n}" for n in (1, 2, 3)]
    assert recursive["took"] == "74k in / 1.2k out · $0.0063"
    assert turn["models"] == [
        ["anthropic/claude-opus-4-5", "4", "12k", "960", "8.2k", "$0.04"],
        ["openai/gpt-5-mini", "14", "347k", "5.7k", "0", "$0.03"],
    ]


def test_a_turn_that_broke_off_anywhere_has_a_tree() -> None:
    rows = rich_turn()
    for end in range(1, len(rows)):
        turn = tree(rows[:end])
        assert "status" not in turn
        assert turn["end"] == max(0.0, *(seconds(row) for row in rows[:end]))


def seconds(row: Row) -> float:
    minutes, _, rest = row["ts"][14:23].partition(":")
    return round(int(minutes) * 60 + float(rest) - 1, 3)


def test_rows_may_be_lost_or_lack_what_this_version_writes() -> None:
    rows = rich_turn()
    for lost in range(1, len(rows)):
        assert tree(rows[:lost] + rows[lost + 1 :])["question"]
    assert tree([{"event": row["event"]} for row in rows])["items"]
    assert tree([{"event": "Unheard"}, {}]) == {"end": 0.0}


def test_the_last_reply_of_a_turn_out_of_steps_is_an_item_of_its_own() -> None:
    recorder = Recorder()
    recorder.add(0, TurnStarted(turn=3, question="q"), step(1))
    recorder.add(2, reply(1, "look()"))
    recorder.add(3, cell(1))
    recorder.add(8, reply(1, None, "That is all that I have."))
    first, last = tree(recorder.rows)["items"]
    assert (first["end"], last["start"], last["replied"], last["last"]) == (3.0, 3.0, 8.0, True)


def test_what_the_user_did_is_a_note_before_the_step_it_went_with() -> None:
    recorder = Recorder()
    recorder.add(0, TurnStarted(turn=3, question="q"), step(1))
    recorder.add(2, reply(1, "look()"))
    recorder.add(3, cell(1, "interrupted"), Resumed(kind="continue", hint="only March", waited_s=1.0))
    recorder.add(4, step(2), Said(text="and April"))
    recorder.add(5, reply(2, "look()"))
    _, resumed, said, second = tree(recorder.rows)["items"]
    assert resumed["text"] == "Stopped by the user: continue: only March"
    assert (said["text"], said["at"]) == ("You: and April", 4.0)
    assert (second["step"], second["replied"]) == (2, 5.0)


def test_what_became_longer_has_no_note() -> None:
    recorder = Recorder()
    recorder.add(0, TurnStarted(turn=3, question="q"))
    recorder.add(1, Compacted(turn=3, before_chars=2_140, after_chars=2_693))
    recorder.add(2, Compacted(turn=3, before_chars=2_693, after_chars=900))
    (note,) = tree(recorder.rows)["items"]
    assert note["text"] == "Compacted: 2,693 to 900 characters."


def test_a_clock_that_was_set_back_makes_no_time_negative() -> None:
    recorder = Recorder()
    recorder.add(10, TurnStarted(turn=3, question="q"), step(1))
    recorder.add(12, reply(1, "look()"), batch(1, 1))
    recorder.add(4, call(1, 0, 1, 500.0), cell(1))
    (only,) = tree(recorder.rows)["items"]
    (asked,) = only["batches"][0]["calls"]
    assert (only["replied"], only["end"], asked["start"], asked["end"]) == (2.0, 2.0, 2.0, 2.0)


# -- the page


def test_the_page_allows_its_own_style_and_script_and_nothing_else() -> None:
    parts = Parts(page(rich_turn()))

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert parts.policy.split("; ") == [
        "default-src 'none'",
        f"style-src {allowed(parts.texts['style'])}",
        f"script-src {allowed(parts.texts['script'])}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert parts.addresses == []
    assert "innerHTML" not in parts.texts["script"]


@pytest.mark.parametrize("text", [MARKUP, ALL_HOSTILE, *HOSTILE.values()], ids=["markup", "all", *HOSTILE])
def test_hostile_text_is_data_of_the_page(text: str) -> None:
    rows = spoiled(rich_turn(), text)
    source = page(rows)
    parts = Parts(source)
    data = json.loads(parts.texts["script application/json"])
    assert data == json.loads(json.dumps(tree(rows)))
    assert not FORBIDDEN.search(source)
    assert set(parts.texts) >= {"style", "script", "script application/json"}
    assert source.count("<script") == 2 + parts.texts["script"].count("<script")
    assert data["question"] == data["answer"] == data["items"][0]["code"]


# -- the script


def document(folder: Path, name: str, text: str) -> Document:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return look(path)


def turn_of(*cells: tuple[str, str], error: str = "") -> list[Row]:
    """A turn of these cells, each with its status."""
    recorder = Recorder()
    recorder.add(0, TurnStarted(turn=3, question="# -*- coding: utf-7 -*-\nHow many?"))
    for number, (code, status) in enumerate(cells, 1):
        recorder.add(number, step(number), reply(number, code, "A plan.\nIn two lines."))
        if status:
            recorder.add(number, cell(number, status, error=error if status == "error" else ""))
    recorder.add(9, finished(9.0))
    return recorder.rows


def test_the_script_runs_as_the_cells_did(tmp_path: Path) -> None:
    log = document(tmp_path, "app.log", "one\ntwo é\nthree\n")
    rows = turn_of(
        ("rows = context.splitlines()\nrows", "ok"),
        ("rows = None\nrows[0]", "error"),
        ("lines = [row.upper() for row in rows]\nbuffers.append(lines)", "ok"),
        ("import time\ntime.sleep(600)", "interrupted"),
        ("FINAL([len(files['app.log']), *buffers[0]])", "final"),
        error="TypeError: 'NoneType' object is not subscriptable",
    )
    text = script(rows, [log], active="app.log")
    path = tmp_path / "cells.py"
    path.write_text(text, encoding="utf-8")

    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=True)

    assert ended.stdout == "[16, 'ONE', 'TWO É', 'THREE']\n"
    assert "#     # -*- coding: utf-7 -*-\n#     How many?\n" in text
    assert "# Of the REPL the cells use: FINAL, buffers, context, files.\n" in text
    assert f"#     app.log  {log.path}\n" in text
    titles = re.findall(r"^# %% (.*)$", text, flags=re.MULTILINE)
    outcomes = ("ok", "error", "ok", "interrupted", "final")
    assert titles == [f"In [{number}] · {outcome} · 0.1s" for number, outcome in enumerate(outcomes, 4)]
    left_out = (
        "# TypeError: 'NoneType' object is not subscriptable\n# Left out: it did not come to its end.\n"
    )
    assert f"# A plan.\n# In two lines.\n{left_out}# rows = None\n# rows[0]\n" in text


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("if True", "expected ':'"),
        ('text = """never ended', "unterminated triple-quoted string"),
        ("x = 1 \\", "unexpected EOF"),
        ("from __future__ import annotations", "must occur at the beginning"),
        ("global first", "global"),
        ("await ask()", "'await' outside function"),
        ("return 1", "'return' outside function"),
        ("x = 'a\x00b'", "null bytes"),
        ("x = '\udc80'", "surrogate"),
        ("  x = 1\n y = 2", "indent"),
        ("x = " + "(" * 500 + ")" * 500, "too many nested"),
    ],
)
def test_a_cell_that_cannot_stand_in_a_script_is_left_out(code: str, why: str) -> None:
    text = script(turn_of(("first = 1", "ok"), (code, "ok"), ("second = first", "ok"), ("late()", "")))
    names: dict[str, Any] = {}
    exec(compile(text.encode("utf-8"), "script", "exec"), names)
    assert names["second"] == 1 and "x" not in names
    reason = re.search(r"# Left out: it cannot stand in a script \((.*)\)\.", text)
    assert reason and why in reason[1]
    assert "# %% In [7] · did not run\n" in text and "# late()" in text


@pytest.mark.parametrize("status", ["ok", "error", ""])
@pytest.mark.parametrize("text", [MARKUP, *HOSTILE.values()], ids=["markup", *HOSTILE])
def test_hostile_text_in_comments_stays_there(text: str, status: str) -> None:
    rows = spoiled(turn_of(("FINAL(1)", status), error="x"), text)
    for row in rows:
        row |= {name: value for name, value in (("code", "y = 1"), ("status", status)) if name in row}
    made = script(rows)
    names: dict[str, Any] = {}
    exec(compile(made.encode("utf-8"), "script", "exec"), names)
    assert names.keys() - {"__builtins__"} == ({"y"} if status == "ok" else set())
    assert not FORBIDDEN.search(made)


def test_what_the_repl_has_beside_python_is_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        workspace = Workspace(Link(ours, Interrupts()), {}, str_limit_bytes=1000, memory_bytes=1000)
        assert workspace.reserved().keys() == NAMES


def test_helpers_without_a_stand_in_say_so(tmp_path: Path) -> None:
    text = script(turn_of(("found = llm_query(context)", "ok")), active="report.pdf")
    with pytest.raises(NotImplementedError, match="llm_query is a helper of the REPL"):
        exec(compile(text, "script", "exec"), {})
    assert "context = ''  # the text of 'report.pdf'" in text


# -- the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a session with one document and two turns, the second of them `rich_turn`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    state = State.open(tmp_path / ".rlm_state", create=True)
    with state.lock():
        begin_session(state)
        add_documents(state, [document(tmp_path, "app.log", "text\n")], [])
        state.append(TurnBegan(turn=3, question="q"))
        state.append(
            TurnEnded(
                turn=3,
                status="ok",
                steps=4,
                answer=None,
                answer_format="text",
                answer_bytes=0,
                summary="",
                usage=Usage(),
                by_model={},
                duration_s=1.0,
            )
        )
    for row in [*(row | {"turn": 2} for row in turn_of(("x = 1", "ok"))), *rich_turn()]:
        state.events.append(row)
    return tmp_path


def test_the_command_gives_each_form(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def given(*options: str) -> tuple[str, str]:
        code = exit_code(["trace", *options])
        out, err = (text.decode() for text in capfdbinary.readouterr())
        assert code == 0, err
        return out, err

    made, _ = given("3", "--html", "-")
    assert made == page(rich_turn())
    assert given("--html", ".") == (
        "",
        f"note: turn-0003.html ({len(made.encode()) / 1000:.0f} kB) is written.\n",
    )
    assert (folder / "turn-0003.html").read_text() == made
    cells, _ = given("--script")
    assert "#     app.log  " in cells and "LINE = re.compile" in cells
    compile(cells, "script", "exec")
    assert given("--script", "cells.py")[0] == "" and (folder / "cells.py").read_text() == cells
    rows = [json.loads(line) for line in given("--json")[0].splitlines()]
    assert [row["event"] for row in rows] == [row["event"] for row in rich_turn()]
    assert given("2")[0].startswith("turn 2 ")


def test_the_command_says_that_a_turn_was_taken_back(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def first_line() -> str:
        assert exit_code(["trace", "3"]) == 0
        return capfdbinary.readouterr().out.decode().splitlines()[0]

    state = State.open(folder / ".rlm_state", create=False)
    for row in rich_turn():
        state.events.append(row | {"session": state.view().session})
    assert "taken back" not in first_line()
    with state.lock():
        state.append(TurnUndone(turn=3))
    assert first_line().endswith(" · taken back")


@pytest.mark.parametrize("option", ["--html", "--script"])
def test_completion_offers_files(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = BashComplete(command, {}, "trace", "_TRACE_COMPLETE").get_completions([option], "pa")
    assert [(item.type, item.value) for item in offered] == [("file", "pa")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--html", "nowhere/page.html"],
            "nowhere/page.html could not be written. No such file or directory.",
        ),
        (["--html", "a", "--script", "b"], "--json, --html and --script do not go together."),
        (["--script", "2"], "--script would write to a file called 2."),
        (["7", "--json"], "There is no turn 7."),
    ],
)
def test_what_cannot_be_given_is_said(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes], options: list[str], said: str
) -> None:
    assert exit_code(["trace", *options]) == 2
    out, err = capfdbinary.readouterr()
    assert out == b"" and said in err.decode().replace("\n     ", " ")
