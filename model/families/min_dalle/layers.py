"""Attention, gated feed-forward and layers of min-dalle. No linear layer of it has a bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.min_dalle.config import MinDalleConfig
from model.transformer.linear import Linear

_MASKED = -1e12  # added to a masked score, as min-dalle does: a text of padding alone is attended to evenly


def bias_of(seen: Tensor) -> Tensor:
    """seen, bool -> the same shape, float32, to be added to scores: 0 where a key is seen."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, _MASKED)


class Attention(nn.Module):
    """Attention of several heads. Its keys and values come from elsewhere in a decoder's cross-attention."""

    def __init__(self, config: MinDalleConfig) -> None:
        super().__init__()
        self.heads, self.scale = config.heads, config.head_dim**-0.5
        self.q = Linear(config.dim, config.dim, bias=False)
        self.k = Linear(config.dim, config.dim, bias=False)
        self.v = Linear(config.dim, config.dim, bias=False)
        self.out = Linear(config.dim, config.dim, bias=False)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, n, dim) -> two of (b, heads, n, head_dim)."""
        return self._split(self.k(x)), self._split(self.v(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """x (b, n, dim) -> the same shape. keys, values (b, heads, m, head_dim); bias (b | 1, 1, n | 1, m), added."""
        q = self._split(self.q(x)) * self.scale
        scores = (q @ keys.to(q.dtype).mT).float() + bias  # (b, heads, n, m)
        found = scores.softmax(-1).to(q.dtype) @ values.to(q.dtype)
        out: Tensor = self.out(rearrange(found, "b h n d -> b n (h d)"))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)


class FeedForward(nn.Module):
    """GEGLU (2002.05202) with a norm in front of it and one within. (..., dim) -> the same shape."""

    def __init__(self, config: MinDalleConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.norm2 = nn.LayerNorm(config.hidden)
        self.gate = Linear(config.dim, config.hidden, bias=False)
        self.passed = Linear(config.dim, config.hidden, bias=False)
        self.out = Linear(config.hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        out: Tensor = self.out(self.norm2(F.gelu(self.gate(x)) * self.passed(x)))
        return out


class EncoderLayer(nn.Module):
    """Attention to the whole text, with a norm on either side of it, then the feed-forward."""

    def __init__(self, config: MinDalleConfig) -> None:
        super().__init__()
        self.before = nn.LayerNorm(config.dim)
        self.attention = Attention(config)
        self.after = nn.LayerNorm(config.dim)
        self.feed = FeedForward(config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (b, n, dim), bias (b, 1, 1, n) -> (b, n, dim)."""
        y = self.before(x)
        x = x + self.after(self.attention(y, *self.attention.keys_and_values(y), bias))
        out: Tensor = x + self.feed(x)
        return out


class DecoderLayer(nn.Module):
    """Attention to earlier image tokens, then to the text, each with a norm on either side, then the feed-forward."""

    def __init__(self, config: MinDalleConfig) -> None:
        super().__init__()
        self.before = nn.LayerNorm(config.dim)
        self.attention = Attention(config)
        self.after = nn.LayerNorm(config.dim)
        self.before_text = nn.LayerNorm(config.dim)
        self.text_attention = Attention(config)
        self.after_text = nn.LayerNorm(config.dim)
        self.feed = FeedForward(config)

    def read_text(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """What follows the attention to image tokens; see `Attention.forward`. keys, values: of the encoded text."""
        x = x + self.after_text(self.text_attention(self.before_text(x), keys, values, bias))
        out: Tensor = x + self.feed(x)
        return out
