"""A scripted web server and dataset hub on this machine, for tests of what is fetched.

    with HubServer() as server:
        server.page("/report", Page(b"...", type="application/pdf"))       # answers in order, the last stays
        server.dataset("owner/name", {"train.csv": b"a,b\\n"}, gated=True)
        server.break_off("/report", after=1000)                            # once: the connection closes there
        ...                                                                # ask at server.url
        assert server.requests[0].headers["range"] == "bytes=1000-"

It listens on 127.0.0.1 and speaks what clients need: GET and HEAD, ETags, ranges, and of the hub a dataset's
description, the paged tree of its files, and `resolve`. With `storage`, large files are redirected to another
server, as the real hub does. With `tls` it speaks https, and clients trust it when SSL_CERT_FILE names a file
that holds `CERTIFICATE`. It records every request as it came.
"""

import hashlib
import json
import ssl
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgTvOappFWzhcseW0p
QP8GDDEUXlCPz/0GLd/3O1FguvehRANCAASYQ4RqMcNhLj/5jiGryhrqziUorgox
r3VAH3Vx2tm/BRZezHm3JcdSZIuyN81oP6rbA3i3jvmHfcMx2FXC6y0o
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIBATAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA1sb29wYmFj
ayB0ZXN0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA1sb29wYmFjayB0ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEmEOE
ajHDYS4/+Y4hq8oa6s4lKK4KMa91QB91cdrZvwUWXsx5tyXHUmSLsjfNaD+q2wN4
t475h33DMdhVwustKKNOMEwwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUs6kl
xZauomDwq+GiCln42remAwcwGgYDVR0RBBMwEYcEfwAAAYIJbG9jYWxob3N0MAoG
CCqGSM49BAMCA0gAMEUCIQCcYo4Kb2oNHyo7c3ANUlB4goalqjeVLEWBfFfoZpDo
8AIgK7YJkOCtliauhxvvb8NsSe++eyxiizDiHI2t+Udz634=
-----END CERTIFICATE-----
"""
"""The server's own, and its key, which opens nothing: it is for 127.0.0.1 and localhost."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer. `etag` None is made of the body, empty is none; `length` is what it claims to send."""

    body: bytes = b""
    type: str = field(default="application/octet-stream", kw_only=True)
    status: int = field(default=200, kw_only=True)
    etag: str | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    ranges: bool = field(default=True, kw_only=True)
    length: int | None = field(default=None, kw_only=True)

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.body).hexdigest()}"' if self.etag is None else self.etag


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it came; names of headers in lower case. `status` is how it was answered."""

    method: str
    path: str
    headers: Mapping[str, str]
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One repository: revision → path → content. Files named in `large` are stored as LFS does."""

    revisions: dict[str, Mapping[str, bytes]]
    gated: bool
    token: str
    storage: str
    large: frozenset[str]

    def commit(self, revision: str) -> str | None:
        """The hash of a revision, which may be such a hash itself."""
        for name, files in self.revisions.items():
            content = json.dumps({path: git_hash(body) for path, body in files.items()})
            commit = hashlib.sha1(f"{name}{content}".encode()).hexdigest()
            if revision in (name, commit):
                return commit
        return None

    def files(self, commit: str) -> Mapping[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


def git_hash(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class HubServer:
    """See the top of the file. Pages and datasets may be added at any time."""

    tree_page_size = 3

    def __init__(self, *, tls: bool = False) -> None:
        self.requests: list[Request] = []
        self.pages: defaultdict[str, deque[Page]] = defaultdict(deque)
        self.datasets: dict[str, Dataset] = {}
        self.breaks: defaultdict[str, deque[int]] = defaultdict(deque)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._scheme = "https" if tls else "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with tempfile.NamedTemporaryFile("w") as file:
                file.write(CERTIFICATE)
                file.flush()
                context.load_cert_chain(file.name)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def page(self, path: str, *pages: Page) -> str:
        """What a path answers, in order; the last one stays. Returns the address."""
        self.pages[path] = deque(pages)
        return self.url + path

    def dataset(
        self,
        repo: str,
        files: Mapping[str, bytes],
        *,
        revision: str = "main",
        gated: bool = False,
        token: str = "",
        storage: str = "",
        large: frozenset[str] = frozenset(),
    ) -> None:
        """Add a dataset, or a revision to one. With `token` it exists only for those who send it."""
        known = self.datasets.get(repo)
        revisions = {**(known.revisions if known else {}), revision: files}
        self.datasets[repo] = Dataset(
            revisions=revisions, gated=gated, token=token, storage=storage, large=large
        )

    def break_off(self, path: str, *, after: int) -> None:
        """Close the connection once, after so many bytes of the body of a GET whose path ends like this."""
        self.breaks[path].append(after)

    def requests_for(self, ending: str, *, method: str = "GET") -> list[Request]:
        return [seen for seen in self.requests if seen.path.endswith(ending) and seen.method == method]

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def other_url(self) -> str:
        """The same server by another host's name."""
        return f"{self._scheme}://localhost:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening: from now on connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    hub: HubServer
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up, and refuse certificates, as the tests mean them to."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes

    def do_GET(self) -> None:
        self._answer(self._page())

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _page(self) -> Page:
        hub, url = self.server.hub, urlsplit(self.path)
        if pages := hub.pages.get(self.path):
            return pages.popleft() if len(pages) > 1 else pages[0]
        for repo, dataset in hub.datasets.items():
            for prefix in (f"/api/datasets/{repo}", f"/datasets/{repo}/resolve"):
                if url.path == prefix or url.path.startswith(f"{prefix}/"):
                    rest = url.path[len(prefix) :].strip("/")
                    return self._of_dataset(dataset, repo, prefix=prefix, rest=rest, query=url.query)
        if url.path.startswith(("/api/", "/datasets/")):
            return _refused(404, "RepoNotFound", "Repository not found")
        return Page(b"nothing here", status=404, type="text/plain")

    def _of_dataset(self, dataset: Dataset, repo: str, *, prefix: str, rest: str, query: str) -> Page:
        if dataset.token and self.headers.get("authorization") != f"Bearer {dataset.token}":
            return _refused(401, "RepoNotFound", "Invalid username or password.")
        resolves = prefix.endswith("/resolve")
        if not resolves:
            what, _, rest = rest.partition("/")
        revision, _, path = rest.partition("/")
        commit = dataset.commit(unquote(revision) or "main")
        if commit is None:
            return _refused(404, "RevisionNotFound", "Invalid rev id")
        if resolves:
            return _file(dataset, unquote(path), commit)
        if what == "tree":
            return self._tree(dataset, commit, start=int(parse_qs(query).get("cursor", ["0"])[0]))
        return _json({"id": repo, "sha": commit, "private": False, "gated": dataset.gated, "siblings": []})

    def _tree(self, dataset: Dataset, commit: str, *, start: int) -> Page:
        entries: list[dict[str, object]] = [
            {"type": "directory", "path": "a-folder", "oid": "0" * 40, "size": 0}
        ]
        for path, body in dataset.files(commit).items():
            entry: dict[str, object] = {
                "type": "file",
                "path": path,
                "size": len(body),
                "oid": git_hash(body),
            }
            if path in dataset.large:
                sha256 = hashlib.sha256(body).hexdigest()
                entry |= {"oid": "0" * 40, "lfs": {"oid": sha256, "size": len(body), "pointerSize": 130}}
            entries.append(entry)
        end = start + self.server.hub.tree_page_size
        headers = {}
        if end < len(entries):
            path = urlsplit(self.path).path
            link = f"{self.server.hub.url}{path}?recursive=true&expand=false&cursor={end}"
            headers = {"link": f'<{link}>; rel="next"'}
        return _json(entries[start:end], headers=headers)

    def _answer(self, page: Page) -> None:
        status, body = page.status, page.body
        headers = {"content-type": page.type, **page.headers}
        if page.tag:
            headers["etag"] = page.tag
        asked = self.headers.get("range", "")
        fresh = self.headers.get("if-range", page.tag) in (page.tag, page.headers.get("last-modified"))
        if status == 200 and page.tag and self.headers.get("if-none-match") == page.tag:
            status, body = 304, b""
        elif status == 200 and page.ranges and asked and fresh:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            status, body = (206, body[start:]) if start < len(body) else (416, b"")
            headers["content-range"] = f"bytes {start}-{len(page.body) - 1}/{len(page.body)}"
        seen = {name.lower(): value for name, value in self.headers.items()}
        self.server.hub.requests.append(
            Request(method=self.command, path=self.path, headers=seen, status=status)
        )
        length = len(body) if page.length is None else page.length
        self.send_response(status)
        for name, value in {"content-length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        breaks = next(
            (at for end, at in self.server.hub.breaks.items() if at and self.path.endswith(end)), None
        )
        if breaks and status in (200, 206):
            body = body[: breaks.popleft()]
        self.wfile.write(body)
        self.close_connection = len(body) != length


def _file(dataset: Dataset, path: str, commit: str) -> Page:
    headers = {"x-repo-commit": commit}
    if dataset.gated:
        return _refused(403, "GatedRepo", "Access to this dataset is restricted.")
    body = dataset.files(commit).get(path)
    if body is None:
        return _refused(404, "EntryNotFound", "Entry not found", headers)
    if path not in dataset.large:
        return Page(body, etag=f'"{git_hash(body)}"', headers=headers)
    sha256 = hashlib.sha256(body).hexdigest()
    headers |= {"x-linked-size": str(len(body)), "x-linked-etag": f'"{sha256}"'}
    if not dataset.storage:
        return Page(body, etag=f'"{sha256}"', headers=headers)
    return Page(status=302, headers={**headers, "location": f"{dataset.storage}/{sha256}"})


def _refused(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Page:
    more = {"x-error-code": code, "x-error-message": message, **(headers or {})}
    return Page(json.dumps({"error": message}).encode(), status=status, type="application/json", headers=more)


def _json(value: object, *, headers: Mapping[str, str] | None = None) -> Page:
    return Page(json.dumps(value).encode(), type="application/json", headers=headers or {})
