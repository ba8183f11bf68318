"""Fetches one https:// or http:// address into a folder: resumed where it broke off, not fetched twice.

It keeps no cookies, follows no redirect from https to http, and neither stores nor shows credentials. What is
in the file does not matter here.
"""

import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from rlm import __version__
from rlm.downloads import Copy, Part, Store, require_space, written_to
from rlm.errors import DocumentError
from rlm.web_address import WebAddress, file_name, parse, public

if TYPE_CHECKING:
    import httpx  # late: it takes 150 ms to import

T = TypeVar("T")

MAX_REDIRECTS = 10
TICK_S = 0.1
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


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


def fetch_url(argument: str, *, folder: Path, progress: Progress, patience: Patience = PATIENCE) -> Fetched:
    """The file at an address, kept at `folder/<first 32 hex digits of its SHA-256>/<name>`.

    What broke off is resumed, here or in the next call; a file that did not change is not sent again. When
    the server cannot be reached and a copy is here, the copy it is, with a note. Raises `DocumentError`.
    """
    address = parse(argument)
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = Store(folder, str(address.url))
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

    def __init__(self, address: WebAddress, store: Store, *, progress: Progress, patience: Patience) -> None:
        self._address = address
        self._store = store
        self._progress = progress
        self._patience = patience

    def run(self) -> Copy:
        with _client(self._patience) as client:
            return patiently(
                lambda: self._attempt(client),
                patience=self._patience,
                reached=lambda: self._store.part_bytes,
            )

    def _attempt(self, client: "httpx.Client") -> Copy:
        import httpx

        try:
            return self._fetch(client)
        except httpx.RequestError as error:
            raise self._failure(error) from None

    def _fetch(self, client: "httpx.Client") -> Copy:
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
            name = file_name(response, asked=self._address.url)
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
            self._store.begin(Part(url=shown, validator=validator, total_bytes=total_bytes))
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


def _goes_on(response: "httpx.Response", part: Part, start: int) -> bool:
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
