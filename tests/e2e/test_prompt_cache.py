"""Prompt caching over the steps of a question: the beginning stays as it was, and its end is marked."""

from tests.e2e import KEY, Project, cell
from tests.model_server import ModelServer, Reply, Tokens

CLAUDE = "claude-sonnet-4-5"
AT_CLAUDES = {
    "RLM_MODEL": f"anthropic/{CLAUDE}",
    "RLM_SUB_MODEL": f"anthropic/{CLAUDE}",
    "ANTHROPIC_API_KEY": KEY,
}


def test_the_steps_of_a_question_share_a_marked_beginning(project: Project, server: ModelServer) -> None:
    took = Tokens(input=10_000, output=100, cached=8_000, written=1_000)
    server.reply(
        CLAUDE,
        Reply(cell("x = 1"), usage=took),
        Reply(cell("print(llm_query('Say hello.'))"), usage=took),
        "hello",
        Reply(cell("FINAL('done')"), usage=took),
    )

    ended = project.ask("What?", "--json", env=AT_CLAUDES)

    assert ended.json["answer"] == "done"
    first, second, sub, third = (request.json for request in server.requests)
    assert "cache_control" not in str(sub)
    for asked in (first, second, third):
        assert asked["system"] == first["system"]
        assert asked["system"][-1]["cache_control"] == {"type": "ephemeral"}
        assert asked["messages"][-1]["content"][-1]["cache_control"] == {"type": "ephemeral"}
    for before, after in ((first, second), (second, third)):
        texts = [(said["role"], said["content"][0]["text"]) for said in before["messages"]]
        again = [(said["role"], said["content"][0]["text"]) for said in after["messages"]]
        assert again[: len(texts)] == texts
        assert str(after["messages"][:-2]).count("cache_control") == 0
    assert ended.json["usage"]["cached_tokens"] == 24_000
