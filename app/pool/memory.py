"""How much memory a model will take on a device, before it was ever loaded. A loaded model tells what it took."""

from __future__ import annotations

import math

from app.checkpoint import ServedCheckpoint
from app.settings import Settings
from model.config import TransformerConfig

RUNTIME = 400 << 20  # bytes of a process with torch loaded, or of a CUDA context, about
SHARE = 0.8  # of a device's memory, for all models; the rest is for the system and for pictures at work
WIDE, NARROW = 4, 2  # bytes of a float32 and of a bfloat16


def expected(checkpoint: ServedCheckpoint, settings: Settings) -> int:
    """Bytes that a worker of this model will take: its weights, the cache of its slots, and the runtime.

    The weights on disk may have another number format than on the device, so their numbers are counted.
    """
    on_gpu = "cuda" in settings.device
    bytes_each = NARROW if settings.dtype == "bfloat16" or (settings.dtype == "auto" and on_gpu) else WIDE
    config = checkpoint.config.transformer
    heads = config.kv_heads if isinstance(config, TransformerConfig) else config.heads
    positions = config.capacity + config.max_text
    cache = 2 * config.depth * settings.slots * heads * positions * config.head_dim
    return (_numbers(checkpoint) + cache) * bytes_each + RUNTIME


def _numbers(checkpoint: ServedCheckpoint) -> int:
    """How many numbers the files of weights hold. A file that cannot be read counts as none; its loading will fail."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for file in checkpoint.path.glob("*.safetensors"):
        try:
            with safe_open(file, "numpy") as tensors:
                count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except (OSError, SafetensorError):
            continue
    return count
