"""What Tab offers: commands, what can follow them, and the paths of real folders."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from rlm.cli.chat_completion import MOST_PATHS, ChatCompleter


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    work = tmp_path / "work"
    for path in (home / "letters", work / "My Data", work / "sub"):
        path.mkdir(parents=True)
    for name in (
        "a.txt",
        ".hidden",
        "Bericht März.pdf",
        'a "quoted" name',
        "evil\x1b[2J.txt",
        "sub/deep.csv",
    ):
        (work / name).touch()
    (work / "My Data" / "one.csv").touch()
    monkeypatch.setenv("HOME", str(home))
    return work


def offered(folder: Path, text: str) -> list[str]:
    """The line as each completion would make it."""
    completer = ChatCompleter(
        {"/files": "the documents", "/model": "the root model", "/memory": "what is kept"},
        arguments=lambda name: [("fast", "openai/fast"), ("openai/big", "")] if name == "/model" else [],
        with_paths=("/files",),
        cwd=folder,
    )
    found = completer.get_completions(Document(text, len(text)), CompleteEvent())
    return [text[: len(text) + completion.start_position] + completion.text for completion in found]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("/m", ["/model", "/memory"]),
        ("/model ", ["/model fast", "/model openai/big"]),
        ("/model o", ["/model openai/big"]),
        ("/files s", ["/files sub/"]),
        ("/files sub/", ["/files sub/deep.csv"]),
        ("/files no/such/", []),
        ("//m", []),
        ("Compare /m", []),
        ("mail me@a", []),
        ("What is in @a", ["What is in @a.txt"]),
        ("(@su", ["(@sub/"]),
        ("@sub/", ["@sub/deep.csv"]),
        ("@my", ['@"My Data/']),
        ('@"My Data/', ['@"My Data/one.csv"']),
        ("@'My", ["@'My Data/"]),
        ("@ber", ['@"Bericht März.pdf"']),
        ("@.h", ["@.hidden"]),
        ("@~", ["@~/"]),
        ("@~/l", ["@~/letters/"]),
        ("@~nobody-here/", []),
        ("@e", []),
    ],
)
def test_what_is_offered(folder: Path, text: str, lines: Sequence[str]) -> None:
    assert offered(folder, text) == lines


def test_a_large_folder_offers_its_first_names(folder: Path) -> None:
    (folder / "many").mkdir()
    for number in range(MOST_PATHS + 10):
        (folder / "many" / f"{number:04}").touch()
    assert offered(folder, "@many/")[::499] == ["@many/0000", "@many/0499"]
