"""One cell and what becomes of it: echo, output, errors, reserved names, FINAL, interrupt."""

import json

import pytest

from rlm.box.wire import BytesSink
from tests.box import Guest, final_text

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("6 * 7", "42\n"),
        ("'text'", "'text'\n"),
        ("x = 1", ""),
        ("x = 1\nx", "1\n"),
        ("1;", ""),
        ("None", ""),
        ("print('printed')\n'echoed'", "printed\n'echoed'\n"),
        ("if True:\n    5", ""),
        ("# nothing but a comment", ""),
        ("", ""),
        ("import sys; print('out'); print('err', file=sys.stderr)", "out\nerr\n"),
        ("import subprocess; subprocess.run(['echo', 'sub']).returncode", "0\nsub\n"),
        ("x: int = 3; x", "3\n"),
        ("[y := 5, _]" if False else "_ = 5; _", "5\n"),
        ("print('é😀\\u2028')", "é😀\u2028\n"),
    ],
)
async def test_shows_what_it_printed_and_its_last_expression(guest: Guest, code: str, shown: str) -> None:
    result = await guest.run(code)
    assert (result.status, result.error) == ("ok", "")
    assert sorted(result.shown.splitlines()) == sorted(shown.splitlines())


async def test_underscore_is_the_last_value_echoed(guest: Guest) -> None:
    await guest.run("6 * 7")
    assert await guest.shows("_ + 1") == "43\n"


async def test_error_keeps_what_was_assigned_and_shows_the_line(guest: Guest) -> None:
    result = await guest.run("before = 1\nboom = 1 / 0\nafter = 2")
    assert (result.status, result.error) == ("error", "ZeroDivisionError: division by zero")
    assert "boom = 1 / 0" in result.shown
    assert "/opt/" not in result.shown
    assert await guest.shows("before, 'after' in globals()") == "(1, False)\n"


async def test_syntax_error_is_shown_and_nothing_ran(guest: Guest) -> None:
    result = await guest.run("ran = 1\ndef broken(:\n    pass")
    assert result.error.startswith("SyntaxError")
    assert "def broken(:" in result.shown
    assert await guest.shows("'ran' in globals()") == "False\n"


async def test_traceback_of_an_earlier_function_shows_its_source(guest: Guest) -> None:
    await guest.shows("def fails():\n    raise KeyError('deep')")
    result = await guest.run("fails()")
    assert "raise KeyError('deep')" in result.shown


async def test_reserved_names_are_put_back_with_a_note(guest: Guest) -> None:
    result = await guest.run("context = 'mine'; llm_query = None; mine = 1")
    assert result.shown == "(reserved, and put back as before: llm_query, context; use other names)\n"
    assert await guest.shows("context, callable(llm_query), mine") == "('', True, 1)\n"


async def test_builtins_are_put_back_unless_shadowed_in_the_namespace(guest: Guest) -> None:
    await guest.shows("import builtins; builtins.len = lambda x: 7; sum = 5")
    assert await guest.shows("len([1]), sum") == "(1, 5)\n"


async def test_long_output_is_cut_and_kept_whole(guest: Guest) -> None:
    result = await guest.run("for number in range(10_000): print(number)")
    assert result.kept_as == f"outputs[{result.number}]"
    assert len(result.shown) <= 20_000
    assert result.shown.startswith("0\n1\n2\n")
    assert result.shown.endswith("\n9998\n9999\n")
    assert f"characters left out; the whole output is in {result.kept_as}" in result.shown
    assert await guest.shows(f"{result.kept_as} == ''.join(f'{{n}}\\n' for n in range(10_000))") == "True\n"
    assert result.total_chars == 48_890


async def test_output_is_seen_while_the_cell_runs(guest: Guest) -> None:
    result = await guest.run("print('first', flush=True)\nimport time; time.sleep(60)", interrupt_at="first")
    assert result.status == "interrupted"
    assert "".join(guest.live).startswith("first")


@pytest.mark.parametrize(
    ("value", "format_", "text"),
    [
        ("'# Markdown\\n'", "text", "# Markdown\n"),
        ("b'caf\\xc3\\xa9'", "text", "café"),
        ("{'a': [1, 2.5, None, True], 'é': 'x'}", "json", '{"a": [1, 2.5, null, true], "é": "x"}'),
        ("42", "json", "42"),
        ("None", "json", "null"),
        ("''", "text", ""),
        ("float('nan')", "repr", "nan"),
        ("{1, 2}", "repr", "{1, 2}"),
        ("'a\\udc80'", "text", "a\\udc80"),
        ("type('Report', (), {'__str__': lambda self: 'as text'})()", "repr", "as text"),
    ],
)
async def test_final_delivers_the_value(guest: Guest, value: str, format_: str, text: str) -> None:
    result = await guest.run(f"FINAL({value})\nprint('never')")
    assert (result.status, result.final_format, result.shown) == ("final", format_, "")
    delivered = final_text(result)
    assert json.loads(delivered) == json.loads(text) if format_ == "json" else delivered == text


async def test_final_of_any_size_goes_through(guest: Guest) -> None:
    result = await guest.run("FINAL('0123456789' * 500_000)")
    assert isinstance(result.final, BytesSink)
    assert result.final.data == b"0123456789" * 500_000


async def test_final_var_delivers_a_variable(guest: Guest) -> None:
    result = await guest.run("report = ['a']\nFINAL_VAR('report')")
    assert json.loads(final_text(result)) == ["a"]


async def test_final_var_of_a_missing_name_tells_near_ones(guest: Guest) -> None:
    result = await guest.run("summary = 1\nFINAL_VAR('sumary')")
    assert (result.status, result.error) == (
        "error",
        "NameError: no variable 'sumary'; did you mean 'summary'?",
    )


async def test_final_passes_through_except_exception(guest: Guest) -> None:
    result = await guest.run("try:\n    FINAL('through')\nexcept Exception:\n    FINAL('caught')")
    assert final_text(result) == "through"


async def test_final_that_was_caught_does_not_answer(guest: Guest) -> None:
    result = await guest.run("try:\n    FINAL('x')\nexcept BaseException:\n    pass\n'went on'")
    assert (result.status, result.shown, result.final) == ("ok", "'went on'\n", None)


async def test_final_whose_text_cannot_be_made_is_an_error(guest: Guest) -> None:
    result = await guest.run("class Odd:\n    def __str__(self): raise ValueError('no text')\nFINAL(Odd())")
    assert (result.status, result.error) == ("error", "ValueError: no text")


async def test_kept_answers_are_values(guest: Guest) -> None:
    await guest.run("FINAL({'n': 7})")
    await guest.namespace.keep_answer(None)
    await guest.namespace.keep_answer("in prose")
    assert await guest.shows("answers") == "[{'n': 7}, 'in prose']\n"


async def test_interrupt_keeps_variables(guest: Guest) -> None:
    result = await guest.run(
        "done = []\nwhile True:\n    done.append(1)\n    if len(done) == 3: print('three')",
        interrupt_at="three",
    )
    assert result.status == "interrupted"
    assert "what it assigned before is kept" in result.shown
    assert await guest.shows("len(done) >= 3") == "True\n"


async def test_interrupt_outside_a_cell_does_nothing(guest: Guest) -> None:
    guest.namespace.interrupt()
    assert await guest.shows("keep") == "['kept']\n"


async def test_interrupted_cell_may_tidy_up(guest: Guest) -> None:
    result = await guest.run(
        "import time\ntry:\n    print('in')\n    time.sleep(60)\nfinally:\n    tidy = True", interrupt_at="in"
    )
    assert result.status == "interrupted"
    assert await guest.shows("tidy") == "True\n"


async def test_what_a_cell_does_to_its_process_is_undone(guest: Guest) -> None:
    await guest.shows(
        "import os, signal, sys, warnings\nos.chdir('/')\nsys.setrecursionlimit(50)\nsignal.alarm(1)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwarnings.simplefilter('error')"
    )
    assert (
        await guest.shows("os.getcwd(), sys.getrecursionlimit(), signal.alarm(0), warnings.warn('shown')")
        != ""
    )
    assert await guest.shows("_[:3]") == "('/tmp', 1000, 0)\n"


async def test_namespaces_do_not_see_each_other(guest: Guest) -> None:
    other = await guest.box.open_namespace(guest.host.serve)
    await guest.shows("secret = 1")
    result = await other.run_cell("secret", lambda text: None)
    guest.box.close_namespace(other)
    assert result.error == "NameError: name 'secret' is not defined"
