"""Tiny image tokenizers that their own authors' code made, and what that code painted and encoded.

A file in tests/data/families/image holds the names and shapes of an original's tensors, and arrays that the original
computed with them. The tensors themselves are not kept: `tensors` makes them anew, the same for the original and here.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parents[2] / "data" / "families" / "image"


def noise(name: str, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers that depend on the name alone. RandomState is the generator whose stream NumPy keeps for good."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(numbers.astype(np.float32))


def tensors(shapes: dict[str, list[int]], gain: float = 1.0) -> dict[str, Tensor]:
    """Weights for every name: norms about 1, small biases, matrices that keep the size of what they get."""
    made = {}
    for name, shape in shapes.items():
        x = noise(name, tuple(shape))
        if "norm" in name and name.endswith("weight"):
            made[name] = 1 + 0.2 * x
        elif len(shape) < 2:
            made[name] = 0.1 * x
        elif "codebook" in name or "embed" in name:
            made[name] = x
        else:
            made[name] = x * gain / float(np.prod(shape[1:])) ** 0.5
    return made


def picture(side: int, channels: int = 3) -> Tensor:
    """A smooth picture (1, channels, side, side) in [0, 1]."""
    small = (noise("picture", (1, channels, 4, 4)) * 0.3 + 0.5).clamp(0, 1)
    return torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Original:
    """shapes: of its tensors by name. about: settings that its file would have. ids: (1, grid, grid).

    painted: every `stride`-th pixel of what it painted of the ids. codes: of `picture`, None if it has no encoder.
    """

    shapes: dict[str, list[int]]
    about: Any
    gain: float
    stride: int
    ids: Tensor
    painted: Tensor
    codes: Tensor | None

    @property
    def state(self) -> dict[str, Tensor]:
        return tensors(self.shapes, self.gain)


def original(name: str) -> Original:
    with np.load(DATA / f"{name}.npz") as held:
        said = json.loads(str(held["json"]))
        codes = torch.from_numpy(held["codes"]).long() if "codes" in held else None
        return Original(
            said["shapes"], said["about"], said["gain"], said["stride"],
            torch.from_numpy(held["ids"]).long(), torch.from_numpy(held["painted"]), codes,
        )  # fmt: skip
