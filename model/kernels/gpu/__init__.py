"""A step of the decoder on a GPU as fused Triton kernels, beside PyTorch's operations. `fused_step` is the way in.

    table.py     what the kernels are told of each slot
    kernels.py   what is computed, in which order
    sampling.py  how a token is drawn
    weights.py   what is made of the weights beforehand
    step.py      the launches of a step

Triton comes with PyTorch for CUDA, and needs a C compiler when it first runs.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from model.kernels.gpu.table import Column
from model.kernels.step import SlotTensors
from model.transformer import KVCache, Transformer

if TYPE_CHECKING:
    from model.kernels.gpu.step import FusedStep

__all__ = ["Column", "can_fuse", "fused_step"]

log = logging.getLogger(__name__)


def can_fuse(transformer: object) -> TypeGuard[Transformer]:
    """Whether the kernels compute this network, where it is. They want multiples of their smallest tile.

    On a CPU only Triton's interpreter does, for tests: where the environment has TRITON_INTERPRET=1.
    """
    if not isinstance(transformer, Transformer):
        return False
    device = transformer.places.device.type
    if device != "cuda" and not (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return False
    config = transformer.config
    inputs = (config.dim, config.heads * config.head_dim, int(config.dim * config.mlp_ratio))
    whole = all(size % 16 == 0 for size in (*inputs, config.local_dim, config.code_dim))
    return whole and config.head_dim in (16, 32, 64, 128)


def fused_step(
    transformer: Transformer, cache: KVCache, slots: SlotTensors, table: Tensor, strict: bool
) -> FusedStep | None:
    """The fused step, compiled. None where it cannot be had; one log line says why."""
    try:
        from model.kernels.gpu.step import FusedStep

        with torch.inference_mode():
            step = FusedStep(transformer, cache, slots, table, strict)
            step.compile()
            if not step.check() and strict:
                log.warning("larger tiles of the fused kernels give other bits here, so strict mode does without them")
    except Exception as error:  # no Triton, no compiler, no folder for its cache, a GPU that it does not know
        reason = str(error).strip().partition("\n")[0]
        log.warning("the fused kernels are left out, so steps are slower: %s: %s", type(error).__name__, reason)
        return None
    return step
