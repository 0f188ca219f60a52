"""How positions see each other: `Whole` computes whole sequences at once, `Step` one new position a row over a cache.

The transformer's layers are written once and ask one of these two for the token shift and for attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from model.families.dalle_pytorch.cache import Cache
from model.families.dalle_pytorch.config import FULL, DallePytorchConfig
from model.families.dalle_pytorch.layers import Attention, GatedMLP
from model.families.dalle_pytorch.neighbours import shares, shifted
from model.families.dalle_pytorch.rotary import Rotation


class Pass(Protocol):
    """What a layer asks for."""

    def shift(self, part: int, x: Tensor) -> Tensor:
        """x (b, n, dim), normalised -> with the parts that come from other tokens. part: 2 a layer."""

    def attend(self, layer: int, mixer: nn.Module, x: Tensor) -> Tensor:
        """x (b, n, dim) -> what its attention or gated MLP gives, the same shape."""


class Whole:
    """All positions of x, a whole text and some image tokens.

    masks(kind): (capacity + 1 or more, the same) bool, of the kinds that see a part of the picture.
    cache: where to put keys, values and gate values, in the rows `slots`; None keeps nothing.
    """

    def __init__(
        self,
        config: DallePytorchConfig,
        rotation: Rotation | None,
        masks: Callable[[str], Tensor],
        cache: Cache | None = None,
        slots: Tensor | None = None,
    ) -> None:
        self.config, self.rotation, self.masks = config, rotation, masks
        self.cache, self.slots = cache, slots

    def shift(self, part: int, x: Tensor) -> Tensor:  # noqa: ARG002
        """See `Pass`."""
        return shifted(x, self.config.max_text, self.config.grid)

    def attend(self, layer: int, mixer: nn.Module, x: Tensor) -> Tensor:
        """See `Pass`."""
        n = x.shape[1]
        if isinstance(mixer, GatedMLP):
            out, gates = mixer(x)
            if self.cache is not None:
                self.cache.gates[self.config.buffer_of(layer), self.slots, :n] = gates.to(self.cache.gates.dtype)
            return out
        kind = self.config.attention[layer]
        partial = kind != FULL and n > self.config.max_text + 1  # one image token sees the text and itself
        mask = self.masks(kind)[:n, :n] if partial else None
        rotation = self.rotation and Rotation(self.rotation.cos[:n], self.rotation.sin[:n])
        out, k, v = mixer(x, rotation, mask)
        if self.cache is not None:
            row = self.config.buffer_of(layer)
            self.cache.keys[row, self.slots, :, :n] = k.to(self.cache.keys.dtype)
            self.cache.values[row, self.slots, :, :n] = v.to(self.cache.values.dtype)
        return out


class Step:
    """One image token a row, each row at its own place.

    slots: (rows,) ids, or a slice, which reads the cache in place. span: cached positions that full attention and
    gated MLPs read. near(kind): the tables of `neighbours`.
    """

    def __init__(
        self,
        config: DallePytorchConfig,
        rotation: Rotation | None,
        near: Callable[[str], tuple[Tensor, Tensor]],
        cache: Cache,
        slots: Tensor | slice,
        span: int,
    ) -> None:
        self.config, self.cache, self.slots, self.span, self.near = config, cache, slots, span, near
        device = cache.length.device
        self.ids = torch.arange(cache.slots, device=device)[slots] if isinstance(slots, slice) else slots
        self.place = cache.length[slots]  # (rows,) of the new position
        self.index = cache.step[slots]  # (rows,) of the image token that is fed
        self.column = self.index % config.grid
        self.below = self.index >= config.grid  # (rows,) whether there is a row above
        self.rotation: Rotation | None = None
        if rotation is not None:  # (rows, 1, 1, turned)
            self.rotation = Rotation(rotation.cos[self.place, None, None], rotation.sin[self.place, None, None])
        earlier = torch.arange(span, device=device) <= self.place[:, None]
        self.bias = _bias(earlier)
        self.nearby: dict[str, tuple[Tensor, Tensor]] = {}

    def shift(self, part: int, x: Tensor) -> Tensor:
        """See `Pass`. The cache keeps for each column what its last token hands down: a ring of one row."""
        quarter = shares(self.config.dim)[1]
        above, left = self.cache.above[part], self.cache.left[part]
        state = x[:, 0]
        from_above = torch.where(self.below[:, None], above[self.ids, self.column].to(x.dtype), 0.0)
        from_left = torch.where(self.column[:, None] > 0, left[self.slots].to(x.dtype), 0.0)
        out = torch.cat([from_above, from_left, state[:, 2 * quarter :]], dim=-1)
        above[self.ids, self.column] = state[:, :quarter].to(above.dtype)
        left[self.slots] = state[:, quarter : 2 * quarter].to(left.dtype)
        return out.unsqueeze(1)

    def attend(self, layer: int, mixer: nn.Module, x: Tensor) -> Tensor:
        """See `Pass`."""
        row = self.config.buffer_of(layer)
        if isinstance(mixer, GatedMLP):
            kept = self.cache.gates[row]
            passed, gates = mixer.project(x)
            kept[self.ids, self.place] = gates[:, 0].to(kept.dtype)
            return mixer.decode(passed, kept[self.slots][:, : self.span], self.place)
        assert isinstance(mixer, Attention)
        keys, values = self.cache.keys[row], self.cache.values[row]
        q, k, v = mixer.project(x, self.rotation)
        keys[self.ids, :, self.place] = k[:, :, 0].to(keys.dtype)
        values[self.ids, :, self.place] = v[:, :, 0].to(values.dtype)
        kind = self.config.attention[layer]
        if kind == FULL:
            scores = mixer.shares(q, keys[self.slots][:, :, : self.span]) + self.bias
            found = scores.softmax(-1).to(q.dtype) @ values[self.slots][:, :, : self.span].to(q.dtype)
        else:
            found = self._near(kind, mixer, q, keys, values)
        return mixer.out(rearrange(found, "b h 1 d -> b 1 (h d)"))

    def _near(self, kind: str, mixer: Attention, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention over the text, and over the few image tokens that this kind sees: these alone are read."""
        text = self.config.max_text
        if kind not in self.nearby:
            index, exists = self.near(kind)
            self.nearby[kind] = (text + index[self.index], _bias(exists[self.index]))
        at, bias = self.nearby[kind]
        of = self.ids[:, None]
        image_keys, image_values = (rearrange(kept[of, :, at], "b m h d -> b h m d") for kept in (keys, values))
        words = mixer.shares(q, keys[self.slots][:, :, :text])
        image = mixer.shares(q, image_keys) + bias
        shared = torch.cat([words, image], dim=-1).softmax(-1).to(q.dtype)
        from_text = shared[..., :text] @ values[self.slots][:, :, :text].to(q.dtype)
        return from_text + shared[..., text:] @ image_values.to(q.dtype)


def _bias(exists: Tensor) -> Tensor:
    """(rows, n) bool -> (rows, 1, 1, n) float32: 0 where a position exists, else -inf."""
    bias = torch.zeros(exists.shape, device=exists.device).masked_fill_(~exists, float("-inf"))
    return bias[:, None, None]
