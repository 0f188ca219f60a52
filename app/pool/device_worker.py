"""A device of the pool, its present worker process, and the jobs that this process holds.

It makes no decisions. `job_queue` says which job it gets. `keeper` starts and replaces its process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from app.pool.deaths import Backoff
from app.pool.job import Job
from app.pool.supervisor import WorkerProcess
from model.inference.events import EngineStats
from model.inference.messages import Ready, WorkerOptions
from model.inference.requests import GenerationRequest

LOOKAHEAD = 2  # a worker is given jobs for so many times its slots, so that no slot waits for the next job


@dataclass(eq=False)
class Held:
    """A job that a worker was given. It stays held until the worker answers that the job has ended.

    A worker answers a cancel one step later. Until then the job holds its slots.
    request: the part of the job that the worker was told to paint. unpainted: pictures of `request` that are not
    painted yet. started: whether the worker has begun to paint.
    """

    job: Job
    request: GenerationRequest
    unpainted: int
    started: bool = False

    @property
    def slots(self) -> int:
        """Slots of the KV cache that its unpainted pictures take."""
        return self.request.slots_per_image * self.unpainted


@dataclass(eq=False)
class DeviceWorker:
    """One device of the pool. "A worker died" means that its process did.

    process: the present process, or the last one if it has died; None before the first. stats: those of its last
    heartbeat. held: by the job's id. alone: jobs that this worker paints next, each without other jobs beside it.
    resumes_at: monotonic seconds at which the next process is started; None unless the worker waits for that.
    """

    options: WorkerOptions
    process: WorkerProcess | None = None
    stats: EngineStats | None = None
    held: dict[str, Held] = field(default_factory=dict)
    alone: deque[Job] = field(default_factory=deque)
    backoff: Backoff = field(default_factory=Backoff)
    resumes_at: float | None = None

    @property
    def ready(self) -> Ready | None:
        """The message that the process sent when it was ready. None while no process can paint."""
        return self.process.ready if self.process and not self.process.ended.done() else None

    @property
    def slots_needed(self) -> int:
        """Slots of the KV cache that all unpainted pictures of the held jobs take."""
        return sum(held.slots for held in self.held.values())

    @property
    def seconds_per_row(self) -> float:
        """Seconds to paint one row of a picture's cells; 0.0 while no process is ready.

        Taken from the last heartbeat, and before the first one from the warm-up.
        """
        if (ready := self.ready) is None:
            return 0.0
        step = self.stats.seconds_per_step if self.stats else ready.seconds_per_step
        return step * ready.steps / ready.grid

    def has_room_for(self, background: bool) -> bool:
        """Whether it can be given another job. It cannot while a job of `alone` waits or is painted.

        background: whether that is a background job. Such a job takes no room from others: in the worker
        theirs go first.
        """
        if self.ready is None or self.alone or any(held.job.alone for held in self.held.values()):
            return False
        if background:
            return self.slots_needed < LOOKAHEAD * self.ready.slots  # a slot is free before its picture is painted
        own = sum(held.slots for held in self.held.values() if not held.job.background)
        return own < LOOKAHEAD * self.ready.slots
