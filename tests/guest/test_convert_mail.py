"""What is read of e-mails and mailboxes: headers, text in any dress, what is attached, and hostile ones."""

import gzip
import tracemalloc
import zipfile
from email.message import EmailMessage
from email.mime.text import MIMEText
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm.formats import FORMATS
from sandbox.convert import ConvertError
from sandbox.convert.mail import convert_mbox
from tests.guest.samples import make_docx, make_pdf
from tests.guest.test_convert import converted, problem, written

FROM = b"From ann@example.org Tue Jan  2 03:04:05 2024\n"


def message(text: str = "Hello Bob\n", **headers: str) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"] = "Ann <ann@example.org>", "Bob <bob@example.org>"
    made["Subject"] = "Hello"
    for name, value in headers.items():
        del made[name]
        made[name] = value
    made.set_content(text)
    return made


def read(tmp_path: Path, data: bytes | EmailMessage) -> str:
    path = written(tmp_path / "a.eml", bytes(data))
    sink = converted(path, "email")
    assert sink.parts[""].kind == "email"
    return sink.texts[""]


def test_headers_then_text(tmp_path: Path) -> None:
    sent = message(
        "Zürich\r\nat noon\r\n", Subject="日本語 and more", Cc="Cyd <c@example.org>", Date="2 Jan 2024 03:04"
    )
    assert read(tmp_path, sent) == (
        "From: Ann <ann@example.org>\n"
        "To: Bob <bob@example.org>\n"
        "Cc: Cyd <c@example.org>\n"
        "Date: Tue, 02 Jan 2024 03:04:00 -0000\n"
        "Subject: 日本語 and more\n"
        "\n"
        "Zürich\nat noon\n"
    )


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (b"=?iso-2022-jp?b?GyRCRnxLXBsoQg==?= x", "日本 x"),
        (b"=?utf-8?q?J=C3=BCrg?=\n =?utf-8?q?en?= <j@example.org>", "Jürgen <j@example.org>"),
        ("Zürich, sent as it is".encode(), "Zürich, sent as it is"),
        (b"=?klingon?q?x?= and =?utf-8?x?y", "x and =?utf-8?x?y"),
        (b"bell \x07", "bell ·"),
        (b"on\n two lines", "on two lines"),
        (b"(((<@,;:", "(((<@,;:"),
    ],
)
def test_a_header_is_shown_as_people_read_it(tmp_path: Path, stored: bytes, shown: str) -> None:
    for name in ("From", "Subject"):
        data = name.encode() + b": " + stored + b"\n\ntext\n"
        assert read(tmp_path, data) == f"{name}: {shown}\n\ntext\n"


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("iso-8859-15", "iso-8859-15"),
        ("shift_jis", "shift_jis"),
        ("klingon", "utf-8"),
        ("us-ascii", "utf-8"),
        ("base64", "utf-8"),
        ("", "cp1252"),
    ],
)
def test_text_in_any_encoding(tmp_path: Path, declared: str, encoding: str) -> None:
    text = "日本語のテキスト\n" if encoding == "shift_jis" else "Grüße aus Zürich, für 3 Äpfel\n"
    charset = f'; charset="{declared}"' if declared else ""
    head = f"From: a\nContent-Type: text/plain{charset}\nContent-Transfer-Encoding: 8bit\n\n"
    assert read(tmp_path, head.encode() + text.encode(encoding)) == f"From: a\n\n{text}"


def test_plain_text_goes_before_html(tmp_path: Path) -> None:
    sent = message("the plain text\n")
    sent.add_alternative("<p>the page</p>", subtype="html")
    assert "the plain text" in read(tmp_path, sent)
    assert "the page" not in read(tmp_path, sent)
    blank = message(" \n")
    blank.add_alternative("<p>the page, of <b>Zürich</b></p>", subtype="html")
    assert "the page, of Zürich" in read(tmp_path, blank)
    html = message()
    html.set_content("<style>p {color: red}</style><p>only HTML</p>", subtype="html")
    assert read(tmp_path, html).endswith("\n\nonly HTML\n")


def test_what_is_attached(tmp_path: Path) -> None:
    sent = message("See below\n")
    for name, data in {
        "sums [1].csv": b"a;b\r\n1;2\r\n",
        "Müll.txt": "Zürich".encode("utf-16"),
        "report.pdf": make_pdf(["On a page"]),
        "letter.docx": make_docx(["Dear Sir"]),
        "photo.png": b"\x89PNG" + bytes(12_296),
        "broken.pdf": b"%PDF-1.4 broken",
        "log.gz": gzip.compress(b"x"),
    }.items():
        kind = "image/png" if name == "photo.png" else "application/octet-stream"
        maintype, subtype = kind.split("/")
        sent.add_attachment(data, maintype=maintype, subtype=subtype, filename=name)
    text = read(tmp_path, sent)
    body, *parts = text.split("\n[part: ")
    assert body.endswith("\n\nSee below\n")
    assert parts[0] == "sums (1).csv]\na;b\n1;2\n"
    assert parts[1] == "Müll.txt]\nZürich\n"
    assert parts[2].startswith("report.pdf]\n[page 1 of 1]\n") and "On a page" in parts[2]
    assert parts[3] == "letter.docx]\nDear Sir\n"
    assert parts[4] == "photo.png (image/png, 12.3 kB, not text)]\n"
    assert parts[5].startswith("broken.pdf (application/octet-stream, 15 bytes, ")
    assert parts[6].startswith("log.gz (application/octet-stream, 21 bytes, is compressed")


def test_a_name_in_encoded_words(tmp_path: Path) -> None:
    data = (
        b"From: a\nMIME-Version: 1.0\nContent-Type: text/csv\n"
        b'Content-Disposition: attachment; filename="=?utf-8?b?4oKsLmNzdg==?="\n\n1,2\n'
    )
    assert read(tmp_path, data) == "From: a\n\n[part: €.csv]\n1,2\n"


def test_a_pdf_beside_the_page_of_an_alternative(tmp_path: Path) -> None:
    """As Apple Mail sends them: the attachment lies in one of the two forms of the text."""
    mixed = EmailMessage()
    mixed.set_content("<p>a page</p>", subtype="html")
    mixed.make_mixed()
    mixed.add_attachment(b"a,b", maintype="text", subtype="csv", filename="a.csv")
    sent = message("plain\n")
    sent.make_alternative()
    sent.attach(mixed)
    text = read(tmp_path, sent)
    assert "plain" in text and "[part: a.csv]\na,b\n" in text and "a page" not in text


def test_a_forwarded_message(tmp_path: Path) -> None:
    inner = message("inner text\n", Subject="Inner")
    inner.add_attachment("attached to it", filename="b.txt")
    sent = message("outer text\n")
    sent.add_attachment(inner)
    text = read(tmp_path, sent)
    order = [
        "outer text",
        "[part: message]",
        "Subject: Inner",
        "inner text",
        "[part: b.txt]",
        "attached to it",
    ]
    places = [text.index(piece) for piece in order]
    assert places == sorted(places)


def test_what_is_no_message(tmp_path: Path) -> None:
    assert "no headers of an e-mail" in problem(written(tmp_path / "a.eml", b"just text"), "email")
    assert "no headers of an e-mail" in problem(written(tmp_path / "a.eml", b""), "email")


def test_messages_within_messages_without_end(tmp_path: Path) -> None:
    nested = b"".join(b"From: a\nContent-Type: message/rfc822\n\n" for _ in range(2000)) + b"text"
    assert "deep" in problem(written(tmp_path / "a.eml", nested), "email")
    parts = b"From: a\n" + b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (number, number) for number in range(300)
    )
    assert "deep" in problem(written(tmp_path / "b.eml", parts), "email")


# ---- mailboxes


def mbox(*messages: bytes) -> bytes:
    return b"".join(FROM + data.rstrip(b"\n") + b"\n\n" for data in messages)


def test_the_messages_of_a_mailbox(tmp_path: Path) -> None:
    first = b"From: a\nSubject: one\n\nfirst\n>From here on\n>>From quoted\n"
    second = b"From: b\n\nFrom my side of 10:30 things look good\n"
    path = written(tmp_path / "a.mbox", mbox(first, second, bytes(MIMEText("Zürich"))))
    sink = converted(path, "mbox")
    assert sink.parts[""].kind == "mbox"
    assert sink.texts[""] == (
        "[message 1]\nFrom: a\nSubject: one\n\nfirst\nFrom here on\n>From quoted\n\n"
        "[message 2]\nFrom: b\n\nFrom my side of 10:30 things look good\n\n"
        "[message 3]\n\nZürich\n\n"
    )


def test_a_mailbox_with_line_ends_of_windows(tmp_path: Path) -> None:
    data = mbox(b"From: a\n\nfirst\n", b"From: b\n\nsecond\n").replace(b"\n", b"\r\n")
    text = converted(written(tmp_path / "a.mbox", data), "mbox").texts[""]
    assert text == "[message 1]\nFrom: a\n\nfirst\n\n[message 2]\nFrom: b\n\nsecond\n\n"


def test_a_mailbox_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/all.mbox", mbox(b"From: a\n\nfirst\n"))
    sink = converted(tmp_path / "a.zip")
    assert sink.texts == {"in/all.mbox": "[message 1]\nFrom: a\n\nfirst\n\n"}
    assert sink.parts["in/all.mbox"].kind == "mbox"


def test_a_message_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    bad = b"From: a\nContent-Type: text/plain; charset*0*=x\n\n\xff\n"
    text = converted(written(tmp_path / "a.mbox", mbox(bad, b"From: b\n\nsecond\n")), "mbox").texts[""]
    assert "[message 1]\n(left out: it cannot be read as an e-mail" in text
    assert "[message 2]\nFrom: b\n\nsecond\n" in text


def test_what_is_no_mailbox(tmp_path: Path) -> None:
    assert "holds no message" in problem(written(tmp_path / "a.mbox", b"From me\n\n\n"), "mbox")
    assert "holds no message" in problem(written(tmp_path / "a.mbox", b""), "mbox")


def test_a_mailbox_is_not_held_in_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mbox", mbox(b"From: a\n\n" + (b"x" * 999 + b"\n") * 100) * 300)
    written_chars = 0

    def write(text: str) -> None:
        nonlocal written_chars
        written_chars += len(text)

    tracemalloc.start()
    try:
        convert_mbox(str(path), write)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written_chars > 30_000_000
    assert peak < 5_000_000


PIECES = st.sampled_from(
    [
        *(b"From: a\n", b"Subject: =?utf-8?q?=C3?=\n", b"Content-Type: ", b"Content-Transfer-Encoding: "),
        *(b"multipart/mixed; boundary=b\n", b"multipart/alternative; boundary=b\n", b"message/rfc822\n"),
        *(
            b"text/html; charset=utf-16\n",
            b"text/plain; charset*0*=x; charset=y\n",
            b"base64\n",
            b"quoted-printable\n",
        ),
        *(b"--b\n", b"--b--\n", b"\n", b"\r\n", b"=", b"\xff\xfe", b"<p>", b"x: y\n", b";", b'"', b"\0"),
        *(FROM, b'Content-Disposition: attachment; filename="a.pdf"\n', b"filename*0*=x", b"%PDF-1.4\n"),
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["email", "mbox"]), st.lists(PIECES, max_size=30))
def test_whatever_is_sent_raises_nothing_else(tmp_path: Path, kind: str, pieces: list[bytes]) -> None:
    path = written(tmp_path / "a", FROM * (kind == "mbox") + b"".join(pieces))
    try:
        sink = converted(path, kind)
    except ConvertError as error:
        assert str(error)
    else:
        assert sink.parts[""].kind in FORMATS
