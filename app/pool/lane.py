"""One device of the pool: its worker process of the moment, and the jobs that this holds. Decides nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from app.pool.job import Job
from app.pool.supervisor import WorkerProcess
from model.inference.events import EngineStats
from model.inference.messages import Ready, WorkerOptions

LOOKAHEAD = 2  # times its slots that a worker is given in rows, so that no slot waits for the pipe


@dataclass(eq=False)
class Held:
    """A job that a worker has. Kept until the worker has let go of it, which after a cancel is a step later."""

    job: Job
    first_index: int
    rows: int  # rows of one picture
    pictures: int  # not yet painted
    started: bool = False


@dataclass(eq=False)
class Lane:
    """One device: its worker process of the moment, and what that holds."""

    options: WorkerOptions
    worker: WorkerProcess | None = None
    stats: EngineStats | None = None
    held: dict[str, Held] = field(default_factory=dict)
    suspects: deque[Job] = field(default_factory=deque)

    @property
    def ready(self) -> Ready | None:
        return self.worker.ready if self.worker and not self.worker.ended.done() else None

    @property
    def rows(self) -> int:
        return sum(held.rows * held.pictures for held in self.held.values())

    @property
    def seconds_per_row(self) -> float:
        """Of the cells of a picture, as measured; by the warm-up, until there is more. 0.0 while there is no worker."""
        if (ready := self.ready) is None:
            return 0.0
        step = self.stats.seconds_per_step if self.stats else ready.seconds_per_step
        return step * ready.steps / ready.grid

    @property
    def has_room(self) -> bool:
        """Whether the worker can be given another job: not while it paints suspects."""
        quarantined = bool(self.suspects) or any(held.job.deaths for held in self.held.values())
        return self.ready is not None and not quarantined and self.rows < LOOKAHEAD * self.ready.slots
