"""How the decoders of other families fill in the block of `source/ordinary.cpp`."""

from __future__ import annotations

from functools import cache, singledispatch
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.families.dalle_pytorch.config import FULL
from model.families.dalle_pytorch.layers import Attention, FeedForward
from model.families.dalle_pytorch.layers import Layer as DallePytorchLayer
from model.families.dalle_pytorch.neighbours import mask, shares
from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.families.kakaobrain.transformer import KakaobrainTransformer
from model.families.kakaobrain.transformer import Layer as KakaobrainLayer
from model.families.llamagen.transformer import Decoder as LlamaGenDecoder
from model.families.llamagen.transformer import Layer as LlamaGenLayer
from model.families.llamagen.transformer import turns
from model.families.min_dalle.transformer import MinDalleTransformer
from model.families.rudalle import masks
from model.families.rudalle.layers import Layer as RuDalleLayer
from model.families.rudalle.transformer import RuDalleTransformer
from model.kernels.layout import LANES, MOST_HEAD_DIM
from model.kernels.library import load
from model.kernels.ordinary import Layer, OrdinaryStep, Parts, Product
from model.kernels.step import NativeStep, own_step
from model.memory import may_copy
from model.transformer import Transformer


def step_of(transformer: nn.Module, dtype: torch.dtype | None = None) -> NativeStep | None:
    """The native step of a transformer; None where PyTorch has to compute it.

    That is: on other devices, in other types, without the library, in sizes that are no multiples of LANES, and what
    `parts_of` leaves out. Weights are kept twice, so there must be memory for it (`may_copy`). dtype: with int8
    matrices are rounded to it, and caches of other families are bfloat16. Other types count for our own transformer,
    see `own_step`.
    """
    if isinstance(transformer, Transformer):
        return own_step(transformer, dtype)
    parameter = next(transformer.parameters())
    if parameter.device.type != "cpu" or parameter.dtype not in (torch.float32, torch.bfloat16):
        return None
    with torch.no_grad():
        library = load()
        parts = parts_of(transformer) if library else None
        rounds = dtype == torch.int8
        if library is None or parts is None or not may_copy(parts.nbytes(rounds)):
            return None
        config = cast("Any", transformer).config
        if any(size % LANES for size in (*parts.sizes(), config.head_dim)) or config.head_dim > MOST_HEAD_DIM:
            return None
        return OrdinaryStep(library, cast("Any", transformer), parts, rounds)


@singledispatch
def parts_of(transformer: object) -> Parts | None:  # noqa: ARG001
    """The parts of a decoder; None where PyTorch has to compute it."""
    return None


@parts_of.register
def _dalle_pytorch(transformer: DallePytorchTransformer) -> Parts | None:
    config = transformer.config
    mixers, feeds = list(transformer.mixers), list(transformer.feeds)
    if not all(isinstance(mixer, Attention) for mixer in mixers):
        return None  # gated MLPs
    attention = [(Product.of(m.qkv), Product.of(m.out)) for m in cast("list[Attention]", mixers)]
    feed = [(Product.of(f.w1), Product.of(f.w2)) for f in cast("list[FeedForward]", feeds)]

    @cache
    def sees(kind: str) -> Tensor | None:
        return None if kind == FULL else mask(kind, config.grid, config.max_text)[config.max_text :]

    layers = []
    for number, layer in enumerate(cast("list[DallePytorchLayer]", list(transformer.layers))):
        (qkv, out), (w1, w2) = attention[config.attention_of[number]], feed[config.feed_of[number]]
        layers.append(
            Layer(
                *(layer.norm1, qkv, out, layer.norm2, w1, w2),
                after=layer.after1,
                scale=layer.scale1,
                after_feed=layer.after2,
                feed_scale=layer.scale2,
                sees=sees(config.attention[number]),
            )
        )
    head = Product.of(transformer.image_head)
    rotation = transformer._rotation
    return Parts(
        head.weight if config.tied else transformer.image_table.weight,
        layers,
        transformer.norm,
        head,
        "geglu",
        places=None if transformer.config.rotary else _grid(transformer.row_places, transformer.column_places),
        turn=rotation and (rotation.cos, rotation.sin),
        turns_values=True,
        quarter=shares(config.dim)[1] if config.shift else 0,
        reversible=config.reversible,
        stable=config.stable,
    )


@parts_of.register
def _min_dalle(transformer: MinDalleTransformer) -> Parts:
    decoder = transformer.decoder
    layers = []
    for layer in decoder.all_layers():
        own, text, feed = layer.attention, layer.text_attention, layer.feed
        w1, w2 = _to_lanes(feed.passed.weight, feed.gate.weight, feed.out.weight)
        layers.append(
            Layer(
                *(layer.before, Product.of(own.q, own.k, own.v), Product.of(own.out), feed.norm1, w1, w2),
                after=layer.after,
                before_text=layer.before_text,
                text_q=Product.of(text.q),
                text_out=Product.of(text.out),
                after_text=layer.after_text,
                within_feed=feed.norm2,
            )
        )
    places = F.pad(decoder.places[1:], (0, 0, 0, 1))  # the first one is the start token's
    head = Product.of(decoder.head)
    return Parts(decoder.table.weight, layers, decoder.norm, head, "geglu", places=places, entering=decoder.first_norm)


@parts_of.register
def _rudalle(transformer: RuDalleTransformer) -> Parts:
    config = transformer.config

    @cache
    def sees(kind: str) -> Tensor:
        seen = masks.mask(masks.sees(kind, config.grid, config.version), config.max_ids)
        return seen[config.max_text :]

    layers = [
        Layer(
            *(layer.norm1, Product.of(layer.attention.qkv), Product.of(layer.attention.out)),
            *(layer.norm2, Product.of(layer.w1), Product.of(layer.w2)),
            after=layer.after1,
            after_feed=layer.after2,
            sees=sees(config.kind(number)),
        )
        for number, layer in enumerate(cast("list[RuDalleLayer]", list(transformer.layers)))
    ]
    places = _grid(transformer.row_places, transformer.column_places)
    head = Product.of(transformer.image_head)
    return Parts(
        *(transformer.image_table.weight, layers, transformer.norm1, head, "gelu_tanh", places),
        last_norm=transformer.norm2,
    )


@parts_of.register
def _llamagen(transformer: LlamaGenDecoder) -> Parts:
    layers = []
    for layer in cast("list[LlamaGenLayer]", list(transformer.layers)):
        w1, w2 = _to_lanes(layer.passed.weight, layer.gate.weight, layer.down.weight)
        layers.append(Layer(layer.norm1, Product.of(layer.qkv), Product.of(layer.out), layer.norm2, w1, w2))
    cos, sin = (part.repeat_interleave(2, dim=1) for part in turns(transformer.config))
    sin *= torch.tensor([-1.0, 1.0]).repeat(sin.shape[1] // 2)
    head = Product.of(transformer.image_head)
    return Parts(transformer.table.weight, layers, transformer.norm, head, "swiglu", turn=(cos, sin))


@parts_of.register
def _kakaobrain(transformer: KakaobrainTransformer) -> Parts:
    layers = [
        Layer(
            *(layer.norm1, Product.of(layer.q, layer.k, layer.v), Product.of(layer.out)),
            *(layer.norm2, Product.of(layer.w1), Product.of(layer.w2)),
        )
        for layer in cast("list[KakaobrainLayer]", list(transformer.layers))
    ]
    table, head = transformer.image_table.weight, Product.of(transformer.image_head)
    return Parts(table, layers, transformer.norm, head, "gelu", places=transformer.image_places)


def _grid(rows: nn.Parameter, columns: nn.Parameter) -> Tensor:
    """(grid, dim), (grid, dim) -> their sums in raster order, (grid * grid, dim)."""
    return (rows[:, None] + columns).flatten(0, 1)


def _to_lanes(passed: Tensor, gate: Tensor, out: Tensor) -> tuple[Product, Product]:
    """Both products of a gated feed-forward, its width filled with zeros to a multiple of LANES."""
    if more := -len(passed) % LANES:
        passed, gate = (F.pad(part, (0, 0, 0, more)) for part in (passed, gate))
        out = F.pad(out, (0, more))
    return Product((passed, gate)), Product((out,))
