"""The memory of a worker's device, and what the worker takes of it. Torch is imported when it is needed."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

from model.memory import machine_memory

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


def memory_of(device: torch.device) -> int:
    """Bytes of the GPU's memory. Of the machine's, or of this container's, if `device` is the CPU."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()
