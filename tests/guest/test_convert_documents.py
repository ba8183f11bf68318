"""PDF, Office, HTML, EPUB and Parquet become text, and files that are damaged or hostile are refused."""

import codecs
import datetime
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pptx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pptx.util import Inches

from sandbox.convert.markup import MAX_LAYOUT_BYTES, convert_epub, convert_html, html_text
from sandbox.convert.office import convert_docx, convert_pptx, convert_xlsx
from sandbox.convert.output import ConvertError, Write
from sandbox.convert.pdf import convert_pdf
from sandbox.convert.rows import convert_parquet
from tests.guest.samples import (
    UNICODE,
    make_docx,
    make_epub,
    make_html,
    make_pdf,
    make_pptx,
    make_xlsx,
    make_zip,
    replace_in_zip,
)

Converter = Callable[[str, Write], None]

FIRST_CHAPTER = "OEBPS/text/chapter 1.xhtml"
OLE2 = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def text_of(convert: Converter, path: Path, data: bytes) -> str:
    path.write_bytes(data)
    pieces: list[str] = []
    convert(str(path), pieces.append)
    return "".join(pieces)


def refusal(convert: Converter, path: Path, data: bytes) -> str:
    """Why the file is refused, before any text was written."""
    path.write_bytes(data)
    pieces: list[str] = []
    with pytest.raises(ConvertError) as caught:
        convert(str(path), pieces.append)
    assert pieces == []
    return str(caught.value)


def make_parquet(path: Path, query: str) -> bytes:
    file = path.with_suffix(".parquet")
    with duckdb.connect() as database:
        database.execute(f"COPY ({query}) TO '{file}' (FORMAT parquet)")
    return file.read_bytes()


# -- PDF


def test_pdf(path: Path) -> None:
    pages = [f"{UNICODE}\nsecond line", "", "an exam-\nple of hyphens", "x" * 300]
    assert text_of(convert_pdf, path, make_pdf(pages)) == (
        f"[page 1 of 4]\n{UNICODE}\nsecond line\n[page 2 of 4]\n"
        f"[page 3 of 4]\nan example of hyphens\n[page 4 of 4]\n{'x' * 300}\n"
    )


def test_pdf_that_begins_with_pages_without_text(path: Path) -> None:
    assert text_of(convert_pdf, path, make_pdf(["", "", "a"])).startswith("[page 1 of 3]\n[page 2 of 3]\n")


def test_pdf_form(path: Path) -> None:
    assert "one" in (text := text_of(convert_pdf, path, make_pdf(["one"], field="filled in: é")))
    assert "filled in: é" in text


@pytest.mark.parametrize("ending", [b"", b"\0" * 5000, b"\r\n\r\n"])
def test_pdf_endings(path: Path, ending: bytes) -> None:
    assert "hello" in text_of(convert_pdf, path, make_pdf(["hello"]) + ending)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make_pdf(["secret"], encrypt=True), "is encrypted: remove the password"),
        (make_pdf(["", ""]), "holds no text: it may be scanned images"),
        (make_pdf([]), "holds no pages"),
        (make_pdf(["a"])[:-20], "is cut off"),
        (b"%PDF-1.7\nnothing\n%%EOF\n", "is damaged"),
    ],
)
def test_pdf_refused(path: Path, data: bytes, reason: str) -> None:
    assert reason in refusal(convert_pdf, path, data)


def test_pdf_with_a_damaged_page(path: Path) -> None:
    path.write_bytes(make_pdf(["a", "b"]).replace(b"[7 0 R 9 0 R]", b"[7 0 R 3 0 R]"))
    with pytest.raises(ConvertError, match="is damaged: page 2 of 2 cannot be read"):
        convert_pdf(str(path), lambda text: None)


# -- Word documents


def test_docx(path: Path) -> None:
    blocks: list[str | tuple[str, str] | list[list[str]]] = [
        ("Title", "Report"),
        ("Heading 1", "One"),
        f"a\tb {UNICODE}",
        "",
        ("Heading 3", "Deep"),
        ("List Bullet", "item"),
        ("List Number", "step"),
        [["name", "value"], ["two\nlines", ""], ["", ""]],
        "end",
    ]
    assert text_of(convert_docx, path, make_docx(blocks, header="Confidential")) == (
        f"# Report\n# One\na\tb {UNICODE}\n### Deep\n- item\n- step\nname | value\ntwo lines | \nend\n"
        "[header and footer]\nConfidential\n"
    )


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
MC = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'


def docx_with(body: str, *, before: str = "", **parts: str) -> bytes:
    """A Word document with this XML as its body, and more parts in the folder `word`."""
    document = f'<?xml version="1.0"?>{before}<w:document {W} {MC}><w:body>{body}</w:body></w:document>'
    members = {f"word/{name}.xml": f'<?xml version="1.0"?>{xml}' for name, xml in parts.items()}
    return replace_in_zip(make_docx([]), {"word/document.xml": document, **members})


def test_docx_text_that_is_not_directly_in_a_paragraph(path: Path) -> None:
    def run(text: str) -> str:
        return f"<w:r><w:t>{text}</w:t></w:r>"

    assert (
        text_of(
            convert_docx,
            path,
            docx_with(
                f"<w:sdt><w:sdtContent><w:p>{run('in a control')}</w:p></w:sdtContent></w:sdt>"
                f"<w:p><w:ins>{run('kept')}</w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"
                f"<w:p><w:pPr><w:outlineLvl w:val='1'/></w:pPr><w:hyperlink>{run('link')}</w:hyperlink></w:p>"
                "<w:p><w:pPr><w:numPr><w:ilvl w:val='1'/><w:numId w:val='3'/></w:numPr></w:pPr>"
                f"{run('sub')}</w:p>"
                f"<w:p>{run('by')}<w:r><mc:AlternateContent><mc:Choice><w:txbxContent><w:p>{run('box')}</w:p>"
                f"</w:txbxContent></mc:Choice><mc:Fallback><w:p>{run('box')}</w:p></mc:Fallback>"
                "</mc:AlternateContent></w:r></w:p>"
            ),
        )
        == "in a control\nkept\n## link\n  - sub\nby\nbox\n"
    )


def test_docx_footnotes(path: Path) -> None:
    note = "<w:footnote {}><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:footnote>"
    notes = note.format('w:id="0" w:type="separator"', "-") + note.format('w:id="2"', "See below.")
    data = docx_with(
        '<w:p><w:r><w:t>Said</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r></w:p>',
        footnotes=f"<w:footnotes {W}>{notes}</w:footnotes>",
    )
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        relations = archive.read("word/_rels/document.xml.rels").decode()
        types = archive.read("[Content_Types].xml").decode()
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    relation = f'<Relationship Id="rIdNotes" Type="{kind}" Target="footnotes.xml"/></Relationships>'
    override = '<Override PartName="/word/footnotes.xml" ContentType="application/xml"/></Types>'
    changed = {
        "word/_rels/document.xml.rels": relations.replace("</Relationships>", relation),
        "[Content_Types].xml": types.replace("</Types>", override),
    }
    assert text_of(convert_docx, path, replace_in_zip(data, changed)) == (
        "Said[^2]\n[footnotes]\n[^2] See below.\n"
    )


# -- presentations


def test_pptx(path: Path) -> None:
    data = make_pptx([[UNICODE, "first\nsecond"], [], ["end"]], notes="Say\nthis.")
    assert text_of(convert_pptx, path, data) == (
        f"[slide 1 of 3]\n{UNICODE}\nfirst\nsecond\n[slide 2 of 3]\n[slide 3 of 3]\nend\nNotes:\nSay\nthis.\n"
    )


def test_pptx_reading_order_groups_and_tables(path: Path) -> None:
    presentation = pptx.Presentation()
    shapes = presentation.slides.add_slide(presentation.slide_layouts[6]).shapes
    table = shapes.add_table(2, 2, Inches(1), Inches(4), Inches(4), Inches(1)).table
    for row, texts in enumerate([["a", "b"], ["c", "d"]]):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    group = shapes.add_group_shape()
    where: Any
    for name, where, lower in (("slide", shapes, 0), ("group", group.shapes, 4)):
        for left, top in ((5, 1.02), (1, 1), (3, 2)):
            box = where.add_textbox(Inches(left), Inches(top + lower), Inches(1), Inches(1))
            box.text_frame.text = f"{name} {left}"
    presentation.save(str(path))
    assert text_of(convert_pptx, path, path.read_bytes()).splitlines()[1:] == [
        *("slide 1", "slide 5", "slide 3", "a | b", "c | d", "group 1", "group 5", "group 3")
    ]


# -- spreadsheets


def test_xlsx(path: Path) -> None:
    when = datetime.datetime.fromisoformat("2024-01-02T03:04")
    rows: list[list[object]] = [
        ["text", 3, 2.5, 1e20, True, None, when, when.replace(hour=0, minute=0), None],
        [],
        [None, f"tab\tand\nline {UNICODE}"],
    ]
    data = make_xlsx({'Büdget "世界"': rows, "empty": [], "one": [[1]]})
    assert text_of(convert_xlsx, path, data) == (
        '[sheet "Büdget "世界"", 3 rows]\n'
        "text\t3\t2.5\t1e+20\tTRUE\t\t2024-01-02 03:04:00\t2024-01-02\n"
        f"\n\ttab and line {UNICODE}\n"
        '[sheet "empty", 0 rows]\n[sheet "one", 1 row]\n1\n'
    )


def test_xlsx_keeps_rows_and_columns_where_they_are(path: Path) -> None:
    data = make_xlsx({"s": [[], [], [None, None, "C3"], [None, None, None, "D4"]]})
    assert text_of(convert_xlsx, path, data) == '[sheet "s", 4 rows]\n\n\n\t\tC3\n\t\t\tD4\n'


def test_ods(path: Path) -> None:
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    names = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "table", "text")
    )
    content = (
        f"<office:document-content {names}><office:body><office:spreadsheet><table:table table:name='S'>"
        "<table:table-row>"
        "<table:table-cell office:value-type='string'><text:p>é 世界</text:p></table:table-cell>"
        "<table:table-cell office:value-type='float' office:value='7'><text:p>7</text:p></table:table-cell>"
        "</table:table-row></table:table></office:spreadsheet></office:body></office:document-content>"
    )
    manifest = '<m:manifest xmlns:m="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
    members = {"mimetype": kind, "META-INF/manifest.xml": manifest, "content.xml": content}
    assert (
        text_of(convert_xlsx, path, make_zip(members, stored=["mimetype"]))
        == '[sheet "S", 1 row]\né 世界\t7\n'
    )


def test_sheet_too_large_for_memory_ends_no_more_than_its_own_process(path: Path) -> None:
    far = make_xlsx({"s": [["a", "b"]]})
    path.write_bytes(far)
    with zipfile.ZipFile(path) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    sheet = sheet.replace('<row r="1"', '<row r="1048576"').replace('r="B1"', 'r="XFD1048576"')
    data = replace_in_zip(far, {"xl/worksheets/sheet1.xml": sheet})
    assert "more memory than the sandbox has" in refusal(convert_xlsx, path, data)


# -- what Office files can be refused for


@pytest.mark.parametrize("convert", [convert_docx, convert_pptx, convert_xlsx])
def test_encrypted_office_files(path: Path, convert: Converter) -> None:
    encrypted = OLE2 + bytes(1024**2 - len(OLE2) - 9) + "EncryptedPackage".encode("utf-16-le")
    assert "is encrypted: remove the password" in refusal(convert, path, encrypted)


@pytest.mark.parametrize(
    ("convert", "data", "reason"),
    [
        (convert_docx, OLE2, "is an old Word document: save it as docx"),
        (convert_pptx, OLE2, "is an old presentation: save it as pptx"),
        (convert_xlsx, OLE2, "cannot be read as a spreadsheet"),
        (convert_docx, make_docx([]), "holds no text"),
        (convert_pptx, make_pptx([[], []]), "holds no text"),
        (convert_xlsx, make_xlsx({"a": [], "b": []}), "holds no text"),
        (convert_docx, make_pptx([["a"]]), "is not a Word document"),
        (convert_pptx, make_docx(["a"]), "is not a presentation"),
        (convert_xlsx, make_docx(["a"]), "cannot be read as a spreadsheet"),
    ],
)
def test_office_refused(path: Path, convert: Converter, data: bytes, reason: str) -> None:
    assert reason in refusal(convert, path, data)


@pytest.mark.parametrize(
    ("convert", "data"), [(convert_docx, make_docx(["a"])), (convert_pptx, make_pptx([["a"]]))]
)
def test_office_bomb(path: Path, convert: Converter, data: bytes) -> None:
    path.write_bytes(data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("word/huge.xml", "")
        archive.getinfo("word/huge.xml").file_size = 600 * 1024**2  # as the directory will tell it
    assert "MB of XML, more than the 512 MB" in refusal(convert, path, path.read_bytes())


LAUGHS = "<!DOCTYPE x [<!ENTITY a0 'lol'>{}<!ENTITY f SYSTEM 'file:///etc/passwd'>]>".format(
    "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 12))
)


@pytest.mark.parametrize("entity", ["&a11;", "&f;"])
def test_entities_are_not_expanded(path: Path, entity: str) -> None:
    run = f"<w:p><w:r><w:t>before</w:t><w:t>{entity}</w:t></w:r></w:p>"
    slide = f"<p:sld xmlns:p='http://schemas.openxmlformats.org/presentationml/2006/main'>{entity}</p:sld>"
    book = make_epub({"A": "<p>a</p>"})
    hostile: list[tuple[Converter, bytes]] = [
        (convert_docx, docx_with(run, before=LAUGHS)),
        (convert_docx, docx_with(f"<w:p w:rsidR='{entity}'/>{run}", before=LAUGHS)),
        (convert_pptx, replace_in_zip(make_pptx([["a"]]), {"ppt/slides/slide1.xml": LAUGHS + slide})),
        (convert_epub, replace_in_zip(book, {FIRST_CHAPTER: f"{LAUGHS}<body><p>before {entity}"})),
        (convert_epub, replace_in_zip(book, {"OEBPS/book.opf": f"{LAUGHS}<p>{entity}</p>"})),
        (convert_html, f"{LAUGHS}<p>before {entity}".encode()),
    ]
    for convert, data in hostile:
        try:
            text = text_of(convert, path, data)
        except Exception:  # refusing it is as good
            continue
        assert "before" in text
        assert "lol" not in text
        assert "root:" not in text
        assert len(text) < 1000


# -- HTML

PAGE = """<h1>Head &amp; more</h1><p>Some <b>bold</b> <a href="http://x.example">link</a>,&nbsp;&eacute;.</p>
<ul><li>one<li>two</ul><table><tr><th>A<th>Long<tr><td>1<td>2</table>
<script>var hidden = "<p>hidden</p>"</script><style>hidden</style><pre>a
  b</pre>"""


def test_html_text() -> None:
    assert html_text(f"<title>T</title>{PAGE}") == (
        "Head & more\n\nSome bold link, é.\n\n  * one\n  * two\nA  Long\n1  2\n\na\n  b\n"
    )


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        *(("utf-8", UNICODE), ("utf-16", UNICODE), ("shift_jis", "日本語テキスト"), ("gb2312", "简体中文")),
        *(
            ("koi8-r", "Привет"),
            ("windows-1252", "“Grüße” €"),
            ("iso-8859-1", "Grüße"),
            ("euc-kr", "한국어"),
        ),
    ],
)
def test_html_charset_is_the_declared_one(charset: str, text: str) -> None:
    assert html_text(make_html("T", f"<p>{text}", charset=charset)) == text + "\n"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<meta charset=utf-8><p>Gr\u00fc\u00dfe aus M\u00fcnchen".encode("latin-1"), "Grüße aus München\n"),
        ("<meta charset=zlib><p>Grüße".encode(), "Grüße\n"),
        (b"<?xml version='1.0' encoding='iso-8859-1'?><html><title/><p>\xe9<script/><p>b", "é\n\nb\n"),
        (b"", ""),
        (b"<!-- nothing -->", ""),
        (b"just text & more", "just text & more\n"),
    ],
)
def test_html_as_it_is_found(data: bytes, text: str) -> None:
    assert html_text(data).split() == text.split()


def test_html_encoding_named_by_the_user() -> None:
    assert html_text("<meta charset=utf-8><p>Жук".encode("cp1251"), "cp1251") == "Жук\n"


def test_html_title(path: Path) -> None:
    assert text_of(convert_html, path, make_html("News & more", "<p>Hello")) == "News & more\n\nHello\n"
    assert text_of(convert_html, path, make_html("News", "<h1>News of today</h1>")) == "News of today\n"


@pytest.mark.parametrize("depth", [500, 5_000, 200_000])
def test_html_nested_deeply(depth: int) -> None:
    assert html_text("<div>" * depth + "here").strip() == "here"


def test_html_table_that_would_be_padded_to_gigabytes() -> None:
    rows = "<tr><td>a<td>b" * 20_000
    text = html_text(f"<table><tr><td>{'wide ' * 10_000}<td>c{rows}</table>")
    assert text.count("a | b\n") == 20_000


def test_html_too_large_to_lay_out(path: Path) -> None:
    page = f"<title>Big</title>{PAGE}".encode()
    count = MAX_LAYOUT_BYTES // len(PAGE) + 1
    text = text_of(convert_html, path, codecs.BOM_UTF8 + page + PAGE.encode() * count)
    assert text.startswith(
        "Big\n\nHead & more\nSome bold link, é.\n- one\n- two\nA | Long\n1 | 2\na\n  b\nHead"
    )
    assert text.count("Some bold link, é.\n") == count + 1
    assert "hidden" not in text


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"<p></p>", "holds no text"), (b"\x89PNG\r\n\x1a\n\0\0\0", "is not a web page but")],
)
def test_html_refused(path: Path, data: bytes, reason: str) -> None:
    assert reason in refusal(convert_html, path, data)
    assert reason in refusal(convert_html, path, data + b" " * MAX_LAYOUT_BYTES)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*"<>/&;\"'= \n\0é世", "<p", "<table>", "<td", "</", "<!--", "<![CDATA[", "&#x0;", "pre>"]
        )
    )
)
def test_html_of_any_kind(parts: list[str]) -> None:
    assert isinstance(html_text("".join(parts)), str)


# -- EPUB


def test_epub(path: Path) -> None:
    chapters = {
        "One": f"<h1>The\n first</h1><p>{UNICODE}&nbsp;</p>",
        "Picture": "<img src='a.png'/>",
        "Two": "<p>text</p>",
    }
    assert text_of(convert_epub, path, make_epub(chapters)) == (
        f"[chapter 1: The first]\nThe first\n\n{UNICODE}\n[chapter 2: Two]\ntext\n"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make_epub({"A": "<p>a</p>"}, drm=True), "is protected by DRM"),
        (make_epub({"A": "<img/>"}), "holds no text"),
        (make_zip({"mimetype": "application/epub+zip"}), "META-INF/container.xml is missing"),
        (replace_in_zip(make_epub({}), {"META-INF/container.xml": "<container/>"}), "names no content"),
        (
            replace_in_zip(make_epub({"A": ""}), {"OEBPS/text/chapter 1.xhtml": bytes(65 * 1024**2)}),
            "than 64 MB",
        ),
    ],
)
def test_epub_refused(path: Path, data: bytes, reason: str) -> None:
    assert reason in refusal(convert_epub, path, data)


# -- Parquet


def test_parquet(path: Path) -> None:
    query = r"""SELECT 1 AS n, NULL AS "a,b", '' AS empty, 'say "é", 世界' AS quoted,
        'x' || chr(10) || 'y' AS lines, [1, NULL] AS list, {'k': 'v', 'd': DATE '2024-01-02'} AS struct,
        2.50::DECIMAL(9, 2) AS amount, TIMESTAMPTZ '2024-01-02 05:04:05+02' AS at,
        encode('text é') AS bytes, '\xFF\x00'::BLOB AS binary"""
    assert text_of(convert_parquet, path, make_parquet(path, query)) == (
        'n,"a,b",empty,quoted,lines,list,struct,amount,at,bytes,binary\n'
        '1,,"","say ""é"", 世界","x\ny","[1,null]","{""k"":""v"",""d"":""2024-01-02""}",2.50,'
        "2024-01-02 03:04:05+00,text é,(2 bytes)\n"
    )


def test_parquet_rows_in_order_and_any_path(path: Path) -> None:
    odd = path.parent / "k=v" / "[1]*?.parquet"
    odd.parent.mkdir()
    data = make_parquet(path, "SELECT range AS n FROM range(300000)")
    assert text_of(convert_parquet, odd, data) == "n\n" + "".join(f"{n}\n" for n in range(300_000))
    assert text_of(convert_parquet, odd, make_parquet(path, "SELECT 1 AS n WHERE false")) == "n\n"


# -- damage


def samples(path: Path) -> Iterator[tuple[Converter, bytes]]:
    yield convert_pdf, make_pdf([f"page {number} {UNICODE}" for number in range(5)])
    yield convert_docx, make_docx(["a", ("Heading 1", "b"), [["c", "d"]]])
    yield convert_pptx, make_pptx([["a"], ["b"]], notes="c")
    yield convert_xlsx, make_xlsx({"a": [[1, "b"]] * 50})
    yield convert_epub, make_epub({"A": "<p>a</p>", "B": "<p>b</p>"})
    yield convert_parquet, make_parquet(path, "SELECT range AS n, 'text' AS t FROM range(5000)")


def test_files_that_are_cut_off(path: Path) -> None:
    for convert, data in samples(path):
        for size in (0, 100, len(data) // 2, len(data) - 10):
            with pytest.raises(Exception):  # noqa: B017 - each library has its own
                text_of(convert, path, data[:size])


def test_damaged_bytes_do_no_worse_than_raise(path: Path) -> None:
    for convert, data in samples(path):
        for place in range(7, len(data) - 8, len(data) // 8):
            damaged = data[:place] + b"\xff\x00\x7f\xfe" + data[place + 4 :]
            try:
                text = text_of(convert, path, damaged)
            except Exception:  # refusing it is as good
                continue
            assert len(text) < 1_000_000
