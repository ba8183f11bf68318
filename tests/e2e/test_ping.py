"""`doctor --ping`: each configured model is asked once, and without it none is."""

from tests.e2e import Project
from tests.model_server import Fault, ModelServer, Reply, Tokens


def test_each_model_is_asked_once_and_any_answer_will_do(project: Project, server: ModelServer) -> None:
    project.configure(
        aliases={
            "same": {"model": "openai/root", "api_base": server.url},
            "gone": {"model": "openai/gone", "api_base": server.url},
            "mute": {"model": "openai/mute", "api_base": server.url},
        }
    )
    server.default("root", Reply("ok", usage=Tokens(input=12, output=3), together=3))
    server.default("sub", Reply("ok", together=3))
    server.default("gone", Fault(status=503, message="come back later"))
    server.default(
        "mute",
        Reply("", reasoning="hm", finish_reason="length", usage=Tokens(input=12, output=256), together=3),
    )

    ended = project.run("doctor", "--ping", "--json")

    assert ended.code == 1
    pings = {check["name"]: check for check in ended.json["checks"] if check["area"] == "ping"}
    assert [check["status"] for check in pings.values()] == ["ok", "ok", "failed", "ok"]
    root = pings['ping root model, alias "same" openai/root']
    assert (root["measured"]["input_tokens"], root["measured"]["output_tokens"]) == (12, 3)
    assert root["measured"]["cost_usd"] is None and "$?" in root["detail"]
    assert "come back later" in pings['ping alias "gone" openai/gone']["detail"]
    assert pings['ping alias "gone" openai/gone']["fix"]
    assert len(server.requests) == 4


def test_without_ping_no_model_is_called(project: Project, server: ModelServer) -> None:
    ended = project.run("doctor")
    assert "ping root" not in ended.answer
    assert server.requests == []
