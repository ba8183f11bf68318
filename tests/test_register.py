"""Which documents a session has: added, named, replaced, taken back, and looked at again."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm.documents import Document
from rlm.errors import DocumentError
from rlm.register import Registered, refreshed, register, take_back
from rlm.state import State
from tests.hub_server import HubServer, Page


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path / "state", create=True, key_path=tmp_path / "key")
    with opened.lock():
        yield opened


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with HubServer() as running:
        yield running


@pytest.fixture
def add(state: State, tmp_path: Path) -> Callable[..., Registered]:
    def register_here(*paths: str, **options: object) -> Registered:
        return register(state, paths, cwd=tmp_path, environ={}, **options)  # type: ignore[arg-type]

    return register_here


def write(path: Path, text: str = "text\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def kept(state: State) -> dict[str, Path]:
    """The documents as the records have them: name and path of each."""
    documents = [Document.from_json(row) for row in state.view().documents]
    return {document.name: document.path for document in documents}


def test_documents_are_added_looked_at_again_and_forgotten(
    state: State, tmp_path: Path, add: Callable[..., Registered]
) -> None:
    first, second = write(tmp_path / "a/x.txt"), write(tmp_path / "b/x.txt")
    added = add("a/x.txt")
    assert [document.name for document in added.added] == ["x.txt"]
    add("b/x.txt")
    assert kept(state) == {"x.txt": first, "b/x.txt": second}
    first.write_text("more text\n")
    again = add("a/x.txt")
    assert [(one.name, one.size_bytes) for one in again.added] == [("x.txt", 10)]
    assert kept(state) == {"b/x.txt": second, "x.txt": first}
    assert state.view().active == "x.txt"
    add("b/x.txt", replace=True, name="other")
    assert kept(state) == {"other": second}


def test_a_folder_is_agreed_to_once_however_many_files_it_holds(
    state: State, tmp_path: Path, add: Callable[..., Registered]
) -> None:
    for number in range(600):
        write(tmp_path / f"logs/{number}.txt")
    alone = write(tmp_path / "alone.txt")
    add("logs", "alone.txt")
    assert len(kept(state)) == 601
    assert state.view().consents == {str(tmp_path / "logs"), str(alone)}


def test_more_single_files_than_can_be_mounted_are_refused_at_once(
    state: State, tmp_path: Path, add: Callable[..., Registered]
) -> None:
    for number in range(500):
        write(tmp_path / f"logs/{number:03}.txt")
    write(tmp_path / "a.txt")
    add("a.txt")
    with pytest.raises(DocumentError, match="501 files and folders cannot be mounted") as caught:
        add("logs/*.txt")
    assert "Give the folder" in caught.value.hint
    assert kept(state) == {"a.txt": tmp_path / "a.txt"}
    assert len(add("logs/[0-3]*.txt").added) == 400


@pytest.mark.parametrize(
    ("paths", "name", "says"),
    [
        (["a.txt", "b.txt"], "both", "--name is for one file. 2 files were given."),
        (["a.txt"], " \n", "--name is empty."),
        (["a.txt"], "old.txt", "The name 'old.txt' is taken."),
        (["missing.txt"], None, "does not exist"),
        (["empty"], None, "There is nothing to read."),
        (["a.txt", "binary.png"], None, "binary.png is"),
    ],
)
def test_what_cannot_be_added_leaves_the_documents_as_they_are(
    state: State, tmp_path: Path, add: Callable[..., Registered], paths: list[str], name: str, says: str
) -> None:
    for file in ("a.txt", "b.txt", "old.txt"):
        write(tmp_path / file)
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    add("old.txt")
    before = state.view()
    with pytest.raises(DocumentError) as caught:
        add(*paths, name=name)
    assert says in str(caught.value)
    assert (state.view().documents, state.view().active) == (before.documents, before.active)


def test_a_name_is_one_line_and_may_be_given_again_to_the_same_file(
    state: State, tmp_path: Path, add: Callable[..., Registered]
) -> None:
    path = write(tmp_path / "a.txt")
    add("a.txt", name=" all\nmeetings ")
    assert kept(state) == {"all·meetings": path}
    add("a.txt", name="all·meetings")
    assert kept(state) == {"all·meetings": path}
    add("a.txt")
    assert kept(state) == {"all·meetings": path}


def test_what_holds_no_text_is_taken_back(
    state: State, tmp_path: Path, add: Callable[..., Registered]
) -> None:
    for name in ("old.txt", "good.txt", "bad.txt"):
        write(tmp_path / name)
    add("old.txt")
    both = take_back(state, add("bad.txt", "good.txt"), {"bad.txt": "is encrypted"})
    assert [document.name for document in both.added] == ["good.txt"]
    assert list(kept(state)) == ["old.txt", "good.txt"] and state.view().active == "good.txt"
    with pytest.raises(DocumentError, match=r"bad\.txt is encrypted\."):
        take_back(state, add("bad.txt", replace=True), {"bad.txt": "is encrypted."})
    assert list(kept(state)) == ["old.txt", "good.txt"] and state.view().active == "good.txt"


def test_what_an_address_gives_takes_the_place_of_what_it_gave_before(
    state: State, server: HubServer, add: Callable[..., Registered]
) -> None:
    address = server.page("/data.csv", Page(b"n\n1\n"), Page(b"n\n2\n"), Page(b"n\n3\n"))
    other = server.page("/more/data.csv", Page(b"n\n9\n"))
    add(address, address)
    assert list(kept(state)) == ["data.csv"]
    add(other)
    add(address)
    contents = {name: path.read_text() for name, path in kept(state).items()}
    assert contents == {"data.csv": "n\n2\n", "data.csv (2)": "n\n9\n"}
    add(address, name="numbers")
    add(other)
    contents = {name: path.read_text() for name, path in kept(state).items()}
    assert contents == {"numbers": "n\n3\n", "data.csv (2)": "n\n9\n"}
    kinds = {document["name"]: document["kind"] for document in state.view().documents}
    assert kinds == {"numbers": "csv", "data.csv (2)": "csv"}


def test_files_that_only_a_signature_tells_apart_are_two_documents(
    state: State, server: HubServer, add: Callable[..., Registered]
) -> None:
    for token, name in (("abc", "one.txt"), ("def", "two.txt")):
        header = {"content-disposition": f"attachment; filename={name}"}
        add(server.page(f"/get?token={token}", Page(f"of {token}\n".encode(), headers=header)))
    assert {name: path.read_text() for name, path in kept(state).items()} == {
        "one.txt": "of abc\n",
        "two.txt": "of def\n",
    }


def test_an_old_copy_is_removed_once_no_document_uses_it(
    state: State, server: HubServer, tmp_path: Path, add: Callable[..., Registered]
) -> None:
    address = server.page("/data.csv", Page(b"n\n1\n"), Page(b"n\n2\n"))
    write(tmp_path / "a.txt")
    first, second = add(address).added[0].path, add(address).added[0].path
    assert first.exists() and second.exists()
    add("a.txt", replace=True)
    assert not first.parent.exists()
    add("a.txt")
    assert second.exists(), "the latest copy of an address saves fetching it again"


@pytest.mark.parametrize(
    ("change", "left", "note"),
    [
        (lambda path: None, 5, ""),
        (lambda path: path.write_text("text\nmore\n"), 10, "'a.txt' has grown on disk"),
        (lambda path: path.write_text("else\n"), 5, "'a.txt' has changed on disk"),
        (lambda path: os.replace(write(path.with_name("b"), "b"), path), 1, "'a.txt' was replaced on disk"),
        (lambda path: path.unlink(), None, "'a.txt' is left out: "),
        (lambda path: path.write_bytes(b"\x7fELF" + bytes(64)), None, "'a.txt' is left out: "),
    ],
)
def test_documents_are_looked_at_again(
    tmp_path: Path,
    add: Callable[..., Registered],
    change: Callable[[Path], object],
    left: int | None,
    note: str,
) -> None:
    path = write(tmp_path / "a.txt")
    os.utime(path, ns=(0, 0))
    documents = add("a.txt").documents
    change(path)
    present, notes = refreshed(documents)
    assert [document.size_bytes for document in present] == ([] if left is None else [left])
    assert len(notes) == bool(note) and note in "".join(notes)
