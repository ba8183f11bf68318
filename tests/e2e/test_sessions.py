"""What stays from one command to the next, and who may touch it."""

import json
import signal
import subprocess

from tests.e2e import Project, asleep, cell, prompts, wait
from tests.model_server import ModelServer


def test_the_next_command_finds_variables_functions_and_answers(
    project: Project, server: ModelServer
) -> None:
    first = "rows = [3, 4]\nfactor = 10\ndef scaled(n):\n    return n * factor\nFINAL('the first answer')"
    server.reply("root", cell(first))
    server.reply("root", cell("factor = 100\nFINAL([answers[-1], rows, scaled(7)])"))

    assert project.ask("One?").answer == "the first answer\n"
    assert project.ask("Two?", "--json").json["answer"] == ["the first answer", [3, 4], 700]

    opening = prompts(server)[1]
    assert "Variables in the namespace:" in opening
    assert all(f"- {name}: " in opening for name in ("rows", "factor", "scaled"))


TALK = [
    cell("budget = 1200\nprint('the budget is', budget)", plan="First the budget."),
    cell("FINAL('It is 1200.')", plan="That was it."),
    cell("print([(m['turn'], m['role']) for m in history])\nprint(history[1]['content'])"),
    cell("FINAL(answers[0])"),
]


def test_a_finished_turn_becomes_one_message_and_its_history_stays_data(
    project: Project, server: ModelServer
) -> None:
    server.reply("root", *TALK)

    ended = project.run("chat", piped="What is the budget?\nWhat did you say?\n")

    assert ended.answer == "It is 1200.\nIt is 1200.\n"
    _, _, second, look = server.requests
    _system, turn, question = second.json["messages"]
    assert question["content"].endswith("Question: What did you say?")
    kept = turn["content"]
    assert "Question: What is the budget?" in kept and "the budget is 1200" in kept
    assert "Answer (whole in answers[0]): It is 1200." in kept
    assert "```" not in kept
    roles = ["user", "assistant", "user", "assistant", "user"]
    assert str([(1, role) for role in roles])[1:-1] in look.prompt
    assert "print('the budget is', budget)" in look.prompt
    assert "Variables kept: budget (int, 1200)" in kept


def test_without_compaction_every_message_is_sent_again(project: Project, server: ModelServer) -> None:
    project.configure(memory_compaction={"enabled": False})
    server.reply("root", *TALK)

    ended = project.run("chat", piped="What is the budget?\nWhat did you say?\n")

    assert ended.answer == "It is 1200.\nIt is 1200.\n"
    _, second, third, _ = server.requests
    assert third.json["messages"][: len(second.json["messages"])] == second.json["messages"]
    roles = [message["role"] for message in third.json["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user", "user"]


def test_a_document_that_changed_between_two_commands_is_noticed(
    project: Project, server: ModelServer
) -> None:
    log = project.write("app.log", "one\n")
    server.reply("root", cell("text = context\nFINAL(text)"), cell("FINAL([context, text])"))
    assert "app.log" in project.run("init", "app.log").err
    assert project.ask("What is in it?").answer == "one\n"

    log.write_text("one\ntwo\n")
    ended = project.ask("And what is in it?")

    assert ended.json == ["one\ntwo\n", "one\ntwo\n"]
    noticed = "'app.log' has grown on disk since it was loaded"
    assert noticed in ended.err
    assert noticed in prompts(server)[1]


def test_ctrl_c_stops_the_cell_and_keeps_its_variables(project: Project, server: ModelServer) -> None:
    with asleep(project, "--json") as process:
        process.send_signal(signal.SIGINT)
        ended = wait(process)
    assert ended.code == 130
    assert (ended.json["status"], ended.json["answer"]) == ("interrupted", None)
    assert " ".join(ended.err.split()).count("Interrupted. Variables and paid results are kept.") == 1

    server.reply("root", cell("FINAL(found)"))
    assert project.ask("What was found?").answer == "41\n"
    assert "- found: int, 41" in server.requests[-1].prompt


def test_a_killed_command_loses_its_turn_and_nothing_else(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("before = 1\nFINAL('done')"))
    assert project.ask("Begin.").answer == "done\n"

    with asleep(project) as process:
        process.kill()
    status = project.run("status").answer
    server.reply("root", cell("FINAL([before, 'found' in globals()])"))
    ended = project.ask("What is left?")

    assert "the last turn was not finished: Sleep." in status
    assert ended.json == [1, False]


def test_two_commands_on_one_folder_do_not_meet(project: Project, server: ModelServer) -> None:
    with asleep(project) as process:
        asked = len(server.requests)
        second = project.ask("May I?")
        status = project.run("status").answer
        assert len(server.requests) == asked

    assert (second.code, second.out) == (1, b"")
    assert f'"rlm run" (pid {process.pid}, since ' in second.err
    assert "--state-dir" in second.err
    assert "container  running" in status
    assert f'held by    "rlm run" (pid {process.pid}' in status


def test_status_trace_and_reset_need_no_docker(project: Project, server: ModelServer) -> None:
    project.write("a.txt", "text\n")
    server.reply("root", cell("rows = [1, 2, 3]\nFINAL(len(rows))"))
    assert project.ask("How many?", "-f", "a.txt").answer == "3\n"

    no_docker = {"DOCKER_HOST": f"unix://{project.folder}/nothing.sock", "OPENAI_API_KEY": None}
    status = project.run("status", env=no_docker).answer
    trace = project.run("trace", env=no_docker).answer
    reset = project.run("reset", "--yes", env=no_docker)

    assert "a.txt" in status and "rows (3 items)" in status and "1 turn" in status
    assert "How many?" in trace and "FINAL(len(rows))" in trace
    assert (reset.code, reset.out) == (0, b"")
    assert not (project.folder / ".rlm_state").exists()
    assert (project.folder / "a.txt").exists()
    assert "nothing here yet" in project.run("status").answer


def test_a_conversation_sees_files_that_grow_are_replaced_or_are_added(
    project: Project, server: ModelServer
) -> None:
    folder = project.folder / "notes"
    folder.mkdir()
    project.write("notes/a.txt", "one\n")
    log = project.write("app.log", "first\n")
    look = "FINAL([files[name] for name in sorted(files)] + [kept])"
    server.reply("root", cell("kept = 7\n" + look), cell(look), cell(look))

    with project.popen("chat", "-f", "notes", "-f", "app.log", stdin=subprocess.PIPE) as chat:
        assert chat.stdin and chat.stdout

        def ask() -> list[object]:
            assert chat.stdin and chat.stdout
            chat.stdin.write(b"What is there?\n")
            chat.stdin.flush()
            lines = iter(chat.stdout.readline, b"]\n")
            answer: list[object] = json.loads(b"".join([*lines, b"]"]))
            return answer

        assert ask() == ["first\n", "one\n", 7]
        with log.open("a") as file:
            file.write("second\n")
        assert ask() == ["first\nsecond\n", "one\n", 7]
        log.with_suffix(".new").write_text("another file\n")
        log.with_suffix(".new").rename(log)
        assert ask() == ["another file\n", "one\n", 7]
        ended = wait(chat)

    assert ended.code == 0
    assert "'app.log' has grown on disk" in ended.err
    assert "'app.log' was replaced on disk" in ended.err
