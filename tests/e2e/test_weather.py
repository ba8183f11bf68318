"""Foul weather at the provider: what each trouble does to a batch of sub-calls, and to the root model."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tests.e2e import Project, cell
from tests.model_server import Answer, Fault, Json, ModelServer, Reply, Tokens

CALL_TIMEOUT_S = 3
PARALLEL = 4
RETRY_AFTER_S = 2

PASSING: Mapping[str, Sequence[Answer]] = {
    "slow": [Reply("reply to slow", delay_s=0.5)],
    "500": [Fault(status=500)],
    "429": [Fault(status=429, retry_after_s=0.1)],
    "hang": [Fault(how="hang")],
    "garbage": [Fault(how="garbage")],
    "truncated": [Fault(how="truncated")],
    "reset": [Fault(how="reset")],
}
"""What is met before the reply comes."""
LASTING: Mapping[str, tuple[Answer, str]] = {
    "disk": (Fault(status=500, message="the disk is full", retry_after_s=0.01), "the disk is full"),
    "refused": (Fault(status=400, message="no such field"), "no such field"),
    "long": (Fault(status=400, message="prompt is too long"), "too long for openai/sub"),
    "silent": (Reply("", usage=Tokens(input=9, output=8192), finish_reason="length"), "took 8,192 tokens"),
}
"""What is met each time, and a part of the reason that the cell is given."""

SHOW = "[[bool(reply), str(reply)] for reply in replies]"


class Weather:
    """The sub model's script: trouble by the text of the prompt, else an echo."""

    def __init__(self) -> None:
        self.asked: defaultdict[str, int] = defaultdict(int)
        self.limited = 0
        self.closed_until_s = 0.0

    def __call__(self, request: Json) -> Answer:
        prompt = str(request["messages"][-1]["content"])
        self.asked[prompt] += 1
        if prompt.startswith("limited"):
            return self._limited(prompt)
        if prompt in LASTING:
            return LASTING[prompt][0]
        troubles = PASSING.get(prompt, ())
        at = self.asked[prompt] - 1
        return troubles[at] if at < len(troubles) else f"reply to {prompt}"

    def _limited(self, prompt: str) -> Answer:
        """The last of the first wave is told to wait; who comes too early then is turned away for good."""
        now = time.monotonic()
        if now < self.closed_until_s:
            return Fault(status=400, message="came too early")
        self.limited += 1
        if self.limited == PARALLEL:
            self.closed_until_s = now + RETRY_AFTER_S - 0.2
            return Fault(status=429, retry_after_s=RETRY_AFTER_S)
        return Reply(f"reply to {prompt}", delay_s=1.0 if self.limited < PARALLEL else 0.0)


def test_a_batch_keeps_its_order_and_its_length(project: Project, server: ModelServer) -> None:
    limited = [f"limited {number}" for number in range(3 * PARALLEL)]
    mixed = [
        prompt for pair in zip([*PASSING], [*LASTING, "fine", "well", "fair"], strict=True) for prompt in pair
    ]
    server.reply(
        "root",
        cell(f"replies = llm_query_batched({limited})\nfirst = {SHOW}"),
        cell(f"replies = llm_query_batched({mixed})\nFINAL([first, {SHOW}])"),
    )
    weather = Weather()
    server.default("sub", weather)

    ended = project.ask(
        "How is it?", env={"RLM_CALL_TIMEOUT": str(CALL_TIMEOUT_S), "RLM_PARALLEL": str(PARALLEL)}
    )

    first, second = json.loads(ended.answer)
    assert first == [[True, f"reply to {prompt}"] for prompt in limited]
    assert len(second) == len(mixed)
    for prompt, (good, text) in zip(mixed, second, strict=True):
        if prompt in LASTING:
            assert not good
            assert LASTING[prompt][1] in text
        else:
            assert (good, text) == (True, f"reply to {prompt}")
    asked_again = {"slow": 1, **dict.fromkeys([*PASSING][1:], 2), "disk": 6}
    assert {prompt: weather.asked[prompt] for prompt in mixed} == dict.fromkeys(mixed, 1) | asked_again


def test_the_root_model_answers_all_the_same(project: Project, server: ModelServer) -> None:
    troubles: list[list[Answer]] = [
        [Fault(status=429, retry_after_s=0.1), Fault(status=500, retry_after_s=0.1)],
        [Fault(how="hang")],
        [Fault(how="garbage")],
        [Fault(how="reset")],
        [Fault(how="truncated")],
    ]
    asked: defaultdict[int, int] = defaultdict(int)

    def root(request: Json) -> Answer:
        step = [message["role"] for message in request["messages"]].count("assistant")
        faults = troubles[step] if step < len(troubles) else []
        asked[step] += 1
        if asked[step] <= len(faults):
            return faults[asked[step] - 1]
        if faults:
            return cell(f"seen = globals().get('seen', []) + [{step}]")
        slowly = cell("FINAL(seen)", plan="Slowly, " + "but it comes, " * 20)
        return Reply(slowly, chunk_size=4, chunk_delay_s=0.06)  # longer in all than a silence may be

    server.default("root", root)

    ended = project.ask("How is it?", "--json", env={"RLM_CALL_TIMEOUT": str(CALL_TIMEOUT_S)})

    assert (ended.code, ended.json["answer"]) == (0, [0, 1, 2, 3, 4]), ended.err
    assert [asked[step] for step in sorted(asked)] == [3, 2, 2, 2, 2, 1]


def test_a_root_reply_that_breaks_off_is_not_run_and_nothing_before_it_is_lost(
    project: Project, server: ModelServer
) -> None:
    half = Fault(how="truncated", text=cell("FINAL('half')").removesuffix("```"))
    server.reply("root", cell("found = 41"), half, cell("FINAL(found + 1)"))
    server.reply("root", half, half, half, cell("FINAL(found)"))

    whole = project.ask("How is it?")
    broken = project.ask("How is it?", "--json")
    again = project.ask("Go on.")

    assert whole.answer == "42\n"
    assert (broken.code, broken.json["answer"]) == (1, None)
    assert broken.json["error"]["message"].startswith("The provider of openai/root failed.")
    assert broken.json["error"]["hint"] == "Try again in a while."
    assert again.answer == "41\n"
