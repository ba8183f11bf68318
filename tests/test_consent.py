"""Consent: what a yes covers, what needs its own, what nobody can agree to."""

import os
from pathlib import Path

import pytest

from rlm.consent import Consent, paths_in_question
from rlm.errors import DocumentError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with keys in it, and a working folder with data."""
    home = tmp_path / "home"
    files = (
        ".ssh/id_rsa",
        ".aws/credentials",
        ".netrc",
        "work/a.txt",
        "work/sub/b.txt",
        "work/.env",
        "work/.ENV.local",
        "work/server.PEM",
        "work/id_list.csv",
        "work/id_deploy",
        "work/.rlm_state/log.jsonl",
        "other/c.txt",
    )
    for name in files:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
    return home.resolve()


def consent(home: Path, *agreed: str) -> Consent:
    paths = [home / path for path in agreed]
    return Consent(paths, state_dir=home / "work" / ".rlm_state", home=home)


def test_a_yes_covers_the_folder_and_no_more(home: Path) -> None:
    given = consent(home, "work")
    for inside in ("work", "work/a.txt", "work/sub/b.txt", "work/id_list.csv"):
        assert given.allows(home / inside)
    for outside in ("other/c.txt", "other", "workshop", ".", "work/../other/c.txt"):
        assert not given.allows((home / outside).resolve())


def test_a_yes_to_a_file_is_for_that_file(home: Path) -> None:
    given = consent(home, "work/a.txt")
    assert given.allows(home / "work/a.txt")
    assert not given.allows(home / "work/sub/b.txt")
    given.add(home / "work/sub")
    assert given.allows(home / "work/sub/b.txt")


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".ENV.local",
        ".rlm_state",
        ".rlm_state/log.jsonl",
        "sub/../.env/.",
        "link",
        "pipe",
        "state-by-another-name/log.jsonl",
    ],
)
def test_refused_whatever_was_agreed(home: Path, path: str) -> None:
    work = home / "work"
    (work / "link").symlink_to(".env")
    (work / "state-by-another-name").symlink_to(".rlm_state")
    os.mkfifo(work / "pipe")
    given = consent(home, "work", "work/.env", "work/.rlm_state", "work/pipe")
    with pytest.raises(DocumentError, match="never read"):
        given.check(path, work)
    assert not given.allows((work / path).resolve())


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/sys/kernel", "/dev/null", "/proc/../proc/1/mem", "/dev"]
)
def test_system_places_are_refused(home: Path, path: str) -> None:
    with pytest.raises(DocumentError):
        consent(home, "/").check(path, home)


def test_check_gives_the_real_path_and_needs_no_file(home: Path) -> None:
    (home / "work" / "link").symlink_to(home / "other" / "c.txt")
    given = consent(home, "work")
    real = given.check("link", home / "work")
    assert real == home / "other/c.txt"
    assert not given.allows(real)
    assert given.check("../nothing/here", home / "work") == home / "nothing/here"
    with pytest.raises(DocumentError):
        given.check("a\0b", home)


def test_proc_self_root_leads_to_the_real_path(home: Path) -> None:
    given = consent(home, "work")
    try:
        real = given.check(f"/proc/self/root{home}/other/c.txt", home)
    except DocumentError:
        return  # where /proc is no link farm, it is refused as what it is
    assert real == home / "other/c.txt" and not given.allows(real)


@pytest.mark.parametrize(
    "path", [".ssh/id_rsa", ".aws", ".aws/credentials", ".netrc", "work/server.PEM", "work/id_deploy"]
)
def test_a_sensitive_place_needs_its_own_yes(home: Path, path: str) -> None:
    real = home / path
    given = Consent([home, home / "work", Path("/")], state_dir=home / "work/.rlm_state", home=home)
    assert not given.allows(real)
    assert "keys and passwords" in given.sensitive(real)
    given.add(real)
    assert given.allows(real)


def test_a_yes_to_a_sensitive_folder_covers_what_is_in_it(home: Path) -> None:
    assert consent(home, ".aws").allows(home / ".aws/credentials")
    assert not consent(home, ".aws").allows(home / ".ssh/id_rsa")


def test_the_home_folder_and_what_is_around_it_are_sensitive(home: Path) -> None:
    given = consent(home)
    for place in (home, home.parent, Path("/")):
        assert "far more than" in given.sensitive(place)
    assert given.sensitive(home / "work/a.txt") == ""
    assert given.sensitive(Path("/etc/passwd"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is in a.txt?", ["a.txt"]),
        ("compare ./a.txt, sub/b.txt.", ["a.txt", "sub/b.txt"]),
        ("(see a.txt)", ["a.txt"]),
        ("read @a.txt and @sub!", ["a.txt", "sub"]),
        ('read "my notes.txt" please', ["my notes.txt"]),
        ("read @'my notes.txt': now", ["my notes.txt"]),
        ("read `a.txt`", ["a.txt"]),
        ("What's in a.txt and Bob's sub/b.txt?", ["a.txt", "sub/b.txt"]),
        ('is "a.txt", or "sub"?', ["a.txt", "sub"]),
        ("a.txt a.txt", ["a.txt"]),
        ("is sub/ a word, or sub, or README?", []),
        ("km / h and . or .. and ~", []),
        ("me@a.txt missing.txt http://a.txt", []),
        ("@README", ["README"]),
        ("@missing and @ and \0.txt", []),
        ("x." * 5000, []),
    ],
)
def test_paths_in_a_question(tmp_path: Path, text: str, found: list[str]) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "sub/b.txt", "my notes.txt", "README"):
        (tmp_path / name).write_text("x")
    assert paths_in_question(text, tmp_path) == [(tmp_path / name).resolve() for name in found]


def test_a_link_in_a_question_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("x")
    (tmp_path / "link.txt").symlink_to("real.txt")
    assert paths_in_question("read link.txt", tmp_path) == [(tmp_path / "real.txt").resolve()]
