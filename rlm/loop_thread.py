"""One event loop in a thread of its own, for all sessions of the Python API together.

litellm keeps connections of the loop that it first ran on, so a process has one for its model calls. It runs
from the first `join` to the last `leave`, and knows nothing of sessions.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from rlm.errors import Interrupted

T = TypeVar("T")


class Call(Generic[T]):
    """A coroutine that runs on the loop, seen from other threads.

    `ended` has its result once it has come to its end, with all that it cleans up; of one that was cancelled,
    `Interrupted`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        self.ended: concurrent.futures.Future[T] = concurrent.futures.Future()
        self.ended.set_running_or_notify_cancel()  # from here on, who waits for it cannot cancel it
        self._loop = loop
        self._task: asyncio.Task[T] | None = None
        loop.call_soon_threadsafe(self._begin, coroutine)

    def cancel(self) -> None:
        """Ask it to end; `ended` tells when it has."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _begin(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.ended.set_exception(Interrupted("The question was abandoned."))
        elif error := task.exception():
            self.ended.set_exception(error)
        else:
            self.ended.set_result(task.result())


class LoopThread:
    """The loop and its thread, while somebody uses them. Its methods may be called from any other thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def join(self) -> asyncio.AbstractEventLoop:
        """Use the loop from now on; it is started for the first user."""
        with self._lock:
            if self._loop is None:
                ready = threading.Event()
                self._thread = threading.Thread(target=self._run, args=(ready,), name="rlm-loop", daemon=True)
                self._thread.start()
                ready.wait()
            assert self._loop is not None
            self._users += 1
            return self._loop

    def leave(self) -> None:
        """Use it no more. With its last user it ends, and the connections to models with it."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            assert self._loop is not None and self._stop is not None and self._thread is not None
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._loop = self._stop = self._thread = None

    def _run(self, ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        from rlm.models import close_models

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await self._stop.wait()
        await close_models()


LOOP = LoopThread()
"""The one of this process."""
