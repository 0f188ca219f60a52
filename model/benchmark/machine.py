"""The machine: its name, and what it was measured to read and to multiply in this run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from model.inference.cores import usable_cores

BLOCK = 2**28  # bytes that are read on a CPU to measure memory: more than its caches hold
BLOCKS = tuple(part << 20 for part in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128))  # that some caches hold
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Machine:
    """The machine.

    narrow: the narrowest number format for weights that it multiplies by itself, "bfloat16" or "float32". Floors are
    taken with it. read: bytes read a second, of a block that no cache holds. multiply: float operations a second of
    square matrices, in `narrow`. instructions: those of its processor that matter for matrices. near: for smaller
    blocks, ascending, their bytes and the bytes read a second, which may come from caches.
    """

    processor: str
    cores: int
    threads: int
    device: str
    torch: str
    python: str
    instructions: tuple[str, ...]
    narrow: str
    read: float
    multiply: float
    near: tuple[tuple[int, float], ...] = ()

    def reading(self, size: float) -> float:
        """Bytes read a second of a block of `size` bytes that is read again and again; between two that were measured
        it is interpolated."""
        sizes, speeds = zip(*self.near, (BLOCK, self.read), strict=True)
        return float(np.interp(size, sizes, speeds))

    @property
    def number_bytes(self) -> int:
        """Bytes of a number of `narrow`."""
        return 2 if self.narrow == "bfloat16" else 4


def measure_machine(device: torch.device) -> Machine:
    """Name the machine and measure it. Takes one to three seconds."""
    instructions = _instructions()
    native = device.type == "cuda" or any(name.endswith("bf16") for name in instructions)
    narrow = torch.bfloat16 if native else torch.float32
    return Machine(
        processor=processor_name(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        torch=torch.__version__,
        python=platform.python_version(),
        instructions=instructions,
        narrow=str(narrow).removeprefix("torch."),
        read=_read(device, 2**30 if device.type == "cuda" else BLOCK),
        multiply=_multiply(device, narrow),
        near=() if device.type == "cuda" else tuple((size, _read(device, size)) for size in BLOCKS),
    )


def processor_name() -> str:
    """The processor's name, as the system tells it."""
    found = _cpuinfo("model name")
    return found or platform.processor() or platform.machine()


def _instructions() -> tuple[str, ...]:
    flags = _cpuinfo("flags").split()
    return tuple(name for name in INSTRUCTIONS if name in flags)


def _cpuinfo(key: str) -> str:
    """The first entry of that name in Linux's list of processors, "" where there is none."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith(key):
                    return line.split(":", 1)[1].strip()
    return ""


def _read(device: torch.device, size: int) -> float:
    """Bytes a second, the best of several passes of two kinds: a sum, and a product of two halves."""
    count = size // 4
    block = torch.ones(count, device=device)
    half = count // 2
    repeats = max(6, min(200, BLOCK // size))
    seconds = min(
        best(block.sum, device, repeats),
        best(lambda: torch.dot(block[:half], block[half : 2 * half]), device, repeats),
    )
    return 4 * count / seconds


def _multiply(device: torch.device, dtype: torch.dtype) -> float:
    side = 8192 if device.type == "cuda" else 1536
    a = torch.ones(side, side, device=device, dtype=dtype)
    return 2 * side**3 / best(lambda: a @ a, device, 6)


def best(work: Callable[[], object], device: torch.device, repeats: int, most: float = 10.0) -> float:
    """Seconds of the fastest of `repeats` runs after one that does not count; of fewer after `most` seconds in all."""
    until = time.perf_counter() + most
    work()
    found = float("inf")
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        found = min(found, time.perf_counter() - began)
        if time.perf_counter() > until:
            break
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
