"""Forecasts how long a job will take. All pictures have the same number of tokens, so a queue's cost is known."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Protocol

from app.pool.device_worker import DeviceWorker


class Work(Protocol):
    """A job, or an order that may become one."""

    @property
    def rows_done(self) -> Sequence[int]:
        """For each picture the number of its rows of cells that are painted."""

    @property
    def slots_per_image(self) -> int:
        """Slots of the KV cache that a picture takes."""


def rows_until_done(jobs: Iterable[Work], job: Work, grid: int, slots: int) -> int:
    """How many rows of cells are painted, one after another, until the last picture of `job` is done.

    All slots are taken to be equally fast.
    jobs: in the order in which they are given slots, `job` among them. grid: rows of a picture. slots: of all workers.
    """
    free = [0] * slots  # a heap: the rows after which each slot is free
    for other in jobs:
        ends = [0]
        for left in (grid - done for done in other.rows_done if done < grid):
            taken = [heapq.heappop(free) for _ in range(min(other.slots_per_image, slots))]
            ends.append(taken[-1] + left)
            for _ in taken:
                heapq.heappush(free, ends[-1])
        if other is job:
            return max(ends)
    return 0


def seconds_until_done(jobs: Iterable[Work], job: Work, workers: Iterable[DeviceWorker]) -> float | None:
    """Seconds until `job`, which is among `jobs`, is done at the workers' measured pace. None while none is ready."""
    ready = [(worker, worker.ready) for worker in workers if worker.ready]
    if not ready:
        return None
    slots = sum(one.slots for _, one in ready)
    pace = sum(worker.seconds_per_row for worker, _ in ready) / len(ready)
    return rows_until_done(jobs, job, ready[0][1].grid, slots) * pace


def slots_a_second(workers: Iterable[DeviceWorker]) -> float:
    """The measured pace: how many slots finish a picture in a second. 0.0 while no worker is ready."""
    pace = 0.0
    for worker in workers:
        if ready := worker.ready:
            step = worker.stats.seconds_per_step if worker.stats else ready.seconds_per_step
            pace += ready.slots / max(step * ready.steps, 1e-3)
    return pace


def seconds_for(pictures: int, slots_per_picture: float, pace: float) -> float:
    """Seconds until so many pictures are painted. pace: `slots_a_second`; a picture takes 1 s while it is 0."""
    return pictures * slots_per_picture / pace if pace else float(pictures)
