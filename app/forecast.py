"""How long a job will still take. A picture has always as many tokens, so the cost of a queue is known."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from app.job import Job


def rows_until_done(jobs: Iterable[Job], job: Job, grid: int, slots: int) -> int:
    """Rows of cells to be painted one after another until the last picture of `job` is done.

    jobs: in the order in which they are given slots, `job` among them. grid: rows of a picture. slots: of all workers;
    a picture holds as many as `rows_each` of its job says, and all slots advance at one pace.
    """
    free = [0] * slots  # a heap: the rows after which each slot is free
    for other in jobs:
        ends = [0]
        for left in (grid - done for done in other.rows_done if done < grid):
            taken = [heapq.heappop(free) for _ in range(min(other.rows_each, slots))]
            ends.append(taken[-1] + left)
            for _ in taken:
                heapq.heappush(free, ends[-1])
        if other is job:
            return max(ends)
    return 0
