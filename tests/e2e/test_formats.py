"""Files that are not plain text: made into text in the sandbox, once, and asked through the same helpers."""

import gzip
import io
import json
import sqlite3
import tarfile
from pathlib import Path

import pytest

from tests.e2e import Project, cell, prompts
from tests.guest.samples import (
    UNICODE,
    make_docx,
    make_eml,
    make_epub,
    make_html,
    make_pdf,
    make_pptx,
    make_xlsx,
    make_zip,
)
from tests.model_server import ModelServer


def make_tar(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


FILES = {
    "report.pdf": make_pdf(["the budget", f"needle {UNICODE}"]),
    "letter.docx": make_docx(["Dear all", "needle in Word"]),
    "table.xlsx": make_xlsx({"Budget": [["city", "sum"], ["needle", 12]]}),
    "talk.pptx": make_pptx([["Hello"], ["needle on a slide"]]),
    "page.html": make_html("Title", "<p>needle in <b>HTML</b></p><script>no()</script>"),
    "book.epub": make_epub({"One": "<p>first</p>", "Two": "<p>needle in a book</p>"}),
    "mail.eml": make_eml("needle in a message", attachments={"notes.txt": b"attached"}),
    "log.txt.gz": gzip.compress(b"one\nneedle in gzip\n"),
    "two.zip": make_zip(
        {"a/x.txt": "needle in a zip", "a/y.md": "more", "logo.png": b"\x89PNG\r\n\x1a\n" * 9}
    ),
    "src.tgz": make_tar({"src/main.py": "needle = 1\n"}),
    "sjis.txt": ("needle " + "日本語の文章です。これは会議の記録です。" * 20).encode("shift_jis"),
}


def write_all(project: Project) -> None:
    for name, data in FILES.items():
        project.write(name, data)


def test_every_format_is_searched_as_text(project: Project, server: ModelServer) -> None:
    write_all(project)
    server.reply(
        "root",
        cell(
            'hits = grep("needle", files="all")\n'
            "print(hits)\n"
            "for m in hits: print(m.document, '|', m.mark, '|', m.text)"
        ),
        cell("FINAL(sorted(m.document for m in hits))"),
    )

    options = [option for name in FILES for option in ("-f", name)]
    ended = project.ask("Where are the needles?", *options)

    assert ended.code == 0, ended.err
    assert ended.json == [
        "book.epub",
        "letter.docx",
        "log.txt.gz",
        "mail.eml",
        "page.html",
        "report.pdf",
        "sjis.txt",
        "src.tgz/src/main.py",
        "table.xlsx",
        "talk.pptx",
        "two.zip/a/x.txt",
    ]
    shown = prompts(server)[1]
    assert f"report.pdf | page 2 of 2 | needle {UNICODE}" in shown
    assert 'table.xlsx | sheet "Budget", 2 rows | needle\t12' in shown
    assert "talk.pptx | slide 2 of 2 | needle on a slide" in shown
    assert "book.epub | chapter 2: Two | needle in a book" in shown
    assert "two.zip: left out are logo.png" in ended.err


def test_texts_are_made_once(project: Project, server: ModelServer) -> None:
    write_all(project)
    server.default("root", cell("FINAL(len(files))"))
    first = project.run("init", *FILES)
    assert first.code == 0, first.err
    again = project.run("init", *FILES)
    asked = project.ask("How many?", "-v")

    assert asked.answer == "12\n"
    assert "report.pdf  " in first.err
    assert "PDF" in first.err
    assert "making text of" in first.err
    assert "making text of" not in again.err + asked.err


def test_tables_are_asked_in_sql(project: Project, server: ModelServer) -> None:
    project.write("sales.csv", "city,amount\nParis,3\nRome,5\nParis,4\n")
    project.write("people.jsonl", '{"name": "Ada", "city": "Rome"}\n{"name": "Bo", "city": "Oslo"}\n')
    project.write("old.csv.gz", gzip.compress(b"city,amount\nOslo,9\n"))
    server.reply(
        "root",
        cell('switch_to("sales.csv")\nprint(sql("select city, sum(amount) from doc group by 1"))'),
        cell(
            "rows = sql('select name, amount from people join \"sales.csv\" s using (city) union all '"
            " 'select city, amount from \"old.csv.gz\"')\nprint(rows)"
        ),
        cell("FINAL([list(row) for row in rows])"),
    )

    ended = project.ask("Sums?", "-f", "sales.csv", "-f", "people.jsonl", "-f", "old.csv.gz")

    assert ended.code == 0, ended.err
    assert ended.json == [["Ada", 5], ["Oslo", 9]]
    assert "Paris" in prompts(server)[1]
    assert "sql() can ask it" in prompts(server)[0]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("locked.pdf", make_pdf(["secret"], encrypt=True), "is encrypted"),
        ("scan.pdf", make_pdf([""]), "holds no text"),
        ("cut.pdf", make_pdf(["text"] * 5)[:600], "PDF"),
        (
            "cut.txt.gz",
            gzip.compress(json.dumps(list(range(50_000))).encode())[:-2000],
            "incomplete or damaged",
        ),
        ("lie.docx", b"PK\x03\x04" + b"nonsense" * 100, "Word document"),
        ("images.zip", make_zip({"a.png": b"\x89PNG\r\n\x1a\n" * 9}), "holds no"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_and_costs_nothing_else(
    project: Project, server: ModelServer, name: str, data: bytes, says: str
) -> None:
    project.write(name, data)
    project.write("good.txt", "fine")
    alone = project.run("init", name)
    assert alone.code == 2
    assert name in alone.err
    assert says in alone.err

    server.default("root", cell("FINAL(context)"))
    both = project.ask("What is in it?", "-f", name, "-f", "good.txt")
    assert both.answer == "fine\n"
    assert says in both.err


def test_a_bomb_ends_at_the_bound_of_the_cache(project: Project, server: ModelServer) -> None:
    project.configure(sandbox={"cache": "64m"})
    project.write("bomb.gz", gzip.compress(bytes(b"0" * 200_000_000), 1))
    project.write("good.txt", "fine")
    server.default("root", cell("FINAL(context)"))

    ended = project.ask("What is in it?", "-f", "bomb.gz", "-f", "good.txt")

    assert ended.answer == "fine\n"
    assert "unpacks to more than" in ended.err
    kept = sum(path.stat().st_size for path in (project.folder / ".rlm_state").rglob("*") if path.is_file())
    assert kept < 10_000_000


def test_a_pdf_asked_for_in_mid_turn_is_there_at_once_or_at_the_next_step(
    project: Project, server: ModelServer
) -> None:
    folder = project.folder / "papers"
    folder.mkdir()
    (folder / "one.pdf").write_bytes(make_pdf(["first paper"]))
    project.configure(allow=["papers"])
    server.reply(
        "root",
        cell('try:\n    load_file("papers/one.pdf")\nexcept PermissionError as e:\n    print(e)'),
        cell('print(load_file("papers/one.pdf"))'),
        cell("FINAL(context)"),
    )

    ended = project.ask("What does the paper say?")

    assert "first paper" in ended.answer
    assert "from the next step on" in prompts(server)[1]


def test_the_file_behind_a_text_can_be_read_too(project: Project, server: ModelServer) -> None:
    project.write("page.html", make_html("Title", "<p class='x'>words</p>"))
    server.reply(
        "root", cell('made = context\nraw = load_file("page.html", raw=True)'), cell("FINAL([made, raw])")
    )

    made, raw = project.ask("Both?", "-f", "page.html").json

    assert "words" in made
    assert "<" not in made
    assert "<p class='x'>words</p>" in raw


def test_an_encoding_can_be_named(project: Project, server: ModelServer) -> None:
    project.write("dos.txt", "Größe".encode("cp437"))
    server.default("root", cell("FINAL(context)"))
    assert project.run("init", "dos.txt", "--encoding", "cp437").code == 0
    assert project.ask("What?").answer == "Größe\n"
    wrong = project.run("init", "dos.txt", "--encoding", "cp12522")
    assert wrong.code == 2
    assert "cp1252" in wrong.err


def test_ten_thousand_files_of_an_archive(project: Project, server: ModelServer) -> None:
    members: dict[str, bytes | str] = {f"logs/{n:05}.txt": f"entry {n}\n" for n in range(10_000)}
    members["logs/07777.txt"] = "entry 7777 has the needle\n"
    project.write("logs.zip", make_zip(members))
    server.reply(
        "root", cell('hits = grep("needle", files="logs.zip/logs/*")'), cell("FINAL(hits[0].document)")
    )

    assert project.ask("Where?", "-f", "logs.zip").answer == "logs.zip/logs/07777.txt\n"


def test_a_damaged_cache_is_made_again(project: Project, server: ModelServer) -> None:
    project.write("report.pdf", FILES["report.pdf"])
    server.default("root", cell("FINAL('needle' in context)"))
    assert project.ask("Is it there?", "-f", "report.pdf").answer == "true\n"
    database = project.folder / ".rlm_state/texts/texts.sqlite3"
    sqlite3.connect(database).close()
    database.write_bytes(b"not a database" * 100)
    for path in Path(project.folder / ".rlm_state/shown").iterdir():
        path.unlink()
    assert project.ask("Still?").answer == "true\n"
