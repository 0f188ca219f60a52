"""Computes how much memory a model will take on a device that it was never loaded on. A loaded model tells its own."""

from __future__ import annotations

import math
from pathlib import Path

from app.checkpoint import ServedCheckpoint
from model.config import TransformerConfig
from model.memory import may_copy

RUNTIME = 400 << 20  # bytes of a process with torch loaded, or of a CUDA context, about
SHARE = 0.8  # of a device's memory, for all models; the rest is for the system and for pictures at work
BYTES = {"float32": 4, "bfloat16": 2}  # of a number


def expected(checkpoint: ServedCheckpoint, slots: int, dtype: str, device: str) -> int:
    """Bytes that a worker of this model will take: its weights, the cache of its slots, and the runtime.

    dtype: of both, as a worker tells it. device: where it is, as a worker tells it.

    The numbers of the weights are counted, because files may hold them in another format. On the CPU those of another
    family count twice, where a second copy may be kept. That of our own is small beside the runtime.
    """
    config = checkpoint.config.transformer
    heads = config.kv_heads if isinstance(config, TransformerConfig) else config.heads
    positions = config.capacity + config.max_text
    cache = 2 * config.depth * slots * heads * positions * config.head_dim
    weights = _numbers(checkpoint) * BYTES[dtype]
    copy = weights if device == "cpu" and not isinstance(config, TransformerConfig) and may_copy(weights) else 0
    return weights + copy + cache * BYTES[dtype] + RUNTIME


def _numbers(checkpoint: ServedCheckpoint) -> int:
    """How many numbers the files of weights hold. A file that cannot be read counts as none; its loading will fail."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for file in filter(Path.is_file, checkpoint.path.glob("*.safetensors")):
        try:
            with safe_open(file, "numpy") as tensors:
                count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except (OSError, SafetensorError):
            continue
    return count
