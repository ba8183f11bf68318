"""The question before a dear batch, on a terminal and off one, and what becomes of an open question."""

import signal

import pytest

from tests.e2e import Project, cell, prompts
from tests.e2e.terminal import Terminal
from tests.model_server import Json, ModelServer, Reply, Tokens

PROMPT = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
CHOICES = "[c]ancel? (Enter cancels)"
EACH = Tokens(input=10, output=400)
"""0.41 cents, which is what a reply is taken to cost before the first one came."""


def look(subject: str, *, calls: int = 30) -> str:
    """A cell that asks about each of so many things, and answers with how many replies it got."""
    return cell(
        f"replies = llm_query_batched([f'{subject} {{n}}' for n in range({calls})])\n"
        "told = sum(bool(reply) for reply in replies)\n"
        f"FINAL(f'{subject}: {{told}} told, {{len(replies) - told}} not: {{str(replies[-1])}}')"
    )


@pytest.fixture
def priced(project: Project, server: ModelServer) -> Project:
    """Ten dollars for a million tokens of the sub model; nothing for the root model."""
    project.configure(
        root_llm={"model": "openai/root", "price": {"input_per_mtok": 0, "output_per_mtok": 0}},
        sub_llm={"model": "openai/sub", "price": {"input_per_mtok": 10, "output_per_mtok": 10}},
        limits={"confirm_above_usd": 0.001},
    )
    server.default("sub", reply)
    return project


def reply(asked: Json) -> Reply:
    return Reply(f"reply to {asked['messages'][-1]['content']}", usage=EACH)


STOPPED = "Ctrl-C again abandons\n>"


def ask(terminal: Terminal, question: str, *, expect: str = CHOICES) -> str:
    """Ask in `chat`, and wait for what is asked back."""
    terminal.type(f"{question}\r")
    terminal.wait_for(f"{PROMPT} {question}")
    return terminal.wait_for(expect, after=f"{PROMPT} {question}")


def sent(server: ModelServer) -> int:
    return len(server.requests_for("sub"))


def test_the_user_runs_samples_or_cancels_a_batch(priced: Project, server: ModelServer) -> None:
    with Terminal(priced, "chat") as terminal:
        terminal.wait_for(PROMPT)

        def typed_too_early(asked: Json) -> str:
            terminal.type("r\r")
            return look("cat")

        server.reply("root", typed_too_early)
        asked = ask(terminal, "Cats?")
        assert "30 calls to openai/sub · about 12k tokens · about $0.12 (14% of the $0.90 left)" in asked
        assert sent(server) == 0
        terminal.type("please\r")
        terminal.wait_for("Type r to run all of it")
        terminal.wait_for(CHOICES, after="Type r to run all of it")
        terminal.type("r\r")
        terminal.wait_for("cat: 30 told, 0 not: reply to cat 29")
        terminal.wait_for(f"{PROMPT} r", after="cat: 30 told")  # it was for the model, and came too late
        terminal.type("\x03")

        server.reply("root", look("dog"))
        ask(terminal, "Dogs?")
        terminal.type("5\r")
        terminal.wait_for("sample of 5: $0.0041 each on average")
        terminal.wait_for(CHOICES, after="25 more calls to openai/sub")
        assert sent(server) == 35
        terminal.type("s\r")
        terminal.wait_for("sample of 15: $0.0041 each on average")
        terminal.wait_for("15 more calls to openai/sub")
        terminal.wait_for(CHOICES, after="15 more calls to openai/sub")
        terminal.type("\r")
        terminal.wait_for("dog: 15 told, 15 not:")
        terminal.wait_for(PROMPT, after="dog: 15 told")
        assert sent(server) == 45

        server.reply("root", look("dog", calls=40))
        asked = ask(terminal, "More dogs?")
        assert "25 calls to openai/sub" in asked and "15 already answered" in asked
        server.reply("root", cell("FINAL('no ' + 'dogs')"))
        terminal.type("\x04")
        terminal.wait_for("no dogs")
        terminal.wait_for(PROMPT, after="no dogs")
        assert sent(server) == 45
        assert "The user said no to this batch of 40 calls." in prompts(server)[-1]

        terminal.type("/quit\r")
        assert terminal.ended() == 0


def test_ctrl_c_takes_an_open_question_back(priced: Project, server: ModelServer) -> None:
    diary = priced.home / "diary.txt"
    diary.write_text("Dear diary\n")
    with Terminal(priced, "chat", "-q") as terminal:
        terminal.wait_for(PROMPT)

        server.reply("root", look("cat"))
        ask(terminal, "Cats?")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for(STOPPED, after="Cats?")
        terminal.type("s\r")
        terminal.wait_for("Interrupted.", after="Cats?")
        terminal.wait_for(PROMPT, after="Interrupted.")
        assert sent(server) == 0

        server.reply("root", cell(f"load_file({str(diary)!r})"))
        ask(terminal, "Diary?", expect="May it? [y]es once")
        assert f"The cell asks to read {diary}" in terminal.screen
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for(STOPPED, after="May it?")
        terminal.type("s\r")
        terminal.wait_for("Interrupted.", after="May it?")
        terminal.wait_for(PROMPT, after="Interrupted.")

        server.reply("root", look("dog"))
        ask(terminal, "Dogs?")
        terminal.type("not ended by Enter")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.wait_for("The turn was abandoned.")
        assert terminal.ended() == 130
        assert sent(server) == 0


def test_yes_runs_it_and_elsewhere_it_runs_if_it_fits(priced: Project, server: ModelServer) -> None:
    server.reply("root", look("cat"), look("dog"))
    with Terminal(priced, "run", "Cats?", "--yes") as terminal:
        shown = terminal.wait_for("cat: 30 told")
        assert "30 calls to openai/sub · about 12k tokens · about $0.12" in shown
        assert CHOICES not in shown
        assert terminal.ended() == 0
    assert priced.ask("Dogs?").answer.startswith("dog: 30 told")
    assert sent(server) == 60

    plan = cell(
        "try:\n    llm_query_batched([f'fox {n}' for n in range(30)])\nexcept Exception as no:\n    FINAL(no)"
    )
    server.reply("root", plan)
    refused = priced.ask("Foxes?", "--max-cost", "0.05").answer
    assert sent(server) == 60
    assert "it would cost about $0.12, and $0.0450 is left: enough for about 11 of them" in refused
