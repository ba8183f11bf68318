"""What the documents say of the code is so."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from rlm import errors, protocol
from rlm.cli import COMMANDS, SUMMARIES, cli
from rlm.cli.result import failure
from rlm.config import DEFAULT_MODELS
from rlm.settings import Limits
from tests.doc_blocks import PAGES, blocks, generated, help_text, rewritten, same

ROOT = Path(__file__).parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_protocol_page_names_every_message_and_no_other() -> None:
    page = read("docs/protocol.md")
    kinds = (*protocol.TO_SUPERVISOR, *protocol.TO_WORKER, *protocol.FROM_SUPERVISOR, *protocol.FROM_WORKER)
    named = set(re.findall(r"`([a-z_]+)`", page))
    tags = {kind.tag for kind in kinds}
    assert tags <= named
    notes = {"running", "idle", "took_over", "helper", "twin"}
    assert named - tags <= notes | {"ready", "final"}


def test_the_architecture_page_names_every_module() -> None:
    page = read("docs/architecture.md")
    named = set(re.findall(r"`([\w/]+)\.py`", page)) | set(re.findall(r"`(\w+)/`", page))
    for package in ("rlm", "sandbox"):
        for path in sorted((ROOT / package).glob("**/*.py")):
            inside = path.relative_to(ROOT / package).with_suffix("")
            name = inside.as_posix()
            if path.name.startswith("__") or inside.parts[0] in named:
                continue
            assert name in named, f"docs/architecture.md does not name {package}/{name}.py"


def test_every_command_has_a_summary_and_stands_in_the_readme() -> None:
    assert COMMANDS.keys() == SUMMARIES.keys()
    readme = read("README.md")
    for command in COMMANDS:
        assert f"`{command}" in readme


def test_the_readme_shows_the_two_commands_first() -> None:
    first = re.search(r"```\n(.*?)```", read("README.md"), flags=re.DOTALL)
    assert first and first[1].split("#")[0].strip() == "make demo" and "make test" in first[1]


BLOCKS = [(page, name) for page in PAGES for name, _ in blocks(page)]


@pytest.mark.parametrize(("page", "name"), BLOCKS)
def test_what_is_generated_is_up_to_date(page: str, name: str) -> None:
    text = next(text for found, text in blocks(page) if found == name)
    made = generated(name)
    assert same(text, made), f"scripts/docs brings {page} up to date; it should say:\n{made}"


def test_each_help_text_is_in_the_docs_and_fits_80_columns() -> None:
    helps = {name: text for name, text in blocks("docs/cli.md") if name.startswith("help")}
    assert set(helps) == {"help"} | {f"help {command}" for command in COMMANDS}
    for name, text in helps.items():
        wide = [line for line in text.splitlines() if len(line) > 80]
        assert not wide, f"{name}: {wide}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reads_well_on_a_narrow_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 30 columns the words of what an option does stay whole."""
    monkeypatch.setenv("COLUMNS", "30")
    wide, shown = (
        CliRunner().invoke(cli, [command, "--help"], terminal_width=width).output for width in (80, 30)
    )
    whole = set(re.findall(r"[a-z]{5,}", wide))
    told = shown[shown.index("Options:") :].replace("-\n", "-")
    broken = [word for word in re.findall(r"[a-z]{5,}", told) if word not in whole]
    assert not broken, shown


def test_a_block_that_is_out_of_date_is_seen_and_put_right() -> None:
    assert same("Out [1] ok 59ms", "Out [1] ok 0.2s")
    assert not same("Out [1] ok 59ms", "Out [2] ok 59ms")
    page = rewritten("docs/cli.md", names=lambda name: f"anew: {name}")
    assert "<!-- generated: help run -->\n```\nanew: help run\n```" in page
    assert page.count("anew: ") == len(COMMANDS) + 1


def test_rlm_alone_begins_with_two_examples() -> None:
    first, second, third, *_ = help_text().splitlines()
    assert first.strip().startswith("rlm init") and second.strip().startswith("rlm run")
    assert third == ""


def test_the_defaults_in_help_texts_are_those_of_the_settings() -> None:
    text = " ".join(next(text for name, text in blocks("docs/cli.md") if name == "help run").split())
    limits = Limits()
    for option, default in {
        "--model NAME": DEFAULT_MODELS["root_llm"],
        "--sub-model NAME": DEFAULT_MODELS["sub_llm"],
        "--max-cost USD": f"{limits.max_cost_usd:.2f}",
        "--max-steps N": f"{limits.max_steps}",
        "--timeout S": f"{limits.timeout_s:.0f}",
    }.items():
        assert re.search(rf"{option} [^\[]+\[default: {re.escape(default)}\]", text), option


def test_the_json_form_and_the_exit_codes_are_those_of_the_code() -> None:
    page = read("docs/cli.md")
    table = page.partition("## `--json`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| (.*)", table, flags=re.MULTILINE)
    found = failure(errors.UsageError("It cannot be."))
    assert {key for first, _ in rows for key in re.findall(r"`(\w+)`", first)} == found.keys()
    usage = next(rest for first, rest in rows if first == "`usage`")
    assert set(re.findall(r"`(\w+)`", usage)) == found["usage"].keys()

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.RlmError)} | {0}
    for text in (page.partition("## Exit codes")[2].partition("\n## ")[0], generated("help run")):
        assert {int(code) for code in re.findall(r"^(?:\| |    )(\d+)\b", text, flags=re.MULTILINE)} == codes
