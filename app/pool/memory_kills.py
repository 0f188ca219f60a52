"""Tells whether the kernel's OOM killer may have ended a worker. Then the kernel's count of such kills has risen.

The count is that of the server's control group if it can be read, else that of the whole machine. It does not say which
process was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

COUNTS = ("/sys/fs/cgroup/memory.events", "/proc/vmstat")  # each with a line "oom_kill NUMBER"


class MemoryKills:
    """The OOM killer's count at the moment when the object is made. It reads one small file of the kernel."""

    def __init__(self, files: Sequence[str] = COUNTS) -> None:
        self._files = files
        self._before = _read(files)

    def since(self) -> str:
        """Whether the count has risen since, in words that end a sentence about a process that was killed."""
        after = _read(self._files)
        if self._before is None or after is None or self._before[0] != after[0]:
            return "out of memory?"
        file, count = after
        if kills := count - self._before[1]:
            return f"out of memory? while it lived, oom_kill in {file} rose by {kills}"
        return f"not by the kernel for want of memory: oom_kill in {file} did not rise"


def _read(files: Sequence[str]) -> tuple[str, int] | None:
    """The first file that holds the count, and the count."""
    for file in files:
        try:
            words = [line.split() for line in Path(file).read_text().splitlines()]
            return file, next(int(pair[1]) for pair in words if pair[0] == "oom_kill")
        except (OSError, ValueError, IndexError, StopIteration):
            continue
    return None
