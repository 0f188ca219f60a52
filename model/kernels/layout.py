"""What is handed to the library: the structures of `source/hierarchical.cpp`, and matrices in panels."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

LAYOUT = 6  # as dalle_layout() says; change both with every change of a structure
LANES = 16  # outputs of a panel; sizes must be multiples of it
MOST_HEAD_DIM = 512

_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)

_I, _P = ctypes.c_int32, ctypes.c_void_p


class Matrix(ctypes.Structure):
    """A weight in panels."""

    _fields_ = (("panels", _P), ("scales", _P), ("type", _I), ("out", _I), ("inputs", _I))


class Block(ctypes.Structure):
    """One block of the body."""

    _fields_ = (
        *((name, Matrix) for name in ("qkv", "out", "w1", "w2")),
        *((name, _P) for name in ("norm1", "norm2", "gain")),
    )


class LocalBlock(ctypes.Structure):
    """One block of the local network."""

    _fields_ = (("w1", Matrix), ("w2", Matrix), ("norm", _P))


_MODEL_MATRICES = ("group_in", "from_body", "from_above", "from_left", "to_code", "own")
_MODEL_ARRAYS = (
    "blocks",
    "local_blocks",
    "places",
    "cos",
    "sin",
    "norm",
    "local_norm",
    "codes",
    "bias",
    "shared",
    "levels",
)
_MODEL_SIZES = (
    *("dim", "depth", "heads", "kv_heads", "head_dim", "max_text"),
    *("group", "grid", "vocab", "code_dim", "local_dim", "local_depth", "left", "above", "level_count"),
)
_STATE_ARRAYS = (
    *("keys", "values", "length", "step", "fed", "caption"),
    *("hidden", "tokens", "drawn", "forced", "noise", "position", "begun", "bad", "score"),
)


class Model(ctypes.Structure):
    """The weights and sizes of a transformer."""

    _fields_ = (
        *((name, Matrix) for name in _MODEL_MATRICES),
        *((name, _P) for name in _MODEL_ARRAYS),
        *((name, _I) for name in _MODEL_SIZES),
    )


class State(ctypes.Structure):
    """The KV cache and the state of every slot."""

    _fields_ = (*((name, _P) for name in _STATE_ARRAYS), ("slots", _I), ("capacity", _I))


class Image(ctypes.Structure):
    """One picture of a step: its rows, and how it is sampled."""

    _fields_ = (
        ("top_p", ctypes.c_double),
        *((name, _I) for name in ("slot", "row", "null_row", "greedy", "scored", "top_k")),
        *((name, ctypes.c_float) for name in ("guidance", "heat", "opening")),
    )


class Rows(ctypes.Structure):
    """The rows of a step."""

    _fields_ = (("slots", _P), ("sources", _P), ("images", _P), ("count", _I), ("image_count", _I))


class Convolution(ctypes.Structure):
    """A convolution; see `source/convolution.hpp`."""

    _fields_ = (("weight", Matrix), ("bias", _P))


class Norm(ctypes.Structure):
    """A normalisation of each pixel."""

    _fields_ = (("weight", _P), ("bias", _P))


class ResidualBlock(ctypes.Structure):
    """A block of the VAE's decoder."""

    _fields_ = (("norm", Norm), ("first", Convolution), ("second", Convolution))


class PictureDecoder(ctypes.Structure):
    """The VAE's decoder; see `source/pictures.cpp`."""

    _fields_ = (
        *((name, Convolution) for name in ("stem", "up", "up_pixels")),
        *((name, _P) for name in ("blocks", "mid_blocks")),
        ("norm", Norm),
        *((name, _P) for name in ("out", "out_bias")),
        *((name, _I) for name in ("code_dim", "channels", "mid_channels", "pixel_channels", "depth", "mid_depth")),
    )


class Keeper:
    """Hands out addresses, and keeps what lies there alive."""

    def __init__(self, narrow: bool, rounds: bool = False) -> None:
        """narrow: whether the library multiplies in bfloat16. rounds: whether matrices become int8."""
        self._narrow, self._rounds = narrow, rounds
        self._kept: list[object] = []
        self.weight_bytes = 1  # of the widest matrix so far

    def address(self, tensor: Tensor) -> int:
        """Of the first value. The tensor must be contiguous, on the CPU; it is not copied."""
        assert tensor.is_contiguous()
        assert tensor.device.type == "cpu"
        self._kept.append(tensor)
        return tensor.data_ptr()

    def keep(self, array: ctypes.Array[Any]) -> int:
        """The address of an array of structures."""
        self._kept.append(array)
        return ctypes.addressof(array)

    def floats(self, tensor: Tensor) -> int:
        """Of the first value, in float32."""
        return self.address(tensor.detach().float().contiguous())

    def matrix(self, weight: Tensor) -> Matrix:
        """weight (out, in) -> its panels: bfloat16 if every value is one, so nothing is rounded."""
        weight = weight.detach()
        if self._rounds:
            return self.panels(weight)
        return self.panels(weight.to(torch.bfloat16) if self._narrow or is_narrow(weight) else weight)

    def panels(self, weight: Tensor) -> Matrix:
        """weight (out, in) in a type of _TYPES -> its panels. bfloat16, if the library multiplies in it."""
        scales = None
        if self._rounds:
            weight, scales = rounded(weight)
        out, inputs = weight.shape
        pair = 2 if self._narrow else 1
        panels = (
            weight.view(-1, LANES, inputs // pair, pair).transpose(1, 2).contiguous()
        )  # (panels, in / pair, 16, pair)
        self.weight_bytes = max(self.weight_bytes, panels.element_size())
        found = Matrix(self.address(panels), type=_TYPES.index(weight.dtype), out=out, inputs=inputs)
        if scales is not None:
            found.scales = self.address(scales)
        return found


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (out, in) -> int8 (out, in) and scales (out,) float32. The largest of an output's weights becomes 127.

    Each weight is rounded to the nearest multiple of its scale: "absmax" by rows, as in LLM.int8() (2208.07339).
    """
    weight = weight.float()
    scales = weight.abs().amax(1).clamp_min(1e-30) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def is_narrow(weight: Tensor) -> bool:
    """Whether every value is a bfloat16 number."""
    return bool((weight.to(torch.bfloat16).float() == weight).all())
