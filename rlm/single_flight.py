"""Of equal pieces of work that are under way at once, runs one. It keeps nothing once that has ended."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Of equal calls that are under way at once, runs one; the others get its result, or its failure.

    When the one that runs is cancelled, one of the others takes over.
    """

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[T]] = {}

    async def run(self, key: str, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, or of an equal one that is under way under the same `key`."""
        while (running := self._running.get(key)) is not None:
            await asyncio.wait([running])  # to give up waiting for it must not end it
            if not running.cancelled():
                return running.result()
        running = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            result = await call()
        except Exception as failure:
            running.set_exception(failure)
            running.exception()  # perhaps nobody waits for it
            raise
        except BaseException:
            running.cancel()
            raise
        else:
            running.set_result(result)
            return result
        finally:
            del self._running[key]
