"""The encoder of T5 with gated feed-forwards (v1.1, FLAN-T5): texts to vectors.

Source of the method: 1910.10683, section 2.1, and transformers/models/t5/modeling_t5.py of huggingface/transformers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.llamagen.config import T5Config

EPS = 1e-6  # of the norms, layer_norm_epsilon


def buckets(config: T5Config, n: int, device: torch.device) -> Tensor:
    """Which vector of distances the query of a row has for the key of a column: (n, n) int64.

    Near keys have a bucket for each distance, further ones share them by the logarithm. Half of them are for keys that
    come later.
    """
    place = torch.arange(n, device=device)
    ahead = place - place[:, None]
    half = config.buckets // 2
    near = half // 2
    away = ahead.abs()
    scale = (half - near) / math.log(config.distance / near)
    far = near + (torch.log(away.clamp_min(1) / near) * scale).long()
    return half * (ahead > 0) + torch.where(away < near, away, far.clamp_max(half - 1))


class Layer(nn.Module):
    """Attention to the whole text, then a gated feed-forward (2002.05202), with a norm in front of each. No biases."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        dim, inner = config.dim, config.heads * config.head_dim
        self.heads = config.heads
        self.norm1 = nn.RMSNorm(dim, eps=EPS)
        self.q = nn.Linear(dim, inner, bias=False)
        self.k = nn.Linear(dim, inner, bias=False)
        self.v = nn.Linear(dim, inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False)
        self.norm2 = nn.RMSNorm(dim, eps=EPS)
        self.gate = nn.Linear(dim, config.hidden, bias=False)
        self.passed = nn.Linear(dim, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (b, n, dim), bias (heads, n, n) float32, added to scores, which are not scaled -> (b, n, dim)."""
        y = self.norm1(x)
        q, k, v = (rearrange(part(y), "b n (h d) -> b h n d", h=self.heads) for part in (self.q, self.k, self.v))
        shares = ((q @ k.mT).float() + bias).softmax(-1).to(v.dtype)
        x = x + self.out(rearrange(shares @ v, "b h n d -> b n (h d)"))
        y = self.norm2(x)
        out: Tensor = x + self.down(F.gelu(self.gate(y), approximate="tanh") * self.passed(y))
        return out


class T5Encoder(nn.Module):
    """A text (b, n) int64, without padding -> (b, n, dim)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab, config.dim)
        self.distances = nn.Embedding(config.buckets, config.heads)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.dim, eps=EPS)

    def forward(self, text_ids: Tensor) -> Tensor:
        which = buckets(self.config, text_ids.shape[1], text_ids.device)
        bias = rearrange(self.distances(which), "query key heads -> heads query key").float()
        x = self.table(text_ids)
        for layer in self.layers:
            x = layer(x, bias)
        out: Tensor = self.norm(x)
        return out
