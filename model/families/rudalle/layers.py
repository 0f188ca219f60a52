"""Attention, feed-forward and layer of ruDALL-E, as in CogView (2105.13290): norms before each part, and behind it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.causal import CausalLayer, Turn
from model.families.rudalle.config import RuDalleConfig
from model.transformer.linear import Linear


class Attention(nn.Module):
    """Attention of several heads."""

    def __init__(self, config: RuDalleConfig) -> None:
        super().__init__()
        self.heads, self.scale = config.heads, config.head_dim**-0.5
        self.qkv = Linear(config.dim, 3 * config.dim)
        self.out = Linear(config.dim, config.dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, n, dim) -> queries, keys, values, each (b, heads, n, head_dim)."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return q, k, v

    def decode(self, q: Tensor, text: tuple[Tensor, Tensor], near: tuple[Tensor, Tensor], exists: Tensor) -> Tensor:
        """One position a row, q (b, heads, 1, head_dim) -> what it found, (b, 1, dim).

        text: keys and values (b, heads, t, head_dim). near: those of cells (b, m, heads, head_dim), exists (b, m).
        """
        keys, values = (part.to(q.dtype) for part in text)
        near_keys, near_values = (rearrange(part.to(q.dtype), "b m h d -> b h m d") for part in near)
        scores = torch.cat([q @ keys.mT, q @ near_keys.mT], dim=-1).float() * self.scale  # (b, heads, 1, t + m)
        hidden = F.pad(~exists, (keys.shape[2], 0))[:, None, None]
        shares = scores.masked_fill(hidden, float("-inf")).softmax(-1).to(q.dtype)
        of_text, of_near = shares.split([keys.shape[2], near_keys.shape[2]], dim=-1)
        return rearrange(of_text @ values + of_near @ near_values, "b h n d -> b n (h d)")


class Layer(CausalLayer):
    """Attention, then a feed-forward with tanh's GELU, four times as wide."""

    def __init__(self, config: RuDalleConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attention = Attention(config)
        self.after1 = nn.LayerNorm(config.dim) if config.sandwich else nn.Identity()
        self.norm2 = nn.LayerNorm(config.dim)
        self.w1 = Linear(config.dim, 4 * config.dim)
        self.w2 = Linear(4 * config.dim, config.dim)
        self.after2 = nn.LayerNorm(config.dim) if config.sandwich else nn.Identity()

    def project(self, x: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        return self.attention.project(self.norm1(x))

    def finish(self, x: Tensor, found: Tensor) -> Tensor:
        x = x + self.after1(self.attention.out(found))
        y = self.w2(F.gelu(self.w1(self.norm2(x)), approximate="tanh"))
        out: Tensor = x + self.after2(y)
        return out
