"""The transformer of ruDALL-E: text tokens, then image tokens in raster order, one at a time.

Id 0 in a text is padding wherever it stands, and a text that is shorter than `max_ids` is padded here; v2's extra <bos>
is put in here too. A step reads, of the picture, only what its layers see.

Source of the model: github.com/ai-forever/ru-dalle.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.families.cache import Cache
from model.families.causal import CausalTransformer
from model.families.rudalle.config import COLUMN, CONV, ROW, RuDalleConfig
from model.families.rudalle.layers import Layer
from model.families.rudalle.masks import mask, neighbours, sees
from model.transformer.linear import Linear


class RuDalleTransformer(CausalTransformer):
    """See `CausalTransformer`. Of the picture a layer sees a row, a column or a window."""

    config: RuDalleConfig
    text_head: Linear

    def __init__(self, config: RuDalleConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.text_table = nn.Embedding(config.text_columns, dim)
        self.image_table = nn.Embedding(config.image_vocab, dim)
        self.text_places = nn.Parameter(torch.randn(config.max_ids + 1, dim))
        self.row_places = nn.Parameter(torch.randn(config.grid, dim))
        self.column_places = nn.Parameter(torch.randn(config.grid, dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.text_head = Linear(dim, config.text_columns)
        self.image_head = Linear(dim, config.image_vocab)
        self._seen: dict[str, Tensor] = {}  # by kind, on the CPU
        self._near: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}

    def embed_text(self, text_ids: Tensor) -> Tensor:
        """Inputs of the text positions: text_ids (b, t), t at most max_ids -> (b, max_text, dim)."""
        config = self.config
        ids = F.pad(text_ids, (0, config.max_ids - text_ids.shape[1]))
        pads = torch.arange(config.text_vocab, config.text_columns, device=ids.device)
        ids = torch.where(ids == 0, pads, ids)
        ids = F.pad(ids, (config.max_text - config.max_ids, 0), value=config.bos)
        out: Tensor = self.text_table(ids) + self.text_places[: config.max_text]
        return out

    def embed_image(self, image_ids: Tensor, index: Tensor) -> Tensor:
        """Inputs of image positions: image_ids (b, k), index (b | 1, k) their raster places -> (b, k, dim)."""
        grid = self.config.grid
        out: Tensor = self.image_table(image_ids) + (self.row_places[index // grid] + self.column_places[index % grid])
        return out

    def mask(self, layer: int, n: int, device: torch.device) -> Tensor | None:
        if n <= self.config.max_text:
            return None  # in a text every kind is causal
        return mask(self._sees(self.config.kind(layer)), self.config.max_ids)[:n, :n].to(device)

    def normalised(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.norm1(x))
        return out

    def _sees(self, kind: str) -> Tensor:
        if kind not in self._seen:
            with torch.inference_mode(False):
                self._seen[kind] = sees(kind, self.config.grid, self.config.version)
        return self._seen[kind]

    def _neighbours(self, kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
        if (kind, device) not in self._near:
            index, exists = neighbours(self._sees(kind))
            self._near[kind, device] = index.to(device), exists.to(device)
        return self._near[kind, device]

    @torch.inference_mode()
    def decode(self, cache: Cache, slots: Tensor | slice, tokens: Tensor, span: int | None = None) -> Tensor:  # noqa: ARG002
        """Feed the image token just drawn, tokens (rows, 1), each row at its own place. Returns hidden (rows, dim).

        slots: (rows,) ids, or a slice, which reads the text in place. span: unused, because every layer reads the text
        and the few cells that it sees, however long the row is. Feed no more than steps - 1 tokens: nothing follows the
        last.
        """
        text, device = self.config.max_ids, tokens.device
        place, step = cache.length[slots], cache.step[slots]
        rows = torch.arange(cache.slots, device=device)[slots]
        x = self.embed_image(tokens, step.unsqueeze(1))
        near: dict[str, tuple[Tensor, Tensor]] = {}
        for kind in (ROW, COLUMN, CONV):
            index, exists = self._neighbours(kind, device)
            cell = place - text
            near[kind] = text + index[cell], exists[cell]
        for i, layer in enumerate(cast("list[Layer]", list(self.layers))):
            keys, values = cache.keys[i], cache.values[i]
            q, k, v = layer.project(x, None)
            keys[rows, :, place] = k[:, :, 0].to(keys.dtype)
            values[rows, :, place] = v[:, :, 0].to(values.dtype)
            at, exists = near[self.config.kind(i)]
            found = layer.attention.decode(
                q,
                (keys[slots, :, :text], values[slots, :, :text]),
                (keys[rows[:, None], :, at], values[rows[:, None], :, at]),
                exists,
            )
            x = layer.finish(x, found)
        cache.length[slots] = place + 1
        cache.step[slots] = step + 1
        return self.normalised(x[:, 0])
