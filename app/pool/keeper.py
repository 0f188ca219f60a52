"""Keeps a worker process running on every device. If it dies, another one is started.

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
from app.pool.device_worker import DeviceWorker
from app.pool.early import EarlyWorker
from app.pool.supervisor import WorkerProcess
from app.settings import Settings

HURRIED_WAIT = 0.5  # seconds at most before a worker is started, once there is a hurry
log = logging.getLogger("dalle.pool")


class Keeper:
    """Keeps the processes of these workers.

    process: the class of worker processes. on_message: called with every message of a worker. on_death: called after a
    process died, while its worker still holds its jobs. give_up: called once a start, when no process is started any
    more, with the reason and whether it will be the same at every start. All three are called on the event loop.
    early: processes that take the first ones' places.
    """

    def __init__(
        self,
        workers: Sequence[DeviceWorker],
        settings: Settings,
        process: type[WorkerProcess],
        on_message: Callable[[DeviceWorker, Any], None],
        on_death: Callable[[DeviceWorker, Cause], None],
        give_up: Callable[[str, bool], None],
        early: Sequence[EarlyWorker] = (),
    ) -> None:
        self.deaths = Deaths()
        self._workers = workers
        self._settings = settings
        self._process = process
        self._on_message = on_message
        self._on_death = on_death
        self._give_up = give_up
        self._early = list(early)
        self._gave_up = False
        self._in_haste = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to start the workers. After `stop` they can be started again."""
        self._gave_up = False
        self._tasks = [asyncio.create_task(self._keep(worker)) for worker in self._workers]

    def hurry(self) -> None:
        """From now on wait HURRIED_WAIT at most before a worker is started. A wait that has begun is cut short."""
        self._in_haste.set()

    def seconds_to_start(self) -> float | None:
        """Seconds until a worker is started in the place of one that was killed; None if no worker waits for that."""
        times = [worker.resumes_at for worker in self._workers if worker.resumes_at is not None]
        return max(min(times) - time.monotonic(), 0.0) if times else None

    async def stop(self) -> None:
        """End the workers. No others are started."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.process.stop() for worker in self._workers if worker.process))

    def kill(self) -> None:
        """End the workers at once. This works when the event loop no longer runs."""
        for worker in self._workers:
            if worker.process:
                worker.process.kill()

    async def _keep(self, worker: DeviceWorker) -> None:
        try:
            while not self._gave_up:
                process = worker.process = self._new_process(worker)
                await process.start()
                death = await process.watch()
                wait = self._bury(worker, process, death)
                if wait:
                    await self._wait(worker, wait)
        except Exception as error:  # such as no memory for another process
            log.exception("the supervisor of %s failed", worker.options.device)
            self._end(f"no worker can be kept on {worker.options.device}: {error}")

    def _new_process(self, worker: DeviceWorker) -> WorkerProcess:
        process = self._process(
            worker.options,
            lambda message: self._on_message(worker, message),
            self._settings.heartbeat_timeout,
            self._settings.start_timeout,
            self._settings.log,
            self._settings.log_level,
        )
        if self._early:
            process.early = self._early.pop(0)
        return process

    def _bury(self, worker: DeviceWorker, process: WorkerProcess, death: Death) -> float:
        """Count a death, log it, and tell the pool. Returns the seconds until the next process is to be started."""
        too_many = self.deaths.add(death, time.monotonic())
        if process.start_failed and process.start_failed.permanent:
            self._end(process.start_failed.message, permanent=True)
            return 0.0
        wait = worker.backoff.after(death.cause, process.ready_seconds)
        then = f"; the next one is started in {wait:g} s" if wait else ""
        fields = {"fields": {"jobs": list(worker.held)}}
        log.error("worker %s on %s %s%s", process.pid, worker.options.device, death.text, then, extra=fields)
        if too_many:
            self._end(too_many)
            return 0.0
        self._on_death(worker, death.cause)
        return wait

    async def _wait(self, worker: DeviceWorker, seconds: float) -> None:
        worker.resumes_at = time.monotonic() + seconds
        try:
            await asyncio.sleep(min(seconds, HURRIED_WAIT))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(worker.resumes_at - time.monotonic()):
                    await self._in_haste.wait()
        finally:
            worker.resumes_at = None

    def _end(self, reason: str, permanent: bool = False) -> None:
        if not self._gave_up:
            self._gave_up = True
            self._give_up(reason, permanent)
