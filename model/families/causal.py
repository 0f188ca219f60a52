"""An ordinary decoder: text positions, then image tokens, one at a time.

    hidden = transformer.prefill(cache, slots, text_ids)
    logits = transformer.image_logits(hidden, drawn)
    hidden = transformer.decode(cache, slots, tokens)

A family says how ids become inputs, and what a layer does before and after its attention. Every position sees all
earlier ones where the family has no `mask` and no `decode` of its own. Token ids only: it knows
nothing of words or pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.cache import Cache
from model.transformer.ids import check_ids
from model.transformer.linear import Linear, pack_each

Turn = tuple[Tensor, Tensor] | None  # cosines and sines of positions, (n or b 1, head_dim / 2); None where none turn


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """q, keys, values (b, heads, n, head_dim), mask (n, n) bool, None for causal -> what is found, (b, n, dim)."""
    found = F.scaled_dot_product_attention(q, keys, values, mask, is_causal=mask is None)
    return rearrange(found, "b h n d -> b n (h d)")


class CausalLayer(nn.Module, ABC):
    """Attention, and a feed-forward."""

    @abstractmethod
    def project(self, x: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, n, dim) -> queries, keys, values, each (b, heads, n, head_dim)."""

    @abstractmethod
    def finish(self, x: Tensor, found: Tensor) -> Tensor:
        """x, and what its attention found before its output's product -> the layer's output, (b, n, dim) all."""


class CausalTransformer(nn.Module, ABC):
    """`prefill`, `decode` and `image_logits` serve. `logits` is one uncached pass.

    A family's class has `layers`, `norm`, `image_head`, and `text_head` where texts are written.
    """

    layers: nn.ModuleList
    norm: nn.Module
    image_head: Linear
    text_head: Linear | None

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.text_head = None

    @abstractmethod
    def embed_text(self, text_ids: Tensor) -> Tensor:
        """Inputs of the text positions: text_ids (b, t), t at most max_ids -> (b, max_text, dim).

        A family whose texts have positions of their own number gets one text at a time: (1, t) -> (1, positions, dim).
        """

    @abstractmethod
    def embed_image(self, image_ids: Tensor, index: Tensor) -> Tensor:
        """Inputs of image positions: image_ids (b, k), index (b | 1, k) their raster places -> (b, k, dim)."""

    def turn(self, places: Tensor) -> Turn:  # noqa: ARG002
        """What turns queries and keys at `places` (b | 1, n), each (b | 1, 1, n, head_dim / 2).

        Image token i is at the place max_text + i, however long its text is.
        """
        return None

    def mask(self, layer: int, n: int, device: torch.device) -> Tensor | None:  # noqa: ARG002
        """Where each of the first n positions may look in this layer, (n, n) bool; None: at itself and earlier ones."""
        return None

    def normalised(self, x: Tensor) -> Tensor:
        """What follows the last layer, (..., dim)."""
        out: Tensor = self.norm(x)
        return out

    def all_layers(self) -> list[CausalLayer]:
        """First to last."""
        return cast("list[CausalLayer]", list(self.layers))

    @torch.inference_mode()
    def logits(self, text_ids: Tensor, image_ids: Tensor) -> Tensor:
        """Uncached logits of the token that follows each position.

        text_ids (b, t) int64, t from min_ids to max_ids; image_ids (b, k) int64, k up to grid * grid, in raster order.
        Returns (b, max_text + k, text_columns + image_vocab) float32: text ids first, then image ids; -inf in the half
        that cannot follow. Row max_text - 1 + i says image token i. Nothing follows the last image token: its row is
        all -inf. Raises ValueError for shapes and ids out of range.
        """
        config = self.config
        check_ids(config, text_ids, image_ids, config.min_ids, config.max_ids)
        b, k = image_ids.shape
        fed = image_ids[:, : config.image_tokens - 1]
        index = torch.arange(fed.shape[1], device=fed.device)[None]
        prompt = self.embed_text(text_ids)
        x = torch.cat([prompt, self.embed_image(fed, index)], dim=1)
        n, first, text = x.shape[1], config.max_text - 1, config.text_columns
        place = torch.arange(prompt.shape[1], device=x.device)[None]
        turn = self.turn(torch.cat([place, config.max_text + index], dim=1))
        for i, layer in enumerate(self.all_layers()):
            mask = self.mask(i, n, x.device)
            x = layer.finish(x, attend(*layer.project(x, turn), mask))
        x = self.normalised(x)
        out = x.new_full((b, config.max_text + k, text + config.image_vocab), float("-inf"), dtype=torch.float32)
        if self.text_head is not None:
            out[:, :first, :text] = self.text_head(x[:, :first]).float()
        said = self.image_head(x[:, prompt.shape[1] - 1 :]).float()
        out[:, first : first + said.shape[1], text:] = said
        return out

    # What follows serves.

    def pack(self) -> None:
        """Keep a second copy of the weights that a step reads, packed for the CPU, until they change.

        This does nothing on other devices, in other types, and for models of more than 1 GiB.
        """
        pack_each(self, self.text_head)

    def new_cache(self, slots: int, dtype: torch.dtype | None = None) -> Cache:
        """A cache of `slots` sequences on the model's device, in its type or in `dtype`."""
        weight = self.image_head.weight
        return Cache(self.config, slots, weight.device, dtype or weight.dtype)

    @torch.inference_mode()
    def prefill(self, cache: Cache, slots: Tensor, text_ids: Tensor) -> Tensor:
        """Read texts: slots (rows,), text_ids (rows, t), t from min_ids to max_ids. Returns hidden (rows, dim).

        Afterwards these slots hold the text's positions and no image token.
        """
        x = self.embed_text(text_ids)
        n = x.shape[1]
        turn = self.turn(torch.arange(n, device=x.device)[None])
        for i, layer in enumerate(self.all_layers()):
            q, keys, values = layer.project(x, turn)
            cache.keys[i, slots, :, :n] = keys.to(cache.keys.dtype)
            cache.values[i, slots, :, :n] = values.to(cache.values.dtype)
            x = layer.finish(x, attend(q, keys, values, self.mask(i, n, x.device)))
        cache.length[slots] = n
        cache.step[slots] = 0
        return self.normalised(x[:, -1])

    @torch.inference_mode()
    def decode(self, cache: Cache, slots: Tensor | slice, tokens: Tensor, span: int | None = None) -> Tensor:
        """Feed the image token just drawn, tokens (rows, 1), each row at its own place. Returns hidden (rows, dim).

        slots: (rows,) ids, or a slice, which reads the cache in place. span: cached positions to read, at least the
        longest row's length + 1; the whole capacity when not given. A row's result depends on span only by rounding.
        Feed no more than steps - 1 tokens: nothing follows the last.
        """
        span = cache.capacity if span is None else span
        place, step = cache.length[slots], cache.step[slots]
        rows = torch.arange(cache.slots, device=place.device)[slots]
        hidden = torch.arange(span, device=place.device) > place.unsqueeze(1)  # (rows, span): not filled yet
        x, turn = self.embed_image(tokens, step.unsqueeze(1)), self.turn(self.config.max_text + step.unsqueeze(1))
        for i, layer in enumerate(self.all_layers()):
            q, key, value = layer.project(x, turn)
            cache.keys[i, rows, :, place] = key[:, :, 0].to(cache.keys.dtype)
            cache.values[i, rows, :, place] = value[:, :, 0].to(cache.values.dtype)
            keys, values = (part[i, slots, :, :span].to(q.dtype) for part in (cache.keys, cache.values))
            scores = (q @ keys.mT).float() * q.shape[-1] ** -0.5  # (rows, heads, 1, span)
            shares = scores.masked_fill(hidden[:, None, None], float("-inf")).softmax(-1).to(q.dtype)
            x = layer.finish(x, rearrange(shares @ values, "b h n d -> b n (h d)"))
        cache.length[slots] = place + 1
        cache.step[slots] = step + 1
        return self.normalised(x[:, 0])

    @torch.inference_mode()
    def image_logits(self, hidden: Tensor, drawn: Tensor) -> Tensor:  # noqa: ARG002
        """Logits of the next image token: hidden (rows, dim), drawn (rows, 0) -> (rows, image_vocab) float32."""
        out: Tensor = self.image_head(hidden)
        return out.float()
