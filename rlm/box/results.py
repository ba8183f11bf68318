"""What comes back from a worker: how a cell ended, what became of a snapshot."""

import dataclasses
from typing import Any

from rlm.box.wire import Sink

_ENDINGS = {
    "error": "the cell raised; what it assigned before is kept",
    "interrupted": "interrupted; what it assigned is kept",
}
_CAUSES = {
    "killed": "it was stopped and did not react to an interrupt",
    "signal": "its process died of {detail}",
    "exit": "it ended its process (exit status {detail})",
    "container": "its container was lost",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """How a cell ended. `status` is `ok`, `error`, `interrupted`, `final` or `rolled_back`.

    `shown` is what the root model sees of the output; `final` is the sink that took the value of FINAL.
    `reason` and `detail` say why a cell was rolled back; `timed_out` that its time limit ended it.
    """

    status: str
    number: int = 0
    error: str = ""
    shown: str = ""
    total_chars: int = 0
    kept_as: str = ""
    final: Sink | None = None
    final_format: str = ""
    checkpoint: bool = True
    active: str = ""
    reason: str = ""
    detail: str = ""
    namespace_lost: bool = False
    timed_out: bool = False
    duration_s: float = 0.0

    def sentence(self) -> str:
        """How the cell ended, for the model to read."""
        if self.status == "rolled_back":
            return self._rolled_back()
        if self.timed_out:
            return "interrupted: the cell used up its compute time; what it assigned is kept"
        note = _ENDINGS.get(self.status, self.status)
        return note if self.checkpoint else f"{note} (memory is short: this cell had no checkpoint)"

    def _rolled_back(self) -> str:
        if self.reason == "memory":
            limit = int(self.detail) / 1024**3 if self.detail.isdigit() else 0.0
            cause = f"it ran out of memory (limit {limit:.1f} GiB); work in smaller pieces"
        elif self.timed_out:
            cause = "it exceeded its time limit and did not react to an interrupt"
        else:
            cause = _CAUSES.get(self.reason, "its process died ({detail})").format(detail=self.detail)
        kept = "your variables are as they were before it"
        if self.namespace_lost:
            kept = "your variables are those of the last snapshot, check them with SHOW_VARS()"
        return f"the cell had no effect: {cause}; {kept}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotResult:
    """`skipped` holds name and reason of each value that could not be saved.

    `blobs` are digest and size in bytes of each large value that it needs.
    """

    ok: bool
    reason: str = ""
    sha256: str = ""
    skipped: tuple[tuple[str, str], ...] = ()
    variables: tuple[dict[str, Any], ...] = ()
    blobs: tuple[tuple[str, int], ...] = ()
    took_s: float = 0.0
