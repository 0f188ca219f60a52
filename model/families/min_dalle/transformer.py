"""The transformer of min-dalle (DALL-E mini and mega): it encodes a text, and decodes image tokens in raster order.

    hidden = transformer.prefill(cache, slots, text_ids)
    logits = transformer.image_logits(hidden, drawn)
    hidden = transformer.decode(cache, slots, tokens)

Id 1 in a text is padding wherever it stands, and a text that is shorter than `max_ids` is padded here. The start token
is put in here. Token ids only: it knows nothing of words or pixels. Source of the model: github.com/kuprel/min-dalle.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.families.min_dalle.cache import Cache
from model.families.min_dalle.config import MinDalleConfig
from model.families.min_dalle.layers import DecoderLayer, EncoderLayer, bias_of
from model.transformer.ids import check_ids
from model.transformer.linear import Linear, pack_each


class Encoder(nn.Module):
    """A text (b, max_ids) int64 -> (b, max_ids, dim)."""

    def __init__(self, config: MinDalleConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.text_vocab, config.dim)
        self.places = nn.Parameter(torch.randn(config.max_ids, config.dim))
        self.first_norm = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, text_ids: Tensor, bias: Tensor) -> Tensor:
        """bias (b, 1, 1, max_ids): of the padding."""
        x = self.first_norm(self.table(text_ids) + self.places)
        for layer in self.layers:
            x = layer(x, bias)
        out: Tensor = self.norm(x)
        return out


class Decoder(nn.Module):
    """The parts of the decoder; `MinDalleTransformer` runs them."""

    def __init__(self, config: MinDalleConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.image_vocab, config.dim)
        self.places = nn.Parameter(torch.randn(config.image_tokens, config.dim))
        self.first_norm = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.head = Linear(config.dim, config.image_vocab, bias=False)

    def embed(self, tokens: Tensor, places: Tensor) -> Tensor:
        """tokens (b, n) fed at the positions `places` (b | 1, n) -> (b, n, dim)."""
        out: Tensor = self.first_norm(self.table(tokens) + self.places[places])
        return out

    def all_layers(self) -> list[DecoderLayer]:
        """First to last."""
        return cast("list[DecoderLayer]", list(self.layers))


class MinDalleTransformer(nn.Module):
    """`prefill`, `decode` and `image_logits` serve. `logits` is one uncached pass."""

    def __init__(self, config: MinDalleConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, text_ids: Tensor) -> tuple[Tensor, Tensor]:
        """text_ids (b, t), t at most max_ids -> the encoded text (b, max_ids, dim); exists (b, max_ids) bool."""
        ids = F.pad(text_ids, (0, self.config.max_ids - text_ids.shape[1]), value=self.config.pad)
        exists = ids != self.config.pad
        return self.encoder(ids, bias_of(exists[:, None, None])), exists

    @torch.inference_mode()
    def logits(self, text_ids: Tensor, image_ids: Tensor) -> Tensor:
        """Uncached logits of the image token that follows each position.

        text_ids (b, t) int64, t up to max_ids, where 1 is padding and a shorter text is padded; image_ids (b, k)
        int64, k up to grid * grid, in raster order. Returns (b, 1 + k, image_vocab) float32: row i says image token i.
        Nothing follows the last image token: its row is all -inf. Raises ValueError for shapes and ids out of range.
        """
        config = self.config
        check_ids(config, text_ids, image_ids, 0, config.max_ids)
        (b, k), n = image_ids.shape, min(image_ids.shape[1] + 1, config.image_tokens)
        text, exists = self.encode(text_ids)
        text_bias = bias_of(exists[:, None, None])
        place = torch.arange(n, device=text.device)
        bias = bias_of(place[:, None] >= place)[None, None]
        x = self.decoder.embed(F.pad(image_ids[:, : n - 1], (1, 0), value=config.start), place[None])
        for layer in self.decoder.all_layers():
            y = layer.before(x)
            x = x + layer.after(layer.attention(y, *layer.attention.keys_and_values(y), bias))
            x = layer.read_text(x, *layer.text_attention.keys_and_values(text), text_bias)
        out = x.new_full((b, 1 + k, config.image_vocab), float("-inf"), dtype=torch.float32)
        out[:, :n] = self.decoder.head(self.decoder.norm(x)).float()
        return out

    # What follows serves.

    def pack(self) -> None:
        """Keep a second copy of the decoder's weights, packed for the CPU, until they change.

        This does nothing on other devices, in other types, and for decoders of more than 1 GiB.
        """
        pack_each(self.decoder)

    def new_cache(self, slots: int, dtype: torch.dtype | None = None) -> Cache:
        """A cache of `slots` sequences on the model's device, in its type or in `dtype`."""
        weight = self.decoder.norm.weight
        return Cache(self.config, slots, weight.device, dtype or weight.dtype)

    @torch.inference_mode()
    def prefill(self, cache: Cache, slots: Tensor, text_ids: Tensor) -> Tensor:
        """Read texts: slots (rows,), text_ids (rows, t), t up to max_ids. Returns hidden (rows, dim).

        Afterwards these slots hold the keys and values of the text for the cross-attention, the start token as their
        only position, and no image token.
        """
        text, exists = self.encode(text_ids)
        for i, layer in enumerate(self.decoder.all_layers()):
            keys, values = layer.text_attention.keys_and_values(text)
            cache.text_keys[i, slots] = keys.to(cache.text_keys.dtype)
            cache.text_values[i, slots] = values.to(cache.text_values.dtype)
        cache.text_exists[slots] = exists
        cache.length[slots] = 0
        cache.step[slots] = -1
        start = torch.full((len(text_ids), 1), self.config.start, device=text_ids.device)
        return self.decode(cache, slots, start, span=1)

    @torch.inference_mode()
    def decode(self, cache: Cache, slots: Tensor | slice, tokens: Tensor, span: int | None = None) -> Tensor:
        """Feed the image token just drawn, tokens (rows, 1), each row at its own place. Returns hidden (rows, dim).

        slots: (rows,) ids, or a slice, which reads the cache in place. span: cached positions to read, at least the
        longest row's length + 1; the whole capacity when not given. A row's result depends on span only by rounding.
        Feed no more than steps - 1 tokens: nothing follows the last.
        """
        span = cache.capacity if span is None else span
        place, step = cache.length[slots], cache.step[slots] + 1
        rows = torch.arange(cache.slots, device=place.device)[slots]
        exists = torch.arange(span, device=place.device) <= place.unsqueeze(1)
        bias = bias_of(exists[:, None, None])  # (rows, 1, 1, span)
        text_bias = bias_of(cache.text_exists[slots][:, None, None])
        x = self.decoder.embed(tokens, step.unsqueeze(1))
        for i, layer in enumerate(self.decoder.all_layers()):
            y = layer.before(x)
            key, value = layer.attention.keys_and_values(y)
            cache.keys[i, rows, :, place] = key[:, :, 0].to(cache.keys.dtype)
            cache.values[i, rows, :, place] = value[:, :, 0].to(cache.values.dtype)
            keys, values = cache.keys[i, slots, :, :span], cache.values[i, slots, :, :span]
            x = x + layer.after(layer.attention(y, keys.to(y.dtype), values.to(y.dtype), bias))
            words = (cache.text_keys[i, slots].to(y.dtype), cache.text_values[i, slots].to(y.dtype))
            x = layer.read_text(x, *words, text_bias)
        cache.length[slots] = place + 1
        cache.step[slots] = step
        out: Tensor = self.decoder.norm(x[:, 0])
        return out

    @torch.inference_mode()
    def image_logits(self, hidden: Tensor, drawn: Tensor) -> Tensor:  # noqa: ARG002
        """Logits of the next image token: hidden (rows, dim), drawn (rows, 0) -> (rows, image_vocab) float32."""
        out: Tensor = self.decoder.head(hidden)
        return out.float()
