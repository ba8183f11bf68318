"""What a turn asks its user: which answers there are, and what a folder's yes may cover."""

from pathlib import Path

import pytest

from rlm.consent import Consent
from rlm.events import Resume
from rlm.ui import ask


@pytest.mark.parametrize(
    ("text", "folder", "agreement"),
    [
        ("y", "/data", "once"),
        (" YES ", "", "once"),
        ("f", "/data", "folder"),
        ("folder", "/data", "folder"),
        ("f", "", None),
        ("n", "/data", "no"),
        ("", "/data", "no"),
        ("sure", "/data", None),
    ],
)
def test_an_answer_to_a_consent(text: str, folder: str, agreement: ask.Agreement | None) -> None:
    assert ask.agreement(text, folder) == agreement


def test_the_folder_is_offered_by_its_visible_name() -> None:
    assert ask.consent_prompt("/x\x1b[2J") == (
        "May it? [y]es once, yes for this [f]older (/x\\x1b[2J), [n]o (Enter: no) "
    )
    assert ask.consent_prompt("") == "May it? [y]es once, [n]o (Enter: no) "
    assert ask.consent_choices_text("/x") == "Type y, f or n."
    assert ask.consent_choices_text("") == "Type y or n."


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("a", Resume(kind="answer")),
        ("Answer now", Resume(kind="answer")),
        ("c", Resume(kind="continue")),
        (" stop ", Resume(kind="stop")),
        ("look at June only", Resume(kind="continue", hint="look at June only")),
        ("  ", None),
        ("/quit", None),
        ("//usr only", Resume(kind="continue", hint="/usr only")),
        *((word, Resume(kind="stop")) for word in ("n", "No", "q", "quit")),
    ],
)
def test_an_answer_after_ctrl_c(text: str, choice: Resume | None) -> None:
    assert ask.resume(text) == choice


def test_which_folder_a_yes_may_cover(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for folder in ("notes/deep", ".ssh", "project/.rlm_state"):
        (home / folder).mkdir(parents=True)
    for file in ("notes/may.txt", "diary.txt", ".ssh/config", "notes/id_rsa", "project/a.txt"):
        (home / file).touch()
    consent = Consent([], state_dir=home / "project/.rlm_state", home=home)

    covered = {
        name: consent.folder_of(home / name)
        for name in ("notes/may.txt", "notes/deep", "diary.txt", ".ssh/config", "notes/id_rsa")
    }

    assert covered == {
        "notes/may.txt": home / "notes",
        "notes/deep": None,
        "diary.txt": None,
        ".ssh/config": None,
        "notes/id_rsa": None,
    }
    assert consent.folder_of(Path("/file-of-the-root-folder")) is None
    consent.add(home / "notes")
    assert consent.allows(home / "notes/june.txt")
    assert not consent.allows(home / "notes/id_rsa")
