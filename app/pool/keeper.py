"""Keeps a worker process running on every lane. If it dies, another one is started.

`deaths` says how long the keeper waits before that, and when it gives up. The pool decides what happens to the jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from app.pool.deaths import Cause, Death, Deaths
from app.pool.lane import Lane
from app.pool.supervisor import WorkerProcess
from app.settings import Settings

HURRIED_WAIT = 0.5  # seconds at most before a worker is started, once there is a hurry
log = logging.getLogger("dalle.pool")


class Keeper:
    """Keeps the workers of these lanes.

    process: the class of worker processes. on_message: called with every message of a worker. on_death: called after a
    worker died, while its lane still holds its jobs. give_up: called once, with the reason, when no other worker is
    started any more. All three are called on the event loop.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        settings: Settings,
        process: type[WorkerProcess],
        on_message: Callable[[Lane, Any], None],
        on_death: Callable[[Lane, Cause], None],
        give_up: Callable[[str], None],
    ) -> None:
        self.deaths = Deaths()
        self._lanes = lanes
        self._settings = settings
        self._process = process
        self._on_message = on_message
        self._on_death = on_death
        self._give_up = give_up
        self._gave_up = False
        self._in_haste = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to start the workers."""
        self._tasks = [asyncio.create_task(self._keep(lane)) for lane in self._lanes]

    def hurry(self) -> None:
        """From now on wait HURRIED_WAIT at most before a worker is started. A wait that has begun is cut short."""
        self._in_haste.set()

    def seconds_to_start(self) -> float | None:
        """Seconds until a worker is started in the place of one that was killed; None if no lane waits for that."""
        times = [lane.resumes_at for lane in self._lanes if lane.resumes_at is not None]
        return max(min(times) - time.monotonic(), 0.0) if times else None

    async def stop(self) -> None:
        """End the workers. No others are started."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(lane.worker.stop() for lane in self._lanes if lane.worker))

    def kill(self) -> None:
        """End the workers at once. This works when the event loop no longer runs."""
        for lane in self._lanes:
            if lane.worker:
                lane.worker.kill()

    async def _keep(self, lane: Lane) -> None:
        try:
            while not self._gave_up:
                worker = lane.worker = self._new_worker(lane)
                await worker.start()
                death = await worker.watch()
                wait = self._bury(lane, worker, death)
                if wait:
                    await self._wait(lane, wait)
        except Exception as error:  # such as a lack of memory for another process
            log.exception("the supervisor of %s failed", lane.options.device)
            self._end(f"no worker can be kept on {lane.options.device}: {error}")

    def _new_worker(self, lane: Lane) -> WorkerProcess:
        return self._process(
            lane.options,
            lambda message: self._on_message(lane, message),
            self._settings.heartbeat_timeout,
            self._settings.start_timeout,
            self._settings.log,
            self._settings.log_level,
        )

    def _bury(self, lane: Lane, worker: WorkerProcess, death: Death) -> float:
        """Count a death, log it, and tell the pool. Returns the seconds until the next worker is to be started."""
        too_many = self.deaths.add(death, time.monotonic())
        if worker.start_failed and worker.start_failed.permanent:
            self._end(worker.start_failed.message)
            return 0.0
        wait = lane.backoff.after(death.cause, worker.ready_seconds)
        then = f"; the next one is started in {wait:g} s" if wait else ""
        fields = {"fields": {"jobs": list(lane.held)}}
        log.error("worker %s on %s %s%s", worker.pid, lane.options.device, death.text, then, extra=fields)
        if too_many:
            self._end(too_many)
            return 0.0
        self._on_death(lane, death.cause)
        return wait

    async def _wait(self, lane: Lane, seconds: float) -> None:
        lane.resumes_at = time.monotonic() + seconds
        try:
            await asyncio.sleep(min(seconds, HURRIED_WAIT))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._in_haste.wait(), lane.resumes_at - time.monotonic())
        finally:
            lane.resumes_at = None

    def _end(self, reason: str) -> None:
        if not self._gave_up:
            self._gave_up = True
            self._give_up(reason)
