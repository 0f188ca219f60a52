"""Room in the pool for pictures of jobs. The clients share it equally.

It is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). Its time is counted in pictures. A part starts when
its client's last one ends, or now if that is later, and ends as many pictures later. The earliest start is next.
"""

from __future__ import annotations

import asyncio


class Room:
    """Room for `most` pictures. The last part that is let in may be larger than what is left."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._within = 0
        self._now = 0  # the start of the part that was let in last
        self._ends: dict[str, int] = {}  # of each client's last part
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # start, pictures, turn

    @property
    def full(self) -> bool:
        """Whether no part is let in now."""
        return self._within >= self._most

    def let_in(self) -> bool:
        """Let the next part in, if there is room. Returns whether one was let in."""
        self._waiting = [one for one in self._waiting if not one[2].done()]  # some were cancelled
        if self.full or not self._waiting:
            return False
        chosen = min(self._waiting, key=lambda one: one[0])
        self._waiting.remove(chosen)
        self._now, pictures, turn = chosen
        self._ends = {client: end for client, end in self._ends.items() if end > self._now}
        self._within += pictures
        turn.set_result(None)
        return True

    async def enter(self, client: str, pictures: int) -> None:
        """Wait until the part is let in. `leave` gives its places back."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        start = max(self._now, self._ends.get(client, 0))
        self._ends[client] = start + pictures
        self._waiting.append((start, pictures, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was let in too late
                self.leave(pictures)
            raise

    def leave(self, pictures: int) -> None:
        """Give the places of a part back."""
        self._within -= pictures
