"""Bytes of answers in flight, counted over all connections: files of pictures, and what clients have not taken yet.

Files wait for room, in the order of arrival. One client gets at most a share, half of the whole, so that others have
room beside it. Other bytes, a piece of an answer each connection, are counted and never wait: a probe is answered while
the budget is used up.

    claim = Claim(budget, lambda: "a client")
    await claim.take(3_000_000, deadline)  # raises Overloaded when there is no room before the deadline
    claim.give(3_000_000)
    claim.close()                          # gives back what is left
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from model.errors import Overloaded

SHARE = 2  # one client gets 1 / SHARE of the budget


@dataclass(eq=False)
class _Waiting:
    client: str
    size: int
    granted: asyncio.Future[None]


class Budget:
    """A bound on bytes of files, see the module. Belongs to the event loop.

    retry_after: seconds that a client who found no room is told to wait.
    """

    def __init__(self, total: int, retry_after: float) -> None:
        self.total = total
        self.retry_after = retry_after
        self._taken: Counter[str] = Counter()  # bytes of files, by client
        self._passing = 0
        self._waiting: list[_Waiting] = []  # the first one waits longest

    @property
    def used(self) -> int:
        """Bytes in flight."""
        return self._taken.total() + self._passing

    @contextmanager
    def passing(self, size: int) -> Iterator[None]:
        """Count so many bytes while this lasts, without waiting."""
        self._passing += size
        try:
            yield
        finally:
            self._passing -= size

    def try_take(self, client: str, size: int) -> bool:
        """Take so many bytes, if there is room now and nobody waits for it. Returns whether they were taken."""
        if self._waiting or not (self._fits(size) and self._in_share(client, size)):
            return False
        self._taken[client] += size
        return True

    async def take(self, client: str, size: int, deadline: float | None) -> None:
        """Wait for room. What is larger than the room there can be gets it alone. deadline: monotonic seconds.

        Raises Overloaded at the deadline. Cancelled, it has taken nothing.
        """
        waiting = _Waiting(client, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._admit()
        try:
            async with asyncio.timeout(None if deadline is None else max(deadline - time.monotonic(), 0)):
                await waiting.granted
        except BaseException as error:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            else:  # the room came in the same step of the loop
                self.give(client, size)
            self._admit()
            if not isinstance(error, TimeoutError):
                raise
            own = not self._in_share(client, size)
            whose = "this client's share" if own else "the server's memory"
            what = f"{whose} for answers is used up by answers that are not read, and none was within the time"
            raise Overloaded(what, self.retry_after, per_client=own) from None

    def give(self, client: str, size: int) -> None:
        """Give so many bytes back; a negative number takes more, without waiting."""
        self._taken[client] -= size
        if not self._taken[client]:
            del self._taken[client]
        self._admit()

    def _fits(self, size: int) -> bool:
        taken = self._taken.total()
        return not taken or taken + size <= self.total

    def _in_share(self, client: str, size: int) -> bool:
        taken = self._taken[client]
        return not taken or taken + size <= self.total // SHARE

    def _admit(self) -> None:
        """Let those in for whom there is room. Who has its share is passed over; who needs more room is not."""
        for waiting in list(self._waiting):
            if not self._in_share(waiting.client, waiting.size):
                continue
            if not self._fits(waiting.size):
                break
            self._waiting.remove(waiting)
            if not waiting.granted.done():
                self._taken[waiting.client] += waiting.size
                waiting.granted.set_result(None)


class Claim:
    """What one request has taken of the budget.

    client: tells whose share it counts to, an API key or an address; asked once, when something is taken.
    """

    def __init__(self, budget: Budget, client: Callable[[], str]) -> None:
        self.budget = budget
        self._name = client
        self._client: str | None = None
        self._size = 0
        self._closed = False

    @property
    def client(self) -> str:
        """Whose share it counts to."""
        if self._client is None:
            self._client = self._name()
        return self._client

    async def take(self, size: int, deadline: float | None) -> None:
        """As Budget.take."""
        await self.budget.take(self.client, size, deadline)
        self._size += size
        if self._closed:
            self.close()

    def try_take(self, size: int) -> bool:
        """As Budget.try_take."""
        taken = self.budget.try_take(self.client, size)
        self._size += taken * size
        return taken

    def give(self, size: int) -> None:
        """Give so many bytes back, or take -size more. A closed claim has nothing to give."""
        if not self._closed:
            self._size -= size
            self.budget.give(self.client, size)

    def close(self) -> None:
        """Give back all that is left. Once it is closed, nothing is taken any more."""
        self._closed = True
        if self._size:
            self._size, size = 0, self._size
            self.budget.give(self.client, size)
