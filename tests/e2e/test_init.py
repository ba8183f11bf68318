"""What `init` tells of files, of any kind and size, and how it is stopped; with and without Docker."""

import gzip
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e import Project, cell, wait
from tests.e2e.terminal import Terminal
from tests.guest.samples import make_pdf, make_zip
from tests.model_server import ModelServer

NO_DOCKER = {"DOCKER_HOST": "unix:///nonexistent.sock"}
NEXT = 'Next:  rlm chat   or   rlm run "…"'
PNG = b"\x89PNG\r\n\x1a\n" + bytes(32)
LARGE_LINES = 40_000_000


def names(project: Project) -> list[str]:
    return [document["name"] for document in project.run("status", "--json").json["documents"]]


def said(project: Project, *args: str) -> list[str]:
    """What an `init` that succeeds says, line by line; progress left out."""
    ended = project.run("init", *args)
    assert (ended.code, ended.out) == (0, b""), ended.err
    passing = ("making text of", "starting the sandbox", "building")
    return [line for line in ended.err.splitlines() if not line.startswith(passing)]


@pytest.fixture
def image(project: Project, server: ModelServer) -> None:
    """The sandbox image is there: what asks first builds it."""
    server.reply("root", cell("FINAL(1)"))
    assert project.ask("Ready?", "--fresh").answer == "1\n"


def sparse(path: Path, size_bytes: int) -> None:
    """A file of text at its beginning, and nothing on the disk after that."""
    path.write_text("a line\n" * 20_000)
    with path.open("r+b") as file:
        file.truncate(size_bytes)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        (
            "notes.txt",
            "Grüße\n".encode() * 3,
            ["notes.txt  24 B · utf-8 · 3 lines · about 6 tokens", *["    Grüße"] * 3],
        ),
        (
            "old.txt",
            b"caf\xe9\nth\xe9\n",
            ["old.txt  9 B · latin-1 · 2 lines · about 2 tokens", "    café", "    thé"],
        ),
        (
            "wide.txt",
            "\ufeffone\ntwo".encode("utf-16-le"),
            ["wide.txt  16 B · utf-16-le · 1 line · about 2 tokens", "    one", "    two"],
        ),
        (
            "people.csv",
            b"name,age\nAda,36\n",
            ["people.csv  16 B · CSV · utf-8 · 2 lines · about 4 tokens", "    name,age", "    Ada,36"],
        ),
        (
            "long.txt",
            b"line\n" * 9,
            ["long.txt  45 B · utf-8 · 9 lines · about 11 tokens", *["    line"] * 4],
        ),
        ("empty.txt", b"", ["empty.txt  0 B · utf-8 · 0 lines"]),
    ],
)
def test_of_text_it_tells_size_encoding_lines_tokens_and_the_beginning(
    project: Project, name: str, data: bytes, expected: list[str]
) -> None:
    project.write(name, data)
    assert said(project, name) == [*expected, f"1 document ready. {NEXT}"]


@pytest.mark.usefixtures("image")
def test_of_other_files_it_tells_what_was_made_of_them(project: Project) -> None:
    report = make_pdf(["The budget", "was cut."])
    logs = make_zip({f"{n}.txt": "a\nb\n" for n in range(6)})
    project.write("report.pdf", report)
    project.write("logs.zip", logs)
    project.write("data.csv.gz", gzip.compress(b"n\n1\n"))

    pdf = said(project, "report.pdf")
    assert pdf[0].startswith(f"report.pdf  {len(report) / 1000:.1f} kB · PDF · ")
    assert "of text · " in pdf[0] and " lines · about " in pdf[0]
    assert "    The budget" in pdf
    assert said(project, "logs.zip", "--name", "logs") == [
        f"logs  {len(logs)} B · zip archive · 6 texts · 24 B of text · 12 lines · about 6 tokens",
        *[f"    logs/{n}.txt  4 B" for n in range(4)],
        "    … and 2 more",
        f"2 documents ready. {NEXT}",
    ]
    packed = said(project, "data.csv.gz")
    assert "data.csv.gz  24 B · gzip · 4 B of text · 2 lines · about 1 token" in packed


def test_of_a_folder_it_tells_what_is_left_out_and_why(project: Project) -> None:
    folder = project.folder / "mixed"
    (folder / "deep").mkdir(parents=True)
    for name, data in {
        "a.txt": b"a\n",
        "deep/b.md": b"b\n",
        "c.csv": b"n\n1\n",
        "d.log": b"d\n",
        "passing.tmp": b"no\n",
        ".gitignore": b"*.tmp\n",
        ".hidden": b"no\n",
        "id_rsa": b"no\n",
        "logo.png": PNG,
    }.items():
        (folder / name).write_bytes(data)

    assert said(project, "mixed") == [
        "mixed/a.txt  2 B · utf-8 · 1 line",
        "mixed/c.csv  4 B · CSV · utf-8 · 2 lines · about 1 token",
        "mixed/d.log  2 B · utf-8 · 1 line",
        "mixed/deep/b.md  2 B · utf-8 · 1 line",
        "note: left out: 2 entries",
        f"  {folder}/id_rsa: it may hold a key or a session",
        f"  {folder}/logo.png: is a PNG image",
        f"4 documents ready. {NEXT}",
    ]
    said(project, "mixed/**/*.[lm]*", "mixed/c.csv", "--replace")
    assert names(project) == ["d.log", "b.md", "c.csv"]


@pytest.mark.usefixtures("image")
def test_a_file_that_cannot_be_read_does_not_stand_in_the_way_of_others(project: Project) -> None:
    project.write("locked.pdf", make_pdf(["secret"], encrypt=True))
    project.write("good.pdf", make_pdf(["public"]))
    project.write("a.txt", "a\n")

    ended = project.run("init", "locked.pdf", "good.pdf", "a.txt")
    alone = project.run("init", "--replace", "locked.pdf")

    assert ended.code == 0 and "'locked.pdf' is encrypted" in ended.err
    assert "2 documents ready" in ended.err
    assert alone.code == 2 and "locked.pdf is encrypted" in alone.err
    assert names(project) == ["good.pdf", "a.txt"], "what fails takes nothing away"


def test_names_encodings_and_forgetting(project: Project) -> None:
    (project.folder / "new").mkdir()
    project.write("a.txt", "Größe\n".encode("cp437"))
    project.write("new/a.txt", "a\n")

    named = said(project, "a.txt", "--encoding", "cp437", "--name", "size")
    assert named[:2] == ["size  6 B · cp437 · 1 line · about 1 token", "    Größe"]
    said(project, "new/a.txt")
    taken = project.run("init", "new/a.txt", "--name", "size")
    many = project.run("init", "new", "a.txt", "--name", "both")
    assert (taken.code, many.code) == (2, 2)
    assert "The name 'size' is taken. Choose another, or use --replace." in " ".join(taken.err.split())
    assert "--name is for one file." in many.err
    assert names(project) == ["size", "a.txt"]
    project.write("a.txt", "a\n")
    said(project, "a.txt", "new/a.txt", "--replace")
    assert sorted(names(project)) == ["new/a.txt", "project/a.txt"]


def test_quiet_says_nothing_but_warnings_and_errors(project: Project) -> None:
    project.write("a.txt", "a\n")
    project.write("report.pdf", make_pdf(["text"]))
    ended = project.run("init", "a.txt", "report.pdf", "-q")
    assert (ended.code, ended.out, ended.err) == (0, b"", "")
    wrong = project.run("init", "b.txt", "-q")
    assert wrong.code == 2 and "b.txt does not exist" in wrong.err


def test_without_docker_text_is_ready_and_the_rest_is_made_later(project: Project) -> None:
    project.write("a.txt", "a\n")
    project.write("report.pdf", make_pdf(["text"]))
    ended = project.run("init", "a.txt", "report.pdf", env=NO_DOCKER)
    assert (ended.code, ended.out) == (0, b"")
    lines = ended.err.splitlines()
    assert lines[0].startswith("note: text of report.pdf is made when the sandbox first starts (")
    assert "a.txt  2 B · utf-8 · 1 line" in lines
    assert f"2 documents ready. {NEXT}" in lines
    assert [line for line in lines if line.startswith("report.pdf  ") and line.endswith(" · PDF")]


def test_of_a_huge_file_only_samples_are_read(project: Project) -> None:
    sparse(project.folder / "huge.log", 10**12)
    assert said(project, "huge.log") == [
        "huge.log  1.0 TB · utf-8 · about 250G tokens",
        *["    a line"] * 4,
        f"1 document ready. {NEXT}",
    ]


def test_lines_of_a_large_file_are_counted_where_somebody_can_stop_it(project: Project) -> None:
    project.write("large.txt", b"x\n" * LARGE_LINES)
    sparse(project.folder / "huge.log", 10**12)
    with Terminal(project, "init", "large.txt") as terminal:
        terminal.wait_for(f"large.txt  {LARGE_LINES:,} lines")
        assert terminal.ended() == 0
    with Terminal(project, "init", "huge.log") as terminal:
        terminal.wait_for("counting lines of huge.log: ")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0
        assert "Traceback" not in terminal.screen
    assert names(project) == ["large.txt", "huge.log"]


@pytest.mark.usefixtures("image")
def test_a_conversion_that_is_interrupted_is_made_up_for_later(project: Project, server: ModelServer) -> None:
    project.write("zeros.gz", gzip.compress(b"0" * 99 + b"\n") + gzip.compress(bytes(10**9), 1))
    with project.popen("init", "zeros.gz") as process:
        assert process.stderr is not None
        while b"making text of zeros.gz" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        ended = wait(process)

    assert (ended.code, ended.out) == (130, b"")
    assert "text of zeros.gz is made when the sandbox first starts (interrupted)" in ended.err
    assert "Traceback" not in ended.err
    assert names(project) == ["zeros.gz"]
    label = f"label=rlm.state={(project.folder / '.rlm_state').resolve()}"
    left = subprocess.run(["docker", "ps", "-aq", "--filter", label], capture_output=True, check=True)
    assert left.stdout == b""


def test_ten_thousand_files_from_init_to_answer(project: Project, server: ModelServer) -> None:
    for number in range(10_000):
        if number % 100 == 0:
            (project.folder / f"logs/{number // 100:02}").mkdir(parents=True)
        text = f"entry {number}\n" + "the needle\n" * (number == 7777)
        (project.folder / f"logs/{number // 100:02}/{number:05}.txt").write_text(text)

    lines = said(project, "logs")
    assert lines[0] == "logs/00/00000.txt  8 B · utf-8 · 1 line · about 2 tokens"
    assert lines[20:] == ["… and 9,980 more; 109 kB in all", f"10k documents ready. {NEXT}"]
    assert len(names(project)) == 10_000
    server.reply(
        "root",
        cell(
            'hits = grep("needle", files="all")\n'
            "FINAL([[m.document for m in hits], len(files), count('entry', files='all')])"
        ),
    )
    assert project.ask("Where is the needle?").json == [["logs/77/07777.txt"], 10_000, 10_000]
