"""Computes how much memory a model will take on a device that it was never loaded on. A loaded model tells its own."""

from __future__ import annotations

import math
from pathlib import Path

from app.checkpoint import ServedCheckpoint
from model.config import TransformerConfig

RUNTIME = 400 << 20  # bytes of a process with torch loaded, or of a CUDA context, about
SHARE = 0.8  # of a device's memory, for all models; the rest is for the system and for pictures at work
BYTES = {"float32": 4, "bfloat16": 2}  # of a number


def expected(checkpoint: ServedCheckpoint, slots: int, dtype: str) -> int:
    """Bytes that a worker of this model will take: its weights, the cache of its slots, and the runtime.

    dtype: of both, as a worker tells it.

    The numbers of the weights are counted, because files may hold them in another format.
    """
    config = checkpoint.config.transformer
    heads = config.kv_heads if isinstance(config, TransformerConfig) else config.heads
    positions = config.capacity + config.max_text
    cache = 2 * config.depth * slots * heads * positions * config.head_dim
    return (_numbers(checkpoint) + cache) * BYTES[dtype] + RUNTIME


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
