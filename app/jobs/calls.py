"""Calls the store from the event loop, on threads.

Files have threads of their own. So a bucket that hangs keeps no lease from being renewed, and nobody from its jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from app.jobs.faults import StoreAway, StoreFault, StoreFull
from app.jobs.threads import Threads

PATIENCE = 20.0  # seconds that a call may take
ENDING = 1.0  # seconds that the end of the server waits for a store that does not answer
LOOKED = 1.0  # seconds until a loop goes on after a fault
AGAIN = 5.0  # seconds between attempts while the disk is full, or the store cannot be reached
T = TypeVar("T")
log = logging.getLogger("dalle.jobs")


class Calls:
    """The threads. Use it on the event loop only."""

    def __init__(self) -> None:
        self._database = Threads(4, "database")
        self._files = Threads(8, "files")

    async def close(self, last: Callable[[], object]) -> None:
        """Take no more calls, and call `last` when those that are running have ended.

        It waits ENDING seconds for this. What has not ended by then ends with the process; the store bears that.
        """

        def end() -> None:
            self._database.shutdown()
            self._files.shutdown()
            last()

        ending = Threads(1, "ending")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDING):
                await asyncio.get_running_loop().run_in_executor(ending, end)
        ending.shutdown(wait=False)

    async def database(self, method: Callable[..., T], *arguments: Any) -> T:
        """Call a method that uses the database only. Raises StoreAway if it takes too long."""
        return await self._on(self._database, PATIENCE, method, *arguments)

    async def files(self, method: Callable[..., T], *arguments: Any) -> T:
        """Call a method that reads or writes files. Raises StoreAway if it takes too long."""
        return await self._on(self._files, PATIENCE, method, *arguments)

    async def long(self, method: Callable[..., T], *arguments: Any) -> T | None:
        """Call a method that may take any time. A fault is logged, and None is returned."""
        return await self._logged(self._on(self._files, None, method, *arguments))

    async def tried(self, method: Callable[..., T], *arguments: Any) -> T | None:
        """As `database`; a fault is logged, and None is returned."""
        return await self._logged(self.database(method, *arguments))

    async def surely(self, call: Callable[..., Awaitable[Any]], method: Callable[..., T], *arguments: Any) -> T:
        """As `database` or `files`; while the disk is full or the store cannot be reached, it waits and tries again."""
        while True:
            try:
                return await call(method, *arguments)
            except (StoreFull, StoreAway) as error:
                error.tell("; the job waits")
                await asyncio.sleep(AGAIN)

    async def _on(self, threads: Executor, seconds: float | None, method: Callable[..., T], *arguments: Any) -> T:
        working = asyncio.get_running_loop().run_in_executor(threads, lambda: method(*arguments))
        try:
            async with asyncio.timeout(seconds):
                return await working
        except TimeoutError:
            why = f"no end of {method.__name__} within {seconds:g} s"
            raise StoreAway("the store does not answer now", why) from None

    async def _logged(self, calling: Awaitable[T]) -> T | None:
        try:
            return await calling
        except StoreFault as error:
            error.tell()
        except Exception as error:
            log.error("a fault of ours", exc_info=error, extra={"seldom": True})
        await asyncio.sleep(LOOKED)
        return None
