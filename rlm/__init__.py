"""Ask anything of any amount of data: a Recursive Language Model in a locked-down Docker sandbox.

From here come `RLM`, `AsyncRLM`, `Answer` and `RlmError`; they are loaded when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlm.api import RLM, Answer, AsyncRLM
    from rlm.errors import RlmError

__version__ = "0.1.0"
__all__ = ["RLM", "Answer", "AsyncRLM", "RlmError", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "RlmError":
        from rlm.errors import RlmError

        return RlmError
    if name in __all__:
        from rlm import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
