"""PyTorch's reference of int8: linear layers whose weights are rounded, an output at a time."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rounded(weight: Tensor) -> Tensor:
    """weight (out, in) with each output's values at multiples of its largest one / 127."""
    rows = []
    for row in weight.detach():
        scale = max(float(row.abs().max()), 1e-30) / 127
        rows.append(torch.tensor([round(float(value) / scale) * scale for value in row]))
    return torch.stack(rows)


def round_linears(model: nn.Module) -> None:
    """From now on every linear layer multiplies by its rounded weight. What else reads the weight sees it as it was."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = partial(F.linear, weight=rounded(module.weight), bias=module.bias)  # type: ignore[method-assign]
