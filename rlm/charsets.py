"""Which of the old encodings a text is in: a matter of likelihood.

Of all encodings and the languages that were written in them, the answer is the pair under which the
characters are the least surprising. Counted are words with bytes above 127, a few kilobytes of them. It does
not tell text from binary data, nor UTF from anything: `text_probe` has done that before.
"""

# ruff: noqa: RUF001 - letters of all scripts are the subject

import codecs
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable

EXCERPT_BYTES = 2048
GLANCE_BYTES = 256
GLANCE_MARGIN = 60.0
"""Encodings that fall behind the best by more than this, of the logarithm, at a glance are out."""

_TIERS = (0.05, 0.015, 0.004, 0.0006)
"""How often a letter of each group is met among all characters, about."""
_MARKS = dict.fromkeys("«»„“”‚‘’–—…·•°§\xa0№€£©", 0.01) | dict.fromkeys("®™×¿¡†½²³ºªµ‹›‐", 0.001)
_WIDE_MARKS = dict.fromkeys("。、，・：；？！（）「」『』《》“”…　ー々〇", 0.006)
_UNLISTED = 3e-4
_UNKNOWN = 1e-5
_ASCII = 0.06
_ODD_WORD = 0.02
"""A word with a capital letter inside, of two scripts, or with a sign inside: how likely that is meant."""

WESTERN = ("latin-1", "cp1252", "iso8859-15", "cp850")
_CENTRAL = ("cp1250", "iso8859-2")
_CYRILLIC = ("cp1251", "koi8-r", "koi8-u", "iso8859-5", "cp866")
_BALTIC = ("cp1257", "iso8859-13")
_ALPHABETS: tuple[tuple[tuple[str, ...], str], ...] = (
    (WESTERN, "|é|èàê|ôçîâûùëïüœæÿ"),  # French
    (WESTERN, "||äöü|ßéà"),  # German
    (WESTERN, "||áéíóñ|úü"),  # Spanish
    (WESTERN, "||èà|ùòìéîó"),  # Italian
    (WESTERN, "||ãçáéí|óõêúâàôüº"),  # Portuguese
    (WESTERN, "||éë|ïèöüóá"),  # Dutch, English
    (WESTERN, "|äåö|éø|ü"),  # Swedish
    (WESTERN, "|øåæ|é|òôöäü"),  # Danish, Norwegian
    (WESTERN, "ä|ö||å"),  # Finnish
    (WESTERN, "|áðíó|þöæúéý|"),  # Icelandic
    (WESTERN, "||àéèóí|òçúïü·"),  # Catalan
    (_CENTRAL, "|áíéěř|ýžčšůú|óťďňöü"),  # Czech
    (_CENTRAL, "|áí|éýčžšúľť|ôóňäďĺŕ"),  # Slovak
    (_CENTRAL, "|łęąóżś|ćń|źé"),  # Polish
    (_CENTRAL, "áé|öóő|íüúű|"),  # Hungarian
    (_CENTRAL, "|čš|žćđ|éöü"),  # Croatian, Slovene
    (_CENTRAL, "|ă|îâşţ|é"),  # Romanian
    (_CYRILLIC, "оеаинтсрвл|кмдпуяыьгзбчй|хжшюцщэф|ёъ"),  # Russian
    (_CYRILLIC, "оаинвтерсі|клудмпяьзгбчй|хжїюшєцщф|ґ’"),  # Ukrainian
    (_CYRILLIC, "аеиотнрсв|лкдпмзяъбугч|жщйхшцюф|ьѝ"),  # Bulgarian
    (_CYRILLIC, "аоеинрстујк|вдмплзбг|чњшцжћхљђ|фџ"),  # Serbian, Macedonian
    (_CYRILLIC, "анеіорстык|лядвмпуцьзгбўч|шйхжюёф|э’"),  # Belarusian
    (("cp1253", "iso8859-7"), "αοετισνρ|ηπκυμλςάίόέγήώδθύχφΆΈ|βξωζψ|ϊΐϋΰ"),  # Greek
    (("cp1254",), "ı|üşğ|öçİ|âîû"),  # Turkish
    (("cp1255",), "יוהלאר|תבמנשםדעקחפכסטגןצ|זךץף|ְִַָּ"),  # Hebrew
    (("cp1256", "iso8859-6"), "اليمنرتوب|ةدعسفهكحقأجص|شطخذىءئضإغثز|ظآؤًّ،؟؛"),  # Arabic
    (("cp1256",), "اینردهوتم|بسشكکلگخزفق|جعپحآصط‌|غضچذثظژيءئ،؟"),  # Persian
    (_BALTIC, "|ėšųį|žčū|ąę"),  # Lithuanian
    (_BALTIC, "ā|īēš|ņļūģķž|č"),  # Latvian
    (_BALTIC, "|äõ|üö|šž"),  # Estonian
    (("cp1258",), "|đưôà\u0300\u0301\u0323|\u0309ơêáâăãéíóúùè|\u0303ìýõ₫"),  # Vietnamese
    (("cp874",), "ารนกอเง่้|ัมยลวดีทสตะปบิคหแ์จไพ|ชขใูโืำุถซผศ็ึณฟธภ|ษญฐๆฝฎฏฉฮ"),  # Thai
    (
        ("cp932", "euc_jp"),
        "のるをいたにはてと"
        "|しがでなれすスントまかっこルリもらアクイりラさドシレ日年人大"
        "|あえおきくけそちつねみめやよわんウエオカキコサセソタチッテナニネノハパヒフブプベマミムメモュョロワ国本一中"
        "|ぁ〜",
    ),
    (
        ("gb18030",),
        "的"
        "|一是不了在人有我他这中大来上国个到说们为和地时出用"
        "|以会可也年对生能子那得于着下自之后作里文数"
        "|要就行分本成多公",
    ),
    (
        ("cp950", "big5hkscs"),
        "的"
        "|一是不了在人有我他這中大來上國個到說們為和地時出用"
        "|以會可也年對生能子那得於著下自之後作裡文數"
        "|要就行分本成多公",
    ),
    (
        ("cp949",),
        "이다"
        "|는에의을가고하지로한사은기도를서인"
        "|어리자시일나대들그해수아정스라보전게상부있만여니과성으"
        "|주안원유",
    ),
)
"""Encodings, and the letters of a language that is written in them, in groups as `_TIERS` has them."""

_ODDS = {
    "latin-1": 0.0, "cp1252": -0.1, "iso8859-15": -2.0, "cp850": -6.0, "cp1250": -2.0, "iso8859-2": -3.0,
    "iso8859-13": -4.0, "iso8859-5": -4.0, "iso8859-7": -3.0, "iso8859-6": -3.0, "koi8-u": -2.5,
    "cp866": -4.0, "cp1258": -4.0, "big5hkscs": -3.0,
}  # fmt: skip
"""How rare each is before anything is seen of the text: the logarithm of the odds. Others have -2."""

_COMMON_ROWS = {
    "cp932": (0x88, 0x97, 4000),
    "euc_jp": (0xB0, 0xCF, 4000),
    "gb18030": (0xB0, 0xD7, 5000),
    "cp950": (0xA4, 0xC6, 6000),
    "big5hkscs": (0xA4, 0xC6, 6000),
    "cp949": (0xB0, 0xC8, 2350),
}
"""First and last first byte of the characters in daily use, and between about how many the choice is."""

_WORD = re.compile(r"[^\W\d_]+")
_LATIN, _OTHER = r"[A-Za-z\xaa\xb5\xba\xc0-\u036f\u1e00-\u1eff]", r"[\u0370-\u1dff\u1f00-\u1fff]"
_TWO_SCRIPTS = re.compile(f"{_LATIN}{_OTHER}|{_OTHER}{_LATIN}")
_BESIDE_ASCII = re.compile(r"[a-z](?=[^\x00-\x7f])|[^\x00-\x7f](?=[a-z])")
_SIGN_INSIDE = re.compile(r"[^\W\d_][\x80-\x9f¡-¬®-¶¸-»¿‚„…†‡ˆ‰‹›•™˜“”×÷][^\W\d_]")


def likely_encoding(samples: Iterable[bytes]) -> str:
    """The most likely encoding of text that is not UTF-8."""
    samples = tuple(samples)
    excerpt = _excerpt(samples)
    scores = {encoding: _score(excerpt[:GLANCE_BYTES], encoding) for encoding in _LANGUAGES_OF}
    bound = max(scores.values()) - GLANCE_MARGIN
    likely = [encoding for encoding, score in scores.items() if score >= bound]
    best = max(likely, key=lambda encoding: _score(excerpt, encoding))
    if best == "latin-1":
        c1 = sum(len(sample) - len(sample.translate(None, _CP1252_ONLY)) for sample in samples)
        return "cp1252" if c1 else best
    return best


def _excerpt(samples: Iterable[bytes]) -> bytes:
    """Different words with bytes above 127, for these alone differ between encodings.

    No encoding has bytes up to 0x2f inside a character, so that words are cut at them.
    """
    words: dict[bytes, None] = {}
    size = 0
    for number, sample in enumerate(samples):
        room = size + EXCERPT_BYTES
        for word in sample.translate(_SPACED).split()[number > 0 :]:  # the first of a later one may be cut
            if not word.isascii() and word not in words:
                words[word[: room - size]] = None
                size += len(word) + 1
                if size >= room:
                    break
    return b" ".join((*words, b""))


def _score(excerpt: bytes, encoding: str) -> float:
    """The logarithm of how likely the excerpt is in an encoding, by the language that fits it best."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(excerpt)
    chars = Counter(text)
    ascii_count = sum(chars.pop(char) for char in [*chars] if char < "\x80")
    odd = _BESIDE_ASCII.subn("", text)[1] * 0.4 if encoding in _COMMON_ROWS else _odd_words(text)
    unlisted = {char: _of_unlisted(char, encoding) for char in chars}
    best = max(
        sum(count * letters.get(char, unlisted[char]) for char, count in chars.items())
        for letters in map(_logarithms, _LANGUAGES_OF[encoding])
    )
    return best + ascii_count * math.log(_ASCII) + odd * math.log(_ODD_WORD) + _ODDS.get(encoding, -2.0)


def _odd_words(text: str) -> int:
    odd = len(_SIGN_INSIDE.findall(text)) + len(_TWO_SCRIPTS.findall(text))
    for word in _WORD.findall(text):
        if not word.isascii():
            low = word.lower()
            odd += word not in (low, word.upper()) and word[1:] != low[1:]
    return odd


@functools.cache
def _logarithms(letters: str) -> dict[str, float]:
    """The letters of a language, capitals among them, and the logarithm of how often each is met."""
    weights: dict[str, float] = {}
    for group, often in zip(letters.split("|"), _TIERS, strict=True):
        weights |= {char.upper(): often / 10 for char in group if len(char.upper()) == 1}
        weights |= dict.fromkeys(group, often)
    total = sum(weights.values())
    return {char: math.log(weight / total) for char, weight in weights.items()}


@functools.lru_cache(maxsize=8192)
def _of_unlisted(char: str, encoding: str) -> float:
    """The same for a character that is no listed letter of the language."""
    wide = encoding in _COMMON_ROWS
    if char in (_WIDE_MARKS if wide else _MARKS):
        return math.log((_WIDE_MARKS if wide else _MARKS)[char])
    if not wide:
        return math.log(_UNLISTED if char.isalpha() and char != "\ufffd" else _UNKNOWN)
    try:
        code = char.encode(encoding)
    except UnicodeEncodeError:  # a replacement character, or half of what a pair of bytes stands for
        return math.log(_UNKNOWN)
    if len(code) == 1:
        return math.log(_HALF_WIDTH)
    first, last, choice = _COMMON_ROWS[encoding]
    return -math.log(choice) if first <= code[0] <= last else math.log(_RARE_WIDE)


_HALF_WIDTH = 5e-5
_RARE_WIDE = 3e-6
_SPACED = bytes(32 if byte < 0x30 else byte for byte in range(256))
_CP1252_ONLY = bytes(byte for byte in range(0x80, 0xA0) if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D))
_LANGUAGES_OF: dict[str, list[str]] = {}
for _encodings, _letters in _ALPHABETS:
    for _name in _encodings:
        _LANGUAGES_OF.setdefault(_name, []).append(_letters)
