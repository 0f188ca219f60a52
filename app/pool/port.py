"""The interface between the routes and the pool that paints.

    reader = (await pool.submit(order)).join()  # raises Overloaded, Draining, PromptTooLong, ...
    async for event in reader: ...
    pool.leave(reader)                          # always at the end

In every pool and at every moment accepted = completed + failed + cancelled + expired + in flight.
`app.pool.worker_pool` is the pool of processes on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from app.checkpoint import ServedCheckpoint
from app.pool.job import Job, Order, Reader


@dataclass(frozen=True)
class PoolStats:
    """Figures of the pool: some of one moment, some since its start."""

    accepted: int  # requests
    completed: int
    failed: int
    cancelled: int
    expired: int
    in_flight: int
    queued_requests: int  # accepted and not yet given to a worker
    pictures_in_flight: int  # accepted, and not yet painted
    queue_limit: int  # pictures
    pictures: int  # painted since the start
    tokens: int  # image tokens drawn since the start
    tokens_per_second: float
    workers: int
    workers_ready: int
    worker_deaths: Mapping[str, int]  # by cause: crash, hang, killed, start
    slots: int  # of the workers that are ready
    slots_busy: int
    heartbeat_age: float | None  # seconds since the oldest last step of a worker; None while none is ready
    draining: bool


class Pool(Protocol):
    """What the routes need of a pool."""

    checkpoint: ServedCheckpoint
    fatal: str | None  # why the server must end, None while it need not

    async def start(self) -> None:
        """Begin to load the model. It returns at once. Orders may be submitted before a worker is ready."""

    async def submit(self, order: Order) -> Job:
        """Accept an order. It waits only for the tokens of a long text, after it has reserved the order's place.

        Raises Overloaded, Draining, DeadlineExceeded, PromptTooLong or InvalidRequest, and then nothing is accepted.
        """

    def hold(self, order: Order) -> AbstractContextManager[None]:
        """Keep a place for an order while the context lasts. Raises what `submit` raises if there is no room.

        At the end the place is free again. Submit the order then at once, without an await in between.
        """

    def cancel(self, job: Job) -> None:
        """End the job. Its slots are free one step later. Nothing happens if it has ended."""

    def leave(self, reader: Reader) -> None:
        """Remove a reader whose client wants no more. The job is cancelled unless others read it, too."""

    def ahead(self, job: Job) -> int:
        """How many pictures are painted before the first one of this job. 0 once it has started."""

    def seconds_left(self, job: Job) -> float | None:
        """Seconds until its last picture is painted, at the measured pace. None while no worker is ready."""

    def stats(self) -> PoolStats:
        """The figures of the pool. It reads memory and waits for nothing."""

    def not_ready(self) -> str | None:
        """Why orders would not be painted now, or None if they would. It reads memory and waits for nothing."""

    async def drain(self, seconds: float) -> None:
        """Accept no more orders, and wait for the accepted ones. After `seconds` the remaining ones fail."""

    async def stop(self) -> None:
        """End the workers. Jobs that have not ended fail."""
