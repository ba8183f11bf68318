"""Addresses given instead of paths: what is fetched, resumed, remembered, refused, and never sent."""

import errno
import gzip
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlm.errors import DocumentError
from rlm.hub_files import card_configs, matches, of_split, parse, splits_of
from rlm.sources import Fetched, Patience, fetch, is_address
from rlm.web_address import public, safe_name
from tests.hub_server import CERTIFICATE, HubServer, Page

PATIENCE = Patience(waits_s=(0.0, 0.0, 0.0), max_pause_s=0.0, connect_s=5.0, silence_s=5.0)
CSV = b"name,age\n" + b"Ada,36\n" * 20_000
OTHER = b"name,age\n" + b"Alan,41\n" * 20_000
TOKEN = "hf_token_of_the_user"


@dataclass
class User:
    """Somebody at a machine of their own: where files go, and what was shown."""

    folder: Path
    environ: dict[str, str]
    shown: list[tuple[str, int, int | None]] = field(default_factory=list)

    def all(self, argument: str) -> list[Fetched]:
        return fetch(
            argument,
            folder=self.folder,
            environ=self.environ,
            progress=lambda *step: self.shown.append(step),
            patience=PATIENCE,
        )

    def one(self, argument: str) -> Fetched:
        (fetched,) = self.all(argument)
        return fetched

    def refused(self, argument: str) -> str:
        with pytest.raises(DocumentError) as caught:
            self.all(argument)
        return f"{caught.value} {caught.value.hint}"


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def user(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    """Nothing here can reach the real hub, a proxy, or a token of whoever runs the tests."""
    from huggingface_hub import constants

    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith(("HF_", "HUGGING")):
            monkeypatch.delenv(name)
    certificate = tmp_path / "loopback.pem"
    certificate.write_text(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    environ = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}
    return User(tmp_path / "downloads", environ)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("https://a.example/b", True),
        ("HTTP://a.example", True),
        ("hf://datasets/a/b", True),
        ("https.txt", False),
        ("./hf:/x", False),
        ("ftp://a.example", False),
    ],
)
def test_what_is_an_address(argument: str, expected: bool) -> None:
    assert is_address(argument) is expected


# ---- web servers --------------------------------------------------------------------------------


def test_a_file_is_kept_by_its_content_readable_by_others_in_a_folder_that_is_not(
    server: HubServer, user: User
) -> None:
    fetched = user.one(server.page("/data/people.csv?of=now", Page(CSV, type="text/csv")))
    assert fetched.path.read_bytes() == CSV
    assert (fetched.name, fetched.path.name) == ("people.csv", "people.csv")
    assert len(fetched.path.parent.name) == 32 and fetched.path.parent.parent == user.folder.resolve()
    assert user.folder.stat().st_mode & 0o777 == 0o700
    assert fetched.path.stat().st_mode & 0o777 == 0o644
    assert "came over http" in fetched.note
    assert user.shown[-1] == ("people.csv", len(CSV), len(CSV))
    assert server.requests[0].headers["user-agent"].startswith("rlm-chat/")


def test_a_file_that_did_not_change_is_not_sent_again_and_a_changed_one_is(
    server: HubServer, user: User
) -> None:
    address = server.page("/a.csv", Page(CSV), Page(CSV), Page(OTHER))
    first, second, third = (user.one(address) for _ in range(3))
    assert [request.status for request in server.requests] == [200, 304, 200]
    assert second.path == first.path and first.path.read_bytes() == CSV
    assert third.path != first.path and third.path.read_bytes() == OTHER


def test_a_copy_that_was_deleted_is_fetched_again(server: HubServer, user: User) -> None:
    address = server.page("/a.csv", Page(CSV))
    user.one(address).path.unlink()
    assert user.one(address).path.read_bytes() == CSV


def test_a_copy_that_was_damaged_is_fetched_again(server: HubServer, user: User) -> None:
    address = server.page("/a.csv", Page(CSV))
    user.one(address).path.write_bytes(CSV[:-1])
    assert user.one(address).path.read_bytes() == CSV
    assert user.one(address).path.read_bytes() == CSV
    assert [request.status for request in server.requests] == [200, 200, 304]


def test_a_broken_connection_is_resumed_where_it_stopped(server: HubServer, user: User) -> None:
    address = server.page("/a.csv", Page(CSV))
    server.break_off("/a.csv", after=50_000)
    server.break_off("/a.csv", after=30_000)
    assert user.one(address).path.read_bytes() == CSV
    ranges = [request.headers.get("range") for request in server.requests]
    assert ranges == [None, "bytes=50000-", "bytes=80000-"]
    assert [request.status for request in server.requests] == [200, 206, 206]


def test_an_interrupted_download_goes_on_in_the_next_call(server: HubServer, user: User) -> None:
    address = server.page("/a.csv", Page(CSV))
    server.break_off("/a.csv", after=60_000)

    def stop(name: str, done_bytes: int, total_bytes: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(address, folder=user.folder, environ={}, progress=stop, patience=PATIENCE)
    (part,) = user.folder.glob("*.part")
    size = part.stat().st_size
    assert 0 < size <= 60_000
    assert user.one(address).path.read_bytes() == CSV
    assert server.requests[-1].headers["range"] == f"bytes={size}-"
    assert not list(user.folder.glob("*.part*"))


REST = {"content-range": f"bytes 50000-{len(OTHER) - 1}/{len(OTHER)}"}


@pytest.mark.parametrize(
    "answers",
    [
        [Page(OTHER)],
        [Page(OTHER[50_000:], status=206, headers=REST), Page(OTHER)],  # it ignores If-Range
        [Page(status=416), Page(OTHER)],
    ],
    ids=["whole", "rest", "none"],
)
def test_a_file_that_changed_meanwhile_is_not_patched_together(
    server: HubServer, user: User, answers: list[Page]
) -> None:
    address = server.page("/a.csv", Page(CSV), *answers)
    server.break_off("/a.csv", after=50_000)
    assert user.one(address).path.read_bytes() == OTHER
    assert server.requests[1].headers["if-range"] == Page(CSV).tag


@pytest.mark.parametrize("page", [Page(CSV, etag=""), Page(CSV, ranges=False), Page(CSV, etag='W/"1"')])
def test_without_a_strong_etag_or_ranges_it_starts_over(server: HubServer, user: User, page: Page) -> None:
    address = server.page("/a.csv", page)
    server.break_off("/a.csv", after=50_000)
    assert user.one(address).path.read_bytes() == CSV
    assert [request.status for request in server.requests] == [200, 200]


def test_a_body_that_is_always_too_short_is_an_error_and_no_document(server: HubServer, user: User) -> None:
    address = server.page("/a.csv", Page(CSV, length=len(CSV) + 1, ranges=False))
    assert "broke off" in user.refused(address)
    assert not list(user.folder.glob("*/*"))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(server: HubServer, user: User, status: int) -> None:
    trouble = Page(b"wait", status=status, headers={"retry-after": "3600"})
    address = server.page("/a.csv", trouble, trouble, Page(CSV))
    assert user.one(address).path.read_bytes() == CSV
    server.page("/a.csv", trouble)
    user.folder.rename(user.folder.with_name("old"))
    assert "cannot answer now" in user.refused(address)


def test_a_server_that_is_gone_is_an_error_or_the_copy_with_a_note(server: HubServer, user: User) -> None:
    address = server.page("/a.csv", Page(CSV))
    kept = user.one(address)
    server.close()
    again = user.one(address)
    assert again.path == kept.path
    assert "could not be reached: the copy of 20" in again.note
    assert "127.0.0.1 cannot be reached." in user.refused(f"http://127.0.0.1:{free_port()}/b.csv")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (Page(status=404), "does not exist"),
        (Page(status=410), "does not exist"),
        (Page(status=401), "USER:PASSWORD@host"),
        (Page(status=403), "refuses"),
        (Page(status=418), "status 418"),
        (Page(status=302, headers={"location": "ftp://a.example/b"}), "redirects to ftp:"),
        (Page(status=302, headers={"location": "file:///etc/passwd"}), "redirects to file:"),
        (Page(status=302, headers={"location": "/a.csv"}), "more than 10 times"),
        (Page(length=10**18), "The disk is too full"),
    ],
)
def test_what_a_server_refuses_is_a_sentence(server: HubServer, user: User, page: Page, message: str) -> None:
    assert message in user.refused(server.page("/a.csv", page))


@pytest.mark.parametrize(
    "argument", ["https://", "http://:80/", "https://user:p/ss@host.example:x/", "http:///a"]
)
def test_what_is_no_address_is_refused_without_what_may_be_a_password(user: User, argument: str) -> None:
    message = user.refused(argument)
    assert "is not an address" in message and "ss@" not in message


def test_https_is_trusted_by_its_certificate_and_never_left_for_http(
    server: HubServer, user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.page("/b.csv", Page(CSV))
    with HubServer(tls=True) as secure:
        fetched = user.one(secure.page("/a.csv", Page(CSV)))
        assert (fetched.path.read_bytes(), fetched.note) == (CSV, "")
        secure.page("/b.csv", Page(status=301, headers={"location": f"{server.url}/b.csv"}))
        assert "redirects from https to http" in user.refused(f"{secure.url}/b.csv")
        assert server.requests == []
        up = server.page("/up.csv", Page(status=301, headers={"location": f"{secure.url}/a.csv"}))
        assert user.one(up).path.read_bytes() == CSV
        monkeypatch.delenv("SSL_CERT_FILE")
        message = user.refused(f"{secure.url}/a.csv")
        assert "The certificate of 127.0.0.1 cannot be trusted." in message and "SSL_CERT_FILE" in message


def test_a_host_that_speaks_no_tls_is_an_error(server: HubServer, user: User) -> None:
    assert "cannot be reached" in user.refused(server.url.replace("http:", "https:"))


def test_a_folder_that_is_a_file_is_an_error(server: HubServer, user: User) -> None:
    user.folder.write_text("in the way")
    message = user.refused(server.page("/a.csv", Page(CSV)))
    assert os.strerror(errno.EEXIST) in message


def test_credentials_are_sent_to_their_host_only_and_never_kept_or_shown(
    server: HubServer, user: User
) -> None:
    server.page("/b.csv?token=abc123", Page(CSV))
    server.page(
        "/a.csv?token=abc123",
        Page(status=302, headers={"location": f"{server.other_url}/b.csv?token=abc123"}),
    )
    login = server.url.replace("http://", "http://ada:secret-word@")
    fetched = user.one(f"{login}/a.csv?token=abc123")
    assert server.requests[0].headers["authorization"].startswith("Basic ")
    assert "authorization" not in server.requests[1].headers
    kept = " ".join(path.read_text() for path in user.folder.glob("*.json"))
    refused = user.refused(f"{login}/nothing?token=abc123")
    for text in (str(fetched), kept, refused, str(user.shown)):
        assert "secret-word" not in text and "abc123" not in text and "ada" not in text
    assert fetched.source == f"{server.url}/a.csv?token=***"


def test_cookies_are_not_sent_back(server: HubServer, user: User) -> None:
    hop = Page(status=302, headers={"location": "/b.csv", "set-cookie": "id=1; Path=/"})
    server.page("/b.csv", Page(CSV))
    user.one(server.page("/a.csv", hop))
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://u:p@a.example/@b", "https://a.example/@b"),
        ("https://u:p@x@a.example/", "https://a.example/"),
        ("https://a.example/?X-Amz-Signature=1&b=2#c", "https://a.example/?X-Amz-Signature=***&b=2#c"),
        ("https://a.example/?b=2&sig=1;key=3", "https://a.example/?b=2&sig=***;key=3"),
        ("hf://datasets/a/b@v1", "hf://datasets/a/b@v1"),
    ],
)
def test_addresses_are_shown_without_credentials(address: str, shown: str) -> None:
    assert public(address) == shown


@pytest.mark.parametrize(
    ("path", "headers", "type_", "name"),
    [
        ("/report", {}, "application/pdf", "report.pdf"),
        ("/2401.12345", {}, "application/pdf", "2401.12345.pdf"),
        ("/view.php?id=3", {}, "text/html; charset=utf-8", "view.php.html"),
        ("/", {}, "text/html", "127.0.0.1.html"),
        ("/docs/", {}, "text/html", "docs.html"),
        ("/raw", {}, "application/octet-stream", "raw"),
        ("/a%20b.csv", {}, "text/plain", "a_b.csv"),
        ("/x", {"content-disposition": 'attachment; filename="q 1.csv"'}, "text/csv", "q_1.csv"),
        ("/x", {"content-disposition": "attachment; filename*=UTF-8''na%C3%AFve.csv"}, "", "naïve.csv"),
        ("/x", {"content-disposition": 'attachment; filename="../../../etc/passwd"'}, "", "passwd"),
        ("/x", {"content-disposition": "attachment; filename*=UTF-8''..%2F..%2F.env"}, "", "env"),
        ("/x", {"content-disposition": r'attachment; filename="..\\..\\boot.ini"'}, "", "boot.ini"),
        ("/x", {"content-disposition": "filename*=UTF-8''a%0A%1B%5B31m%E2%80%AEb.csv"}, "", "a_[31m_b.csv"),
        ("/x", {"content-disposition": "attachment; filename*=nonsense''%41.csv"}, "text/csv", "x.csv"),
        ("/x", {"content-disposition": 'attachment; filename=".."'}, "text/csv", "x.csv"),
    ],
)  # fmt: skip
def test_names_come_from_the_server_or_the_address_and_stay_in_the_folder(
    server: HubServer, user: User, path: str, headers: dict[str, str], type_: str, name: str
) -> None:
    fetched = user.one(server.page(path, Page(CSV, type=type_, headers=headers)))
    assert fetched.name == name
    assert fetched.path.parent.parent == user.folder.resolve()


def test_a_long_name_is_cut_and_keeps_its_suffix(server: HubServer, user: User) -> None:
    header = {"content-disposition": f'attachment; filename="{"x" * 3000}.csv"'}
    fetched = user.one(server.page("/a", Page(CSV, headers=header)))
    assert len(fetched.name) == 120 and fetched.name.endswith("x.csv")
    assert len(safe_name("é" * 300 + ".csv").encode()) <= 120


def test_a_packed_body_is_unpacked_but_a_packed_file_is_not(server: HubServer, user: User) -> None:
    packed = gzip.compress(CSV)
    coded = Page(packed, headers={"content-encoding": "gzip"})
    assert user.one(server.page("/a.csv", coded)).path.read_bytes() == CSV
    assert user.one(server.page("/a.csv.gz", coded)).path.read_bytes() == packed


def test_progress_is_shown_at_most_ten_times_a_second(server: HubServer, user: User) -> None:
    begin_s = time.monotonic()
    big = b"x" * 12_000_000
    user.one(server.page("/big.txt", Page(big)))
    allowed = (time.monotonic() - begin_s) * 10 + 2
    assert 1 <= len(user.shown) <= allowed
    assert user.shown[-1] == ("big.txt", len(big), len(big))


# ---- the hub ------------------------------------------------------------------------------------

CARD = b"""---
license: mit
configs:
- config_name: meetings
  data_files:
  - split: train
    path: "m/*.jsonl"
  - split: test
    path: ["odd/final.jsonl"]
- config_name: papers
  default: true
  data_files:
  - split: train
    path: p/**
---
# A dataset
"""
PEOPLE = {
    ".gitattributes": b"* text",
    "README.md": b"# People, without configs",
    "dataset_infos.json": b"{}",
    "load.py": b"raise SystemExit",
    "data/train-00000-of-00002.parquet": b"PAR1 zero" * 100,
    "data/train-00001-of-00002.parquet": b"PAR1 one" * 100,
    "data/dev.jsonl": b'{"a": 1}\n',
    "data/test_part10.txt": b"ten",
    "data/test_part2.txt": b"two",
    "notes.pdf": b"%PDF-",
}


def names(fetched: list[Fetched]) -> list[str]:
    return [one.name for one in fetched]


def test_a_dataset_without_more_is_all_its_data_files_in_order(server: HubServer, user: User) -> None:
    server.dataset("ada/people", PEOPLE)
    fetched = user.all("hf://datasets/ada/people")
    assert names(fetched) == [
        "people/dev.jsonl",
        "people/test_part2.txt",
        "people/test_part10.txt",
        "people/train-00000-of-00002.parquet",
        "people/train-00001-of-00002.parquet",
    ]
    assert fetched[3].path.read_bytes() == PEOPLE["data/train-00000-of-00002.parquet"]
    assert not fetched[0].path.is_symlink() and fetched[0].path.is_file()
    assert fetched[0].path.is_relative_to((Path(user.environ["HF_HOME"]) / "hub").resolve())
    assert fetched[0].source == "hf://datasets/ada/people"
    assert user.shown[-1] == ("people/train-00001-of-00002.parquet", 800, 800)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("/data/dev.jsonl", ["dev.jsonl"]),
        ("/notes.pdf", ["notes.pdf"]),
        ("@main/README.md", ["README.md"]),
        ("/data/*.txt", ["test_part2.txt", "test_part10.txt"]),
        ("/**/*.jsonl", ["dev.jsonl"]),
        ("/data?split=test", ["test_part2.txt", "test_part10.txt"]),
        ("?split=train", ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]),
        ("?split=validation", ["dev.jsonl"]),
        ("?split=test,dev", ["test_part2.txt", "test_part10.txt", "dev.jsonl"]),
    ],
)
def test_files_patterns_and_splits(server: HubServer, user: User, rest: str, expected: list[str]) -> None:
    server.dataset("ada/people", PEOPLE)
    assert names(user.all(f"hf://datasets/ada/people{rest}")) == [f"people/{name}" for name in expected]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?split=train", ["mix/b.csv", "mix/deep.csv"]),
        ("?split=test", ["mix/final.jsonl"]),
        ("?config=meetings", ["mix/a.jsonl", "mix/final.jsonl"]),
        ("?split=train&config=meetings", ["mix/a.jsonl"]),
    ],
)
def test_the_card_says_which_files_a_split_has(
    server: HubServer, user: User, query: str, expected: list[str]
) -> None:
    files = {
        "m/a.jsonl": b"{}",
        "odd/final.jsonl": b"{}\n",
        "p/b.csv": b"b",
        "p/x/deep.csv": b"c",
        "other.csv": b"",
    }
    server.dataset("ada/mix", {"README.md": CARD, **files})
    assert names(user.all(f"hf://datasets/ada/mix{query}")) == expected


def test_a_dataset_made_by_a_script_comes_from_the_hubs_conversion(server: HubServer, user: User) -> None:
    script = {"README.md": b"", "old.py": b"raise SystemExit"}
    server.dataset("old", script)
    assert "A script makes it, which is never run" in user.refused("hf://datasets/old")
    converted = {
        "one/train/0000.parquet": b"1",
        "default/train/0000.parquet": b"2",
        "default/train/0001.parquet": b"3",
        "default/partial-test/0000.parquet": b"4",
    }
    server.dataset("old", converted, revision="refs/convert/parquet")
    train = user.all("hf://datasets/old?split=train")
    assert [one.path.read_bytes() for one in train] == [b"2", b"3"]
    assert [one.path.read_bytes() for one in user.all("hf://datasets/old?config=one")] == [b"1"]
    assert len(user.all("hf://datasets/old")) == 4
    assert "only the first part" in user.one("hf://datasets/old?split=test").note
    assert "splits are: test, train" in user.refused("hf://datasets/old?split=dev")
    assert "configs are: default, one" in user.refused("hf://datasets/old?config=two")
    assert user.one("hf://datasets/old@refs/convert/parquet/one/train/0000.parquet").path.read_bytes() == b"1"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://models/openai/gpt", "is not a dataset of the hub"),
        ("hf://spaces/a/b", "is not a dataset of the hub"),
        ("hf://ada/people", "is not an address of the hub"),
        ("hf://datasets/", "does not name a dataset"),
        ("hf://datasets/a/../b", "does not name a dataset"),
        ("hf://datasets/a/b/../../c", "does not name a dataset"),
        ("hf://datasets/ada/people?splt=train", "asks for something unknown"),
        ("hf://datasets/ada/people?split=", "asks for something unknown"),
        ("hf://datasets/ada/people?split=other", "no split other. Its splits are: validation, test, train"),
        ("hf://datasets/ada/people?config=two", "has no config two"),
        ("hf://datasets/ada/people/data/deve.jsonl", "Did you mean data/dev.jsonl"),
        ("hf://datasets/ada/people/dev.jsonl", "data/dev.jsonl"),
        ("hf://datasets/ada/people/*.xlsx", "has no file *.xlsx"),
        ("hf://datasets/ada/people@v9", "has no revision v9"),
        ("hf://datasets/ada/nobody", "no dataset ada/nobody, or hides it from you. Check the name."),
        ("hf://datasets/ada/pic--tures", "cannot be fetched"),
        ("hf://datasets/ada/pictures", "holds no Parquet, CSV"),
        ("hf://datasets/ada/terms/a.csv", "Accept them on http"),
        ("hf://datasets/ada/mine", "HF_TOKEN"),
    ],
)  # fmt: skip
def test_what_the_hub_does_not_have_is_a_sentence(
    server: HubServer, user: User, address: str, message: str
) -> None:
    server.dataset("ada/people", PEOPLE)
    server.dataset("ada/pictures", {"a.png": b"png"})
    server.dataset("ada/terms", {"a.csv": b"a"}, gated=True)
    server.dataset("ada/mine", {"a.csv": b"a"}, token=TOKEN)
    assert message in user.refused(address)


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_token_goes_to_the_hub_and_not_where_it_redirects_to(
    server: HubServer, user: User, variable: str
) -> None:
    user.environ[variable] = TOKEN
    with HubServer() as storage:
        server.dataset(
            "ada/mine", {"a.csv": CSV}, token=TOKEN, storage=storage.other_url, large=frozenset({"a.csv"})
        )
        storage.page(f"/{hashlib.sha256(CSV).hexdigest()}", Page(CSV))
        assert user.one("hf://datasets/ada/mine").path.read_bytes() == CSV
        assert ["authorization" in seen.headers for seen in storage.requests] == [False]
    assert all(seen.headers["authorization"] == f"Bearer {TOKEN}" for seen in server.requests)


def test_a_file_of_the_hub_is_downloaded_once_and_used_when_the_hub_is_gone(
    server: HubServer, user: User
) -> None:
    server.dataset("ada/people", PEOPLE)
    address = "hf://datasets/ada/people?split=train"
    first = user.all(address)
    assert len(server.requests_for(".parquet")) == 2
    assert user.all(address) == first
    assert len(server.requests_for(".parquet")) == 2
    server.close()
    offline = user.all(address)
    assert [one.path for one in offline] == [one.path for one in first]
    assert "cannot be reached. The copy of commit" in offline[0].note
    assert "cannot be reached" in user.refused("hf://datasets/ada/people/data/dev.jsonl")


def test_a_dropped_connection_to_the_hub_is_resumed(server: HubServer, user: User) -> None:
    big = CSV * 85
    server.dataset("ada/big", {"big.csv": big})
    server.break_off("/big.csv", after=11_000_000)
    assert user.one("hf://datasets/ada/big").path.read_bytes() == big
    ranges = [seen.headers.get("range") for seen in server.requests_for("/big.csv")]
    assert ranges == [None, f"bytes={10 * 1024**2}-"]  # its client writes 10 MiB at a time


def test_a_hub_in_trouble_is_asked_again(server: HubServer, user: User) -> None:
    server.dataset("ada/people", PEOPLE)
    server.page(
        "/api/datasets/ada/people/revision/main", Page(b"wait", status=503), Page(b"wait", status=503)
    )
    assert "answered with status 503" in user.refused("hf://datasets/ada/people")
    assert len(server.requests) == 1 + len(PATIENCE.waits_s)


def test_a_file_that_is_not_what_the_hub_lists_is_refused_and_not_kept(server: HubServer, user: User) -> None:
    server.dataset("ada/people", {"a.csv": CSV})
    commit = server.datasets["ada/people"].commit("main")
    page = Page(CSV.replace(b"Ada", b"Eve"), headers={"x-repo-commit": str(commit)})
    server.page(f"/datasets/ada/people/resolve/{commit}/a.csv", page)
    assert "its checksum is not the hub's" in user.refused("hf://datasets/ada/people")
    server.pages.clear()
    assert user.one("hf://datasets/ada/people").path.read_bytes() == CSV


def test_the_hubs_client_says_nothing_itself(
    server: HubServer, user: User, capfd: pytest.CaptureFixture[str]
) -> None:
    server.dataset("ada/people", PEOPLE)
    server.break_off(".jsonl", after=3)
    user.all("hf://datasets/ada/people")
    user.refused("hf://datasets/ada/nobody")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("hf://datasets/o/n", ("o/n", "", "", ())),
        ("hf://datasets/squad", ("squad", "", "", ())),
        ("hf://datasets/squad@v1/a/b.csv", ("squad", "v1", "a/b.csv", ())),
        ("hf://datasets/o/n@refs/convert/parquet/x/y", ("o/n", "refs/convert/parquet", "x/y", ())),
        ("hf://datasets/o/n@my%2Fbranch", ("o/n", "my/branch", "", ())),
        ("hf://datasets/o/n/x%3F.txt?split=train,%20test,train", ("o/n", "", "x?.txt", ("train", "test"))),
    ],
)  # fmt: skip
def test_hub_addresses(argument: str, parts: tuple[str, str, str, tuple[str, ...]]) -> None:
    address = parse(argument)
    assert (address.repo, address.revision, address.path, address.splits) == parts


@pytest.mark.parametrize(
    ("paths", "split", "expected"),
    [
        (["train.csv", "test.csv"], "train", ["train.csv"]),
        (["qmsum_train.txt", "constrain.txt"], "train", ["qmsum_train.txt"]),
        (["train/0001.csv", "train/test.csv"], "train", ["train/0001.csv"]),
        (["val/a.csv", "training/a.csv"], "validation", ["val/a.csv"]),
        (["dev.csv", "validation.csv"], "validation", ["validation.csv"]),
        (["dev.csv", "validation.csv"], "dev", ["dev.csv"]),
        (["train-00000-of-00001", "train_sft-00000-of-00001"], "train", ["train-00000-of-00001"]),
        (["train-00000-of-00001", "train_sft-00000-of-00001"], "train_sft", ["train_sft-00000-of-00001"]),
        (["gov_report.jsonl", "qasper.jsonl"], "gov_report", ["gov_report.jsonl"]),
        (["a.csv", "b.csv"], "train", ["a.csv", "b.csv"]),
        (["a.csv", "b.csv"], "test", []),
        (["Test.csv", "a.csv"], "test", ["Test.csv"]),
    ],
)  # fmt: skip
def test_files_belong_to_splits_by_their_names(paths: list[str], split: str, expected: list[str]) -> None:
    assert of_split(paths, split) == expected
    assert not expected or split not in ("train", "test") or split in splits_of(paths)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "x/a.csv", False),
        ("**/*.csv", "a.csv", True),
        ("**/*.csv", "x/y/a.csv", True),
        ("x/**", "x/y/a.csv", True),
        ("x/**", "y/a.csv", False),
        ("train-[0-9]*", "train-1", True),
        ("./a.csv", "a.csv", True),
        ("a?c", "a/c", False),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    assert matches(path, pattern) is expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"config_name": "c", "data_files": "*.csv"}, {"train": ["a.csv"]}),
        ({"config_name": "c", "data_files": ["a.csv", "x/test.csv"]}, {"train": ["a.csv", "x/test.csv"]}),
        ({"config_name": "c", "data_dir": "x"}, {"test": ["x/test.csv"]}),
        ({"config_name": "c", "data_dir": "x", "data_files": "*"}, {"train": ["x/test.csv"]}),
        ({"config_name": "c", "data_files": [{"split": "s", "path": "**"}]}, {"s": ["a.csv", "x/test.csv"]}),
        ({"config_name": "c", "data_files": [{"split": "s", "path": 3}, None]}, {"s": [], "train": []}),
    ],
)  # fmt: skip
def test_the_forms_a_card_may_have(config: object, expected: dict[str, list[str]]) -> None:
    paths = ["README.md", ".x", "a.csv", "x/test.csv"]
    assert card_configs({"configs": [config, "no config"]}, paths) == {"c": expected}
    assert card_configs({"configs": None}, paths) == {}
