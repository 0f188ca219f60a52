"""The port between the routes and whatever paints: take an order, answer for it, say how things stand.

    reader = (await pool.submit(order)).join()  # Overloaded, Draining, PromptTooLong, ...: nothing was taken
    async for event in reader: ...
    pool.leave(reader)                          # always, at the end

The ledger of every pool holds at every moment: accepted = completed + failed + cancelled + expired + in flight.
`app.pool.worker_pool` is the pool over processes of this machine.
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
    """The pool at one moment, and since its start."""

    accepted: int  # requests
    completed: int
    failed: int
    cancelled: int
    expired: int
    in_flight: int
    queued_requests: int  # accepted, and not yet with a worker
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
    heartbeat_age: float | None  # seconds, of the worker least lately heard of; None before the first is ready
    draining: bool


class Pool(Protocol):
    """What the routes know of painting."""

    checkpoint: ServedCheckpoint
    fatal: str | None  # why the server has to end, once it has

    async def start(self) -> None:
        """Begin to load. Returns at once; orders may be submitted before a worker is ready."""

    async def submit(self, order: Order) -> Job:
        """Take an order, or raise: Overloaded, Draining, DeadlineExceeded, PromptTooLong, InvalidRequest.

        Its place is reserved before it is worked on; waits for nothing but the tokens of a long text.
        """

    def hold(self, order: Order) -> AbstractContextManager[None]:
        """Keep a place for an order while work is done for it, or raise what `submit` would for want of room.

        The place is free at the end: submit the order at once, without waiting for anything in between.
        """

    def cancel(self, job: Job) -> None:
        """End the job; its slots are free one step later. Nothing happens if it has ended."""

    def leave(self, reader: Reader) -> None:
        """The reader's client wants no more: cancel the job unless others read it, too."""

    def ahead(self, job: Job) -> int:
        """Pictures that are painted before the first of this job; 0 once it has started."""

    def seconds_left(self, job: Job) -> float | None:
        """Until its last picture is drawn, by the pace measured; None while no worker is ready."""

    def stats(self) -> PoolStats:
        """Reads memory and waits for nothing."""

    def not_ready(self) -> str | None:
        """Why orders would not be painted now, None if they would. Reads memory."""

    async def drain(self, seconds: float) -> None:
        """Take no more orders, wait for those accepted, and fail the rest after `seconds`."""

    async def stop(self) -> None:
        """End the workers; what is still in flight is failed."""
