"""Streams and settings: what goes to stdout and stderr, what is read from stdin, which files configure it."""

import os
import subprocess

from tests.e2e import KEY, Project, cell, prompts, wait
from tests.model_server import ModelServer


def test_off_a_terminal_stdout_is_the_answer_and_stderr_is_plain(
    project: Project, server: ModelServer
) -> None:
    hostile = "\x1b]0;title\x07\x1b[2J\r\x9b31m"
    text = f"{hostile} data\n" + "and many ordinary words, so that it is a text\n" * 100
    project.write("a.txt", text)
    server.reply("sub", f"{hostile} reply")
    server.reply(
        "root",
        cell("print(context[:99], llm_query(context))\nraise ValueError(context)", plan=f"A plan {hostile}."),
        cell("FINAL(context)"),
    )

    ended = project.ask("What is in it?", "-f", "a.txt", "-v")

    assert ended.out == text.encode(), "the answer is data: off a terminal it is not touched"
    assert "title" in ended.err, "the hostile text was on its way, or this test shows nothing"
    assert not set(ended.err) & {"\x1b", "\r", "\x07", "\x9b"}


def test_a_dash_reads_the_question_from_stdin(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("FINAL(42)"))

    ended = project.ask("-", "--json", piped="How much is\n6 times 7?\n")

    assert ended.out.count(b"\n") == 1
    found = ended.json
    assert (found["status"], found["answer"], found["error"]) == ("ok", 42, None)
    assert (found["turn"], found["steps"]) == (1, 1)
    assert found["usage"]["calls"] == 1
    assert found["usage"]["cost_usd"] is None, "nobody said what the model costs"
    assert "Question: How much is\n6 times 7?" in prompts(server)[0]


def test_a_document_is_read_from_stdin(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("FINAL(context.upper())"))

    ended = project.ask("Louder!", "-f", "-", piped="whispered words\n")

    assert ended.answer == "WHISPERED WORDS\n"


def test_the_config_json_of_the_earlier_tool_works_unchanged(project: Project, server: ModelServer) -> None:
    project.configure(
        root_llm={"model": "gpt-5"},
        sub_llm={"model": "gpt-5-mini"},
        glm_coding={
            "enabled": True,
            "api_base": server.url,
            "root_model": "glm-4.6",
            "sub_model": "glm-4.5-air",
        },
        memory_compaction={"enabled": True},
    )

    server.reply("glm-4.6", cell("FINAL(llm_query('Who are you?'))"))
    server.reply("glm-4.5-air", "I am the sub model.")
    env = dict.fromkeys(("RLM_MODEL", "RLM_SUB_MODEL", "RLM_API_BASE", "RLM_SUB_API_BASE", "OPENAI_API_KEY"))

    ended = project.ask("Who answers?", env={**env, "ZAI_API_KEY": KEY})

    assert ended.answer == "I am the sub model.\n"
    assert [request.model for request in server.requests] == ["glm-4.6", "glm-4.5-air"]
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}


def test_where_each_setting_came_from_is_shown(project: Project) -> None:
    project.configure(
        root_llm={"model": "openai/from-file"},
        sub_llm={"model": "openai/sub-from-file"},
        glm_coding={"enabled": False, "api_base": "", "root_model": "", "sub_model": ""},
        memory_compaction={"enabled": False},
    )

    shown = project.run("status", "--config", env={"RLM_MODEL": None, "RLM_SUB_MODEL": "openai/from-env"})

    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.answer.splitlines()}
    assert rows["root_llm.model"] == "openai/from-file  (config.json)"
    assert rows["sub_llm.model"] == "openai/from-env  (environment RLM_SUB_MODEL)"
    assert rows["memory_compaction.enabled"] == "false  (config.json)"
    assert rows["limits.max_steps"] == "30  (default)"


def test_stdin_may_stay_open_and_a_reader_may_leave_early(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("FINAL('line\\n' * 100_000)"))
    reading, writing = os.pipe()
    with project.popen("run", "Write much.", stdin=reading) as process:
        head = subprocess.run(["head", "-n", "2"], stdin=process.stdout, stdout=subprocess.PIPE, check=True)
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        ended = wait(process)
    os.close(reading)
    os.close(writing)

    assert head.stdout == b"line\nline\n"
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err and "Broken" not in ended.err
