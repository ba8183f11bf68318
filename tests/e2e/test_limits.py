"""Caps reached in the middle of things: nothing hangs, what was paid for is kept, the end says which cap."""

import signal
from typing import Any

from tests.e2e import Project, cell, wait
from tests.model_server import Answer, Fault, Json, ModelServer, Reply, Tokens

PRICE = {"input_per_mtok": 1.0, "output_per_mtok": 10.0}
PRICED = {
    "root_llm": {"model": "openai/root", "price": PRICE},
    "sub_llm": {"model": "openai/sub", "price": PRICE},
}


def numbered(asked: Json, *, dear: bool = False) -> Answer:
    """A reply with the number that the prompt ends with; a `dear` one costs $0.02, if it may be as long."""
    number = asked["messages"][-1]["content"].split()[-1]
    output = min(1990, asked["max_tokens"])
    return Reply(f"reply {number}", usage=Tokens(input=100, output=output) if dear else None)


def shown(server: ModelServer, *, request: int) -> str:
    """All that the root model had been told by its request number `request`, from 0."""
    messages = server.requests_for("root")[request].json["messages"]
    return "\n".join(str(message["content"]) for message in messages)


def spent(project: Project) -> tuple[Any, str]:
    """The caps of the session as `status` tells them, as JSON and as text."""
    limits = {"RLM_SESSION_COST": "0.3", "RLM_SESSION_SUB_CALLS": "9", "RLM_SESSION_TIMEOUT": "3600"}
    found = project.run("status", "--json", env=limits).json
    return found["session"]["caps"], project.run("status", env=limits).answer


def test_at_a_cap_in_dollars_paid_replies_stay_and_the_reserve_pays_for_an_answer(
    project: Project, server: ModelServer
) -> None:
    project.configure(**PRICED)
    server.default("sub", lambda asked: numbered(asked, dear=True))
    server.reply(
        "root",
        cell("found = []\nfor n in range(9):\n    found.append(llm_query(f'Look at {n}'))"),
        Reply(cell("FINAL(found)", plan="So far:")),
        cell("FINAL(['kept', len(found)])"),
    )

    ended = project.ask("What do they say?", "--json", env={"RLM_MAX_COST": "0.1"})

    assert ended.code == 6, ended.err
    told = ended.json
    answer = told["answer"]
    assert answer == [f"reply {n}" for n in range(len(answer))]
    assert 0 < len(answer) < 9 and told["usage"]["sub_calls"] == len(answer)
    assert (told["status"], told["error"]["type"]) == ("budget", "BudgetReached")
    assert "SubCallError: BudgetReached: The budget of this question" in shown(server, request=1)
    assert "1 of its sub-calls did not fit the budget" in shown(server, request=1)
    assert "raise --max-cost" in told["error"]["hint"]
    assert told["usage"]["cost_usd"] <= 0.1

    again = project.ask("Are they kept?")
    assert again.json == ["kept", len(answer)]


def test_a_cap_of_the_session_holds_over_two_runs(project: Project, server: ModelServer) -> None:
    project.configure(**PRICED)
    server.default("sub", lambda asked: numbered(asked, dear=True))
    server.reply(
        "root",
        cell("found = [llm_query(f'Look at {n}') for n in range(4)]"),
        Reply(cell("FINAL(len(found))"), usage=Tokens(input=115_000, output=10)),
    )
    cap = {"RLM_SESSION_COST": "0.2"}
    assert project.ask("One?", env=cap).answer == "4\n"

    refused = project.ask("Two?", "--json", env=cap)

    assert refused.code == 6
    assert refused.json["usage"]["calls"] == 0 and len(server.requests_for("root")) == 2
    assert "The budget of this session does not allow this call." in refused.json["error"]["message"]
    assert "of $0.20 is left" in refused.json["error"]["message"]
    assert "starting the sandbox" not in refused.err
    assert (
        "limits.session_cost_usd, or begin another session: rlm chat --new" in refused.json["error"]["hint"]
    )
    caps, text = spent(project)
    assert caps["session_sub_calls"] == {"spent": 4, "cap": 9}
    assert 0.195 < caps["session_cost_usd"]["spent"] < 0.2
    assert "of this session: $0.20 of $0.30 · 4 of 9 sub-calls · " in text

    server.reply("root", cell("FINAL('four' if len(found) == 4 else found)"))
    assert project.run("chat", piped="/retry\n", env={"RLM_SESSION_COST": "1"}).answer == "four\n"


def test_a_session_without_time_left_refuses_a_question_and_a_new_one_does_not(
    project: Project, server: ModelServer
) -> None:
    server.reply("root", Reply(cell("FINAL(1)"), delay_s=1.2), cell("FINAL(2)"))
    assert project.ask("One?").answer == "1\n"

    refused = project.ask("Two?", env={"RLM_SESSION_TIMEOUT": "1"})

    assert (refused.code, refused.out) == (3, b"")
    assert "The time of this session is used up." in refused.err and "rlm chat --new" in refused.err
    fresh = project.run("chat", "--new", piped="Two?\n", env={"RLM_SESSION_TIMEOUT": "60"})
    assert fresh.answer == "2\n"


def test_models_without_a_price_are_capped_by_tokens(project: Project, server: ModelServer) -> None:
    big = Tokens(input=3_000, output=1_000)
    server.default("sub", lambda asked: Reply("yes", usage=big))
    server.reply(
        "root",
        cell("found = [llm_query(f'Look at {n}') for n in range(9)]"),
        "Some said yes.",
        cell("FINAL(1)"),
    )

    ended = project.ask("What do they say?", env={"RLM_MAX_TOKENS": "20000"})

    assert (ended.code, ended.out) == (6, b"Some said yes.\n")
    assert "The token budget of this question does not allow this call." in shown(server, request=1)
    assert "$?" in ended.err and "$0.00" not in ended.err
    assert "raise limits.max_tokens" in ended.err


def test_at_the_time_limit_a_batch_that_hangs_gives_what_has_come(
    project: Project, server: ModelServer
) -> None:
    def sub(asked: Json) -> Answer:
        hangs = asked["messages"][-1]["content"].endswith(("3", "5"))
        return Fault(how="hang") if hangs else numbered(asked)

    server.default("sub", sub)
    server.reply(
        "root",
        cell("found = llm_query_batched([f'Look at {n}' for n in range(8)])\nprint(found[3])"),
        cell("FINAL([str(f) for f in found if f])"),
    )

    ended = project.ask("What do they say?", "--json", "--timeout", "5")

    assert ended.code == 3, ended.err
    assert ended.json["answer"] == [f"reply {n}" for n in range(8) if n not in (3, 5)]
    assert ended.json["error"]["message"].startswith("No answer within 5 s.")
    assert ended.json["usage"]["sub_calls"] >= 6
    assert "The question is out of time: it had 5 s." in shown(server, request=1)


def test_a_request_that_is_broken_off_counts_as_an_estimate(project: Project, server: ModelServer) -> None:
    server.reply("root", Fault(how="hang"))
    with project.popen("run", "Wait.", "--json") as process:
        server.wait_for_requests(1, wait_s=30.0)
        process.send_signal(signal.SIGINT)
        ended = wait(process)

    assert ended.code == 130
    assert ended.json["usage"]["calls"] == 1 and ended.json["usage"]["input_tokens"] > 100
    assert "~" in ended.err
    assert server.requests[0].client_hung_up()
