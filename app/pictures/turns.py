"""Places for which clients take turns. A client's second job waits until every other client has had its first one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A number of places. The waiting clients are served in turn. The jobs of one client are served in their order."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the first client is the next

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it while the context lasts. Raises the error that `refuse` is given."""
        await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    def refuse(self, error: Exception) -> None:
        """Raise `error` in all that wait."""
        for turn in [turn for queue in self._waiting.values() for turn in queue if not turn.done()]:
            turn.set_exception(error)
        self._waiting.clear()

    async def _wait(self, client: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:  # the place was given too late
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            client = next(iter(self._waiting))
            queue = self._waiting.pop(client)
            turn = queue.popleft()
            if queue:
                self._waiting[client] = queue  # behind all others
            if not turn.done():  # else it was cancelled
                turn.set_result(None)
                return
        self._free += 1
