"""Text told from binary data, and the encodings of text in many languages told apart."""

# ruff: noqa: RUF001, E501 - letters of all scripts are the subject, and some are wide

import codecs
import itertools
import pickle
import random
import re
import sqlite3
from pathlib import Path

import pytest

from rlm.text_probe import NotText, codec_name, printable, probe, reads_in_place

SENTENCES = {
    "fr": """Le vieux château était fermé depuis des années. La fenêtre du grenier donnait sur la forêt, où les
        élèves allaient l'été dernier. Ça coûte très cher, mais la mère de François préfère déjà cette façade.""",
    "de": """Die Straße führt über die Brücke bis zur Mühle. Später hörten wir die Glocken läuten, während das
        Mädchen Äpfel für den König pflückte. Übrigens schließt das Büro um fünf, nicht früher.""",
    "es": """El niño pequeño soñaba con una montaña lejana. Mañana también habrá reunión en la estación; el señor
        Núñez contará quién llegó después. ¿Dónde está la llave del baño? Aquí está, respondió María.""",
    "it": """La città è più bella di sera, però non c'è nessuno. Perché non si può andare là? La libertà è una
        qualità che la società cercò a metà del secolo. Così finì l'attività dell'università.""",
    "pt": """A estação não fica longe do coração da cidade. Amanhã haverá uma reunião sobre educação e saúde. Você
        já leu a lição? Não, mas também não é difícil; o avô contará a história às crianças.""",
    "sv": """Flickan gick över ängen för att plocka blåbär. På kvällen åt vi fläsk och ärtsoppa hos mormor. Många
        båtar låg kvar i hamnen när hösten började, och sjön såg grå ut.""",
    "da": """Børnene løb gennem skoven og fandt både æbler og nødder. På øen bor der færre end hundrede mennesker.
        Gården ligger ved åen, og om søndagen sælger de brød, smør og røget fisk.""",
    "fi": """Äiti lähti töihin ennen kuin päivä oli hämärtynyt. Järven yllä lenteli lintuja, ja pöydällä höyrysi
        kahvi. Tämä mökki on myyty, mutta sänky jää tänne yöksi.""",
    "is": """Það er kalt í dag og snjórinn þekur fjöllin. Stúlkan sagði að hún ætlaði heim á morgun. Öll börnin
        fóru út að leika sér við ána þótt veðrið væri vont.""",
    "cs": """Příští týden přijede můj bratr z města. Dům stojí na kopci, odkud je vidět řeka i železniční most.
        Večer jsme četli knížku o koních a jedli čerstvý chléb se sýrem. Žádný člověk nic neříkal.""",
    "pl": """Mój brat mieszka w małym domu nad rzeką. Wczoraj kupiliśmy świeże śliwki, gęś i żółty ser. Później
        zaczął padać śnieg, więc została już tylko jedna ścieżka. Książka leżała pod łóżkiem.""",
    "hu": """A kisfiú őszintén válaszolt a tanító kérdésére. Később esőfelhők gyűltek a tó fölé, és a hajó
        visszatért a kikötőbe. Hétfőn új szőnyeget és fűtőtestet vettünk, mert hűvös lett az idő.""",
    "sl": """Včeraj smo šli čez reko v staro mesto. Otroci so že končali šolo in se igrajo na dvorišču. Češnje so
        letos drage, žito pa še ni zrelo. Rdeča hiša ima ključ, ki ga nihče ne išče.""",
    "ro": """Mâine mergem în oraş să cumpărăm pâine şi brânză. Fata învaţă bine, dar fratele său stă acasă. După
        ploaie, câmpul a rămas ud şi nimeni nu a mai ieşit în grădină.""",
    "ru": """Вчера мы долго гуляли по берегу реки. Дети нашли старую лодку и решили её починить. Вечером отец
        рассказал, как много лет назад он жил в этой деревне. Погода была тёплой и тихой.""",
    "uk": """Учора ми довго гуляли берегом річки. Діти знайшли старий човен і вирішили його полагодити. Увечері
        батько розповів, як багато років тому він жив у цьому селі. Її сестра ще не приїхала.""",
    "bg": """Вчера дълго се разхождахме по брега на реката. Децата намериха стара лодка и решиха да я поправят.
        Вечерта баща ми разказа как преди много години е живял в това село.""",
    "el": """Χθες περπατήσαμε πολλή ώρα δίπλα στο ποτάμι. Τα παιδιά βρήκαν μια παλιά βάρκα και αποφάσισαν να τη
        φτιάξουν. Το βράδυ ο πατέρας μίλησε για το χωριό όπου ζούσε. Άλλοι έφυγαν νωρίς.""",
    "tr": """Dün akşam ırmağın kıyısında uzun süre yürüdük. Çocuklar eski bir kayık buldu ve onu onarmaya karar
        verdi. Babam, yıllar önce bu köyde yaşadığını anlattı. Güneş doğmadan yola çıkacağız.""",
    "he": """אתמול הלכנו שעה ארוכה לאורך הנהר. הילדים מצאו סירה ישנה והחליטו לתקן אותה. בערב סיפר אבא
        איך חי בכפר הזה לפני שנים רבות. מזג האוויר היה נעים ושקט.""",
    "ar": """مشينا أمس طويلا على ضفة النهر. وجد الأطفال قاربا قديما وقرروا إصلاحه. في المساء حكى الأب كيف
        كان يعيش في هذه القرية قبل سنوات كثيرة. كان الجو لطيفا وهادئا.""",
    "lt": """Vakar ilgai vaikščiojome upės krantu. Vaikai rado seną valtį ir nusprendė ją pataisyti. Vakare tėvas
        pasakojo, kaip prieš daugelį metų gyveno šiame kaime. Žiūrėk, ąžuolas dar žalias.""",
    "lv": """Vakar mēs ilgi staigājām gar upes krastu. Bērni atrada vecu laivu un nolēma to salabot. Vakarā tēvs
        stāstīja, kā pirms daudziem gadiem viņš dzīvoja šajā ciemā. Šķūnis ir tukšs.""",
    "th": """เมื่อวานเราเดินเล่นริมแม่น้ำเป็นเวลานาน เด็กๆ พบเรือเก่าลำหนึ่งและตัดสินใจซ่อมมัน ตอนเย็นพ่อเล่าว่า
        หลายปีก่อนเขาเคยอยู่ในหมู่บ้านนี้ อากาศอบอุ่นและเงียบสงบ""",
    "ja": """昨日は川のほとりを長いあいだ歩きました。子どもたちは古い船を見つけて、直すことにしました。夕方、父は何年も前に
        この村で暮らしていたと話してくれた。テレビのニュースによると、明日は雨だそうです。""",
    "zh": """昨天我们在河边走了很长时间。孩子们发现了一条旧船，决定把它修好。晚上父亲告诉我们，他很多年以前住在这个村子里。
        天气很暖和，也很安静，所以大家都不想回家。""",
    "zh-tw": """昨天我們在河邊走了很長的時間。孩子們發現了一條舊船，決定把它修好。晚上父親告訴我們，他很多年以前住在這個村子裡。
        天氣很暖和，也很安靜，所以大家都不想回家。""",
    "ko": """어제 우리는 강가를 오랫동안 걸었습니다. 아이들은 낡은 배를 발견하고 고치기로 했습니다. 저녁에 아버지는 오래전에
        이 마을에서 살았다고 이야기해 주었습니다. 날씨가 따뜻하고 조용해서 아무도 집에 가고 싶어하지 않았다.""",
}
WESTERN = {"fr", "de", "es", "it", "pt", "sv", "da", "fi", "is"}
ENCODINGS = {
    **dict.fromkeys(sorted(WESTERN), ("latin-1", "cp1252", "iso8859-15")),
    **dict.fromkeys(("cs", "pl", "hu", "sl", "ro"), ("cp1250", "iso8859-2")),
    "ru": ("cp1251", "koi8-r", "cp866", "iso8859-5"),
    "uk": ("cp1251", "koi8-u", "iso8859-5"),
    "bg": ("cp1251", "iso8859-5"),
    "el": ("cp1253", "iso8859-7"),
    "tr": ("cp1254",),
    "he": ("cp1255",),
    "ar": ("cp1256", "iso8859-6"),
    "lt": ("cp1257", "iso8859-13"),
    "lv": ("cp1257", "iso8859-13"),
    "th": ("cp874",),
    "ja": ("cp932", "shift_jis", "euc_jp", "iso2022_jp"),
    "zh": ("gb18030", "gbk", "gb2312"),
    "zh-tw": ("big5", "cp950", "big5hkscs"),
    "ko": ("euc_kr", "cp949"),
}
CASES = [(language, encoding) for language, encodings in ENCODINGS.items() for encoding in encodings]


def text_of(language: str) -> str:
    return re.sub(r"\s*\n\s*", " ", SENTENCES[language])


def pieces(language: str, encoding: str, *, size_bytes: int) -> list[str]:
    """Texts that are about so long in an encoding, at word borders, each with letters that are not ASCII."""
    text = text_of(language)
    if language in ("ja", "zh", "zh-tw", "th"):
        width = len(text.encode(encoding)) / len(text)
        step = max(1, round(size_bytes / width))
        long = text * (size_bytes // len(text) + 2)
        return [long[start : start + step] for start in range(0, len(text), step)]
    words = itertools.cycle(text.split())
    found = []
    for _ in range(12):
        piece = ""
        while len(piece) < size_bytes:
            piece += f"{next(words)} "
        found.append(piece)
    return [piece for piece in found if not piece.isascii()]


def detected(data: bytes) -> str:
    return probe(data, whole=True).encoding


@pytest.mark.parametrize(("language", "encoding"), CASES)
def test_old_encodings_are_told_apart(language: str, encoding: str) -> None:
    for size_bytes, count in ((200, 5), (2_000, 2), (20_000, 1)):
        texts = pieces(language, encoding, size_bytes=size_bytes)[:count]
        assert texts
        for text in texts:
            data = text.encode(encoding)
            found = detected(data)
            assert data.decode(found) == text, f"{found} for {size_bytes} bytes"


@pytest.mark.parametrize("language", sorted(WESTERN))
def test_a_few_western_words_are_western(language: str) -> None:
    for text, encoding in itertools.product(pieces(language, "cp1252", size_bytes=20), ("latin-1", "cp1252")):
        data = text.encode(encoding)
        found = detected(data)
        assert data.decode(found) == text, f"{found} for {text}"


def test_twenty_bytes_are_mostly_enough() -> None:
    good = []
    for language, encoding in CASES:
        for text in pieces(language, encoding, size_bytes=20):
            data = text.encode(encoding)
            good.append(data.decode(detected(data), "replace") == text)
    assert len(good) > 500
    assert sum(good) > 0.85 * len(good)


@pytest.mark.parametrize(
    "text", ["René", "Zoë", "naïve", "Müller", "José Núñez", "Ångström", "5 £", "20 °C", "Ç"]
)
def test_one_letter_in_plain_text_is_western(text: str) -> None:
    for around in ("{}", "name,city\n{},Paris\n", "some words " * 15 + "{} and so on\n"):
        data = around.format(text).encode("latin-1")
        assert detected(data) == "latin-1"


def test_quotes_and_euros_of_windows() -> None:
    assert detected("It costs 5 € – “cheap”, he said".encode("cp1252")) == "cp1252"
    late = probe("café ".encode("latin-1") * 100, later=("une “idée” ".encode("cp1252") * 9,), whole=False)
    assert late.encoding == "cp1252"


def test_what_is_rare_is_found_among_much_ascii() -> None:
    for language, encoding in (("ru", "koi8-r"), ("ja", "cp932"), ("cs", "cp1250"), ("zh", "gb18030")):
        data = b"id,value,comment\n" * 3_000 + text_of(language).encode(encoding)
        assert data.decode(detected(data)) == data.decode(encoding)
        head, later = b"plain words\n" * 5_000, text_of(language).encode(encoding)
        assert probe(head, later=(b"x " + later,), whole=False).encoding == encoding


def test_a_character_cut_by_the_end_of_a_sample_does_no_harm() -> None:
    data = text_of("ja").encode("cp932") * 300
    for end in range(1_000, 1_006):
        assert probe(data[:end], later=(data[end + 7 : end + 999],), whole=False).encoding == "cp932"


@pytest.mark.parametrize("language", ["de", "ru", "el", "he", "zh", "ja", "ko", "th"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_unicode(language: str, encoding: str) -> None:
    text = f"{text_of(language)}\r\nname, 12\r\n"
    for data in (text.encode(encoding), (text * 50).encode(encoding)):
        found = probe(data, whole=True)
        assert data.decode(found.encoding).removeprefix("\ufeff").startswith(text)
        assert found.preview == printable(text * 50)[: min(300, len(found.preview))]
    assert detected(codecs.BOM_UTF16_BE + text.encode("utf-16-be")) == "utf-16-be"
    assert detected(codecs.BOM_UTF32_BE + text.encode("utf-32-be")) == "utf-32"


def test_a_preview_ends_at_a_character_and_shows_no_controls() -> None:
    for encoding in ("utf-8", "utf-16-le", "cp932", "utf-32"):
        data = ("\ufeff" * (encoding == "utf-16-le") + "日本語のテキスト" * 999).encode(encoding)
        assert probe(data, whole=True).preview == ("日本語のテキスト" * 999)[:300]
    assert probe(b"\x1b[31mred\x1b[0m\tx\r\ny", whole=True).preview == "·[31mred·[0m x\ny"
    assert probe(b"", whole=True) == ("utf-8", "")


def test_the_named_encoding_is_taken() -> None:
    data = text_of("ru").encode("cp866")
    assert probe(data, whole=True, encoding="IBM866") == ("cp866", text_of("ru")[:300])
    assert probe("{Größe}".encode("cp037"), whole=True, encoding="cp037").preview == "{Größe}"
    assert probe(codecs.BOM_UTF8 + b"x", whole=True, encoding="UTF8").encoding == "utf-8-sig"
    assert probe("añb".encode("utf-16"), whole=True, encoding="utf-16") == ("utf-16-le", "añb")
    assert probe(b"\x81" * 9 + b"x" * 99, whole=True, encoding="cp1252").preview.startswith(
        "\ufffd" * 9 + "x"
    )
    with pytest.raises(NotText, match="not cp932 text, or binary"):
        probe(random.Random(1).randbytes(999), whole=True, encoding="cp932")
    with pytest.raises(NotText, match="PNG"):
        probe(b"\x89PNG\r\n", whole=True, encoding="latin-1")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("cp1525", r"'cp1525' is not a text encoding: did you mean cp1252 or "),
        ("shift-jiss", "did you mean shift_jis"),
        ("base64", "not a text encoding"),
        ("rot13", "not a text encoding"),
        ("hex", "not a text encoding"),
        ("punycode", "not a text encoding"),
        ("unicode_escape", "not a text encoding"),
        ("undefined", "not a text encoding"),
        ("idna", "not a text encoding"),
        ("no such thing", "utf-8, cp1252 and shift_jis are"),
        ("a\0\x1b", "'a··' is not"),
        ("", "'' is not"),
    ],
)
def test_names_that_are_no_text_encoding(given: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        codec_name(given)
    assert not re.search(r"base64_codec|rot_13|hex_codec|idna|punycode\b.*punycode", str(caught.value)[12:])
    if given:
        with pytest.raises(ValueError, match=says):
            probe(b"text", whole=True, encoding=given)


def test_names_have_one_spelling() -> None:
    for given, name in (
        ("UTF8", "utf-8"),
        ("ISO-8859-1", "latin-1"),
        ("Windows-1252", "cp1252"),
        ("SJIS", "shift_jis"),
    ):
        assert codec_name(given) == name


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "cp037"]
)
def test_read_in_place(encoding: str) -> None:
    assert reads_in_place(encoding)


@pytest.mark.parametrize(
    "encoding",
    ["utf-16", "utf-32", "utf-32-le", "utf-7", "iso2022_jp", "hz", "cp932", "gb18030", "big5", "euc_kr"],
)
def test_converted_first(encoding: str) -> None:
    assert not reads_in_place(encoding)


def old_office(stream: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512) + stream.encode("utf-16-le") + bytes(64)


@pytest.mark.parametrize(
    ("data", "kind", "hint"),
    [
        (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive", "Unpack it"),
        (b"Rar!\x1a\x07\x01\0", "rar archive", "Unpack it"),
        (pickle.dumps({"a": [1.5] * 9}), "pickle", "It is not opened"),
        (b"\x93NUMPY\x01\0v\0{'descr': '<f8'}", "NumPy array", "It is not opened"),
        (b"\x89HDF\r\n\x1a\n\0", "HDF5", "Export"),
        (b"\xca\xfe\xba\xbe\0\0\0\x41", "Java class", ""),
        (b"\x7fELF\2\1\1\0", "ELF", ""),
        (b"MZ\x90\0\3\0\0\0", "Windows", ""),
        (b"ID3\4\0\0\0\0\1\2", "MP3", ""),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "MP4", ""),
        (b"wOF2\0\1\0\0\0\0", "font", ""),
        (b"GIF89a\1\0\1\0", "GIF", ""),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG", ""),
        (b"PK\3\4\x14\0\0\0", "zip archive", ""),
        (b"12345678DUCK\x40\0\0\0\0", "DuckDB", "Export"),
        (old_office("WordDocument"), r"Word document \(\.doc\)", "Save it as .docx"),
        (old_office("PowerPoint Document"), "presentation", "Save it as .pptx"),
        (old_office("__substg1.0_0037001F"), "Outlook message", ".eml"),
        (old_office("Something"), "old Office document", "Save it as"),
        (b"text with a \0 in it", "binary", "Convert"),
        (codecs.BOM_UTF32_LE + b"\1\2\3\4" * 9, "binary", "Convert"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8" * 50, "binary", "Convert"),
        (bytes(range(1, 32)) * 9, "binary", "Convert"),
        (b"\0\1\2\3" * 99, "binary", "Convert"),
        (b"a/b\0cd\0e.txt\0" * 20, "binary", "Convert"),
    ],
)
def test_binary_data_is_named(data: bytes, kind: str, hint: str) -> None:
    with pytest.raises(NotText, match=kind) as caught:
        probe(data, whole=True)
    assert hint in caught.value.hint


def test_a_database_tells_how_to_dump_it(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("create table t (a)")
    connection.commit()
    connection.close()
    with pytest.raises(NotText) as caught:
        probe((tmp_path / "a.db").read_bytes(), whole=True)
    assert caught.value.hint == "Dump it first: sqlite3 FILE .dump > dump.sql"


def test_random_bytes_are_no_text() -> None:
    source = random.Random(7)
    for size_bytes in (200, 1_000, 60_000):
        for _ in range(20):
            with pytest.raises(NotText):
                probe(source.randbytes(size_bytes), whole=True)
