"""What reaches the two streams: exact bytes off a terminal, safe and readable text on one."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.style import Style
from rich.text import Text

from rlm.errors import ConfigError, ModelError
from rlm.ui.console import MARKDOWN_MAX_BYTES, Color, Console, wants_color

from . import ALL_HOSTILE, HOSTILE, Pipes, Terminal, leaks, written

MARK = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"


@pytest.mark.parametrize(
    ("color", "environ", "on_terminal", "on_pipe"),
    [
        ("auto", {}, True, False),
        ("auto", {"TERM": "dumb"}, False, False),
        ("auto", {"NO_COLOR": "1"}, False, False),
        ("auto", {"NO_COLOR": ""}, True, False),
        ("auto", {"FORCE_COLOR": "1"}, True, True),
        ("auto", {"FORCE_COLOR": ""}, True, False),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "dumb"}, True, True),
        ("always", {"NO_COLOR": "1", "TERM": "dumb"}, True, True),
        ("never", {"FORCE_COLOR": "1"}, False, False),
    ],
)
def test_colour_is_decided_per_stream(
    color: Color, environ: Mapping[str, str], on_terminal: bool, on_pipe: bool
) -> None:
    assert wants_color(color, environ, is_tty=True) is on_terminal
    assert wants_color(color, environ, is_tty=False) is on_pipe
    with Terminal(environ=environ, color=color) as terminal:
        terminal.console.line("text", style="bold")
        terminal.console.answer([b"**bold**"], prose=True)
        assert (b"\x1b[" in terminal.stream) is on_terminal
    pipes = Pipes(environ=environ, color=color)
    pipes.console.line("text", style="bold")
    pipes.console.answer([b"**bold**"], prose=True)
    assert pipes.err == ("\x1b[1mtext\x1b[0m\n" if on_pipe else "text\n")
    assert pipes.out == b"**bold**\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"answer", b"answer\n"),
        (b"answer\n", b"answer\n"),
        (b"answer\n\n", b"answer\n\n"),
        (b"", b"\n"),
        (b"\xff\x00\x1b[2J\r\n\r", b"\xff\x00\x1b[2J\r\n\r\n"),
        (ALL_HOSTILE.encode("utf-8", "surrogatepass"), ALL_HOSTILE.encode("utf-8", "surrogatepass") + b"\n"),
    ],
)
def test_off_a_terminal_an_answer_is_its_exact_bytes(tmp_path: Path, answer: bytes, expected: bytes) -> None:
    for source in (written(tmp_path, answer), [answer[:3], answer[3:]] if len(answer) > 3 else [answer]):
        pipes = Pipes()
        pipes.console.answer(source, prose=True)
        assert pipes.out == expected
        assert pipes.err == ""


def test_a_long_answer_arrives_whole(tmp_path: Path) -> None:
    answer = os.urandom(1024) * 3000
    pipes = Pipes()
    pipes.console.answer(written(tmp_path, answer))
    assert pipes.out.removesuffix(b"\n") == answer.removesuffix(b"\n")


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    program = (
        "import sys\n"
        "from rlm.ui.console import Console\n"
        "console = Console(stdout=sys.stdout, stderr=sys.stderr, environ={})\n"
        "console.answer([b'line\\n' * 1000] * 1000)\n"
        "console.line('afterwards')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b"afterwards\n"
    assert process.returncode == 0


def test_a_full_disk_is_an_error() -> None:
    with pytest.raises(OSError, match="No space"), open("/dev/full", "w") as full:
        Console(stdout=full, stderr=full, environ={}).answer([b"answer"])


def test_prose_is_rendered_on_a_terminal() -> None:
    with Terminal(columns=40) as terminal:
        text = (
            "Three **endpoints** slowed:\nall of them `reads`, see List<String>.\n\n"
            "- /search\n- /cart\n\n"
            "See [here](http://a.test/x) or ![chart](http://b.test/y).\n"
        )
        terminal.console.answer([text.encode()], prose=True)
        assert terminal.shown == [
            "Three endpoints slowed:",
            "all of them reads, see List<String>.",
            "",
            " • /search",
            " • /cart",
            "",
            "See here (http://a.test/x) or",
            "![chart](http://b.test/y).",
        ]
        assert b"\x1b[1mendpoints\x1b[0m" in terminal.stream


def test_other_answers_are_shown_as_they_are() -> None:
    with Terminal() as terminal:
        source = [b'{"**a**": "\xc3', b"\xa4 \xff \x1b[2J\r", b'\n"}\r']
        terminal.console.answer(source)
        assert terminal.shown == ['{"**a**": "ä \\xff \\x1b[2J', '"}\\x0d']
        assert leaks(terminal.stream) == []


def test_prose_that_is_too_long_to_lay_out_is_shown_as_it_is() -> None:
    with Terminal() as terminal:
        terminal.console.answer([b"**x**\n" * (MARKDOWN_MAX_BYTES // 6), b"**last** \x1b[2J"], prose=True)
        assert terminal.shown[-2:] == ["**x**", "**last** \\x1b[2J"]
        assert leaks(terminal.stream) == []


@pytest.mark.parametrize("prose", [True, False])
@pytest.mark.parametrize("text", [*HOSTILE.values(), ALL_HOSTILE], ids=[*HOSTILE, "all"])
def test_nothing_hostile_in_an_answer_reaches_the_terminal(text: str, prose: bool) -> None:
    table, code = f"| {text} |\n|---|\n| {text} |", f"```python\n{text}\n```"
    wrapped = f"# {text}\n\n**{text}** `{text}`\n\n{table}\n\n{code}\n\n{text}"
    with Terminal(columns=30) as terminal:
        terminal.console.answer([wrapped.encode("utf-8", "surrogatepass")], prose=prose)
        assert leaks(terminal.stream) == []
        assert terminal.shown


def test_nothing_in_an_answer_is_dropped() -> None:
    with Terminal() as terminal:
        terminal.console.answer([b"bell \x07, back \x08, &lrm; **\x0c**"], prose=True)
        assert terminal.shown == ["bell \\x07, back \\x08, \\u200e \\x0c"]


def test_what_rich_lays_out_is_made_visible_whole_and_without_links() -> None:
    with Terminal(columns=20) as terminal:
        terminal.console.print(
            Text("\x1b" * 20, style=Style(link="http://evil.test", bold=True)), indent="> "
        )
        assert leaks(terminal.stream) == []
        assert "".join(terminal.shown).count("\\x1b") == 20
        assert terminal.shown[0].startswith("> \\x1b")


@pytest.mark.parametrize("columns", [80, 20])
def test_errors_say_what_why_and_what_to_do(columns: int) -> None:
    error = ConfigError("No API key for gpt-5.", "OPENAI_API_KEY is not set.", hint="Set it in .env here.")
    with Terminal(columns=columns) as terminal:
        terminal.console.error(error)
        assert (
            terminal.shown
            == {
                80: [
                    "rlm: No API key for gpt-5.",
                    "     OPENAI_API_KEY is not set.",
                    "     Set it in .env here.",
                ],
                20: [
                    "rlm: No API key for",
                    "     gpt-5.",
                    "     OPENAI_API_KEY",
                    "     is not set.",
                    "     Set it in .env",
                    "     here.",
                ],
            }[columns]
        )


def test_a_traceback_only_when_verbose() -> None:
    def fail() -> None:
        try:
            raise ValueError("the cause \x1b[2J")
        except ValueError as cause:
            raise ModelError("The model failed.", hint="Try again.") from cause

    for verbose in (False, True):
        pipes = Pipes(verbose=verbose)
        with pytest.raises(ModelError) as caught:
            fail()
        pipes.console.error(caught.value)
        assert pipes.err.endswith("rlm: The model failed.\n     Try again.\n")
        assert ("ValueError: the cause \\x1b[2J" in pipes.err) is verbose
        assert ("Traceback" in pipes.err) is verbose


def test_a_line_inside_a_text_cannot_pass_for_one_of_ours() -> None:
    pipes = Pipes()
    pipes.console.note("no such file: a\nrlm: all is well", level="warning")
    pipes.console.error(ConfigError("Bad name 'a\nwarning: b'."))
    assert pipes.err == (
        "warning: no such file: a\n     rlm: all is well\nrlm: Bad name 'a\n     warning: b'.\n"
    )


def test_quiet_leaves_warnings_and_errors() -> None:
    pipes = Pipes(quiet=True)
    pipes.console.status("working")
    pipes.console.note("by the way")
    pipes.console.note("take care", level="warning")
    pipes.console.error(ConfigError("It failed."))
    assert pipes.err == "warning: take care\nrlm: It failed.\n"


def test_the_status_line_gives_way_to_other_output() -> None:
    with Terminal(columns=30) as terminal:
        console = terminal.console
        console.status("starting the sandbox")
        assert terminal.shown[0][1:] == " starting the sandbox"
        console.line("a line")
        assert terminal.shown == ["a line"]
        terminal.clock.now_s += 1
        console.tick()
        assert [line[1:] for line in terminal.shown] == [" line", " starting the sandbox"]
        console.answer([b"the answer"])
        console.tick()
        assert terminal.shown == ["a line", "the answer"]


def test_the_status_line_is_drawn_at_most_ten_times_a_second_and_on_change() -> None:
    with Terminal() as terminal:
        for tenth in range(20):
            for number in range(50):
                terminal.console.status(f"{tenth}.{number}")
            terminal.clock.now_s += 0.1001
        assert terminal.stream.count(b"\r\x1b[2K") == 20
        terminal.console.tick()
        assert terminal.shown[0][1:] == " 19.49"
        drawn = len(terminal.stream)
        terminal.clock.now_s += 1.0  # ten frames on, the spinner looks the same
        terminal.console.tick()
        assert len(terminal.stream) == drawn


def test_the_status_line_never_wraps() -> None:
    with Terminal(columns=20) as terminal:
        terminal.console.status("漢字 40/120 calls · 2 failed · 1.1M tok")
        assert len(terminal.shown) == 1
        assert terminal.shown[0].endswith("…")
        terminal.console.status("")
        assert terminal.shown == []


def test_the_status_line_waits_for_the_end_of_a_line() -> None:
    with Terminal() as terminal:
        terminal.console.write("half a ")
        terminal.console.status("working")
        terminal.console.write("line\n")
        assert terminal.shown == ["half a line"]
        terminal.console.tick()
        assert terminal.shown[1][1:] == " working"


@pytest.mark.parametrize(
    ("columns", "typed", "line"),
    [
        (60, "only May", f" cell running {MARK} only May"),
        (60, "one\ntwo \x1b[2J", f" cell running {MARK} one⏎two \\x1b[2J"),
        (20, "only those of May, all", "… those of May, all"),
        (20, "漢字漢字漢字漢字漢字", "…字漢字漢字漢字漢字"),
        (30, "of May", f" cell running {MARK} of May"),
        (20, "of May", f"{MARK} of May"),
    ],
)
def test_what_is_typed_ends_the_status_line(columns: int, typed: str, line: str) -> None:
    with Terminal(columns=columns) as terminal:
        terminal.console.status("cell running")
        terminal.console.typed(typed)
        assert terminal.shown[0].removeprefix("⠋").lstrip("⠙⠹⠸⠼⠴⠦⠧⠇⠏") == line
        terminal.console.line("output")
        assert terminal.shown == ["output"]
        terminal.clock.now_s += 1
        terminal.console.tick()
        assert terminal.shown[1].endswith(line)
        terminal.console.typed("")
        terminal.clock.now_s += 1
        terminal.console.tick()
        assert terminal.shown[1][1:] == " cell running"
        assert leaks(terminal.stream) == []


def test_half_a_line_waits_while_something_is_typed() -> None:
    with Terminal() as terminal:
        terminal.console.typed("mind")
        terminal.console.write("one\nhalf a ")
        terminal.console.tick()
        assert terminal.shown == ["one"]
        terminal.clock.now_s += 1
        terminal.console.tick()
        assert terminal.shown == ["one", f"{MARK} mind"]
        terminal.console.write("line\nand ")
        assert terminal.shown == ["one", "half a line"]
        terminal.console.typed("")
        assert terminal.shown == ["one", "half a line", "and"]
        terminal.console.bracketed_paste(on=True)
        terminal.console.write("more\n")
        terminal.console.bracketed_paste(on=False)
        terminal.console.line("end")
        assert terminal.shown == ["one", "half a line", "and more", "end"]


def test_a_half_line_is_ended_before_the_answer() -> None:
    with Terminal() as terminal:
        terminal.console.write("half a line")
        terminal.console.answer([b"the answer"])
        assert terminal.shown == ["half a line", "the answer"]


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_without_a_movable_cursor_there_is_a_progress_line_every_ten_seconds(kind: str) -> None:
    if kind == "pipe":
        pipes = Pipes()
        for second in range(25):
            pipes.console.status(f"second {second}")
            pipes.clock.now_s += 1
        pipes.console.tick()
        lines = pipes.err.splitlines()
    else:
        with Terminal(environ={"TERM": "dumb"}) as terminal:
            for second in range(25):
                terminal.console.status(f"second {second}")
                terminal.clock.now_s += 1
            terminal.console.tick()
            lines = terminal.shown
            assert b"\x1b" not in terminal.stream
    assert lines == ["second 0", "second 10", "second 20"]


def test_an_unchanged_status_is_not_repeated_in_a_log() -> None:
    pipes = Pipes()
    for _ in range(50):
        pipes.console.status("step 1 · cell running")
        pipes.clock.now_s += 1
    assert pipes.err == "step 1 · cell running\n"


def test_a_stream_that_is_not_utf8_gets_ascii() -> None:
    with Terminal(columns=30, encoding="latin-1") as terminal:
        terminal.console.line("3 steps · +37 lines … é 漢")
        terminal.console.answer([b"- point\n"], prose=True)
        terminal.console.status("waiting for a model that takes its time")
        assert all(byte < 0x80 or byte == 0xE9 for byte in terminal.stream)
        assert b"3 steps - +37 lines ... \xe9" in terminal.stream.replace(b"\r\n", b" ")
        assert [line[1:] for line in terminal.shown[-2:]] == ["* point", " waiting for a model that..."]


@pytest.mark.parametrize(
    ("environ", "plain"),
    [({"LC_ALL": "C"}, True), ({"LANG": "POSIX"}, True), ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, False)],
)
def test_a_terminal_in_the_locale_c_gets_ascii(environ: dict[str, str], plain: bool) -> None:
    with Terminal(environ={"TERM": "xterm", **environ}) as terminal:
        terminal.console.line("… é")
        assert terminal.stream.startswith(b"... \\xe9" if plain else "… é".encode())


def test_the_width_is_the_terminals() -> None:
    with Terminal(columns=33) as terminal:
        assert terminal.console.width == 33
    assert Pipes().console.width == 80
    assert Pipes(environ={"COLUMNS": "120"}).console.width == 120
