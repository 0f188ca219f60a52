"""The transformer of DALLE-pytorch 0.12 to 1.6.6: text tokens, then image tokens in raster order, one at a time.

    hidden = transformer.prefill(cache, slots, text_ids)
    logits = transformer.image_logits(hidden, drawn)
    hidden = transformer.decode(cache, slots, tokens)

It computes what the package computes without its cache, and needs no more than one position a step for it. Id 0 in a
text is padding wherever it stands, and a text that is shorter than `text_tokens` is padded here. <bos> is put in here.
Token ids only: it knows nothing of words or pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.families.dalle_pytorch.cache import Cache
from model.families.dalle_pytorch.config import MLP, DallePytorchConfig
from model.families.dalle_pytorch.layers import Attention, FeedForward, GatedMLP, Layer
from model.families.dalle_pytorch.neighbours import mask, neighbours
from model.families.dalle_pytorch.passes import Pass, Step, Whole
from model.families.dalle_pytorch.rotary import Rotation, rotation_table
from model.transformer.ids import check_ids
from model.transformer.linear import Linear, pack_each


class DallePytorchTransformer(nn.Module):
    """`prefill`, `decode` and `image_logits` serve. `logits` is one uncached pass. `states` is for training."""

    def __init__(self, config: DallePytorchConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        if not config.tied:
            self.text_table = nn.Embedding(config.text_columns, dim)
            self.image_table = nn.Embedding(config.image_vocab, dim)
        if config.rotary:
            table = rotation_table(config)  # a part of the weights: files made in float16 have it rounded
            self.register_buffer("cos", table.cos)
            self.register_buffer("sin", table.sin)
        else:
            self.text_places = nn.Parameter(torch.randn(config.max_text, dim))
            self.row_places = nn.Parameter(torch.randn(config.grid, dim))
            self.column_places = nn.Parameter(torch.randn(config.grid, dim))
        kinds = dict(zip(config.attention_of, config.attention, strict=True))
        self.mixers = nn.ModuleList(
            GatedMLP(config) if kinds[number] == MLP else Attention(config) for number in sorted(kinds)
        )
        self.feeds = nn.ModuleList(FeedForward(config) for _ in range(len(set(config.feed_of))))
        self.layers = nn.ModuleList(Layer(config, number) for number in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        self.text_head = Linear(dim, config.text_columns)
        self.image_head = Linear(dim, config.image_vocab)
        self._made: dict[tuple[str, torch.device], tuple[Tensor, ...]] = {}

    # What follows is shared by training and serving.

    def states(self, text_ids: Tensor, image_ids: Tensor, seen: Tensor | None = None) -> Tensor:
        """The uncached pass: text_ids (b, t), image_ids (b, k), k at most grid * grid - 1 -> (b, max_text + k, dim).

        Normalised. The state at position i predicts the token at position i + 1. seen (b, k): 0 where an image token
        is withheld as an input, else 1; None withholds none.
        """
        image = self.embed_image(image_ids)
        if seen is not None:
            image = image * seen.unsqueeze(-1).to(image.dtype)
        x = torch.cat([self.embed_text(text_ids), image], dim=1)
        return self._layers(x, Whole(self.config, self._rotation, self._mask))

    def embed_text(self, text_ids: Tensor) -> Tensor:
        """Inputs of the text positions: text_ids (b, t), t at most text_tokens -> (b, max_text, dim)."""
        ids = F.pad(self.written(text_ids), (1, 0))  # <bos> has the id 0
        x = F.embedding(ids, self.text_head.weight if self.config.tied else self.text_table.weight)
        return x if self.config.rotary else x + self.text_places

    def written(self, text_ids: Tensor) -> Tensor:
        """text_ids (b, t), t up to text_tokens -> (b, text_tokens): where 0 or nothing stands, the id of its place."""
        config = self.config
        ids = F.pad(text_ids, (0, config.text_tokens - text_ids.shape[1]))
        pads = torch.arange(config.text_vocab, config.text_columns, device=ids.device)
        return torch.where(ids == 0, pads, ids)

    def embed_image(self, image_ids: Tensor, index: Tensor | None = None) -> Tensor:
        """Inputs of image positions: image_ids (b, k) -> (b, k, dim). index (b, k): their places; None: from 0 on."""
        x = F.embedding(image_ids, self.image_head.weight if self.config.tied else self.image_table.weight)
        if self.config.rotary:
            return x
        index = torch.arange(image_ids.shape[1], device=x.device) if index is None else index
        grid = self.config.grid
        return x + (self.row_places[index // grid] + self.column_places[index % grid])

    def _layers(self, x: Tensor, positions: Pass) -> Tensor:
        """All layers over x (b, n, dim), divided by the largest value where the model is stable, and normalised."""
        config = self.config
        x1 = x2 = x
        for number, (layer, mixer, feed) in enumerate(self._parts()):
            y = layer.norm1(x2)
            y = positions.shift(2 * number, y) if config.shift else y
            x1 = x1 + layer.after1(positions.attend(number, mixer, y)) * layer.scale1
            x2 = x2 if config.reversible else x1
            y = layer.norm2(x1)
            y = positions.shift(2 * number + 1, y) if config.shift else y
            x2 = x2 + layer.after2(feed(y)) * layer.scale2
            x1 = x1 if config.reversible else x2
        x = (x1 + x2) / 2 if config.reversible else x2
        if config.stable:
            x = x / x.amax(dim=-1, keepdim=True).detach()
        out: Tensor = self.norm(x)
        return out

    def _parts(self) -> Iterator[tuple[Layer, nn.Module, nn.Module]]:
        layers = cast("list[Layer]", list(self.layers))
        for layer, mixer, feed in zip(layers, self.config.attention_of, self.config.feed_of, strict=True):
            yield layer, self.mixers[mixer], self.feeds[feed]

    @property
    def _rotation(self) -> Rotation | None:
        return Rotation(cast("Tensor", self.cos), cast("Tensor", self.sin)) if self.config.turned else None

    def _mask(self, kind: str) -> Tensor:
        def make() -> tuple[Tensor, ...]:
            return (mask(kind, self.config.grid, self.config.max_text),)

        return self._table(f"mask {kind}", make)[0]

    def _near(self, kind: str) -> tuple[Tensor, Tensor]:
        index, exists = self._table(f"near {kind}", lambda: neighbours(kind, self.config.grid))
        return index, exists

    def _table(self, name: str, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """A table that follows from the config, made once for each device."""
        device = self.norm.weight.device
        if (name, device) not in self._made:
            with torch.inference_mode(False):  # a model that has served can still be trained
                self._made[name, device] = tuple(table.to(device) for table in make())
        return self._made[name, device]

    def text_logits(self, states: Tensor) -> Tensor:
        """(..., dim) normalised -> (..., text_columns) float32: the tokenizer's ids, then those of the padding."""
        out: Tensor = self.text_head(states)
        return out.float()

    @torch.inference_mode()
    def logits(self, text_ids: Tensor, image_ids: Tensor) -> Tensor:
        """Uncached logits of the token that follows each position.

        text_ids (b, t) int64, t up to text_tokens, where 0 is padding and a shorter text is padded; image_ids (b, k)
        int64, k up to grid * grid, in raster order. Returns (b, max_text + k, text_columns + image_vocab) float32:
        text ids first, then image ids; -inf in the half that cannot follow. Row max_text - 1 + i says image token i.
        Nothing follows the last image token: its row is all -inf. Raises ValueError for shapes and ids out of range.
        """
        config = self.config
        check_ids(config, text_ids, image_ids, 0, config.max_ids)
        (b, k), text = image_ids.shape, config.text_columns
        states = self.states(text_ids, image_ids[:, : config.image_tokens - 1])
        first = config.max_text - 1  # the row that says the first image token
        out = states.new_full((b, config.max_text + k, text + config.image_vocab), float("-inf"), dtype=torch.float32)
        out[:, :first, :text] = self.text_logits(states[:, :first])
        out[:, first : states.shape[1], text:] = self.image_head(states[:, first:]).float()
        return out

    # What follows serves.

    def pack(self) -> None:
        """Keep a second copy of the weights that a step reads, packed for the CPU, until they change.

        This does nothing on other devices, in other types, and for models of more than 1 GiB.
        """
        pack_each(self, self.text_head)

    def new_cache(self, slots: int, dtype: torch.dtype | None = None) -> Cache:
        """A cache of `slots` sequences on the model's device, in its type or in `dtype`."""
        weight = self.norm.weight
        return Cache(self.config, slots, weight.device, dtype or weight.dtype)

    @torch.inference_mode()
    def prefill(self, cache: Cache, slots: Tensor, text_ids: Tensor) -> Tensor:
        """Read texts: slots (rows,), text_ids (rows, t), t up to text_tokens. Returns hidden (rows, dim).

        Afterwards these slots hold max_text positions and no image token.
        """
        x = self._layers(self.embed_text(text_ids), Whole(self.config, self._rotation, self._mask, cache, slots))
        cache.length[slots] = self.config.max_text
        cache.step[slots] = 0
        return x[:, -1]

    @torch.inference_mode()
    def decode(self, cache: Cache, slots: Tensor | slice, tokens: Tensor, span: int | None = None) -> Tensor:
        """Feed the image token just drawn, tokens (rows, 1), each row at its own place. Returns hidden (rows, dim).

        slots: (rows,) ids, or a slice, which reads the cache in place. span: cached positions that full attention
        reads, at least the longest row's length + 1; the whole capacity when not given. A row's result depends on span
        only by rounding. Feed no more than steps - 1 tokens: nothing follows the last.
        """
        step = Step(self.config, self._rotation, self._near, cache, slots, cache.capacity if span is None else span)
        x = self._layers(self.embed_image(tokens, step.index.unsqueeze(1)), step)
        cache.length[slots] = step.place + 1
        cache.step[slots] = step.index + 1
        return x[:, 0]

    @torch.inference_mode()
    def image_logits(self, hidden: Tensor, drawn: Tensor) -> Tensor:  # noqa: ARG002
        """Logits of the next image token: hidden (rows, dim), drawn (rows, 0) -> (rows, image_vocab) float32."""
        out: Tensor = self.image_head(hidden)
        return out.float()
