"""Optimizers: Muon for the hidden matrices, AdamW for everything else, one schedule for both.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found by a Newton-Schulz
iteration, for all matrices of one shape in one batched product. torch.optim.Muon iterates in bfloat16, which processors
without bfloat16 units run ten times slower than float32; in float32 this one iterates over the smaller Gram matrix:
1.85 instead of 2.95 GFLOP for a 320 x 1280 matrix. Where training is in bfloat16 anyway it does as its authors do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration, chosen by its authors for the steepest slope at zero.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, iterations: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """(n, rows, columns) -> the same shape with all singular values near 1 (about 0.7 to 1.2).

    X -> (A + B G + C G^2) X with G = X X^T. In float32 written in G alone: the polynomials commute, so G -> P^2 G, and
    the product of all P is applied to X once at the end. In bfloat16 that would not converge (to values of up to 2.7),
    and X itself is iterated.
    """
    x = matrices.float()
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if dtype != torch.float32:
        x = x.to(dtype)
        for _ in range(iterations):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
        return (x.mT if tall else x).to(matrices.dtype)
    gram = x @ x.mT
    identity = torch.eye(gram.shape[-1], device=x.device)
    product = identity.expand_as(gram)
    for i in range(iterations):
        factor = torch.baddbmm(_A * identity + _B * gram, gram, gram, alpha=_C)
        product = factor @ product if i else factor
        if i < iterations - 1:
            gram = factor @ gram @ factor
    x = product @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. lr: the size of a step in units of the matrix's spectral norm (about 0.02).

    A convolution's kernel counts as the matrix (out, in * height * width). dtype: what the iteration is computed in.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for every matrix that has a gradient. Raises ValueError for a closure: none is called."""
        if closure is not None:
            raise ValueError("closure: found one, and this optimizer takes none")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    gradient = cast("Tensor", parameter.grad)
                    state = self.state[parameter]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    buffer = state["momentum"]
                    buffer.lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(buffer, group["momentum"]))  # Nesterov
                steps = orthogonalise(torch.stack([update.flatten(1) for update in updates]), dtype=self._dtype)
                scale = max(1.0, shape[0] / shape[1:].numel()) ** 0.5
                for parameter, update in zip(parameters, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view(shape), alpha=-group["lr"] * scale)


def muon_and_adamw(
    hidden: list[nn.Parameter],
    rest: list[nn.Parameter],
    muon_lr: float,
    adam_lr: float,
    weight_decay: float,
    autocast: torch.dtype | None = None,
) -> list[torch.optim.Optimizer]:
    """Muon over the hidden matrices, AdamW over embeddings, heads, norms and biases (these without decay).

    autocast: what the model is trained in, and Muon iterates in; None for float32.
    """
    adam: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(adam, lr=adam_lr, betas=(0.9, 0.95), eps=1e-8)]
    if hidden:
        optimizers.append(Muon(hidden, lr=muon_lr, weight_decay=weight_decay, dtype=autocast or torch.float32))
    return optimizers


def schedule(step: int, steps: int, warmup: int, cooldown: float, final: float = 0.02) -> float:
    """Factor on the learning rate at `step` of `steps`: linear up, flat, and linear down to `final` at the end.

    cooldown: the share of the steps that goes down. While it is flat a run may be given more or fewer steps, which a
    cosine does not allow (2405.18392).
    """
    if step < warmup:
        return (step + 1) / warmup
    left = (steps - step) / max(1.0, steps * cooldown)
    return final + (1 - final) * max(0.0, min(1.0, left))
