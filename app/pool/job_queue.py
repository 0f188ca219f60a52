"""The queue of jobs that no worker has. It says which job a worker gets next, and where the jobs of a dead worker go.

Jobs are given out in the order of their acceptance, several to a worker. A background job is given out only when no
other job waits. When a worker dies, its jobs come back:

- After a crash or a hang, the jobs that were being painted are suspects. The same worker paints each of them again,
  alone, so that a poisonous one harms no neighbour. A job under which two workers crashed or hung is poisonous, and is
  not painted again. The jobs that the worker had not begun go back to the queue's head.
- After a kill from outside, all jobs go back to the queue's head. Suspects stay suspects.
- A job that was being painted at three such kills may be the one that uses up the memory. From then on it is painted
  alone, and after every kill it goes to the queue's tail. So every job that waits at that moment is painted first. A
  job that comes later waits for one attempt at most. Kills never fail a job; its deadline ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.pool.deaths import Cause
from app.pool.device_worker import DeviceWorker
from app.pool.job import Job


class JobQueue:
    """The jobs that wait for these workers.

    given: pictures that were given out since the model was loaded. limit: as many end its turn, because another model
    waits; None for no limit.
    """

    def __init__(self, workers: Sequence[DeviceWorker]) -> None:
        self.given = 0
        self.limit: int | None = None
        self._workers = workers
        self._waiting: dict[str, Job] = {}  # by id, in the order in which they are given out
        self._background: dict[str, Job] = {}  # the same, of background jobs

    def __len__(self) -> int:
        return len(self._waiting) + len(self._background) + sum(len(worker.alone) for worker in self._workers)

    @property
    def spent(self) -> bool:
        """Whether no more may be given out: its turn is over."""
        return self.limit is not None and self.given >= self.limit

    def add(self, job: Job) -> None:
        """Put a new job at the tail."""
        (self._background if job.background else self._waiting)[job.id] = job

    def discard(self, job: Job) -> None:
        """Take a job out, if it is there."""
        self._waiting.pop(job.id, None)
        self._background.pop(job.id, None)
        for worker in self._workers:
            if job in worker.alone:
                worker.alone.remove(job)

    def give_out(self) -> Iterator[tuple[DeviceWorker, Job]]:
        """Take out every job that a worker has room for, and yield it with that worker.

        The caller must make the worker hold the job, or end the job, before it asks for the next pair.
        """
        for worker in self._workers:
            while worker.ready and worker.alone and not worker.held:
                yield worker, worker.alone.popleft()
        while (queue := self._waiting or self._background) and not self.spent:
            roomy = [worker for worker in self._workers if worker.has_room_for(queue is self._background)]
            if not roomy:
                return
            worker = min(roomy, key=lambda worker: worker.slots_needed)
            job = queue.pop(next(iter(queue)))
            self.given += job.unpainted
            if job.alone and worker.held:
                worker.alone.append(job)  # the worker gets nothing else until it is empty
            else:
                yield worker, job

    def take_back(self, worker: DeviceWorker, cause: Cause) -> list[Job]:
        """Take back the jobs of a worker whose process died. Returns the poisonous ones, which are not in the queue.

        If the process had begun none of them, any of them may be the reason, so all count as being painted.
        """
        held, worker.held = list(worker.held.values()), {}
        painted = [one.job for one in held if one.started] or [one.job for one in held]
        for job in painted:
            if cause is Cause.KILLED:
                job.kills += 1
            else:
                job.crashes += 1
        alive = [one.job for one in held if one.job.outcome is None]
        poisonous = [job for job in alive if job.poisonous]
        head: list[Job] = []
        tail: list[Job] = []
        for job in alive:
            if cause is Cause.KILLED and job.hungry:
                tail.append(job)
            elif cause is Cause.KILLED or job not in painted:
                head.append(job)
            elif not job.poisonous:
                worker.alone.append(job)
        if cause is Cause.KILLED:  # this worker may wait for long, and another may have room
            head += worker.alone
            worker.alone.clear()
        before, after = {job.id: job for job in head}, {job.id: job for job in tail}
        again = before | self._waiting | self._background | after
        self._waiting = {name: job for name, job in again.items() if not job.background}
        self._background = {name: job for name, job in again.items() if job.background}
        return poisonous
