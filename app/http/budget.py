"""Bounds the bytes of answers in memory, over all connections: picture files, and pieces that no client has read yet.

Files wait for room in the order of arrival. One client gets at most half of the whole, so that others have room, too.
The pieces of answers, one for each connection, are counted and never wait. So a probe is answered even while the budget
is used up.

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
    """A bound on bytes of files; the module says how it works. Use it on the event loop only.

    retry_after: seconds after which a client that found no room should try again.
    """

    def __init__(self, total: int, retry_after: float) -> None:
        self.total = total
        self.retry_after = retry_after
        self._taken: Counter[str] = Counter()  # bytes of files, by client
        self._passing = 0
        self._waiting: list[_Waiting] = []  # in the order of arrival

    @property
    def used(self) -> int:
        """Bytes that are counted now: of files and of pieces."""
        return self._taken.total() + self._passing

    @contextmanager
    def passing(self, size: int) -> Iterator[None]:
        """Count `size` bytes of a piece while the context lasts. This never waits."""
        self._passing += size
        try:
            yield
        finally:
            self._passing -= size

    def try_take(self, client: str, size: int) -> bool:
        """Take `size` bytes if there is room now and nobody waits. Returns whether they were taken."""
        if self._waiting or not (self._fits(size) and self._in_share(client, size)):
            return False
        self._taken[client] += size
        return True

    async def take(self, client: str, size: int, deadline: float | None) -> None:
        """Wait for room and take it.

        More bytes than the whole budget are taken when no other file has any. More than a client's half are taken when
        the client has none. deadline: monotonic seconds, None for none. Raises Overloaded at the deadline. A cancelled
        call takes nothing.
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
            whose = "your share of the memory" if own else "the memory"
            what = f"{whose} for answers is full of answers that are not read yet, and the time for this one is over"
            raise Overloaded(what, self.retry_after, per_client=own) from None

    def give(self, client: str, size: int) -> None:
        """Give so many bytes back. A negative number takes more without waiting."""
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
        """Grant the waiting files for which there is room.

        A file whose client has used its share is passed over. A file for which there is no room blocks all behind it.
        """
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

    client: returns the client whose share is used, an API key or an address. It is called once, at the first use.
    """

    def __init__(self, budget: Budget, client: Callable[[], str]) -> None:
        self.budget = budget
        self._name = client
        self._client: str | None = None
        self._size = 0
        self._closed = False

    @property
    def client(self) -> str:
        """The client whose share is used."""
        if self._client is None:
            self._client = self._name()
        return self._client

    async def take(self, size: int, deadline: float | None) -> None:
        """Wait for room and take it, as Budget.take does."""
        await self.budget.take(self.client, size, deadline)
        self._size += size
        if self._closed:
            self.close()

    def try_take(self, size: int) -> bool:
        """Take room if there is some now, as Budget.try_take does."""
        taken = self.budget.try_take(self.client, size)
        self._size += taken * size
        return taken

    def give(self, size: int) -> None:
        """Give so many bytes back. A negative number takes more. A closed claim does nothing."""
        if not self._closed:
            self._size -= size
            self.budget.give(self.client, size)

    def close(self) -> None:
        """Give back all that is left. A closed claim takes nothing any more."""
        self._closed = True
        if self._size:
            self._size, size = 0, self._size
            self.budget.give(self.client, size)
