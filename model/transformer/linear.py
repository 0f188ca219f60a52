"""Linear layers that may keep their weights a second time, in the order that the CPU's kernels read best.

A step of the decoder multiplies a few rows by every weight. In float32, PyTorch's own product of few rows is slow (four
rows by 8192 x 256 on a core of an AMD Zen 3: 2.2 ms, where reading the weights takes 0.5) and its sums depend on the
number of rows. oneDNN's product with weights stored in blocks takes 1.0 ms, and there a row's bits did not depend on
the number of rows or threads: a picture alone need not be computed in the company of empty rows.
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 8  # that the blocks are laid out for; 2 to 32 gave the same layout


class PackedProduct:
    """x (..., in) -> x weight^T + bias (..., out), float32 on the CPU, without gradients."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight (out, in), bias (out,): float32 on the CPU. The weight is copied, the bias is not."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
        self.bias = bias
        self._of, self._version = weight, weight._version

    def is_of(self, weight: Tensor) -> bool:
        """Whether this is `weight` as it now is."""
        return weight is self._of and weight._version == self._version

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return found

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """None in a copy and in a file: there the weights may change."""
        return type(None), ()


def can_pack(weight: Tensor) -> bool:
    """Whether a weight is one for PackedProduct, on this machine and with this build of PyTorch."""
    return (
        weight.device.type == "cpu"
        and not weight.is_inference()  # such a tensor does not tell that it has changed
        and weight.dtype == torch.float32
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class Linear(nn.Linear):
    """nn.Linear, which after `pack`, until the weight changes, multiplies faster where no gradient is asked for."""

    _packed: PackedProduct | None = None

    def pack(self) -> None:
        """Does nothing where the weight cannot be packed."""
        self._packed = PackedProduct(self.weight, self.bias) if can_pack(self.weight) else None

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is None or torch.is_grad_enabled() or not self._packed.is_of(self.weight):
            return F.linear(x, self.weight, self.bias)
        return self._packed(x)
