"""Tells how long a process has waited for a processor. A worker that waits does not hang; the machine is busy.

Linux counts the nanoseconds in which a thread was ready to run while others ran:
docs.kernel.org/scheduler/sched-stats.html.
"""

from __future__ import annotations

import contextlib
from pathlib import Path


class CpuWait:
    """The waits of a process at the moment when the object is made. It reads one small file for each thread."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._before = _read(pid)

    def since(self) -> float:
        """Seconds that the thread which waited longest has waited since. 0.0 where the kernel does not say."""
        return (
            max((waited - self._before.get(thread, 0) for thread, waited in _read(self._pid).items()), default=0) / 1e9
        )


def _read(pid: int | None) -> dict[str, int]:
    """Nanoseconds that each thread has waited so far. What cannot be read is left out: a thread that is just ending,
    or any while the server has no descriptor left.
    """
    found = {}
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[file.parent.name] = int(file.read_text().split()[1])
    return found
