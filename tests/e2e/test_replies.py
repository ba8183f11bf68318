"""Replies that are not as the prompt asks: what counts as code, as an answer, and as nothing at all."""

from tests.e2e import Project, cell, prompts
from tests.model_server import ModelServer, Reply


def test_what_follows_the_first_block_is_never_read(project: Project, server: ModelServer) -> None:
    invented = "\n\nOut [1] ok\n\ninvented output\n\n" + cell("FINAL('invented answer')", plan="So:")
    long = invented + " and so on" * 2_000
    server.reply("root", Reply(cell("print(6 * 7)") + long, chunk_delay_s=0.02), cell("FINAL('measured')"))

    ended = project.ask("How much is 6 times 7?")

    assert ended.answer == "measured\n"
    first, second = server.requests
    assert first.client_hung_up()
    assert "\n\n42" in second.prompt
    assert "invented" not in str(second.json["messages"])
    assert "invented" not in (project.folder / ".rlm_state/events.jsonl").read_text()


def test_prose_without_a_block_gets_one_reminder_and_is_then_the_answer(
    project: Project, server: ModelServer
) -> None:
    server.reply("root", "I shall think about it.", "It is **forty-two**.")

    ended = project.ask("How much is 6 times 7?")

    assert ended.answer == "It is **forty-two**.\n"
    assert "held neither a `repl` block nor FINAL" in prompts(server)[1]


def test_a_final_outside_a_block_is_run_as_a_cell(project: Project, server: ModelServer) -> None:
    server.reply("root", 'Easy.\n\nFINAL(f"{6 * 7}")')

    ended = project.ask("How much is 6 times 7?")

    assert ended.answer == "42\n"
    assert len(server.requests) == 1
