"""Fetches one https:// or http:// address into a folder: resumed where it broke off, not fetched twice.

It keeps no cookies, follows no redirect from https to http, and neither stores nor shows credentials. What is
in the file does not matter here.
"""

import hashlib
import json
import re
import shutil
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import unquote

from rlm import __version__
from rlm.errors import DocumentError
from rlm.text_probe import one_line

if TYPE_CHECKING:
    import httpx  # late: it takes 150 ms to import

T = TypeVar("T")

MAX_REDIRECTS = 10
MAX_NAME_BYTES = 120
TICK_S = 0.1
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)

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


class Progress(Protocol):
    def __call__(self, name: str, done_bytes: int, total_bytes: int | None, /) -> None:
        """So much of `name` is here; `total_bytes` is None when the server does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that is on the disk now.

    `name` is what the document should be called, `source` the address without credentials, `note` a sentence
    for the user, or empty.
    """

    path: Path
    name: str
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds: before each further attempt, at most when a server asks for a pause, and for silence."""

    waits_s: tuple[float, ...] = (0.5, 2.0, 5.0, 10.0)
    max_pause_s: float = 60.0
    connect_s: float = 15.0
    silence_s: float = 30.0


class Passing(DocumentError):
    """What may go away by itself. `unreachable`: no connection at all, which waiting rarely mends."""

    def __init__(
        self, what: str, why: str = "", *, hint: str = "", unreachable: bool = False, pause_s: float = 0.0
    ) -> None:
        super().__init__(what, why, hint=hint)
        self.unreachable = unreachable
        self.pause_s = pause_s


def patiently(attempt: Callable[[], T], *, patience: Patience, reached: Callable[[], int] = lambda: 0) -> T:
    """Repeat what fails for a passing reason. Attempts count anew once `reached` is further than ever."""
    failures, furthest = 0, reached()
    while True:
        try:
            return attempt()
        except Passing as error:
            if reached() > furthest:
                failures, furthest = 0, reached()
            if failures >= len(patience.waits_s[: 1 if error.unreachable else None]):
                raise
            time.sleep(max(patience.waits_s[failures], min(error.pause_s, patience.max_pause_s)))
            failures += 1


PATIENCE = Patience()


class Ticker:
    """Hands progress on, at most ten times a second."""

    def __init__(self, progress: Progress, name: str, total_bytes: int | None) -> None:
        self._progress = progress
        self._name = name
        self._total_bytes = total_bytes
        self._next_s = 0.0

    def at(self, done_bytes: int) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s or done_bytes == self._total_bytes:
            self._next_s = now_s + TICK_S
            self._progress(self._name, done_bytes, self._total_bytes)


# ---- addresses and names ------------------------------------------------------------------------

_SECRET_PARAMETER = re.compile(
    r"(?i)([?&;](?:sig|[^=&;#]*(?:token|secret|passw|signature|credential|api_?key)[^=&;#]*)=)[^&;#]*"
)


def public(address: str) -> str:
    """The address as it may be shown and kept: without user, password and signatures."""
    bare = re.sub(r"^([A-Za-z]+://)[^/?#]*@", r"\1", address)
    return one_line(_SECRET_PARAMETER.sub(r"\1***", bare))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    url: "httpx.URL"
    login: tuple[str, str] | None
    shown: str


def _parse(argument: str) -> _Address:
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
    return _Address(url=bare, login=login, shown=public(argument))


def safe_name(name: str) -> str:
    """A plain file name: no folders, no control characters, not hidden, its suffix kept when cut."""
    name = re.split(r"[/\\]", name)[-1]
    name = re.sub(r'[·\s:*?"<>|]+', "_", one_line(name)).strip("._ ")
    suffix = PurePosixPath(name).suffix[:12]
    stem = name[: len(name) - len(suffix)] if suffix else name
    room = MAX_NAME_BYTES - len(suffix.encode())
    return stem.encode()[:room].decode(errors="ignore") + suffix


def _name(response: "httpx.Response", *, asked: "httpx.URL") -> str:
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


# ---- what is on the disk ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A download that has begun. `validator` is what If-Range takes: without it nothing can be resumed."""

    url: str
    validator: str
    total_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """A download that has finished. `file` is relative to the folder; `fetched` is a date."""

    url: str
    etag: str
    last_modified: str
    sha256: str
    size_bytes: int
    file: str
    fetched: str


class _Store:
    """The folder of downloads, as far as one address is concerned."""

    def __init__(self, folder: Path, url: str) -> None:
        key = hashlib.sha256(url.encode()).hexdigest()[:32]
        self.folder = folder
        self.part_path = folder / f"{key}.part"
        self._part_json = folder / f"{key}.part.json"
        self._copy_json = folder / f"{key}.json"

    @property
    def part_bytes(self) -> int:
        try:
            return self.part_path.stat().st_size
        except OSError:
            return 0

    def part(self) -> _Part | None:
        """What can be resumed."""
        fields = read_json(self._part_json)
        return _Part(**fields) if fields.keys() == _fields(_Part) and self.part_bytes else None

    def begin(self, part: _Part) -> None:
        """Nothing is kept of what went before."""
        self.part_path.unlink(missing_ok=True)
        self._part_json.unlink(missing_ok=True)
        if part.validator:
            write_json(self._part_json, asdict(part))

    def drop_part(self) -> None:
        self._part_json.unlink(missing_ok=True)
        self.part_path.unlink(missing_ok=True)

    def copy(self) -> _Copy | None:
        """What was fetched before, if it is still here."""
        fields = read_json(self._copy_json)
        if fields.keys() != _fields(_Copy):
            return None
        copy = _Copy(**fields)
        try:
            whole = self.path(copy).stat().st_size == copy.size_bytes
        except OSError:
            return None
        return copy if whole else None

    def path(self, copy: _Copy) -> Path:
        return self.folder / copy.file

    def finish(self, name: str, *, url: str, headers: Mapping[str, str]) -> _Copy:
        """Put the part in its place by its content. A file that is there stays: it may be mounted."""
        with self.part_path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        copy = _Copy(
            url=url,
            etag=headers.get("etag", ""),
            last_modified=headers.get("last-modified", ""),
            sha256=sha256,
            size_bytes=self.part_bytes,
            file=f"{sha256[:32]}/{name}",
            fetched=datetime.now(UTC).date().isoformat(),
        )
        target = self.path(copy)
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            self.part_path.chmod(0o644)  # the container's user must be able to read it
            self.part_path.replace(target)
        self.drop_part()
        write_json(self._copy_json, asdict(copy))
        return copy


def _fields(kind: type[_Part] | type[_Copy]) -> set[str]:
    return set(kind.__dataclass_fields__)


def read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def write_json(path: Path, fields: dict[str, object]) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(fields), encoding="utf-8")
    fresh.replace(path)


def require_space(folder: Path, needed_bytes: int, *, instead: str = "") -> None:
    """Raise `DocumentError` when so much does not fit on the disk of a folder that may not exist yet.

    `instead` ends the hint: what else there is to do than to make room.
    """
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free_bytes = shutil.disk_usage(place).free
    if needed_bytes > free_bytes:
        raise DocumentError(
            f"The disk is too full: {needed_bytes:,} bytes are needed, {free_bytes:,} are free.",
            hint=f"Make room on the disk of {folder}{instead}.",
        )


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """What the disk refuses, as a `DocumentError`."""
    try:
        yield
    except OSError as error:
        raise DocumentError(
            "The download cannot be written.",
            f"{error.strerror or error}.",
            hint=f"Make room in {folder}, or check who may write there; run it again to go on.",
        ) from None


# ---- the transfer -------------------------------------------------------------------------------


def fetch_url(argument: str, *, folder: Path, progress: Progress, patience: Patience = PATIENCE) -> Fetched:
    """The file at an address, kept at `folder/<first 32 hex digits of its SHA-256>/<name>`.

    What broke off is resumed, here or in the next call; a file that did not change is not sent again. When
    the server cannot be reached and a copy is here, the copy it is, with a note. Raises `DocumentError`.
    """
    address = _parse(argument)
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = _Store(folder, str(address.url))
        transfer = _Transfer(address, store, progress=progress, patience=patience)
        notes = []
        try:
            copy = transfer.run()
        except Passing:
            kept = store.copy()
            if kept is None:
                raise
            copy = kept
            notes.append(f"{address.shown} could not be reached: the copy of {copy.fetched} is used.")
    if address.url.scheme == "http":
        notes.append(f"{address.shown} came over http: anyone on the way could have read or changed it.")
    path = store.path(copy)
    return Fetched(path=path.resolve(), name=path.name, source=address.shown, note=" ".join(notes))


def _client(patience: Patience) -> "httpx.Client":
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    import httpx

    try:
        return httpx.Client(
            headers={"user-agent": f"rlm-chat/{__version__}", "accept": "*/*", "accept-encoding": "identity"},
            timeout=httpx.Timeout(patience.silence_s, connect=patience.connect_s),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        hint = "Check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY."
        raise DocumentError("The proxy named in the environment cannot be used.", hint=hint) from error


class _Transfer:
    """One address and the connections it takes."""

    def __init__(self, address: _Address, store: _Store, *, progress: Progress, patience: Patience) -> None:
        self._address = address
        self._store = store
        self._progress = progress
        self._patience = patience

    def run(self) -> _Copy:
        with _client(self._patience) as client:
            return patiently(
                lambda: self._attempt(client),
                patience=self._patience,
                reached=lambda: self._store.part_bytes,
            )

    def _attempt(self, client: "httpx.Client") -> _Copy:
        import httpx

        try:
            return self._fetch(client)
        except httpx.RequestError as error:
            raise self._failure(error) from None

    def _fetch(self, client: "httpx.Client") -> _Copy:
        store, shown = self._store, self._address.shown
        part, copy = store.part(), store.copy()
        headers = {}
        if part:
            headers = {"range": f"bytes={store.part_bytes}-", "if-range": part.validator}
        elif copy:
            known = {"if-none-match": copy.etag, "if-modified-since": copy.last_modified}
            headers = {name: value for name, value in known.items() if value}
        with self._opened(client, headers) as response:
            if response.status_code == 304 and copy:
                return copy
            if response.status_code == 200:
                start = 0
            elif part and _goes_on(response, part, store.part_bytes):
                start = store.part_bytes
            else:
                store.drop_part()
                if response.status_code in (206, 416):
                    raise Passing(f"{shown} cannot be resumed.", "The server has another file now.")
                raise self._refusal(response)
            name = _name(response, asked=self._address.url)
            self._receive(response, name, start=start)
            return store.finish(name, url=shown, headers=response.headers)

    @contextmanager
    def _opened(self, client: "httpx.Client", headers: Mapping[str, str]) -> "Iterator[httpx.Response]":
        """The answer at the end of all redirects, its body not yet read."""
        url, login = self._address.url, self._address.login
        for _ in range(MAX_REDIRECTS + 1):
            request = client.build_request("GET", url, headers=headers)
            response = client.send(request, stream=True, auth=login, follow_redirects=False)
            try:
                if not response.has_redirect_location:
                    yield response
                    return
                target = self._target(response)
            finally:
                response.close()
            if _origin(target) != _origin(url):
                login = None
            url = target
        raise DocumentError(
            f"{self._address.shown} redirects more than {MAX_REDIRECTS} times.",
            hint="Open it in a browser to see where it leads, and give that address.",
        )

    def _target(self, response: "httpx.Response") -> "httpx.URL":
        import httpx

        shown = self._address.shown
        try:
            target = response.url.join(response.headers["location"])
        except (httpx.InvalidURL, ValueError):
            raise DocumentError(f"{shown} redirects to what is no address.") from None
        if target.scheme not in ("http", "https") or not target.host:
            raise DocumentError(f"{shown} redirects to {target.scheme}:, which is not followed.")
        if response.url.scheme == "https" and target.scheme == "http":
            raise DocumentError(
                f"{shown} redirects from https to http.",
                "What comes over http can be changed on the way.",
                hint=f"If that is acceptable, give {public(str(target))} itself.",
            )
        return target.copy_with(username=None, password=None, fragment=None)

    def _receive(self, response: "httpx.Response", name: str, *, start: int) -> None:
        """Append the body to the part, from byte `start` of the file."""
        # A packed file is kept as it is, even if the server calls the packing an encoding of the transfer.
        coded = response.headers.get("content-encoding", "identity").lower() != "identity"
        unpack = coded and not name.endswith((".gz", ".tgz"))
        length = response.headers.get("content-length", "")
        total_bytes = start + int(length) if length.isdigit() and not unpack else None
        if not start:
            validator = "" if coded else _validator(response.headers)
            shown = self._address.shown
            self._store.begin(_Part(url=shown, validator=validator, total_bytes=total_bytes))
        require_space(self._store.folder, (total_bytes or start) - start)
        ticker = Ticker(self._progress, name, total_bytes)
        done_bytes = start
        with self._store.part_path.open("ab") as out:
            for chunk in response.iter_bytes() if unpack else response.iter_raw():
                out.write(chunk)
                done_bytes += len(chunk)
                ticker.at(done_bytes)
        if total_bytes not in (None, done_bytes):
            raise Passing(f"{self._address.shown} ended after {done_bytes:,} of {total_bytes:,} bytes.")

    def _failure(self, error: "httpx.RequestError") -> DocumentError:
        import httpx

        host, shown = self._address.url.host, self._address.shown
        if isinstance(error, httpx.UnsupportedProtocol):
            return DocumentError(f"{shown} is not an address that can be fetched.", f"{error}.")
        if "CERTIFICATE" in str(error).upper() or isinstance(error.__cause__, ssl.SSLCertVerificationError):
            return DocumentError(
                f"The certificate of {host} cannot be trusted.",
                f"{error}.",
                hint="If a company's own authority signs it, name its file in SSL_CERT_FILE.",
            )
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            return Passing(
                f"{host} cannot be reached.",
                f"{error or 'It did not answer in time'}.",
                hint="Check the address and the network, and the proxy if there is one.",
                unreachable=True,
            )
        done = f" after {size:,} bytes" if (size := self._store.part_bytes) else ""
        hint = "Run it again: it goes on where it stopped, if the server can do that."
        return Passing(f"{shown} broke off{done}.", f"{error or 'Nothing came for too long'}.", hint=hint)

    def _refusal(self, response: "httpx.Response") -> DocumentError:
        status, host, shown = response.status_code, response.url.host, self._address.shown
        if status in PASSING_STATUS:
            why = "It has too many requests." if status == 429 else f"It answered with status {status}."
            what = f"{host} cannot answer now for {shown}."
            return Passing(what, why, hint="Try again later.", pause_s=_pause_s(response.headers))
        if status in (404, 410):
            return DocumentError(f"{shown} does not exist.", f"{host} answered {status}.", hint="Check it.")
        if status in (401, 403, 407):
            hint = "Download it in a browser and give the file, or write https://USER:PASSWORD@host/path."
            return DocumentError(f"{host} refuses {shown}.", f"It answered {status}.", hint=hint)
        return DocumentError(f"{shown} cannot be fetched.", f"{host} answered with status {status}.")


def _origin(url: "httpx.URL") -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _goes_on(response: "httpx.Response", part: _Part, start: int) -> bool:
    """Whether this is the rest of the same file. Some servers send a range of whatever they have now."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
    if response.status_code != 206 or not match or int(match[1]) != start:
        return False
    same_size = match[2] == "*" or part.total_bytes in (None, int(match[2]))
    return same_size and _validator(response.headers) in ("", part.validator)


def _validator(headers: Mapping[str, str]) -> str:
    """A weak ETag stands for what means the same, not for the same bytes."""
    etag = headers.get("etag", "")
    return headers.get("last-modified", "") if etag.startswith("W/") or not etag else etag


def _pause_s(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(text) if re.fullmatch(r"\d{1,6}", text) else 0.0
