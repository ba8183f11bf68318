"""What a setting may be: one small class for each kind of value, and how a credential is recognised.

A kind turns typed text into a JSON value (`parse`), and a JSON value into what the program uses (`read`), or
raises `Invalid` with words that finish the sentence "`limits.parallel` …". It knows no setting by name.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceConfig:
    """US dollars for a million tokens."""

    input_per_mtok: float
    output_per_mtok: float


class Invalid(Exception):
    """What a value must be. `below` leads from the setting to the part of it that is wrong."""

    def __init__(self, must: str, *, below: str = "") -> None:
        super().__init__(must)
        self.must = must
        self.below = below


class Kind(Protocol):
    """`read` checks a JSON value and returns it as the program uses it; `parse` makes one of typed text."""

    def read(self, raw: object) -> object: ...
    def parse(self, text: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Number:
    low: float
    high: float
    whole: bool = False

    def parse(self, text: str) -> object:
        try:
            return int(text) if self.whole else float(text)
        except ValueError:
            return text

    def read(self, raw: object) -> object:
        kinds = (int,) if self.whole else (int, float)
        if isinstance(raw, bool) or not isinstance(raw, kinds) or not self.low <= raw <= self.high:
            what = "a whole number" if self.whole else "a number"
            raise Invalid(f"must be {what} from {self.low:,} to {self.high:,}")
        return raw


@dataclass(frozen=True, slots=True)
class Text:
    """Text that matches `pattern` as a whole; `must` says the same in words."""

    pattern: str = r"\S+"
    must: str = "must be text without spaces, and not empty"
    empty: bool = False

    def parse(self, text: str) -> object:
        return text

    def read(self, raw: object) -> object:
        if self.empty and raw == "":
            return raw
        if not isinstance(raw, str) or not re.fullmatch(self.pattern, raw):
            raise Invalid(self.must)
        return raw


@dataclass(frozen=True, slots=True)
class Address:
    """Where requests go. Nothing but scheme, host, port and path: the rest is where keys and tricks hide."""

    empty: bool = False

    def parse(self, text: str) -> object:
        return text

    def read(self, raw: object) -> object:
        if self.empty and raw == "":
            return raw
        shape = r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[A-Za-z0-9._~/:@%+-]*)?"
        if not isinstance(raw, str) or not re.fullmatch(shape, raw) or not _parses(raw):
            raise Invalid("must be an address like https://host/path, without user, query or spaces")
        return raw.rstrip("/")


@dataclass(frozen=True, slots=True)
class Switch:
    def parse(self, text: str) -> object:
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "off": False}
        return words.get(text.strip().lower(), text)

    def read(self, raw: object) -> object:
        if not isinstance(raw, bool):
            raise Invalid("must be true or false")
        return raw


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes, as a whole number or with a unit: `512m`, `2g`."""

    low: int
    high: int

    def parse(self, text: str) -> object:
        return text

    def read(self, raw: object) -> object:
        if isinstance(raw, str) and (
            match := re.fullmatch(r"(\d{1,15}) ?([kmgt]?)(i?b)?", raw.strip().lower())
        ):
            raw = int(match[1]) * 1024 ** " kmgt".index(match[2] or " ")
        if isinstance(raw, bool) or not isinstance(raw, int) or not self.low <= raw <= self.high:
            raise Invalid(
                f"must be a size like 512m or 2g, from {size_text(self.low)} to {size_text(self.high)}"
            )
        return raw


@dataclass(frozen=True, slots=True)
class Texts:
    """A list; typed as text, its items are parted by the pattern `separator`.

    `alone`: a file may give one item bare.
    """

    item: Text
    separator: str
    alone: bool = False

    def parse(self, text: str) -> object:
        return [part.strip() for part in re.split(self.separator, text)]

    def read(self, raw: object) -> object:
        if self.alone and isinstance(raw, str):
            return (self.item.read(raw),)
        if not isinstance(raw, (list, tuple)):
            raise Invalid("must be a text or a list of texts" if self.alone else "must be a list")
        for number, part in enumerate(raw):
            try:
                self.item.read(part)
            except Invalid as error:
                raise Invalid(error.must, below=f"[{number}]") from None
        return tuple(raw)


@dataclass(frozen=True, slots=True)
class Price:
    def parse(self, text: str) -> object:
        return text

    def read(self, raw: object) -> object:
        names = ("input_per_mtok", "output_per_mtok")
        if not isinstance(raw, dict) or raw.keys() != set(names):
            raise Invalid(f"must be an object with exactly {names[0]} and {names[1]}, in US dollars")
        for name in names:
            try:
                Number(0, 100_000).read(raw[name])
            except Invalid as error:
                raise Invalid(error.must, below=f".{name}") from None
        return PriceConfig(input_per_mtok=raw[names[0]], output_per_mtok=raw[names[1]])


@dataclass(frozen=True, slots=True)
class Params:
    """Sampling and the like, handed to litellm; not what decides where a request goes, or how often."""

    OURS = frozenset(
        "api_base base_url model messages stream stream_options timeout request_timeout max_retries"
        " num_retries fallbacks context_window_fallbacks client mock_response custom_llm_provider".split()
    )

    def parse(self, text: str) -> object:
        return text

    def read(self, raw: object) -> object:
        if not isinstance(raw, dict):
            raise Invalid("must be an object")
        for name in raw:
            if name in self.OURS:
                raise Invalid("is set by this program and cannot be a parameter", below=f".{name}")
        if any(isinstance(value, str) and "://" in value for _, value in leaves(raw)):
            raise Invalid("must not hold an address; api_base is the place for it")
        return dict(raw)


def is_address(argument: str) -> bool:
    """Whether it is something to fetch (`https://`, `http://`, `hf://`), not a path."""
    return argument.lower().startswith(("https://", "http://", "hf://"))


def _parses(address: str) -> bool:
    try:
        return bool(urlsplit(address).hostname) and (urlsplit(address).port or 1) > 0
    except ValueError:
        return False


def size_text(size_bytes: int) -> str:
    """Bytes as `512m`, `2g`: in the largest unit that leaves a whole number."""
    for unit in ("", "k", "m", "g"):
        if size_bytes % 1024 or not size_bytes:
            return f"{size_bytes}{unit}"
        size_bytes //= 1024
    return f"{size_bytes}t"


def leaves(value: object, path: str = "") -> list[tuple[str, object]]:
    """Every value inside a JSON value that is neither object nor list, with its dotted path."""
    if isinstance(value, dict):
        return [
            leaf for key, item in value.items() for leaf in leaves(item, f"{path}.{key}" if path else key)
        ]
    if isinstance(value, list):
        return [leaf for number, item in enumerate(value) for leaf in leaves(item, f"{path}[{number}]")]
    return [(path, value)]


_KEY_NAME = re.compile(
    r"(^|[._])(api_?key|secret(_?access)?(_?key)?|password|authorization|(access|auth)_token)$"
)
_KEY_START = re.compile(
    r"(sk|pk|rk)[-_][\w-]{8,}|(xai|nvapi|pplx|csk)-[\w-]{12,}|(gsk|hf|r8|ghp|gho|fw|github_pat)_\w{12,}"
    r"|AIza[\w-]{20,}|(AKIA|ASIA)[A-Z0-9]{12,}|eyJ[\w-]{10,}\.[\w-]+|Bearer\s+\S+",
    re.ASCII,
)


def looks_like_key(path: str, value: object) -> bool:
    """Whether what stands at a dotted path is a credential, by its place, its prefix or its randomness."""
    name = re.sub(r"\[\d+\]", "", path).lower().replace("-", "_")
    if _KEY_NAME.search(name):
        return True
    if not isinstance(value, str):
        return False
    random = len(value) >= 20 and sum(map(str.isdigit, value)) >= 4 and _entropy_bits(value) > 3.3
    return bool(_KEY_START.match(value)) or ("api_key" in name and random)


def _entropy_bits(text: str) -> float:
    """Shannon entropy of one character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
