"""Addresses on the command line: fetched once, resumed, used without the network; no token left behind."""

import gzip
import hashlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import PATIENCE_S, Project, cell, wait
from tests.e2e.terminal import Terminal
from tests.hub_server import HubServer, Page
from tests.model_server import ModelServer

TOKEN = "hf_canary-of-the-hub-71c4d2a8"
DATASET = "hf://datasets/Ahren09/QMSum?split=train"
MEETINGS = {
    "README.md": b"# QMSum",
    "data/train.csv": b"id,topic\n1,budget\n2,remote control\n3,budget\n",
    "data/test.csv": b"id,topic\n9,other\n",
}
SALES = gzip.compress(b"city,amount\nParis,3\nRome,5\nParis,4\n")
SUMS = cell("FINAL([list(row) for row in sql('select city, sum(amount) from doc group by 1 order by 1')])")
LARGE = b"name,age\n" + b"Ada,36\n" * 20_000


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


def environ(project: Project, hub: HubServer, *, token: str | None = None) -> dict[str, str | None]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(project.home / "hf"), "HF_TOKEN": token}


def holding(folder: Path, text: str) -> list[str]:
    """The files below a folder in which `text` stands."""
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_dataset_is_fetched_once_with_a_token_that_is_left_nowhere(
    project: Project, server: ModelServer, hub: HubServer, place: str
) -> None:
    with HubServer() as storage:
        train = MEETINGS["data/train.csv"]
        name = "data/train.csv"
        hub.dataset(
            "Ahren09/QMSum", MEETINGS, token=TOKEN, storage=storage.other_url, large=frozenset({name})
        )
        hashed = f"/{hashlib.sha256(train).hexdigest()}"
        storage.page(hashed, Page(train))
        if place == ".env":
            project.write(".env", f"HF_TOKEN={TOKEN}\n")
        env = environ(project, hub, token=TOKEN if place == "environment" else None)
        server.default("root", cell("FINAL([list(files), sql('select count(*) from doc')[0][0]])"))

        first = project.run("init", DATASET, env=env)
        again = project.run("init", DATASET, "-v", env=env)
        asked = project.ask("How many meetings?", "-v", env=env)

        assert (first.code, first.out, again.code) == (0, b"", 0), first.err + again.err
        assert "QMSum/train.csv  44 B · CSV · utf-8 · 4 lines" in first.err
        assert asked.json == [["QMSum/train.csv"], 3]
        assert len(storage.requests_for(hashed)) == 1
    assert {seen.headers["authorization"] for seen in hub.requests} == {f"Bearer {TOKEN}"}
    assert not [seen for seen in storage.requests if TOKEN in str(seen)]
    assert server.requests and not [seen for seen in server.requests if TOKEN in str(seen)]
    for ended in (first, again, asked):
        assert TOKEN not in ended.err + ended.out.decode()
    assert holding(project.folder, "QMSum") and holding(project.home, "budget")
    kept = holding(project.folder, TOKEN) + holding(project.home, TOKEN)
    assert kept == ([".env"] if place == ".env" else [])


def test_what_the_hub_does_not_have_is_said_and_leaves_nothing_behind(
    project: Project, hub: HubServer
) -> None:
    hub.dataset("Ahren09/QMSum", MEETINGS)
    ended = project.run("init", "hf://datasets/Ahren09/QMSum?split=dev", env=environ(project, hub))
    assert (ended.code, ended.out) == (2, b"")
    assert "The dataset Ahren09/QMSum has no split dev.\n     Its splits are: test, train." in ended.err
    assert not (project.folder / ".rlm_state").exists()


def test_without_the_hub_a_copy_serves_and_without_one_it_is_an_error(
    project: Project, hub: HubServer
) -> None:
    hub.dataset("Ahren09/QMSum", MEETINGS)
    env = environ(project, hub)
    assert project.run("init", DATASET, env=env).code == 0
    hub.close()

    offline = project.run("init", DATASET, env=env)
    other = project.run("init", "hf://datasets/Ahren09/QMSum?split=test", env=env)

    assert offline.code == 0
    assert "cannot be reached. The copy of commit" in offline.err
    assert (other.code, other.out) == (2, b"")
    assert f"rlm: {hub.url}/datasets/Ahren09/QMSum cannot be reached." in other.err
    assert "Check the network" in other.err
    assert names(project) == ["QMSum/train.csv"]


def test_a_packed_table_of_a_web_server_is_asked_in_sql(
    project: Project, server: ModelServer, hub: HubServer
) -> None:
    address = hub.page("/data.csv.gz", Page(SALES, type="application/gzip"))
    server.default("root", SUMS)

    first = project.run("init", address)
    assert (first.code, first.out) == (0, b""), first.err
    assert "came over http: anyone on the way could have read or changed it" in first.err
    assert project.ask("Sums?").json == [["Paris", 7], ["Rome", 5]]
    again = project.run("init", address)
    hub.close()
    offline = project.run("init", address)
    nothing = project.run("init", address.replace("data", "other"))

    assert "data.csv.gz  49 B · gzip · 35 B of text · 4 lines" in again.err
    assert [seen.status for seen in hub.requests] == [200, 304]
    assert offline.code == 0 and "could not be reached: the copy of 20" in offline.err
    assert nothing.code == 2 and "127.0.0.1 cannot be reached." in nothing.err


def test_a_name_of_the_users_stays_and_old_copies_go(
    project: Project, server: ModelServer, hub: HubServer
) -> None:
    address = hub.page("/data.csv", Page(b"city,amount\nRome,5\n"), Page(b"city,amount\nOslo,9\n"))
    downloads = project.folder / ".rlm_state/downloads"
    server.default("root", SUMS)

    first = project.run("init", address, "--name", "sales")
    second = project.run("init", address)

    assert "sales  19 B · CSV" in first.err and "sales  19 B · CSV" in second.err
    assert "    Oslo,9\n1 document ready" in second.err
    assert len(list(downloads.glob("*/*"))) == 2, "no copy goes that the last records name"
    project.write("a.txt", "a")
    assert project.run("init", "a.txt").code == 0
    (kept,) = downloads.glob("*/*")
    assert kept.read_bytes().endswith(b"Oslo,9\n")
    assert project.run("init", "--replace", "sales.csv").code == 2, "what fails forgets nothing"
    server.default("root", SUMS.replace("from doc", 'from ""sales""').replace('""', '"'))
    assert project.ask("Sums?").json == [["Oslo", 9]]


def broken(hub: HubServer) -> str:
    """An address whose connection closes in mid-file, and again each time that it is tried anew."""
    for after in (60_000, 0, 0, 0):
        hub.break_off("/large.csv", after=after)
    return hub.page("/large.csv", Page(LARGE))


def mend(hub: HubServer) -> None:
    hub.breaks.clear()


def test_a_download_that_was_interrupted_is_resumed(project: Project, hub: HubServer) -> None:
    address = broken(hub)
    with project.popen("init", address) as process:
        wait_for_requests(hub, 2, process)
        process.send_signal(signal.SIGINT)
        stopped = wait(process)
    mend(hub)
    done = project.run("init", address)

    assert (stopped.code, stopped.out) == (130, b"")
    assert "what was fetched so far is kept" in stopped.err and "Traceback" not in stopped.err
    assert done.code == 0, done.err
    assert hub.requests[-1].headers["range"] == "bytes=60000-"
    assert "large.csv  140 kB · CSV · utf-8 · 20,001 lines" in done.err


def test_progress_is_one_line_that_changes_on_a_terminal_and_few_lines_elsewhere(
    project: Project, hub: HubServer
) -> None:
    address = broken(hub)
    with Terminal(project, "init", address) as terminal:
        shown = terminal.wait_for("fetching large.csv: ")
        assert re.search(r"fetching large\.csv: \d+ k?B of 140 kB \(\d+ %\)", shown)
        mend(hub)
        assert terminal.ended() == 0
        assert "fetching" not in terminal.wait_for("1 document ready")

    hub.page("/larger.csv", Page(LARGE * 50))
    ended = project.run("init", f"{hub.url}/larger.csv")
    assert ended.code == 0 and "\r" not in ended.err
    assert ended.err.count("fetching larger.csv: ") == 1


def wait_for_requests(hub: HubServer, count: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(hub.requests) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(wait(process).err)
        time.sleep(0.01)


def names(project: Project) -> list[str]:
    ended = project.run("status", "--json", "--yes")
    return sorted(document["name"] for document in ended.json["documents"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a.txt", ["a.txt"]),
        (["a.txt", "more/*.md"], ["a.txt", "c.md"]),
        (["./more", "URL/b.csv"], ["b.csv", "more/c.md"]),
    ],
)
def test_init_alone_takes_the_data_source_of_the_configuration(
    project: Project, hub: HubServer, source: str | list[str], expected: list[str]
) -> None:
    project.write("a.txt", "a")
    (project.folder / "more").mkdir()
    project.write("more/c.md", "c")
    hub.page("/b.csv", Page(b"x,y\n1,2\n"))
    project.write("config.json", json.dumps({"data_source": source}).replace("URL", hub.url))

    ended = project.run("init", "--yes")

    assert (ended.code, ended.out) == (0, b""), ended.err
    assert names(project) == expected


def test_a_data_source_is_relative_to_its_file_and_files_that_are_named_come_first(project: Project) -> None:
    (project.folder / "conf").mkdir()
    project.write("conf/data.json", '{"data_source": "../a.txt"}')
    project.write("a.txt", "a")
    project.write("b.txt", "b")
    assert project.run("init", "--config", "conf/data.json").code == 0
    assert names(project) == ["a.txt"]
    assert project.run("init", "--config", "conf/data.json", "--replace", "b.txt").code == 0
    assert names(project) == ["b.txt"]


def test_init_alone_without_a_data_source_says_what_to_do(project: Project) -> None:
    ended = project.run("init")
    assert (ended.code, ended.out) == (2, b"")
    assert "There is nothing to register." in ended.err and "rlm init FILE" in ended.err
    assert not (project.folder / ".rlm_state").exists()
