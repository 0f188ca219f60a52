"""The transformers of LlamaGen: what all have, and that of classes. Source: github.com/FoundationVision/LlamaGen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.causal import CausalLayer, CausalTransformer, Turn
from model.families.llamagen.config import DecoderConfig, LlamaGenConfig
from model.transformer.linear import Linear

EPS = 1e-5  # of the norms, ModelArgs.norm_eps
BASE = 10000  # of the angles, ModelArgs.rope_base


def turns(config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines by position, each (max_text + grid * grid, head_dim / 2) float32.

    The first half of a head's pairs turns by the row of an image token, the second half by its column. The prompt has
    zeros in both tables, as in precompute_freqs_cis_2d of gpt.py. So its queries and keys become 0, and every position
    looks at them with a score of 0.
    """
    half = config.head_dim // 2
    angles = torch.arange(config.grid)[:, None] * BASE ** -(torch.arange(0, half, 2).float() / half)  # (grid, half / 2)
    by_row = angles[:, None].expand(-1, config.grid, -1)
    by_column = angles[None].expand(config.grid, -1, -1)
    both = rearrange(torch.cat([by_row, by_column], dim=-1), "rows columns half -> (rows columns) half")
    return F.pad(both.cos(), (0, 0, config.max_text, 0)), F.pad(both.sin(), (0, 0, config.max_text, 0))


def turned(x: Tensor, turn: Turn) -> Tensor:
    """Turn neighbouring pairs of x (b, heads, n, head_dim)."""
    if turn is None:
        return x
    cos, sin = turn
    left, right = rearrange(x.float(), "b h n (pairs two) -> two b h n pairs", two=2)
    return torch.stack([left * cos - right * sin, right * cos + left * sin], dim=-1).flatten(-2).to(x.dtype)


class Layer(CausalLayer):
    """Attention, then a SwiGLU feed-forward (2002.05202), with a norm in front of each. No biases."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.hidden
        self.heads = config.heads
        self.norm1 = nn.RMSNorm(dim, eps=EPS)
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.out = Linear(dim, dim, bias=False)
        self.norm2 = nn.RMSNorm(dim, eps=EPS)
        self.gate = Linear(dim, hidden, bias=False)
        self.passed = Linear(dim, hidden, bias=False)
        self.down = Linear(hidden, dim, bias=False)

    def project(self, x: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return turned(q, turn), turned(k, turn), v

    def finish(self, x: Tensor, found: Tensor) -> Tensor:
        x = x + self.out(found)
        y = self.norm2(x)
        out: Tensor = x + self.down(F.silu(self.gate(y)) * self.passed(y))
        return out


class Decoder(CausalTransformer):
    """See `CausalTransformer`. A subclass says how a prompt is read."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.table = nn.Embedding(config.image_vocab, config.dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.dim, eps=EPS)
        self.image_head = Linear(config.dim, config.image_vocab, bias=False)
        self._turns: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def embed_image(self, image_ids: Tensor, index: Tensor) -> Tensor:  # noqa: ARG002
        out: Tensor = self.table(image_ids)
        return out

    def turn(self, places: Tensor) -> Turn:
        if places.device not in self._turns:
            with torch.inference_mode(False):
                cos, sin = turns(self.config)
                self._turns[places.device] = cos.to(places.device), sin.to(places.device)
        cos, sin = self._turns[places.device]
        return cos[places].unsqueeze(1), sin[places].unsqueeze(1)  # (b | 1, 1, n, head_dim / 2)


class LlamaGenTransformer(Decoder):
    """A text is one id, of a class."""

    config: LlamaGenConfig

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__(config)
        self.classes = nn.Embedding(config.text_vocab, config.dim)

    def embed_text(self, text_ids: Tensor) -> Tensor:
        out: Tensor = self.classes(text_ids)
        return out
