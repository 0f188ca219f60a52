"""One of the pool's models: its checkpoint, the jobs that wait for it, and its workers while it is in memory.

It makes no decisions. `residents` says when it is loaded and put away, and the pool what happens to its jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from typing import Any

from app.checkpoint import ServedCheckpoint
from app.pool.deaths import Cause
from app.pool.device_worker import DeviceWorker
from app.pool.early import EarlyWorker
from app.pool.job import Job
from app.pool.job_queue import JobQueue
from app.pool.keeper import Keeper
from app.pool.supervisor import WorkerProcess
from app.settings import Settings
from model.inference.messages import Ready, WorkerOptions


class State(Enum):
    """Whether a model is in memory."""

    AWAY = auto()
    LOADING = auto()
    LOADED = auto()
    LEAVING = auto()


class Lane:
    """A model of the pool.

    memory: bytes that it takes on a device, as expected and then as measured. used: number of the job that it was
    given last, counted over all models. turn: number of its last loading, counted in the same way. 0 is never.
    failed: whether it can never be loaded. gave_up: whether no worker of it is started any more, until it is put away
    and loaded again. kills: workers that were killed from outside while it was loading. known: whether it was ever
    ready. idle_since: monotonic seconds since which it has had no work; None while it has.
    settled: set when its loading has come to an end. The callbacks and `early` are those of `Keeper`.
    """

    def __init__(
        self,
        name: str,
        checkpoint: ServedCheckpoint,
        settings: Settings,
        process: type[WorkerProcess],
        on_message: Callable[[Lane, DeviceWorker, Any], None],
        on_death: Callable[[Lane, DeviceWorker, Cause], None],
        give_up: Callable[[Lane, str, bool], None],
        early: Sequence[EarlyWorker] = (),
    ) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.state = State.AWAY
        self.memory = 0
        self.used = 0
        self.turn = 0
        self.failed = False
        self.gave_up = False
        self.kills = 0
        self.known = False
        self.idle_since: float | None = None
        self.settled = asyncio.Event()
        self.workers = [
            DeviceWorker(
                WorkerOptions(
                    checkpoint=str(checkpoint.path),
                    device=device,
                    slots=settings.slots,
                    threads=settings.threads,
                    dtype=settings.dtype,
                    strict=settings.strict,
                    known=checkpoint.known,
                )
            )
            for device in settings.devices
        ]
        self.queue = JobQueue(self.workers)  # the jobs that no worker has
        self.keeper = Keeper(
            self.workers,
            settings,
            process,
            lambda worker, message: on_message(self, worker, message),
            lambda worker, cause: on_death(self, worker, cause),
            lambda reason, permanent: give_up(self, reason, permanent),
            early,
        )

    @property
    def ready(self) -> Ready | None:
        """The message of the first worker that can paint; None while none can."""
        return next((worker.ready for worker in self.workers if worker.ready), None)

    @property
    def painting(self) -> bool:
        """Whether a worker holds jobs, or has jobs of its own to try again."""
        return any(worker.held or worker.alone for worker in self.workers)

    @property
    def has_work(self) -> bool:
        """Whether jobs wait for it or are painted."""
        return self.painting or len(self.queue) > 0

    def give_out(self) -> Iterator[tuple[DeviceWorker, Job]]:
        """As `JobQueue.give_out`; nothing unless the model is loaded and stays so."""
        if self.state is State.LOADED and not self.gave_up:
            yield from self.queue.give_out()
