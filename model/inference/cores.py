"""How many cores this process may use. Leaf: imports nothing of ours."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The cores of the affinity mask, less where a container's CPU quota (cgroup v2) is smaller; at least 1.

    A library that starts a thread for each core of the host, under a quota of two, waits more than it works.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        if quota != "max":
            cores = min(cores, round(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no such cgroup: no quota
    return max(1, cores)
