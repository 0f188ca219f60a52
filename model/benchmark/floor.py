"""The floor: the least time in which a machine can do a step, a prefill or a picture's decoding.

A step has to read every weight that it multiplies with, and of each row the keys and values of the context. It has to
multiply each weight once a row. The floor is max(bytes / bandwidth, operations / speed) (the roofline model, Williams
et al. 2009). Numbers are counted in the format in which the engine keeps them, or in the machine's narrowest one if
that is narrower. A weight counts once, also where it is read for each token of a group: a cache can keep it so long.

The bandwidth of a floor is that of a block as large as what the step reads, read again and again. So if the caches hold
all of it, it is theirs, and no step is faster than its floor.

The MBU of a step is its bytes, divided by its time and by the bandwidth of memory. It exceeds 1 where the caches hold
what the step reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from model.benchmark.machine import Machine
from model.checkpoints.networks import AnyTransformer
from model.families.causal import CausalTransformer
from model.families.dalle_pytorch.config import COLUMN, CONV, CONV_CENTRED, FULL, MLP, ROW
from model.families.dalle_pytorch.layers import GatedMLP
from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.families.min_dalle.transformer import MinDalleTransformer
from model.families.rudalle.transformer import RuDalleTransformer
from model.transformer import Transformer

Shape = Sequence[int]
WINDOW = 13  # cells that a 5 x 5 window sees, on average: about half of them come later


class Sizes(NamedTuple):
    """Bytes of a number, as the engine keeps it: of the weights that a step reads, and of keys and values."""

    weight: int
    cached: int


@dataclass(frozen=True)
class Demand:
    """What a step has to do.

    weights: numbers of weights read, once for all rows. cached: numbers of keys and values read a row. uses:
    multiplications of each cached number; query heads that share it. again: multiplications by weights for the further
    tokens of a group.
    """

    weights: int
    cached: float
    uses: int
    again: int = 0

    def bytes(self, rows: int, sizes: Sizes) -> float:
        """Bytes that a step over `rows` rows reads."""
        return sizes.weight * self.weights + sizes.cached * rows * self.cached

    def operations(self, rows: int) -> float:
        """Float operations of it: a multiplication and an addition each."""
        return 2.0 * rows * (self.weights + self.again + self.uses * self.cached)

    def seconds(self, machine: Machine, rows: int, sizes: Sizes) -> float:
        """The floor of a step over `rows` rows."""
        return max(self._reading(machine, rows, sizes), self.operations(rows) / machine.multiply)

    def mbu(self, machine: Machine, rows: int, sizes: Sizes, seconds: float) -> float:
        """The share of memory's bandwidth that a step of so many seconds uses."""
        return self._least(machine, rows, sizes) / machine.read / seconds

    def _reading(self, machine: Machine, rows: int, sizes: Sizes) -> float:
        size = self._least(machine, rows, sizes)
        return size / machine.reading(size)

    def _least(self, machine: Machine, rows: int, sizes: Sizes) -> float:
        return self.bytes(rows, Sizes(*(min(size, machine.number_bytes) for size in sizes)))


@singledispatch
def demand(transformer: nn.Module, ids: int, step: float) -> Demand:  # noqa: ARG001
    """The work of the step that feeds group `step` of a picture, 0 for the first. ids: of its text."""
    raise TypeError(f"transformer must be a network that paints, got {type(transformer).__name__}")


@demand.register
def _own(transformer: Transformer, ids: int, step: float) -> Demand:
    config, local = transformer.config, transformer.local
    once = _count(
        transformer.blocks,
        transformer.norm,
        transformer.group_in,
        local.from_body,
        local.from_above,
        local.from_left,
    )
    each = _count(local.blocks, local.to_code) + local.codes.own.numel() + local.bias.numel()
    positions = config.text_positions(ids) + step + 1
    cached = 2 * config.depth * config.kv_heads * config.head_dim * positions
    return Demand(once + each, cached, config.heads // config.kv_heads, again=(config.group - 1) * each)


@demand.register
def _dalle_pytorch(transformer: DallePytorchTransformer, ids: int, step: float) -> Demand:
    config = transformer.config
    mixers = [transformer.mixers[number] for number in config.attention_of]
    feeds = [transformer.feeds[number] for number in config.feed_of]
    weights = _count(*mixers, *feeds, transformer.layers, transformer.norm, transformer.image_head)
    weights -= sum(mixer.weight.numel() for mixer in mixers if isinstance(mixer, GatedMLP))  # one row of it is read
    text = config.text_positions(ids)
    seen = {
        FULL: text + step + 1,
        ROW: text + min(config.grid / 2, step + 1),
        COLUMN: text + step / config.grid + 1,
        CONV: text + min(WINDOW, step + 1),
        CONV_CENTRED: text + min(WINDOW, step + 1),
    }
    attends = sum(2 * config.heads * config.head_dim * seen[kind] for kind in config.attention if kind != MLP)
    gated = sum((2 * config.dim + 1) * seen[FULL] for kind in config.attention if kind == MLP)
    return Demand(weights, attends + gated, 1)


@demand.register
def _min_dalle(transformer: MinDalleTransformer, ids: int, step: float) -> Demand:
    """The text's keys and values are made once, by prefill."""
    config, decoder = transformer.config, transformer.decoder
    unread = [part for layer in decoder.all_layers() for part in (layer.text_attention.k, layer.text_attention.v)]
    weights = _count(decoder.layers, decoder.first_norm, decoder.norm, decoder.head) - _count(*unread)
    return Demand(weights, 2 * config.depth * config.dim * (step + 1 + 1 + ids), 1)


@demand.register
def _rudalle(transformer: RuDalleTransformer, ids: int, step: float) -> Demand:
    config = transformer.config
    weights = _count(transformer.layers, transformer.norm1, transformer.norm2, transformer.image_head)
    near = {"row": min(config.grid, step + 1), "column": step / config.grid + 1, "conv": min(61, step + 1)}
    seen = sum(config.text_positions(ids) + near[config.kind(layer)] for layer in range(config.depth))
    return Demand(weights, 2 * config.dim * seen, 1)


@demand.register
def _causal(transformer: CausalTransformer, ids: int, step: float) -> Demand:
    """LlamaGen's and kakaobrain's, where every position sees all earlier ones."""
    config = transformer.config
    weights = _count(transformer.layers, transformer.norm, transformer.image_head)
    return Demand(weights, 2 * config.depth * config.dim * (config.text_positions(ids) + step + 1), 1)


def _count(*modules: nn.Module) -> int:
    """Parameters of the modules. What stands twice counts twice, because it is read twice."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def prefill_seconds(transformer: AnyTransformer, machine: Machine, ids: int) -> float:
    """The floor of reading one text of `ids` ids: every position is multiplied by the weights of the layers."""
    positions = ids
    if isinstance(transformer, Transformer):
        parts: Iterable[nn.Module] = (transformer.blocks,)
    elif isinstance(transformer, MinDalleTransformer):
        parts = (transformer.encoder.layers,)
        positions = transformer.config.max_ids
    else:
        parts = (transformer.layers, *cast("Iterable[nn.Module]", getattr(transformer, "mixers", ())))
        parts = (*parts, *cast("Iterable[nn.Module]", getattr(transformer, "feeds", ())))
        positions = transformer.config.text_positions(ids)
    weights = _count(*parts)
    size = machine.number_bytes * weights
    return max(size / machine.reading(size), 2 * weights * positions / machine.multiply)


def counted_operations(work: object) -> float:
    """Float operations of the convolutions and matrix products in a call without arguments, as PyTorch counts them.

    But a 3 x 3 convolution without strides counts half. It needs no more with Winograd's method along one axis, as
    `model/kernels/source/convolution.hpp` has it.
    """
    aten = torch.ops.aten
    counter = FlopCounterMode(
        display=False, custom_mapping={aten.convolution: _convolved, aten._convolution: _convolved}
    )
    with counter:
        work()  # type: ignore[operator]
    return float(counter.get_total_flops())


def _convolved(x: Shape, weight: Shape, _: object, stride: Shape, *how: Any, out_shape: Shape, **__: Any) -> float:
    transposed = how[2]  # after padding and dilation
    direct = conv_flop_count(list(x), list(weight), list(out_shape), transposed)
    return direct / 2 if tuple(weight[2:]) == (3, 3) and set(stride) == {1} and not transposed else direct
