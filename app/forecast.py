"""How long a job will still take, from what has been seen of it, and before that from the server's pace."""

from __future__ import annotations

import heapq
import time

from app.job import Job
from app.pool import Pool

MEMORY = 0.3  # weight of the newest measurement in the moving mean


class Forecast:
    """Seconds left of one job. grid: rows of a picture. Tell it of every Progress by `note`."""

    def __init__(self, job: Job, grid: int) -> None:
        self._job = job
        self._grid = grid
        self._rows: list[int] | None = None
        self._noted = 0.0  # monotonic
        self._at_once = 1  # pictures
        self._row_seconds: float | None = None  # for a row of all the pictures that are painted at a time

    def note(self) -> None:
        """The job's rows_done have changed."""
        now, rows = time.monotonic(), list(self._job.rows_done)
        before = self._rows or [0] * len(rows)
        since = self._noted if self._rows else self._job.started or now
        if (advance := max(new - old for new, old in zip(rows, before, strict=True))) > 0 and now > since:
            measured = (now - since) / advance
            self._row_seconds = measured + (1 - MEMORY) * ((self._row_seconds or measured) - measured)
        self._rows, self._noted = rows, now
        self._at_once = max(self._at_once, sum(0 < done < self._grid for done in rows))

    def seconds_left(self, pool: Pool) -> float | None:
        """Until the last picture is drawn; None while nothing is known. A tenth of a second is exact enough."""
        if self._row_seconds is not None:
            rows = self._rows_left() - (time.monotonic() - self._noted) / self._row_seconds
            return round(max(rows, 0.0) * self._row_seconds, 1)
        pace = pool.stats().tokens_per_second
        if not pace:
            return None
        pictures = pool.ahead(self._job) + self._job.unpainted
        return round(pictures * self._grid**2 / pace, 1)

    def _rows_left(self) -> int:
        """Rows one after another: pictures that wait begin, in order, where one that is painted ends."""
        rows = self._rows or []
        running = [self._grid - done for done in rows if 0 < done < self._grid]
        running += [0] * (self._at_once - len(running))
        heapq.heapify(running)
        for _ in range(rows.count(0)):
            heapq.heapreplace(running, running[0] + self._grid)
        return max(running)
