"""The keyboard while a turn runs, on a real terminal: Ctrl-C, typing along, and consent."""

import signal

from tests.e2e import Project, cell, prompts
from tests.e2e.terminal import Terminal
from tests.model_server import ModelServer

PROMPT = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
SLEEP = "found = 41\nprint('asleep')\nimport time\ntime.sleep(600)"
CHOICE = "Ctrl-C again abandons\n>"


def test_ctrl_c_offers_a_choice_and_a_second_one_abandons(project: Project, server: ModelServer) -> None:
    server.reply("root", cell(SLEEP), cell(SLEEP), cell("FINAL(f'It was {found}.')"))
    server.reply("root", cell("found = 0\n" + SLEEP.partition("\n")[2]), cell("FINAL(f'Still {found}.')"))

    with Terminal(project, "chat") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("Sleep.\r")
        terminal.wait_for("asleep", after="time.sleep(600)")
        terminal.type("\x03")
        terminal.wait_for("stopping; what was found is kept")
        terminal.wait_for(CHOICE)
        terminal.type("use what you have\r")
        terminal.wait_for("step 2/")
        terminal.wait_for("asleep", after="step 2/")
        terminal.type("\x03")
        terminal.wait_for(CHOICE, after="step 2/")
        terminal.type("a\r")
        terminal.wait_for("It was 41.", after="step 2/")

        terminal.wait_for(PROMPT, after="It was 41.")
        terminal.type("Again.\r")
        terminal.wait_for("Again.")
        terminal.wait_for("asleep", after="Again.")
        terminal.type("\x03")
        terminal.wait_for(CHOICE, after="Again.")
        terminal.process.send_signal(signal.SIGINT)  # what Ctrl-C is while a question is open
        terminal.wait_for("abandoning the turn", after="Again.")
        terminal.wait_for("The turn was abandoned.", after="Again.")
        terminal.wait_for(PROMPT, after="The turn was abandoned.")
        terminal.type("What is it?\r")
        terminal.wait_for("What is it?")
        terminal.wait_for("Still 41.", after="What is it?")
        terminal.wait_for(PROMPT, after="Still 41.")
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert terminal.is_cooked()

    assert "use what you have" in prompts(server)[1]


def test_what_is_typed_while_a_turn_runs_reaches_the_model(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("print('busy')\nimport time\ntime.sleep(4)"), cell("FINAL('done')"))
    server.reply("root", cell(SLEEP))

    with Terminal(project, "chat", columns=40) as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("Work.\r")
        terminal.wait_for("busy", after="time.sleep(4)")
        terminal.type("only those of May\r")
        terminal.wait_for("you: only those of May")
        terminal.type("/cost\r//usr too\r")
        terminal.wait_for("commands are for the prompt;")
        terminal.wait_for("you: /usr too")
        terminal.type("and then")
        terminal.wait_for(f"{PROMPT} and then", after="you: only")
        terminal.wait_for("the model is told: only those of May")
        terminal.wait_for("done", after="FINAL('done')")
        terminal.wait_for("no documents \N{MIDDLE DOT}", after="done")
        terminal.wait_for(f"{PROMPT} and then", after="done")
        terminal.type(" sleep\r")
        terminal.wait_for("and then sleep")
        terminal.wait_for("asleep", after="and then sleep")
        assert not terminal.is_cooked()
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.ended() == 130
        assert terminal.is_cooked()

    assert "only those of May" in prompts(server)[1]
    assert "/usr too" in prompts(server)[1] and "/cost" not in prompts(server)[1]
    assert prompts(server)[2].endswith("and then sleep")


def test_a_yes_to_a_folder_covers_its_other_files_and_outlives_the_chat(
    project: Project, server: ModelServer
) -> None:
    folder = project.home / "my\x1b[31m notes"
    folder.mkdir()
    for name in ("may.txt", "june.txt"):
        (folder / name).write_text(f"Dear {name}\n")
    diary = project.home / "diary.txt"
    diary.write_text("Dear diary\n")

    def load(name: str) -> str:
        return cell(f"load_file({str(folder / name)!r})\nprint('it reads:', context)")

    server.reply("root", load("may.txt"), load("may.txt"), cell("FINAL(context)"))
    server.reply("root", cell(f"load_file({str(diary)!r})"), cell("FINAL('no diary')"))
    server.reply("root", load("june.txt"), load("june.txt"), cell("FINAL(context)"))

    with Terminal(project, "chat") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("What is in May?\r")
        asked = terminal.wait_for("(Enter: no)")
        assert f"The cell asks to read {project.home}/my\\x1b[31m notes/may.txt" in asked
        assert "yes for this [f]older" in asked
        terminal.type("what?\r")
        terminal.wait_for("Type y, f or n.")
        terminal.wait_for("(Enter: no)", after="Type y, f or n.")
        terminal.type("f\r")
        agreed = terminal.wait_for("Dear may.txt", after="Type y, f or n.")
        assert "Out [1] agreed; the file is there from the next step" in agreed
        assert "Traceback" not in terminal.screen
        terminal.wait_for(PROMPT, after="Dear may.txt")
        terminal.type("And in my diary?\r")
        terminal.wait_for("And in my diary?")
        asked = terminal.wait_for("(Enter: no)", after="And in my diary?")
        assert "[f]older" not in asked, "nobody agrees to a whole home folder in passing"
        terminal.type("\r")
        terminal.wait_for("no diary", after="(Enter: no)")
        terminal.wait_for(PROMPT, after="no diary")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.ended() == 130
        assert terminal.is_cooked()
    refused = prompts(server)[4]
    assert "the user has not agreed to it" in refused
    assert 'File "<cell 4>"' in refused and "sandbox/" not in refused, "no frames but those of the cell"

    ended = project.run("chat", piped="And in June?\n")

    assert ended.answer == "Dear june.txt\n"
    assert "asks to read" not in ended.err


def test_a_narrow_terminal_that_can_do_nothing(project: Project, server: ModelServer) -> None:
    server.reply("root", cell(SLEEP), cell("FINAL(f'It was {found}.')"))

    with Terminal(project, "chat", columns=20, env={"TERM": "dumb"}) as terminal:
        terminal.wait_for("\n>")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("Ctrl-D or")
        terminal.type("Sleep.\n")
        terminal.wait_for("asleep\n", after="600)")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("[c]ontinue")
        terminal.wait_for(">", after="again abandons")
        terminal.type("a\n")
        terminal.wait_for("It was 41.")
        terminal.wait_for(">", after="It was 41.")
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert terminal.is_cooked()


def test_a_short_answer_is_shown_before_the_namespace_is_saved(project: Project, server: ModelServer) -> None:
    slow = (
        "import time\nclass Slow:\n    def __reduce__(self):\n        time.sleep(4)\n        return (int, ())"
    )
    server.reply("root", cell(f"{slow}\nx = Slow()\nFINAL('It was ' + 'quick.')"))

    with Terminal(project, "chat") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("Quick?\r")
        terminal.wait_for("It was quick.")
        terminal.wait_for("saving the namespace", after="It was quick.")
        terminal.type("/cost\r")
        terminal.wait_for("the turn is over", after="It was quick.")
        terminal.wait_for(f"{PROMPT} /cost", after="the turn is over")
        terminal.wait_for("no documents \N{MIDDLE DOT}", after="the turn is over")
        terminal.type("\r")
        terminal.wait_for("session: 1 call", after="the turn is over")
        assert terminal.screen.count("It was quick.") == 1


def test_a_long_answer_is_stopped_and_the_chat_goes_on(project: Project, server: ModelServer) -> None:
    server.reply("root", cell("FINAL({str(n): 'much' for n in range(400_000)})"), cell("FINAL('more ' * 2)"))

    with Terminal(project, "chat", columns=60) as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("All?\r")
        terminal.wait_for('": "much"')
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("Showing the answer was stopped.")
        terminal.wait_for("All of it is in", after="was stopped.")
        terminal.wait_for(PROMPT, after="All of it is in")
        terminal.type("More?\r")
        terminal.wait_for("more more", after="More?")


def test_an_abandoned_question_is_asked_again_or_let_go(project: Project, server: ModelServer) -> None:
    server.reply("root", cell(SLEEP), cell("FINAL('Well ' + 'rested.')"), cell(SLEEP))

    def abandon(question: str) -> None:
        terminal.type(f"{question}\r")
        terminal.wait_for(f"{PROMPT} {question}")
        terminal.wait_for("  asleep\n", after=f"{PROMPT} {question}")
        terminal.type("\x03")
        terminal.wait_for(CHOICE, after=question)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("The turn was abandoned.", after=question)
        terminal.wait_for(PROMPT, after="The turn was abandoned.")

    with Terminal(project, "chat") as terminal:
        terminal.wait_for(PROMPT)
        abandon("Sleep.")
        terminal.type("/retry\r")
        terminal.wait_for("asking again: Sleep.")
        terminal.wait_for("Well rested.", after="asking again")
        terminal.wait_for(PROMPT, after="Well rested.")
        abandon("Sleep more.")
        terminal.type("/undo\r")
        terminal.wait_for("left nothing to take back", after="/undo")
        terminal.wait_for(PROMPT, after="nothing to take back")
        terminal.type("/undo\r")
        terminal.wait_for("taken back: Sleep.", after="nothing to take back")

    assert prompts(server)[1].endswith("Sleep.")
