"""How much memory this machine has, and how much of it a copy of a model's weights may take. Leaf."""

from __future__ import annotations

import os
from pathlib import Path

COPY = 0.25  # of the memory: as much may be kept a second time, in an order in which steps read it faster


def machine_memory(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes that the machine has, or this container (cgroup v2), in use or not."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(cgroup.read_text()))
    except (OSError, ValueError):  # no such cgroup, or "max"
        return machine


def may_copy(nbytes: int) -> bool:
    """Whether so many bytes of weights may be kept a second time."""
    return nbytes <= COPY * machine_memory()
