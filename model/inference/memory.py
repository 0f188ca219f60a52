"""The memory of a worker's device, and what the worker takes of it. Torch is imported when it is needed."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CONTEXT = 600 << 20  # bytes of a CUDA context with its kernels, about; torch does not count them
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which ru_maxrss is told


def memory_taken(device: torch.device) -> int:
    """The most bytes that this process has taken so far: of the GPU, or of the machine if `device` is the CPU."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device)) + CONTEXT
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def memory_of(device: torch.device, cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of the GPU's memory. Of the machine's, or of this container's (cgroup v2), if `device` is the CPU."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(cgroup.read_text()))
    except (OSError, ValueError):  # no such cgroup, or "max"
        return machine
