"""Web addresses as users write them, and the names of the files behind them.

It connects to nothing. What of an address may be shown and kept, `public` tells.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from rlm.errors import DocumentError
from rlm.text_probe import one_line

if TYPE_CHECKING:
    import httpx  # late: it takes 150 ms to import

MAX_NAME_BYTES = 120
HIDDEN = "***"
"""Stands for a password or signature that was in an address."""

SUFFIX_OF_TYPE: Mapping[str, str] = {
    "application/epub+zip": ".epub",
    "application/gzip": ".gz",
    "application/json": ".json",
    "application/jsonl": ".jsonl",
    "application/mbox": ".mbox",
    "application/pdf": ".pdf",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.ms-excel": ".xls",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/x-gzip": ".gz",
    "application/x-ndjson": ".jsonl",
    "application/x-tar": ".tar",
    "application/xhtml+xml": ".html",
    "application/xml": ".xml",
    "application/zip": ".zip",
    "message/rfc822": ".eml",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "text/tab-separated-values": ".tsv",
    "text/xml": ".xml",
}
PAGES = (".php", ".asp", ".aspx", ".jsp", ".cgi", ".do")
"""Suffixes of addresses that say nothing of what is sent."""

_SECRET_PARAMETER = re.compile(
    r"(?i)([?&;](?:sig|[^=&;#]*(?:token|secret|passw|signature|credential|api_?key)[^=&;#]*)=)[^&;#]*"
)


def public(address: str) -> str:
    """The address as it may be shown and kept: without user, password and signatures."""
    bare = re.sub(r"^([A-Za-z]+://)[^/?#]*@", r"\1", address)
    return one_line(_SECRET_PARAMETER.sub(rf"\1{HIDDEN}", bare))


@dataclass(frozen=True, slots=True, kw_only=True)
class WebAddress:
    """`url` is without `login` (user, password) and fragment; `shown` is for people and for keeping."""

    url: "httpx.URL"
    login: tuple[str, str] | None
    shown: str


def parse(argument: str) -> WebAddress:
    """Raises `DocumentError` for what is no address, without repeating what may be a password."""
    import httpx

    try:
        url = httpx.URL(argument)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        shown = re.sub(r"//.*@", "//", one_line(argument))  # whatever may have been meant as a password
        raise DocumentError(f"{shown} is not an address.", hint="It looks like https://host/path.")
    login = (url.username, url.password) if url.username or url.password else None
    bare = url.copy_with(username=None, password=None, fragment=None)
    return WebAddress(url=bare, login=login, shown=public(argument))


def safe_name(name: str) -> str:
    """A plain file name: no folders, no control characters, not hidden, its suffix kept when cut."""
    name = re.split(r"[/\\]", name)[-1]
    name = re.sub(r'[·\s:*?"<>|]+', "_", one_line(name)).strip("._ ")
    suffix = PurePosixPath(name).suffix[:12]
    stem = name[: len(name) - len(suffix)] if suffix else name
    room = MAX_NAME_BYTES - len(suffix.encode())
    return stem.encode()[:room].decode(errors="ignore") + suffix


def file_name(response: "httpx.Response", *, asked: "httpx.URL") -> str:
    """What the server calls the file, else the end of the address; with a suffix, if its type tells one."""
    disposition = response.headers.get("content-disposition", "")
    ends = (url.path.rstrip("/").rpartition("/")[2] for url in (asked, response.url))
    names = [name for name in map(safe_name, (_disposed(disposition), *ends)) if name]
    if complete := next((name for name in names if _has_suffix(name)), ""):
        return complete
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return (names or [safe_name(asked.host) or "download"])[0] + SUFFIX_OF_TYPE.get(kind, "")


def _disposed(header: str) -> str:
    if match := re.search(r"filename\*\s*=\s*([\w-]*)'[^']*'([^;]+)", header, re.IGNORECASE):
        try:
            return unquote(match[2].strip(), encoding=match[1] or "utf-8", errors="replace")
        except LookupError:
            return ""
    match = re.search(r'filename\s*=\s*("(?:\\.|[^"\\])*"|[^;]+)', header, re.IGNORECASE)
    return re.sub(r"\\(.)", r"\1", match[1].strip().strip('"')) if match else ""


def _has_suffix(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return bool(re.fullmatch(r"\.[a-z][a-z0-9]{0,8}", suffix)) and suffix not in PAGES
