"""What cells ask of the host: models, files, the history of the session, and child RLMs.

Nothing here trusts a cell: a path needs the user's consent, a model has to be configured, and a child has
the ledger, the clock and the container of its parent.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlm.box.namespace import Request, RequestRefused
from rlm.calls import CallReply
from rlm.children import TIME_SHARE, ChildRun
from rlm.consent import Consent
from rlm.deadline import answered
from rlm.documents import Document
from rlm.errors import DocumentError, NoAnswer
from rlm.events import AskConsent, Event
from rlm.ledger import Ledger
from rlm.ledger_view import Tally
from rlm.protocol import AGREED, LoadFile, ReadHistory, SubCalls
from rlm.records import ConsentGiven
from rlm.sandbox import Sandbox
from rlm.settings import Config
from rlm.state import State
from rlm.subcalls import ChildTask, SubCallServer


def agree_to_folder(folder: Path, consent: Consent, state: State) -> None:
    """The user said yes to all that is in this folder, in this session and in those that follow."""
    state.append(ConsentGiven(path=str(folder)))
    consent.add(folder)


@dataclass(slots=True, kw_only=True)
class CellRequests:
    """`server` is that of the question under way, and `deadline` tells when its time is up, as a reading of
    `time.monotonic`. `load` registers what the user agreed to.
    """

    config: Config
    consent: Consent
    cwd: Path
    emit: Callable[[Event], None]
    load: Callable[[Sequence[str]], Sequence[Document]]
    history: Callable[[], list[dict[str, object]]]
    asks: bool
    sandbox: Sandbox = field(init=False)
    server: SubCallServer | None = None
    deadline: Callable[[], float] = lambda: float("inf")
    _deadlines: dict[int, float] = field(default_factory=dict)
    _clocks: dict[int, Callable[[float], None]] = field(default_factory=dict)
    """Those of the children under way, by their numbers."""

    async def serve(
        self, request: Request, body: bytes, *, depth: int = 0, child: int = 0, ledger: Ledger | None = None
    ) -> bytes:
        """Answer a request of a cell of the RLM `child` at `depth`, which pays with `ledger`.

        Raises `RequestRefused` with a reason for it to read.
        """
        match request:
            case SubCalls():
                if self.server is None:
                    raise RequestRefused("no question is being answered")
                return await self.server.serve(request, body, depth=depth, child=child, ledger=ledger)
            case LoadFile():
                return await self._load(request.path, depth=depth)
            case ReadHistory():
                return json.dumps(self.history()).encode()

    async def _load(self, path: str, *, depth: int) -> bytes:
        try:
            real = self.consent.check(path, self.cwd)
            if not self.consent.allows(real) and not await self._ask(path, real):
                raise RequestRefused(
                    f"{path}: the user has not agreed to it. They can: rlm init {path}, or -f {path}, or "
                    f"by naming it as @{path} in the question, or a folder under allow in config.json."
                )
            self.consent.add(real)
            # A child's library may lack what the session has; that is not loaded anew.
            known = [document for document in self.sandbox.documents if depth and document.path == real]
            added = known or self.load([str(real)])
            await self.sandbox.prepare()
        except DocumentError as error:
            raise RequestRefused(str(error)) from None
        if problem := next((self.sandbox.prepared.problems.get(document.name) for document in added), None):
            raise RequestRefused(f"{path} {problem}")
        if depth and not self.sandbox.has_mounted(added):
            raise RequestRefused(
                f"{path}: agreed, and there for whoever asked you from its next step on, but not here. "
                "Answer without it, and say that you need it."
            )
        if not self.sandbox.has_mounted(added):
            raise RequestRefused(f"{path}: {AGREED}. Call load_file({path!r}) again in your next block.")
        return self.sandbox.specs_of(self.sandbox.texts_of(added))

    async def _ask(self, path: str, real: Path) -> bool:
        if not self.asks:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        reason = self.consent.sensitive(real)
        self.emit(AskConsent(path=path, real_path=str(real), reason=reason, answer=answer))
        return await answered(answer, self.server.extend) if self.server else await answer

    async def child(self, task: ChildTask) -> CallReply:
        """Run a child RLM with a worker and steps of its own. Raises `RlmError` when it has no full answer.

        Its time ends before that of the RLM that asked.
        """
        assert self.server is not None
        ledger, now = Tally(task.ledger), time.monotonic()
        asker_s = self._deadlines.get(task.parent) or self.deadline()
        timeout_s = min(self.config.limits.timeout_s, (asker_s - now) * TIME_SHARE)
        if timeout_s <= 0:
            raise NoAnswer("There is no time left for a child RLM.")

        async def serve(request: Request, body: bytes) -> bytes:
            return await self.serve(request, body, depth=task.depth, child=task.child, ledger=ledger)

        run = ChildRun(
            task=task,
            config=self.config,
            server=self.server,
            sandbox=self.sandbox,
            emit=self.emit,
            ledger=ledger,
            timeout_s=timeout_s,
            on_engine=lambda engine: self._clocks.update({task.child: engine.extend}),
        )
        self._deadlines[task.child] = now + timeout_s
        try:
            return CallReply(await run.answer(serve), ledger.usage)
        finally:
            del self._deadlines[task.child]
            self._clocks.pop(task.child, None)

    def extend(self, seconds: float) -> None:
        """Give time back to the children under way, as to the turn: a user took it."""
        for number in self._deadlines:
            self._deadlines[number] += seconds
        for extend in self._clocks.values():
            extend(seconds)
