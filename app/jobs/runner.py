"""Paints the store's jobs, in the background of everything else that the pool paints.

A job is painted in parts: some pictures of one prompt, which share one reading of it. As soon as a picture is painted
it is kept in the store. So whatever happens to this server, the pictures are kept, and the next server paints the
others with the same seeds.

The jobs of one client follow each other, and the clients take turns. So the server goes on with one job of each
client that waits, and gives each about the same number of pictures (`app.jobs.room`).

A server holds a lease for each of its jobs, and renews it. If the server dies, the leases end, and another server
goes on with the jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.jobs.calls import ENDING, Calls
from app.jobs.parts import Part, parts
from app.jobs.room import Room
from app.jobs.rows import Retention, State, StoredJob
from app.jobs.store import Store
from app.pool.job import Job, Order
from app.pool.worker_pool import WorkerPool
from model.errors import DalleError, Draining, InvalidRequest, RequestCancelled, UnknownPrompt
from model.inference.events import Painted

LEASE = 15.0  # seconds that a dead server's jobs wait for another one
RENEWED = 4.0  # seconds between renewals
WATCHED = 0.25  # seconds between looks whether another server has cancelled a job that this one paints
LOOKED = 1.0  # seconds between looks for jobs that another server has accepted
SWEPT = 300.0  # seconds between two sweeps
LEAST_AHEAD = 32  # pictures in the pool
CLIENTS = 100  # whose jobs are held at a time, so that many clients do not fill the memory
TIMED = 128  # pictures over which the pace is measured, and
LEAST_TIMED = 8  # before which it is not known
log = logging.getLogger("dalle.jobs")


@dataclass
class Live:
    """What this server knows of a job that it paints.

    given: set once its last part is in the pool. changed: set at every change. before: pictures that were kept before
    this server began. rows: of the pictures that it has begun, by the number of their part.
    """

    client: str
    given: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    before: int = 0
    rows: dict[int, int] = field(default_factory=dict)


class Runner:
    """Paints the jobs of a store. Use it on the event loop only.

    order: makes the order of a part. finish: makes a picture's file, and what is told. ahead: pictures that the pool is
    given before they can begin, so that no slot waits.
    """

    def __init__(
        self,
        store: Store,
        calls: Calls,
        pool: WorkerPool,
        keep: Retention,
        order: Callable[[StoredJob, Part, bytes | None], Order],
        finish: Callable[[Job, Painted], Awaitable[tuple[bytes, Mapping[str, Any]]]],
        ahead: int,
    ) -> None:
        self.store = store
        self.live: dict[str, Live] = {}
        self._calls = calls
        self._pool = pool
        self._keep = keep
        self._order = order
        self._finish = finish
        self._wake = asyncio.Event()
        self._room = Room(max(ahead, LEAST_AHEAD))
        self._painted: deque[float] = deque(maxlen=TIMED)  # monotonic times, the first that of the beginning
        self._ending = False  # the pool takes no more
        self._painting: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to paint."""
        self._tasks = [asyncio.create_task(run()) for run in (self._look, self._renew, self._sweep)]

    async def stop(self) -> None:
        """Paint no more, and give the jobs back, so that another server goes on at once."""
        tasks = [*self._tasks, *self._painting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=ENDING)  # one that failed in this moment may wait for a disk that is full
        with contextlib.suppress(Exception):  # a database that is gone or slow ends the leases all the same
            async with asyncio.timeout(ENDING):
                await self._calls.database(self.store.release)

    def wake(self) -> None:
        """Look for jobs now: one was accepted."""
        self._wake.set()

    async def cancel(self, job: StoredJob) -> StoredJob | None:
        """End the job as cancelled. Its slots are free one step later. None if it had ended before."""
        ended = await self._calls.database(self.store.end, job.id, State.CANCELLED)
        if task := self._painting.get(job.id):
            task.cancel()
        self._tell(job.id)
        return ended

    def rows(self, job_id: str, grid: int) -> int:
        """Rows of cells that are painted of this job, if this server paints it, or else 0. They never become fewer.

        grid: rows of a picture. Of `best_of` pictures as large a share counts as will be kept.
        """
        live = self.live.get(job_id)
        return live.before * grid + sum(live.rows.values()) if live else 0

    async def changed(self, job_id: str, seconds: float) -> None:
        """Wait until this server changes something of the job, at most so long. Other servers' changes are not told."""
        live = self.live.get(job_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await (live.changed.wait() if live else asyncio.sleep(seconds))

    def pace(self) -> float | None:
        """Seconds a picture, as measured lately over all jobs. None if no job is painted, or only since now."""
        if len(self._painted) <= LEAST_TIMED:
            return None
        return (time.monotonic() - self._painted[0]) / (len(self._painted) - 1)

    def _tell(self, job_id: str) -> None:
        if live := self.live.get(job_id):
            live.changed.set()
            live.changed = asyncio.Event()

    # --- the loops

    async def _look(self) -> None:
        """Give the pool a part whenever it has room. Before that, take a job of a client that has none waiting."""
        while True:
            self._wake.clear()
            begun = not self._room.full and await self._begin()
            if not self._room.let_in() and not begun:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOKED):
                        await self._wake.wait()

    async def _begin(self) -> bool:
        """Take the next job, and wait until its first part waits for room. Returns whether there was one."""
        waiting = {live.client for live in self.live.values() if not live.given}
        if self._ending or len(waiting) >= CLIENTS:
            return False
        models = [*self._pool.models.served]
        job = await self._calls.tried(self.store.claim, LEASE, models, [*self.live], waiting)
        if job is None:
            return False
        if not self.live:
            self._painted.append(time.monotonic())
        self.live[job.id] = Live(job.client)
        asks = asyncio.Event()
        task = self._painting[job.id] = asyncio.create_task(self._paint(job, asks))
        task.add_done_callback(partial(self._forget, job.id))
        task.add_done_callback(lambda _: asks.set())
        with contextlib.suppress(TimeoutError):  # a job whose image cannot be read now holds up no others
            async with asyncio.timeout(None if job.image is None else LOOKED):
                await asks.wait()
        return True

    def _forget(self, job_id: str, _: asyncio.Task[None]) -> None:
        self._tell(job_id)
        self._painting.pop(job_id, None)
        self.live.pop(job_id, None)
        if not self.live:
            self._painted.clear()
        self._wake.set()

    async def _renew(self) -> None:
        """Hold the leases of the jobs that are painted, and stop with those that were cancelled elsewhere, or taken."""
        renewed = 0.0
        while True:
            await asyncio.sleep(WATCHED)
            painting = dict(self._painting)
            if not painting:
                continue
            if time.monotonic() - renewed >= RENEWED:
                renewed = time.monotonic()
                held = await self._calls.tried(self.store.renew, [*painting], LEASE)
            else:
                held = await self._calls.tried(self.store.open, [*painting])
            for job_id, task in painting.items():
                if held is not None and job_id not in held:
                    task.cancel()

    async def _sweep(self) -> None:
        await self._calls.long(self.store.folder.tidy)
        while True:
            if gone := await self._calls.long(self.store.sweep, self._keep):
                log.info("%d pictures were removed from the store", gone)
            await asyncio.sleep(SWEPT)

    # --- one job

    async def _paint(self, job: StoredJob, asks: asyncio.Event) -> None:
        """Paint what is left of a job. asks: set once a part waits for room."""
        calls = self._calls
        try:
            image = None if job.image is None else await calls.surely(calls.files, self.store.folder.read, job.image)
            if job.image is not None and image is None:
                raise DalleError("the picture that it paints on is no longer there")
            kept = await calls.surely(calls.database, self.store.pictures, job.id)
            done = frozenset(picture.number for picture in kept)
            self.live[job.id].before = len(done)
            best_of = job.asked["fields"].get("best_of")
            async with asyncio.TaskGroup() as group:
                for part in parts(job.total, job.asked["count"], done, best_of is not None):
                    asks.set()
                    self._wake.set()
                    await self._room.enter(job.client, pictures := best_of or part.count)
                    task = group.create_task(self._part(job, part, image))
                    task.add_done_callback(partial(self._leave, pictures))  # also if it never began
                self.live[job.id].given = True
                self._wake.set()
        except* Draining:  # another server goes on at once, and not this one
            self._ending = True
            await self._calls.tried(self.store.release)
        except* RequestCancelled:
            pass  # the job has ended
        except* DalleError as errors:
            await self._fail(job, errors.exceptions[0])
        except* Exception as errors:
            log.exception("a fault of ours", exc_info=errors.exceptions[0])
            await self._fail(job, DalleError("internal error; the server's log has the details"))

    def _leave(self, pictures: int, _: asyncio.Task[None]) -> None:
        self._room.leave(pictures)
        self._wake.set()

    async def _fail(self, job: StoredJob, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        said = {"message": str(error), "type": type(error).__name__}
        if isinstance(error, InvalidRequest):
            said["field"] = error.field
        await self._calls.surely(self._calls.database, self.store.end, job.id, State.FAILED, said)

    async def _part(self, job: StoredJob, part: Part, image: bytes | None) -> None:
        try:
            await self._pictures(job, part, image)
        except UnknownPrompt as error:
            raise error.named(f"prompts[{part.prompt}]") if job.asked["several"] else error from None

    async def _pictures(self, job: StoredJob, part: Part, image: bytes | None) -> None:
        order = self._order(job, part, image)
        painting = await self._pool.submit(order)
        reader = painting.join()
        first, best = order.request.first_index, order.request.score
        live, chosen, rows = self.live[job.id], [], painting.rows_done
        try:
            async for event in reader:
                live.rows[part.number] = sum(rows) * part.count // len(rows)
                self._tell(job.id)
                if isinstance(event, Painted) and best:
                    chosen.append(event)
                elif isinstance(event, Painted):
                    await self._kept(job, part.number + event.index - first, painting, event)
            chosen.sort(key=lambda event: (-(event.score or 0.0), event.index))
            for place, event in enumerate(chosen[: part.count]):
                await self._kept(job, part.number + place, painting, event)
        finally:
            self._pool.leave(reader)

    async def _kept(self, job: StoredJob, number: int, painting: Job, event: Painted) -> None:
        """Keep a painted picture. Raises RequestCancelled if the job has ended without it."""
        data, told = await self._finish(painting, event)
        kept = (job.id, number, job.owner, told, data)
        _, after = await self._calls.surely(self._calls.files, self.store.keep, *kept)
        self._painted.append(time.monotonic())
        self._tell(job.id)
        if after is not None and not after.open and after.state is not State.COMPLETED:
            raise RequestCancelled("the job has ended")
