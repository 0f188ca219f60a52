"""A lane is one device of the pool. It knows its present worker process and the jobs that this worker holds.

A lane makes no decisions: `job_queue` says which job it gets, `worker_pool` starts and replaces its worker.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from app.pool.deaths import Backoff
from app.pool.job import Job
from app.pool.supervisor import WorkerProcess
from model.inference.events import EngineStats
from model.inference.messages import Ready, WorkerOptions

LOOKAHEAD = 2  # a worker is given rows for so many times its slots, so that no slot waits for the next job


@dataclass(eq=False)
class Held:
    """A job that a worker was given. It stays held until the worker answers that the job has ended.

    A worker answers a cancel one step later. Until then the job holds its rows.
    first_index: of the pictures that this worker paints. rows: of the cache, for one picture. pictures: not yet
    painted. started: whether the worker has begun to paint.
    """

    job: Job
    first_index: int
    rows: int
    pictures: int
    started: bool = False


@dataclass(eq=False)
class Lane:
    """One device of the pool.

    worker: the present process, or the last one if it has died; None before the first. stats: its last heartbeat's.
    held: by the job's id. alone: jobs that this lane paints next, each without a neighbour. resumes_at: monotonic
    seconds at which the next worker is started, None unless the lane waits for that.
    """

    options: WorkerOptions
    worker: WorkerProcess | None = None
    stats: EngineStats | None = None
    held: dict[str, Held] = field(default_factory=dict)
    alone: deque[Job] = field(default_factory=deque)
    backoff: Backoff = field(default_factory=Backoff)
    resumes_at: float | None = None

    @property
    def ready(self) -> Ready | None:
        """What the worker said when it was ready; None while no worker can paint."""
        return self.worker.ready if self.worker and not self.worker.ended.done() else None

    @property
    def rows(self) -> int:
        """Rows of the cache that the held jobs still need."""
        return sum(held.rows * held.pictures for held in self.held.values())

    @property
    def seconds_per_row(self) -> float:
        """Seconds to paint one row of a picture's cells; 0.0 while no worker is ready.

        Taken from the last heartbeat, and before the first one from the warm-up.
        """
        if (ready := self.ready) is None:
            return 0.0
        step = self.stats.seconds_per_step if self.stats else ready.seconds_per_step
        return step * ready.steps / ready.grid

    @property
    def has_room(self) -> bool:
        """Whether the worker can be given another job. It cannot while a job is painted, or waits, alone."""
        alone = bool(self.alone) or any(held.job.alone for held in self.held.values())
        return self.ready is not None and not alone and self.rows < LOOKAHEAD * self.ready.slots
