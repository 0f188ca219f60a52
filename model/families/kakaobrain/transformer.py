"""The transformer of kakaobrain's minDALL-E. Source of the model: github.com/kakaobrain/minDALL-E."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.causal import CausalLayer, CausalTransformer, Turn
from model.families.kakaobrain.config import KakaobrainConfig
from model.transformer.linear import Linear


class Layer(CausalLayer):
    """Attention, then a feed-forward with GELU, four times as wide, with a norm in front of each, as in minGPT."""

    def __init__(self, config: KakaobrainConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(dim)
        self.q = Linear(dim, dim)
        self.k = Linear(dim, dim)
        self.v = Linear(dim, dim)
        self.out = Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.w1 = Linear(dim, 4 * dim)
        self.w2 = Linear(4 * dim, dim)

    def project(self, x: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        y = self.norm1(x)
        q, k, v = (rearrange(part(y), "b n (h d) -> b h n d", h=self.heads) for part in (self.q, self.k, self.v))
        return q, k, v

    def finish(self, x: Tensor, found: Tensor) -> Tensor:
        x = x + self.out(found)
        out: Tensor = x + self.w2(F.gelu(self.w1(self.norm2(x))))
        return out


class KakaobrainTransformer(CausalTransformer):
    """See `CausalTransformer`. A text that is shorter than `text_tokens` is padded here."""

    config: KakaobrainConfig
    text_head: Linear

    def __init__(self, config: KakaobrainConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.text_table = nn.Embedding(config.text_vocab, dim)
        self.image_table = nn.Embedding(config.image_vocab, dim)
        self.text_places = nn.Parameter(torch.randn(config.text_tokens, dim))
        self.image_places = nn.Parameter(torch.randn(config.image_tokens, dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        self.text_head = Linear(dim, config.text_vocab, bias=False)
        self.image_head = Linear(dim, config.image_vocab, bias=False)

    def embed_text(self, text_ids: Tensor) -> Tensor:
        missing = self.config.text_tokens - text_ids.shape[1]
        out: Tensor = self.text_table(F.pad(text_ids, (0, missing), value=self.config.pad)) + self.text_places
        return out

    def embed_image(self, image_ids: Tensor, index: Tensor) -> Tensor:
        out: Tensor = self.image_table(image_ids) + self.image_places[index]
        return out
