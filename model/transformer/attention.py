"""Grouped-query attention with rotary positions and normalised queries and keys, for training and for decoding.

Rotary positions are axial: of a head's pairs a quarter turns with the place in the text, the rest with row and column
of the picture. A picture's position does not depend on the length of its prompt.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import TransformerConfig
from model.transformer.linear import Linear


class Sizes(Protocol):
    """What a block has to know of its model's config."""

    @property
    def dim(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def mlp_ratio(self) -> float: ...


class Rotation(NamedTuple):
    """What turns a head's vectors: cosines, and sines with the sign of the half they fall on; each (..., head_dim)."""

    cos: Tensor
    sin: Tensor


def _angles(coordinate: Tensor, pairs: int, base: float) -> Tensor:
    return coordinate[:, None] * base ** (-torch.arange(pairs, dtype=torch.float32) / pairs)


def rotation_table(config: TransformerConfig) -> Rotation:
    """Rotations of all positions, (max_text + steps + 1, head_dim): first the text's, then the image groups'.

    Row `max_text + s` belongs to the position that is fed group s - 1 and predicts group s (RoPE, 2104.09864; several
    axes as in 2403.13298).
    """
    pairs = config.head_dim // 2
    text_pairs, row_pairs = pairs // 4, pairs * 3 // 8
    column_pairs = pairs - text_pairs - row_pairs
    place = torch.arange(config.max_text, dtype=torch.float32)
    group = torch.arange(config.steps + 1, dtype=torch.float32)
    per_row = config.grid // config.group
    text = torch.cat([place, torch.full_like(group, -1)])
    row = torch.cat([torch.full_like(place, -1), group // per_row])
    column = torch.cat([torch.full_like(place, -1), (group % per_row) * config.group])
    angles = torch.cat(
        [_angles(text, text_pairs, 1000.0), _angles(row, row_pairs, 100.0), _angles(column, column_pairs, 100.0)],
        dim=-1,
    )
    return Rotation(torch.cat([angles.cos(), angles.cos()], dim=-1), torch.cat([-angles.sin(), angles.sin()], dim=-1))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x (..., head_dim), turned pairwise: element i with element i + head_dim / 2. rotation broadcasts."""
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """scaled_dot_product_attention for training on a CPU, of grouped queries as they are.

    q (b, heads, n, d), k, v (b, kv_heads, m, d), mask (b, 1, n, m) -> (b, heads, n, d). PyTorch's is slow backwards:
    64 x 5 heads of 40 positions in bfloat16 take 26 ms there and back on two cores with AMX, and 3 ms so; 8 x 5 heads
    of 273 positions 15 and 6.5 ms. It holds all scores, which sequences of some hundred positions allow.
    """
    b, heads, n, d = q.shape
    kv_heads, m = k.shape[1:3]
    scores = (q.reshape(b, kv_heads, -1, d) * d**-0.5) @ k.mT  # (b, kv_heads, heads / kv_heads * n, m)
    bias = torch.zeros(mask.shape, dtype=scores.dtype).masked_fill_(~mask, float("-inf")).unsqueeze(2)
    shares = (scores.view(b, kv_heads, -1, n, m) + bias).softmax(-1)
    return (shares.view(b, kv_heads, -1, m) @ v).view(b, heads, n, d)


class Attention(nn.Module):
    """x (batch, positions, dim) -> the same shape."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.qkv = Linear(config.dim, (config.heads + 2 * config.kv_heads) * config.head_dim, bias=False)
        self.out = Linear(config.heads * config.head_dim, config.dim, bias=False)
        self.gain = nn.Parameter(torch.ones(config.heads))  # sharpness of each head, as queries have a fixed length
        nn.init.zeros_(self.out.weight)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, n, dim), rotation (n | b 1 n, head_dim) -> q (b, heads, n, head_dim), k, v (b, kv_heads, n, ...)."""
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        turned = self.heads + self.kv_heads
        qk, v = qkv[:, :turned], qkv[:, turned:]  # (b, heads + kv_heads | kv_heads, n, head_dim)
        qk = rotate(F.layer_norm(qk, (self.head_dim,), eps=1e-6), rotation)
        return qk[:, : self.heads] * self.gain.view(-1, 1, 1), qk[:, self.heads :], v

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Tensor | None, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention over all positions of x, and over those before it, whose keys and values are `past`.

        mask (b, 1, n, p + n) bool, with p past positions, True where a query may look; None for causal without a past.
        Returns the output (b, n, dim) and the keys and values (b, kv_heads, p + n, head_dim) for a cache.
        """
        q, k, v = self.project(x, rotation)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        if mask is not None and q.requires_grad and q.device.type == "cpu":
            found = _attend(q, k, v, mask)
        else:
            repeats = self.heads // self.kv_heads
            found = F.scaled_dot_product_attention(
                q, k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1), mask, is_causal=mask is None
            )
        return self.out(found.transpose(1, 2).flatten(2)), k, v

    def decode(
        self, x: Tensor, rotation: Rotation, keys: Tensor, values: Tensor, bias: Tensor, place: Tensor
    ) -> Tensor:
        """One new position a row over cached ones. x (b, 1, dim) -> (b, 1, dim).

        keys, values (b, kv_heads, span, head_dim): the rows' caches, written here at `place` (b,).
        bias (b, 1, 1, span): 0 where a position exists (the new one included), -inf where none does.
        """
        q, k, v = self.project(x, rotation)
        b = x.shape[0]
        rows = torch.arange(b, device=x.device)
        keys[rows, :, place] = k[:, :, 0].to(keys.dtype)
        values[rows, :, place] = v[:, :, 0].to(values.dtype)
        q = q.reshape(b, self.kv_heads, self.heads // self.kv_heads, self.head_dim)
        scores = q @ keys.to(q.dtype).mT * self.head_dim**-0.5 + bias  # (b, kv_heads, heads / kv_heads, span)
        found = scores.float().softmax(-1).to(q.dtype) @ values.to(q.dtype)
        out: Tensor = self.out(found.reshape(b, 1, self.heads * self.head_dim))
        return out
