"""Every error a user can meet, each with its exit code and what to do about it.

    RlmError                    1  failed
    ├── UsageError              2  the command line asks for something that cannot be
    │   └── DocumentError       2  a file is missing, binary, unreadable or not allowed
    ├── NoAnswer                3  the step or time limit came first; carries the best partial answer
    ├── ConfigError             4  a setting, a key or a model
    ├── SandboxError            5  Docker, the image, the container
    │   └── SandboxLost         5  the container went away in the middle
    ├── BudgetReached           6  carries the best partial answer
    ├── ModelError              1  the provider refused or could not be reached
    │   ├── PromptTooLarge      1  the prompt does not fit the model; never sent again as it is
    │   └── RateLimited         1  too many requests; always retryable, and a reason for all to wait
    ├── StateError              1  the state folder cannot be used
    │   └── StateLocked         1  another command holds it
    └── Interrupted           130  by the user

Caught at two edges only: a cell (the error becomes output that the model reads) and the command line
(it becomes a sentence and an exit code).
"""

from typing import ClassVar


class RlmError(Exception):
    """`what` happened and `why`, one sentence each; `hint` is one line on what to do."""

    exit_code: ClassVar[int] = 1
    status: ClassVar[str] = "error"

    def __init__(self, what: str, why: str = "", *, hint: str = "") -> None:
        super().__init__(f"{what} {why}".strip())
        self.what = what
        self.why = why
        self.hint = hint


class UsageError(RlmError):
    exit_code = 2


class DocumentError(UsageError):
    pass


class NoAnswer(RlmError):
    exit_code = 3
    status = "no_answer"


class ConfigError(RlmError):
    exit_code = 4


class SandboxError(RlmError):
    exit_code = 5


class SandboxLost(SandboxError):
    pass


class BudgetReached(RlmError):
    exit_code = 6
    status = "budget"


class ModelError(RlmError):
    """`retryable` tells whether the same request may succeed later; `retry_after_s` when to ask again."""

    def __init__(
        self,
        what: str,
        why: str = "",
        *,
        hint: str = "",
        retryable: bool = False,
        retry_after_s: float | None = None,
        given_up: bool = False,
    ) -> None:
        super().__init__(what, why, hint=hint)
        self.given_up = given_up
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class PromptTooLarge(ModelError):
    def __init__(self, what: str, why: str = "", *, hint: str = "") -> None:
        super().__init__(what, why, hint=hint)


class RateLimited(ModelError):
    def __init__(
        self, what: str, why: str = "", *, hint: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(what, why, hint=hint, retryable=True, retry_after_s=retry_after_s)


class StateError(RlmError):
    pass


class StateLocked(StateError):
    pass


class Interrupted(RlmError):
    exit_code = 130
    status = "interrupted"
