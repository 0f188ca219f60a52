"""Decides which models are in memory, loads them and puts them away.

It makes one move at a time, and never blocks the event loop.

- The default model is loaded first. Another one is loaded when the first job waits for it.
- If there is no room, models without work are put away, the least recently used one first.
- If all have work, they take turns. While a model waits for room, a loaded one gets no more than a turn's pictures,
  counted from its loading. When these are painted it is put away, and its other jobs wait for its next turn. The model
  that has waited for its turn longest is loaded next. Turns are counted in pictures, so the order never depends on how
  fast a model is.
- A model other than the default one is put away after IDLE seconds without work.

A model that is larger than the whole budget is loaded alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.pool.device_worker import LOOKAHEAD
from app.pool.lane import Lane, State
from app.pool.memory import SHARE, expected
from app.settings import Settings

IDLE = 900.0  # seconds
log = logging.getLogger("dalle.pool")


class Move(NamedTuple):
    """A model to be loaded, or put away if `load` is false."""

    lane: Lane
    load: bool


def next_move(lanes: Sequence[Lane], budget: float, turn: int) -> Move | None:
    """The next move, None if there is none now. It sets how many pictures each model may be given.

    budget: bytes for all loaded models. turn: pictures of a turn. No model is loading or leaving.
    """
    loaded = [lane for lane in lanes if lane.state is State.LOADED]
    if failed := [lane for lane in loaded if lane.gave_up]:
        return Move(failed[0], load=False)
    waiting = [lane for lane in lanes if lane.state is State.AWAY and len(lane.queue) and not lane.failed]
    coming = min(waiting, key=lambda lane: lane.turn, default=None)
    room = budget - sum(lane.memory for lane in loaded)
    if coming is not None and (not loaded or coming.memory <= room):
        return Move(coming, load=True)
    for lane in loaded:
        lane.queue.limit = None if coming is None else turn
    if coming is None and (room >= 0 or len(loaded) < 2):
        return None
    idle = [lane for lane in loaded if not lane.has_work]
    if idle:
        return Move(min(idle, key=lambda lane: lane.used), load=False)
    if coming is not None:
        spent = [lane for lane in loaded if lane.queue.spent and not lane.painting]
        if spent:
            return Move(min(spent, key=lambda lane: lane.turn), load=False)
    return None


class Residents:
    """Keeps the models of a pool in memory or away. lanes: the default one first.

    dispatch: gives jobs to workers that have room. gone: called with a model that was put away. idle_seconds: of a
    model without work, until it is put away.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        settings: Settings,
        dispatch: Callable[[], None],
        gone: Callable[[Lane], None],
        idle_seconds: float,
    ) -> None:
        self._lanes = lanes
        self._settings = settings
        self._dispatch = dispatch
        self._gone = gone
        self._idle_seconds = idle_seconds
        self._turn = LOOKAHEAD * settings.slots * len(settings.devices)
        self._device_memory = 0
        self._dtype, self._device = "float32", "cpu"
        self._turns = itertools.count(1)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load the default model."""
        self._begin(self._lanes[0])
        if len(self._lanes) > 1:
            self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Look for a move: the work of a model has changed."""
        self._wake.set()

    def arrived(self, lane: Lane) -> None:
        """A worker of this model can paint."""
        if lane.state is State.LOADING:
            ready = [worker.ready for worker in lane.workers if worker.ready]
            self._dtype, self._device = ready[0].dtype, ready[0].device
            self._device_memory = self._device_memory or min(one.device_memory for one in ready)
            lane.memory = max(one.memory for one in ready) or lane.memory
            lane.state = State.LOADED
            lane.settled.set()

    @property
    def budget(self) -> float:
        """Bytes that the loaded models may take on a device. Endless until the device's memory is known."""
        return self._settings.memory or int(SHARE * self._device_memory) or float("inf")

    async def stop(self) -> None:
        """End all workers. None are started any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(lane.keeper.stop() for lane in self._lanes))

    async def _run(self) -> None:
        try:
            await self._lanes[0].settled.wait()
            for lane in self._lanes:
                asked = lane.checkpoint, self._settings.slots, self._dtype, self._device
                lane.memory = lane.memory or await asyncio.to_thread(expected, *asked)
            while True:
                self._wake.clear()
                self._note_idle()
                move = next_move(self._lanes, self.budget, self._turn) or self._long_idle()
                if move is None:
                    self._dispatch()  # limits may have been lifted
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._seconds_to_wait()):
                            await self._wake.wait()
                elif move.load:
                    await self._load(move.lane)
                else:
                    await self._put_away(move.lane)
        except Exception:
            log.exception("models are loaded and put away no more")
            raise

    def _begin(self, lane: Lane) -> None:
        lane.state = State.LOADING
        lane.gave_up = False
        lane.kills = 0
        lane.turn = next(self._turns)
        lane.queue.given = 0
        lane.queue.limit = self._turn if lane.turn > 1 else None  # which `next_move` lifts, if no other model waits
        lane.settled.clear()
        lane.keeper.start()

    async def _load(self, lane: Lane) -> None:
        log.info("loading %s, which takes about %d MiB of %.0f", lane.name, lane.memory >> 20, self.budget / (1 << 20))
        self._begin(lane)
        await lane.settled.wait()
        if lane.gave_up:
            await self._put_away(lane)
        self._dispatch()

    async def _put_away(self, lane: Lane) -> None:
        lane.state = State.LEAVING
        await lane.keeper.stop()
        self._gone(lane)
        lane.state = State.AWAY
        log.info("%s was put away", lane.name)

    def _note_idle(self) -> None:
        for lane in self._lanes:
            idle = lane.state is State.LOADED and not lane.has_work
            lane.idle_since = (lane.idle_since or time.monotonic()) if idle else None

    def _long_idle(self) -> Move | None:
        """The move that puts away a model without work for long. None if there is none."""
        now = time.monotonic()
        for lane in self._lanes[1:]:
            if lane.idle_since is not None and now - lane.idle_since >= self._idle_seconds:
                return Move(lane, load=False)
        return None

    def _seconds_to_wait(self) -> float | None:
        """Seconds until a model has been idle for long; None if none is idle."""
        times = [lane.idle_since for lane in self._lanes[1:] if lane.idle_since is not None]
        return max(0.0, min(times) + self._idle_seconds - time.monotonic()) if times else None
