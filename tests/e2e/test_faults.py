"""Faults of the machine under a command: no traceback, a sentence to act upon, and nothing saved is lost."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.docker_proxy import DockerProxy
from tests.e2e import PATIENCE_S, Ended, Project, asleep, cell, wait
from tests.model_server import Fault, ModelServer


def assert_is_said(ended: Ended, *sentences: str) -> None:
    said = " ".join(ended.err.split())
    assert [sentence for sentence in sentences if sentence not in said] == [], said
    assert "Traceback" not in said and "should not" not in said


def test_an_engine_that_goes_away_in_a_cell_ends_the_command_with_what_to_do(
    project: Project, tmp_path: Path
) -> None:
    with (
        DockerProxy(tmp_path / "docker.sock") as proxy,
        asleep(project, env={"DOCKER_HOST": proxy.address}) as process,
    ):
        proxy.refuses = True
        proxy.drop()
        ended = wait(process)
    assert ended.code == 5
    assert_is_said(ended, "Docker", "rlm doctor")


def test_an_engine_that_hangs_does_not_hold_up_ctrl_c(project: Project, tmp_path: Path) -> None:
    with DockerProxy(tmp_path / "docker.sock") as proxy:
        proxy.hangs = True
        with project.popen("run", "Why?", env={"DOCKER_HOST": proxy.address}) as process:
            assert process.stderr
            assert b"starting the sandbox" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert b"Ctrl-C again" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            ended = wait(process)
    assert ended.code == 130
    assert_is_said(ended, "The turn was abandoned.")


@pytest.mark.parametrize(("number", "in_cell"), [(signal.SIGTERM, False), (signal.SIGHUP, True)])
def test_a_polite_end_abandons_the_turn(
    project: Project, server: ModelServer, number: signal.Signals, in_cell: bool
) -> None:
    if in_cell:
        with asleep(project) as process:
            process.send_signal(number)
            ended = wait(process)
    else:
        server.reply("root", Fault(how="hang"))
        with project.popen("run", "Hang.") as process:
            server.wait_for_requests(1, wait_s=PATIENCE_S)
            process.send_signal(number)
            ended = wait(process)
    assert (ended.code, ended.out) == (130, b"")
    assert_is_said(ended, "The turn was abandoned.")
    found = project.run("status", "--json").json
    assert (found["session"]["turns"], found["session"]["unfinished"], found["held_by"]) == (0, None, None)


def test_a_stopped_command_goes_on_when_it_is_continued(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("FINAL(llm_query('Well?'))"))
    server.reply("sub", "Yes.")
    with project.popen("run", "Stop.") as process:
        server.wait_for_requests(1, wait_s=PATIENCE_S)
        process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
        assert wait(process).answer == "Yes.\n"


def test_a_state_folder_that_is_deleted_in_a_turn_is_told(project: Project, server: ModelServer) -> None:
    def delete(request: object) -> str:
        shutil.rmtree(project.folder / ".rlm_state")
        return cell("FINAL('found')")

    server.reply("root", delete)
    ended = project.ask("One?")
    assert ended.code == 1
    assert_is_said(ended, "was removed while it was in use", "it starts afresh")
    assert "nothing here yet" in project.run("status").answer


A_DAY_BACK = """
import datetime, time
now, seconds = datetime.datetime.now, time.time

class Earlier(datetime.datetime):
    @classmethod
    def now(cls, zone=None):
        return now(zone) - datetime.timedelta(days=1)

datetime.datetime = Earlier
time.time = lambda: seconds() - 86400
"""


def test_a_clock_that_steps_back_a_day_loses_nothing(
    project: Project, server: ModelServer, tmp_path: Path
) -> None:
    server.reply("root", cell("kept = 7\nFINAL(kept)"), cell("kept += 1\nFINAL(kept)"))
    assert project.ask("Today?").answer == "7\n"
    (tmp_path / "sitecustomize.py").write_text(A_DAY_BACK)
    yesterday = {"PYTHONPATH": str(tmp_path)}
    found = project.run("status", "--json", env=yesterday).json
    assert (found["snapshot"]["turn"], found["snapshot"]["age_s"]) == (1, 0.0)

    assert project.ask("Yesterday?", env=yesterday).answer == "8\n"

    found = project.run("status", "--json").json
    assert (found["session"]["turns"], found["snapshot"]["turn"]) == (2, 2)
    assert found["snapshot"]["age_s"] > 86000
