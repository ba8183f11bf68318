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

from rlm import memory, prompts
from rlm.box.namespace import Request, RequestRefused
from rlm.box.wire import BytesSink
from rlm.consent import Consent
from rlm.documents import Document
from rlm.engine import Bounds, Engine
from rlm.errors import DocumentError, NoAnswer
from rlm.events import AskConsent, ChildFinished, ChildStarted, Event
from rlm.models import Model
from rlm.protocol import LoadFile, ReadHistory, SubCalls
from rlm.sandbox import Sandbox
from rlm.settings import Config
from rlm.subcalls import ChildTask, SubCallServer


@dataclass(slots=True, kw_only=True)
class CellRequests:
    """`server` is that of the question under way. `load` registers what the user agreed to."""

    config: Config
    sub: Model
    consent: Consent
    cwd: Path
    emit: Callable[[Event], None]
    load: Callable[[Sequence[str]], Sequence[Document]]
    history: Callable[[], list[dict[str, object]]]
    asks: bool
    sandbox: Sandbox = field(init=False)
    server: SubCallServer | None = None

    async def serve(self, request: Request, body: bytes, *, depth: int = 0) -> bytes:
        """Answer a request of a cell at `depth`. Raises `RequestRefused` with a reason for it to read."""
        match request:
            case SubCalls():
                if self.server is None:
                    raise RequestRefused("no question is being answered")
                return await self.server.serve(request, body, depth=depth)
            case LoadFile():
                return await self._load(request.path)
            case ReadHistory():
                return json.dumps(self.history()).encode()

    async def _load(self, path: str) -> bytes:
        try:
            real = self.consent.check(path, self.cwd)
            if not self.consent.allows(real) and not await self._ask(path, real):
                raise RequestRefused(
                    f"{path}: the user has not agreed to it. They can: rlm init {path}, or -f {path}, or "
                    f"by naming it as @{path} in the question, or a folder under allow in config.json."
                )
            self.consent.add(real)
            added = self.load([str(real)])
            await self.sandbox.prepare()
        except DocumentError as error:
            raise RequestRefused(str(error)) from None
        if problem := next((self.sandbox.prepared.problems.get(document.name) for document in added), None):
            raise RequestRefused(f"{path} {problem}")
        if not self.sandbox.has_mounted(added):
            raise RequestRefused(
                f"{path}: agreed, and there from the next step on. Call load_file({path!r}) again in your "
                "next block."
            )
        return self.sandbox.specs_of(self.sandbox.texts_of(added))

    async def _ask(self, path: str, real: Path) -> bool:
        if not self.asks:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        reason = self.consent.sensitive(real)
        self.emit(AskConsent(path=path, real_path=str(real), reason=reason, answer=answer))
        return await answer

    async def child(self, task: ChildTask) -> str:
        """Run a child RLM with a namespace and steps of its own. Raises `RlmError` when it has no answer."""
        query, context, depth = task.query, task.context, task.depth
        assert self.server is not None
        ledger = self.server.ledger

        async def serve(request: Request, body: bytes) -> bytes:
            return await self.serve(request, body, depth=depth)

        started = time.monotonic()
        self.emit(
            ChildStarted(
                child=task.child,
                parent=task.parent,
                batch=task.batch,
                index=task.index,
                question=query,
                context_chars=len(context),
                model=task.model.name,
                depth=depth,
            )
        )
        namespace = await self.sandbox.child(serve, context)
        limits = self.config.limits
        engine = Engine(
            root=task.model,
            cells=namespace,
            ledger=ledger,
            bounds=Bounds(max_steps=limits.max_steps, timeout_s=limits.timeout_s),
            emit=self.emit,
            messages=[memory.system(self.config, self.sub)],
            depth=depth,
            child=task.child,
        )
        opening = prompts.fill(
            "question",
            documents=f"`context` holds {len(context):,} characters.",
            namespace="The namespace holds no variables yet.",
            question=query,
        )
        try:
            outcome = await engine.run(opening)
        finally:
            namespace.close()
        text = outcome.value.data.decode() if isinstance(outcome.value, BytesSink) else outcome.text
        self.emit(
            ChildFinished(
                child=task.child,
                status=outcome.problem.status if outcome.problem else "ok",
                steps=outcome.steps,
                answer=text or "",
                usage=ledger.usage,
                duration_s=time.monotonic() - started,
                message=str(outcome.problem or ""),
                depth=depth,
            )
        )
        if text is None:
            raise outcome.problem or NoAnswer("The child RLM gave no answer.")
        return text
