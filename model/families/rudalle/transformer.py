"""The transformer of ruDALL-E: text tokens, then image tokens in raster order, one at a time.

    hidden = transformer.prefill(cache, slots, text_ids)
    logits = transformer.image_logits(hidden, drawn)
    hidden = transformer.decode(cache, slots, tokens)

Id 0 in a text is padding wherever it stands, and a text that is shorter than `max_ids` is padded here; v2's extra <bos>
is put in here too. A step reads, of the picture, only what its layers see. Token ids only: it knows nothing of words or
pixels. Source of the model: github.com/ai-forever/ru-dalle.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.families.cache import Cache
from model.families.rudalle.config import COLUMN, CONV, ROW, RuDalleConfig
from model.families.rudalle.layers import Layer
from model.families.rudalle.masks import mask, neighbours, sees
from model.transformer.ids import check_ids
from model.transformer.linear import Linear, pack_each


class RuDalleTransformer(nn.Module):
    """`prefill`, `decode` and `image_logits` serve. `logits` is one uncached pass."""

    def __init__(self, config: RuDalleConfig) -> None:
        super().__init__()
        self.config = config
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

    def all_layers(self) -> list[Layer]:
        """First to last."""
        return cast("list[Layer]", list(self.layers))

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

    @torch.inference_mode()
    def logits(self, text_ids: Tensor, image_ids: Tensor) -> Tensor:
        """Uncached logits of the token that follows each position.

        text_ids (b, t) int64, t up to max_ids, where 0 is padding and a shorter text is padded; image_ids (b, k) int64,
        k up to grid * grid, in raster order. Returns (b, max_text + k, text_columns + image_vocab) float32: text ids
        first, then image ids; -inf in the half that cannot follow. Row max_text - 1 + i says image token i. Nothing
        follows the last image token: its row is all -inf. Raises ValueError for shapes and ids out of range.
        """
        config = self.config
        check_ids(config, text_ids, image_ids, 0, config.max_ids)
        b, k = image_ids.shape
        fed = image_ids[:, : config.image_tokens - 1]
        index = torch.arange(fed.shape[1], device=fed.device)[None]
        x = torch.cat([self.embed_text(text_ids), self.embed_image(fed, index)], dim=1)
        n, first, text = x.shape[1], config.max_text - 1, config.text_columns
        masks = {
            kind: mask(self._sees(kind), config.max_ids)[:n, :n].to(x.device)
            for kind in {config.kind(i) for i in range(config.depth)}
        }
        for i, layer in enumerate(self.all_layers()):
            found, _, _ = layer.attention(layer.norm1(x), masks[config.kind(i)])
            x = layer.finish(x, found)
        x = self.norm2(self.norm1(x))
        out = x.new_full((b, config.max_text + k, text + config.image_vocab), float("-inf"), dtype=torch.float32)
        out[:, :first, :text] = self.text_head(x[:, :first]).float()
        out[:, first:n, text:] = self.image_head(x[:, first:]).float()
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

    # What follows serves.

    def pack(self) -> None:
        """Keep a second copy of the weights that a step reads, packed for the CPU, until they change.

        This does nothing on other devices, in other types, and for models of more than 1 GiB.
        """
        linears = [module for module in self.modules() if isinstance(module, Linear) and module is not self.text_head]
        pack_each(linears)

    def new_cache(self, slots: int, dtype: torch.dtype | None = None) -> Cache:
        """A cache of `slots` sequences on the model's device, in `dtype` or the model's own."""
        weight = self.norm1.weight
        return Cache(self.config, slots, weight.device, dtype or weight.dtype)

    @torch.inference_mode()
    def prefill(self, cache: Cache, slots: Tensor, text_ids: Tensor) -> Tensor:
        """Read texts: slots (rows,), text_ids (rows, t), t up to max_ids. Returns hidden (rows, dim).

        Afterwards these slots hold max_text positions and no image token.
        """
        x, n = self.embed_text(text_ids), self.config.max_text
        for i, layer in enumerate(self.all_layers()):
            found, k, v = layer.attention(layer.norm1(x), None)  # in a text every kind is causal
            cache.keys[i, slots, :, :n] = k.to(cache.keys.dtype)
            cache.values[i, slots, :, :n] = v.to(cache.values.dtype)
            x = layer.finish(x, found)
        cache.length[slots] = n
        cache.step[slots] = 0
        out: Tensor = self.norm2(self.norm1(x[:, -1]))
        return out

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
        for i, layer in enumerate(self.all_layers()):
            keys, values = cache.keys[i], cache.values[i]
            q, k, v = layer.attention.project(layer.norm1(x))
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
        out: Tensor = self.norm2(self.norm1(x[:, 0]))
        return out

    @torch.inference_mode()
    def image_logits(self, hidden: Tensor, drawn: Tensor) -> Tensor:  # noqa: ARG002
        """Logits of the next image token: hidden (rows, dim), drawn (rows, 0) -> (rows, image_vocab) float32."""
        out: Tensor = self.image_head(hidden)
        return out.float()
