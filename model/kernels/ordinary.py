"""The two verbs of a step, sample and decode, by the native library: for ordinary decoders on the CPU.

The structures are those of `source/ordinary.cpp`, which computes one block for all families. `families` fills it in.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.families.cache import Cache
from model.kernels.layout import LANES, Matrix
from model.kernels.step import NativeStep, SlotTensors

_I, _P = ctypes.c_int32, ctypes.c_void_p
NORMS = {nn.LayerNorm: 1, nn.RMSNorm: 2}
EPS = 1e-5  # of all norms
ACTIVATIONS = ("gelu", "gelu_tanh", "geglu", "swiglu")  # the last two multiply the outputs' first half


_OF_SOME = ("text_keys", "text_values", "text_exists", "above", "left")  # buffers that not every family has


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _P), ("bias", _P), ("kind", _I))


class _Projection(ctypes.Structure):
    _fields_ = (("matrix", Matrix), ("bias", _P))


_NORMS = ("before", "after", "before_text", "after_text", "before_feed", "within_feed", "after_feed")
_PROJECTIONS = ("qkv", "out", "text_q", "text_out", "w1", "w2")


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in _NORMS),
        *((name, _Projection) for name in _PROJECTIONS),
        *((name, _P) for name in ("scale", "feed_scale")),
        ("sees", _I),
    )


class _Sees(ctypes.Structure):
    _fields_ = (("first", _P), ("runs", _P))


_MODEL_SIZES = (
    *("dim", "depth", "heads", "head_dim", "hidden", "vocab", "grid", "group", "text", "turned"),
    *("turns_values", "quarter", "reversible", "stable", "activation", "narrow_cache"),
)


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, _P) for name in ("table", "places")),
        *((name, _Norm) for name in ("entering", "norm", "last_norm")),
        ("head", _Projection),
        *((name, _P) for name in ("layers", "sees", "cos", "sin")),
        *((name, _I) for name in _MODEL_SIZES),
    )


class _State(ctypes.Structure):
    _fields_ = (
        *((name, _P) for name in ("keys", "values", "length", "step", "text_slots")),
        *((name, _P) for name in (*_OF_SOME, *SlotTensors._fields)),
        *((name, _I) for name in ("slots", "capacity", "text")),
    )


class _Window(ctypes.Structure):
    _fields_ = (("guesses", _P), ("ahead", _I), ("right", _I))


@dataclass(frozen=True)
class Product:
    """A linear layer: weights (outputs, inputs) that stand one below the other, bias (all outputs,) or None."""

    weights: tuple[Tensor, ...]
    bias: Tensor | None = None

    @staticmethod
    def of(*linears: nn.Linear) -> Product:
        """The linears of one input, one below the other."""
        biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
        return Product(tuple(linear.weight for linear in linears), _joined(biases) if biases else None)

    @property
    def weight(self) -> Tensor:
        """The weights as one. They are joined when they are asked for: all those of a model would fill the memory."""
        return _joined(self.weights)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return sum(map(len, self.weights)), self.weights[0].shape[1]


@dataclass
class Layer:
    """What a layer has: see `source/ordinary.cpp`. None and nn.Identity stand for what it has not.

    sees: True where a position looks, (image tokens, capacity) bool; None: at all earlier ones and itself.
    """

    before: nn.Module
    qkv: Product
    out: Product
    before_feed: nn.Module
    w1: Product
    w2: Product
    after: nn.Module | None = None
    scale: Tensor | None = None
    before_text: nn.Module | None = None
    text_q: Product | None = None
    text_out: Product | None = None
    after_text: nn.Module | None = None
    within_feed: nn.LayerNorm | None = None
    after_feed: nn.Module | None = None
    feed_scale: Tensor | None = None
    sees: Tensor | None = None


@dataclass
class Parts:
    """An ordinary decoder. activation: one of ACTIVATIONS. quarter: values of a state that come from each neighbour.

    turn: cosines and signed sines (capacity, turned), for pairs of neighbouring values; None where none turn.
    """

    table: Tensor
    layers: list[Layer]
    norm: nn.Module
    head: Product
    activation: str
    places: Tensor | None = None  # (image tokens, dim), added to the tokens' vectors
    entering: nn.Module | None = None
    last_norm: nn.Module | None = None
    turn: tuple[Tensor, Tensor] | None = None
    turns_values: bool = False
    quarter: int = 0
    reversible: bool = False
    stable: bool = False

    @property
    def hidden(self) -> int:
        """Width within a feed-forward, without the zeros that fill it."""
        layer = self.layers[0]
        return layer.w2.shape[1] if layer.within_feed is None else layer.within_feed.weight.numel()

    def nbytes(self, rounds: bool) -> int:
        """Bytes of the matrices in panels, about. rounds: to int8."""
        products = {id(p): p for layer in self.layers for p in (layer.qkv, layer.out, layer.text_q, layer.text_out)}
        products |= {id(p): p for layer in self.layers for p in (layer.w1, layer.w2)}
        size = 1 if rounds else narrowed(self.layers[0].w1.weight).element_size()
        return size * sum(math.prod(p.shape) for p in (self.head, *products.values()) if p is not None)

    def sizes(self) -> list[int]:
        """Those that must be multiples of LANES."""
        products = [product for layer in self.layers for product in (layer.qkv, layer.out)]
        return [self.table.shape[1], self.head.shape[0], *(product.shape[0] for product in products)]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def narrowed(weight: Tensor) -> Tensor:
    """The weight, in float16 if it is float32 and float16 has its every value: nothing is rounded."""
    if weight.dtype != torch.float32:
        return weight
    half = weight.to(torch.float16)
    return half if bool((half.float() == weight).all()) else weight


class OrdinaryStep(NativeStep):
    """As `NativeStep`, for an ordinary decoder."""

    def __init__(self, library: ctypes.CDLL, transformer: Any, parts: Parts, rounds: bool) -> None:
        """transformer: the decoder, whose `parts` are given. rounds: matrices to int8, and the cache to bfloat16."""
        config = transformer.config
        verbs = library.dalle_ordinary_sample, library.dalle_ordinary_decode
        dtype = torch.bfloat16 if rounds else parts.table.dtype
        super().__init__(library, *verbs, config.image_vocab, dtype, rounds=rounds)
        self._transformer = transformer
        self._model = self._model_of(config, parts)
        self._state = _State()

    def new_cache(self, slots: int) -> Cache:
        found: Cache = self._transformer.new_cache(slots, self.dtype)
        return found

    def bind(self, cache: Cache, slots: SlotTensors) -> None:
        buffers: dict[str, Tensor | None] = {name: getattr(cache, name, None) for name in _OF_SOME}
        self._text_slots = torch.arange(cache.slots, dtype=torch.int32)
        for name, tensor in (
            *((name, getattr(cache, name)) for name in ("keys", "values", "length", "step")),
            ("text_slots", self._text_slots),
            *buffers.items(),
            *slots._asdict().items(),
        ):
            setattr(self._state, name, None if tensor is None else self._keeper.address(tensor))
        self._state.slots, self._state.capacity = cache.slots, cache.capacity
        text = buffers["text_exists"]
        self._state.text = 0 if text is None else text.shape[1]

    def leap(self, guesses: Tensor) -> int:
        """Feed one image's token just drawn, and guesses (ahead,) int64 of the tokens that follow it.

        Writes down the tokens that were guessed right, as single steps would have drawn them, and returns how many.
        guesses is overwritten by those for the next call. `arrange` must have been told of one image alone, and ahead
        be at most the tokens that it lacks, less one.
        """
        window = _Window(guesses.data_ptr(), len(guesses), 0)
        self._run(self._library.dalle_ordinary_leap, window)
        return window.right

    def share_text(self, source: int, slots: Sequence[int]) -> None:
        self._text_slots[list(slots)] = source

    def _model_of(self, config: Any, parts: Parts) -> _Model:
        layers = (_Layer * len(parts.layers))()
        kinds: list[Tensor] = []  # what layers see, each kind once
        made: dict[int, _Projection] = {}  # layers may share their matrices
        for to, layer in zip(layers, parts.layers, strict=True):
            for name in _NORMS:
                setattr(to, name, self._norm(getattr(layer, name)))
            for name in _PROJECTIONS:
                product = getattr(layer, name)
                if id(product) not in made:
                    made[id(product)] = self._projection(product)
                setattr(to, name, made[id(product)])
            to.scale, to.feed_scale = self._numbers(layer.scale), self._numbers(layer.feed_scale)
            seen = layer.sees
            to.sees = -1
            if seen is not None:
                to.sees = next((i for i, kind in enumerate(kinds) if kind is seen), len(kinds))
                kinds += [seen] if to.sees == len(kinds) else []
        sees = (_Sees * len(kinds))(*(self._sees(kind, config.max_text) for kind in kinds))
        cos, sin = parts.turn or (None, None)
        return _Model(
            table=self._numbers(parts.table),
            places=self._numbers(parts.places),
            entering=self._norm(parts.entering),
            norm=self._norm(parts.norm),
            last_norm=self._norm(parts.last_norm),
            head=self._projection(parts.head),
            layers=self._keeper.keep(layers),
            sees=self._keeper.keep(sees),
            cos=self._numbers(cos),
            sin=self._numbers(sin),
            dim=parts.table.shape[1],
            depth=len(layers),
            heads=config.heads,
            head_dim=config.head_dim,
            hidden=parts.hidden,
            vocab=config.image_vocab,
            grid=config.grid,
            group=1,
            text=config.max_text,
            turned=0 if cos is None else cos.shape[1],
            turns_values=parts.turns_values,
            quarter=parts.quarter,
            reversible=parts.reversible,
            stable=parts.stable,
            activation=ACTIVATIONS.index(parts.activation),
            narrow_cache=self.dtype == torch.bfloat16,
        )

    def _numbers(self, values: Tensor | None) -> int | None:
        """Float32 values, the last dimension filled with zeros to a multiple of LANES if there is no other."""
        if values is None:
            return None
        values = values.detach().float()
        if values.ndim == 1:
            values = nn.functional.pad(values, (0, -len(values) % LANES))
        return self._keeper.address(values.contiguous())

    def _norm(self, norm: nn.Module | None) -> _Norm:
        if norm is None or isinstance(norm, nn.Identity):
            return _Norm()
        assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
        assert norm.eps == EPS
        return _Norm(self._numbers(norm.weight), self._numbers(getattr(norm, "bias", None)), NORMS[type(norm)])

    def _projection(self, product: Product | None) -> _Projection:
        if product is None:
            return _Projection()
        weight = product.weight.detach()
        panels = self._keeper.panels(weight if self.products == torch.int8 else narrowed(weight))
        return _Projection(panels, self._numbers(product.bias))

    def _sees(self, seen: Tensor, text: int) -> _Sees:
        """seen (image tokens, positions) bool, by runs of neighbouring positions, which end where the text ends."""
        gap = nn.functional.pad(seen[:, :text], (0, 1))
        edges = nn.functional.pad(torch.cat([gap, seen[:, text:]], dim=1), (1, 1)).to(torch.int8).diff(dim=1)
        token, first = (edges == 1).nonzero(as_tuple=True)
        count = (edges == -1).nonzero(as_tuple=True)[1] - first
        runs = torch.stack([first - (first > text).long(), count], dim=1).to(torch.int32)
        counts = torch.bincount(token, minlength=len(seen))
        starts = nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
        return _Sees(self._keeper.address(starts), self._keeper.address(runs.contiguous()))
