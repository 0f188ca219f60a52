"""Tells how long a process has waited for a processor. A worker that waits does not hang; the machine is busy.

Linux counts the nanoseconds in which a thread ran, and those in which it was ready to run while others ran:
docs.kernel.org/scheduler/sched-stats.html. The threads of a step wait for each other, so that a step may wait as long
as all of them together.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NamedTuple


class CpuWait:
    """What a process does from the making of the object on. Each look reads one small file for each thread."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._first = self._last = _read(pid)
        self._at = time.monotonic()
        self._waited = 0.0

    def stuck(self, age: float) -> float:
        """Seconds of the last `age` in which the process did not wait, so that it could have made a step.

        To be asked often: between two looks it waits no longer than the time between them. A thread that ran counts,
        whatever the others did. All of `age` where the kernel does not say.
        """
        now, at = _read(self._pid), time.monotonic()
        waited = sum(max(0, one.waited - self._last.get(thread, one).waited) for thread, one in now.items()) / 1e9
        self._waited += min(waited, at - self._at)
        self._last, self._at = now, at
        ran = max((one.ran - self._first.get(thread, one).ran for thread, one in now.items()), default=0) / 1e9
        return max(age - self._waited, ran)


class _Thread(NamedTuple):
    ran: int  # nanoseconds
    waited: int


def _read(pid: int | None) -> dict[str, _Thread]:
    """What each thread has done so far. What cannot be read is left out: a thread that is just ending, or any while the
    server has no descriptor left.
    """
    found = {}
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError):
                ran, waited, *_ = file.read_text().split()
                found[file.parent.name] = _Thread(int(ran), int(waited))
    return found
