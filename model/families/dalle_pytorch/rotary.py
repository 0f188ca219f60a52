"""Rotary positions of DALLE-pytorch: they turn queries, keys and values, in pairs of neighbouring values.

A third of a head turns with the place in the text, a third with the row and a third with the column of the picture.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from model.families.dalle_pytorch.config import DallePytorchConfig

_FAR = 8192  # the place in the text that image tokens have
_OUTSIDE = -10.0  # the row and column that text tokens have; the picture's go from -1 to 1


class Rotation(NamedTuple):
    """Cosines, and sines with the sign of their half of a pair; each (..., turned)."""

    cos: Tensor
    sin: Tensor


def rotation_of(angles: Tensor) -> Rotation:
    """(n, turned) angles, each pair's twice -> their rotation, float32."""
    signs = torch.tensor([-1.0, 1.0], device=angles.device).repeat(angles.shape[-1] // 2)
    return Rotation(angles.float().cos(), angles.float().sin() * signs)


def rotation_table(config: DallePytorchConfig) -> Rotation:
    """Of a new model: rotations (capacity, turned)."""
    return rotation_of(angles(config)[: config.capacity])


def angles(config: DallePytorchConfig) -> Tensor:
    """Of a new model: (capacity + 1, turned), one more than is used. Source: Transformer.__init__ of 1.6.6."""
    pairs = config.turned // 6
    text, tokens = config.max_text, config.image_tokens
    third = config.head_dim // 3
    slow = 1.0 / 10000.0 ** (torch.arange(0, third, 2)[:pairs].float() / third)
    fast = torch.linspace(1.0, 5.0, pairs) * math.pi
    place = torch.cat([torch.arange(text).float(), torch.full((tokens,), float(_FAR))])
    line = torch.linspace(-1.0, 1.0, config.grid)
    outside = torch.full((text,), _OUTSIDE)
    row = torch.cat([outside, line.repeat_interleave(config.grid)])
    column = torch.cat([outside, line.repeat(config.grid)])
    turns = torch.cat([place[:, None] * slow, row[:, None] * fast, column[:, None] * fast], dim=-1)
    return turns.repeat_interleave(2, dim=-1)


def turn(x: Tensor, rotation: Rotation) -> Tensor:
    """x (..., head_dim): its first `turned` values turned pairwise, the rest as it was. rotation broadcasts."""
    turned = rotation.cos.shape[-1]
    first = x[..., :turned]
    swapped = first.reshape(*first.shape[:-1], -1, 2).flip(-1).flatten(-2)
    first = torch.addcmul(first * rotation.cos.to(x.dtype), swapped, rotation.sin.to(x.dtype))
    return first if turned == x.shape[-1] else torch.cat([first, x[..., turned:]], dim=-1)
