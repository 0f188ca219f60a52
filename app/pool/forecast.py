"""Forecasts how long a job will take. All pictures have the same number of tokens, so a queue's cost is known."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Protocol


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
