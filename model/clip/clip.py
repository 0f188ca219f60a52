"""A small CLIP (Radford et al., 2103.00020): one tower for texts, one for pictures, and the angle between them.

The image tower reads the image tokens, not the pixels: a picture can be judged before it is painted, and what the VAE
cannot say is no part of the judgement. It sees the FSQ levels of each code, so that codes which paint alike look alike.

Token ids only, as in `model.transformer`: it knows nothing of words or files.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.config import ClipConfig

WARMEST = 100.0  # largest scale of the cosines: 2103.00020, section 2.5
FIRST_SCALE = 1 / 0.07  # of a fresh model: the same section


class Block(nn.Module):
    """Pre-norm attention in both directions, then a feed-forward; starts as the identity. (b, n, dim) -> the same."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.norm2 = nn.LayerNorm(dim)
        self.w1 = nn.Linear(dim, 4 * dim)
        self.w2 = nn.Linear(4 * dim, dim)
        for last in (self.out.weight, self.w2.weight, self.w2.bias):
            nn.init.zeros_(last)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask (b, 1, 1, n) bool: True where a position exists."""
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b n (three h d) -> three b h n d", three=3, d=self.head_dim)
        found = F.scaled_dot_product_attention(q, k, v, mask)
        x = x + self.out(rearrange(found, "b h n d -> b n (h d)"))
        return x + self.w2(F.gelu(self.w1(self.norm2(x))))


class ImageTower(nn.Module):
    """ids (b, grid, grid) -> (b, embed_dim): patches of 2 x 2 tokens, then of 4 x 4, which attend to each other."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.levels = config.levels
        stem, mid, dim = config.stem_dim, 4 * config.stem_dim, config.image_dim
        self.parts = nn.Parameter(torch.randn(sum(config.levels), stem) / math.sqrt(len(config.levels)))
        self.mid = nn.Linear(4 * stem, mid)
        self.near = nn.Conv2d(mid, mid, 3, padding=1)
        self.patch = nn.Linear(4 * mid, dim)
        self.places = nn.Parameter(torch.randn((config.grid // 4) ** 2, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, config.head_dim) for _ in range(config.image_depth))
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, config.embed_dim, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self._embed(ids)  # (b, grid, grid, stem)
        x = F.gelu(self.mid(rearrange(x, "b (h y) (w x) d -> b h w (y x d)", y=2, x=2)))
        x = x + F.gelu(self.near(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        x = self.patch(rearrange(x, "b (h y) (w x) d -> b (h w) (y x d)", y=2, x=2)) + self.places
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.out(self.norm(x.mean(1)))
        return out

    def _embed(self, ids: Tensor) -> Tensor:
        """A code is the sum of one part for each of its levels: the mixed radix of `model.vae.quantiser`."""
        x, first = None, 0
        for level in self.levels:
            part = F.embedding(ids % level, self.parts[first : first + level])
            x = part if x is None else x + part
            ids, first = ids // level, first + level
        assert x is not None
        return x


class TextTower(nn.Module):
    """text_ids (b, t), padded on the right, lengths (b,) -> (b, embed_dim)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.text_vocab, config.text_dim)
        self.places = nn.Parameter(torch.randn(config.text_positions, config.text_dim) * 0.02)
        self.blocks = nn.ModuleList(Block(config.text_dim, config.head_dim) for _ in range(config.text_depth))
        self.norm = nn.LayerNorm(config.text_dim)
        self.out = nn.Linear(config.text_dim, config.embed_dim, bias=False)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, text_ids: Tensor, lengths: Tensor) -> Tensor:
        text_ids = text_ids[:, : len(self.places)]
        n = text_ids.shape[1]
        exists = torch.arange(n, device=text_ids.device) < lengths[:, None]  # (b, n)
        x = F.layer_norm(self.table(text_ids), (self.table.embedding_dim,)) + self.places[:n]
        for block in self.blocks:
            x = block(x, exists[:, None, None])
        told = exists.unsqueeze(-1).to(x.dtype)
        out: Tensor = self.out(self.norm((x * told).sum(1) / told.sum(1)))
        return out


class Clip(nn.Module):
    """Both towers. The score of a picture and a text is the cosine of their vectors."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ImageTower(config)
        self.text = TextTower(config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by to become logits."""
        return self.log_scale.exp().clamp(max=WARMEST)

    def encode_image(self, ids: Tensor) -> Tensor:
        """ids (b, grid * grid) or (b, grid, grid), int64 -> vectors of length 1, (b, embed_dim) float32.

        Raises ValueError for another shape.
        """
        grid = self.config.grid
        if ids.shape[1:] not in ((grid * grid,), (grid, grid)):
            read = f"(batch, {grid}, {grid}) or (batch, {grid * grid})"
            raise ValueError(f"ids: {tuple(ids.shape)} found, and {read} is read")
        return F.normalize(self.image(ids.view(-1, grid, grid)).float(), dim=-1)

    def encode_text(self, text_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """text_ids (b, t) int64 with <bos> and <eot> -> vectors of length 1, (b, embed_dim) float32.

        lengths (b,): ids that are no padding; all, where it is not given. What stands after `text_positions` ids is
        not looked at.
        """
        if lengths is None:
            lengths = torch.full((len(text_ids),), text_ids.shape[1], device=text_ids.device)
        return F.normalize(self.text(text_ids, lengths).float(), dim=-1)
