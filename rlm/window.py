"""What of a turn's messages is sent, so that it fits the root model's window.

Messages are never lost: when they near the window, the middle of the turn is sent as one message made by
rule. Nothing is sent, priced or recorded here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rlm import summaries
from rlm.events import Usage
from rlm.models import ChatMessage, Model, estimate_tokens

ROOT_OUTPUT_TOKENS = 16_384
"""At most so long a reply of the root model."""
SHARE = 0.8
"""Of the window without the room for a reply; what is sent can only be estimated."""
UNKNOWN_TOKENS = 100_000
"""For a model whose window is not known."""
NEWEST_SHARE = 0.4
"""Of the limit, for the newest steps when the others are told in short, so that this is rarely done."""
LESS = 0.6
"""When a provider found it too long, the limit becomes this share of what was sent."""
COUNTED_TOKENS = 1_000
"""Of a shorter request the provider's own additions are too large a share to learn from."""
LONGEST_CHARS = 16_000
LEAST_CHARS = 1_000
"""Where nothing else helps, long messages of the newest steps are cut to something between these."""


def limit_tokens(root: Model) -> int:
    """How many tokens may be sent to this model; the first look waits for litellm."""
    window = root.context_window
    if not window:
        return UNKNOWN_TOKENS
    reply = min(ROOT_OUTPUT_TOKENS, root.max_output_tokens or ROOT_OUTPUT_TOKENS, window // 4)
    return int((window - reply) * SHARE)


@dataclass(slots=True)
class Window:
    """Of one turn. `opening` is where in its messages the question stands; before it are earlier turns.

    `earlier` may be sent in their place when room is short.
    """

    limit: int
    opening: int
    earlier: Sequence[ChatMessage] = ()

    _ratio: float = 1.0
    """How many more tokens the provider counted than were estimated."""
    _newest: int = 0
    """Messages from here on are sent as they are; 0 when all are."""
    _steps: ChatMessage | None = None
    """What is sent for those between the question and the newest ones."""
    _short: bool = False
    """Whether `earlier` is sent."""
    _longest: int | None = None

    def sent(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """Those of the turn's messages, and what stands for others, that are to be sent."""
        question = self.opening
        earlier = self.earlier if self._short else messages[1:question]
        steps = [self._steps] if self._steps else []
        newest = messages[self._newest or question + 1 :]
        return [messages[0], *earlier, messages[question], *steps, *map(self._cut, newest)]

    @property
    def question_at(self) -> int:
        """Where in what is sent the question stands."""
        return 1 + len(self.earlier) if self._short else self.opening

    def counted(self, sent: Sequence[ChatMessage], usage: Usage) -> None:
        """Learn from what the provider says that a request took."""
        guess = estimate_tokens(sent)
        if not usage.estimated and guess >= COUNTED_TOKENS:
            self._ratio = max(1.0, usage.input_tokens / guess)

    def was_too_small(self, sent: Sequence[ChatMessage]) -> None:
        """Learn that the provider did not take this much."""
        self.limit = min(self.limit, int(self._tokens(sent) * LESS))

    def is_near(self, messages: Sequence[ChatMessage]) -> bool:
        return self._tokens(self.sent(messages)) > self.limit

    def shorten(self, messages: Sequence[ChatMessage]) -> bool:
        """Send less from now on; False when all that can be told in short is already.

        First the steps between the question and the newest ones, then earlier turns, then long messages of
        the newest steps.
        """
        before = self.sent(messages)
        self._shorten_steps(messages)
        if self.is_near(messages) and self.earlier:
            self._short = True
        self._longest = None
        while self.is_near(messages) and (self._longest is None or self._longest > LEAST_CHARS):
            self._longest = LONGEST_CHARS if self._longest is None else self._longest // 2
        return self._tokens(self.sent(messages)) < self._tokens(before)

    def _shorten_steps(self, messages: Sequence[ChatMessage]) -> None:
        """Keep the newest step, and of those before it as many as fit their share of the limit."""
        first = self.opening + 1
        begins = [at for at in range(first, len(messages)) if messages[at]["role"] == "assistant"]
        if len(begins) < 2:
            return
        room = self.limit * NEWEST_SHARE
        fitting = [at for at in begins if self._tokens(messages[at:]) <= room]
        self._newest = max(self._newest, min(fitting, default=begins[-1]))
        if self._newest > first:
            steps = summaries.steps(messages[first : self._newest])
            self._steps = ChatMessage(role="user", content=steps)

    def _cut(self, message: ChatMessage) -> ChatMessage:
        content, longest = message["content"], self._longest
        if longest is None or len(content) <= longest:
            return message
        half = longest // 2
        text = f"{content[:half]}\n… (the rest is in `history`) …\n{content[-half:]}"
        return ChatMessage(role=message["role"], content=text)

    def _tokens(self, messages: Sequence[ChatMessage]) -> float:
        return estimate_tokens(messages) * self._ratio
