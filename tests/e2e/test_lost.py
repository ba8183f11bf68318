"""What is left when something goes away in the middle of a turn."""

import signal
from contextlib import closing

import docker

from tests.e2e import Project, asleep, cell, prompts, wait
from tests.model_server import ModelServer


def remove_container(project: Project) -> None:
    """Remove the container of this project's state folder, as somebody tidying up might."""
    with closing(docker.from_env()) as client:
        label = f"rlm.state={(project.folder / '.rlm_state').resolve()}"
        (container,) = client.containers.list(filters={"label": label})
        container.remove(force=True)


def test_a_removed_container_is_replaced_and_the_turn_goes_on(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("kept = 7\nFINAL('saved')"))
    project.ask("One?")

    with asleep(project) as process:
        server.reply("root", cell("FINAL([kept, 'found' in globals()])"))
        remove_container(project)
        ended = wait(process)

    assert ended.answer == "[\n  7,\n  false\n]\n"
    assert "The container was lost." in ended.err
    assert "its container was lost; your variables are those of the last snapshot" in prompts(server)[-1]


def test_a_second_ctrl_c_abandons_the_turn(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("found = 1\nFINAL('saved')"))
    project.ask("One?")

    with asleep(project, code="import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)") as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while b"Ctrl-C again" not in process.stderr.readline():
            continue
        process.send_signal(signal.SIGINT)
        ended = wait(process)

    assert (ended.code, ended.out) == (130, b"")
    assert "The turn was abandoned." in ended.err
    server.reply("root", cell("FINAL(found)"))
    assert project.ask("And?").answer == "1\n", "what the abandoned turn assigned is gone"
    opening = server.requests_for("root")[-1]
    assert "Sleep." not in opening.prompt and len(opening.json["messages"]) == 3
