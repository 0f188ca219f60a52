"""Cross-entropy of a linear layer over a large vocabulary, without ever holding all its logits.

Rows are taken in chunks that fit a processor's cache; each chunk's logits, probabilities and gradients are made and
used at once, so memory traffic and peak memory no longer grow with rows x vocabulary. The idea is that of the fused
linear cross-entropy of Liger Kernel (2410.10989).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor


def _of_logits(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (rows,); and the gradients of their weighted sum by the logits, in the logits' type, and by the bias.

    logits (rows, vocabulary), target, weight (rows, 1).
    """
    wide = logits.float()
    norm = wide.logsumexp(-1, keepdim=True)
    found = (norm - wide.gather(1, target)).squeeze(1)
    hit = torch.arange(wide.shape[1], device=wide.device) == target
    grad = ((wide - norm).exp() - hit.float()) * weight
    return found, grad.to(logits.dtype), grad.sum(0)


@cache
def _fused() -> Any:
    """`_of_logits` in a few passes over the logits, where op by op each takes its own: a GPU waits for its memory."""
    return torch.compile(_of_logits, dynamic=True)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, bias: Tensor, targets: Tensor, weights: Tensor, chunk: int, fused: bool
    ) -> Tensor:
        total = torch.zeros((), device=x.device)
        grad_x = torch.empty_like(x)
        grad_table = torch.zeros_like(table, dtype=torch.float32)
        grad_bias = torch.zeros_like(bias, dtype=torch.float32)
        losses = torch.empty(x.shape[0], device=x.device)
        for first in range(0, x.shape[0], chunk):
            rows = slice(first, first + chunk)
            logits = torch.addmm(bias.to(x.dtype), x[rows], table.to(x.dtype).T)
            target, weight = targets[rows, None], weights[rows, None]
            if fused:
                losses[rows], grad, of_bias = _fused()(logits, target, weight)
                grad_bias += of_bias
            else:
                logits = logits.float()
                norm = logits.logsumexp(-1, keepdim=True)
                losses[rows] = (norm - logits.gather(1, target)).squeeze(1)
                grad = logits.sub_(norm).exp_()
                grad.scatter_add_(1, target, torch.full_like(weight, -1.0))
                grad.mul_(weight)
                grad_bias += grad.sum(0)
                grad = grad.to(x.dtype)
            total += (losses[rows] * weights[rows]).sum()
            torch.mm(grad, table.to(x.dtype), out=grad_x[rows])
            if grad_table.dtype == x.dtype:
                grad_table.addmm_(grad.T, x[rows])
            else:
                grad_table += grad.T @ x[rows]
        ctx.save_for_backward(grad_x, grad_table.to(table.dtype), grad_bias.to(bias.dtype))
        ctx.mark_non_differentiable(losses)
        ctx.losses = losses
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_table, grad_bias = ctx.saved_tensors
        return grad_x * grad, grad_table * grad, grad_bias * grad, None, None, None, None


def linear_cross_entropy(
    x: Tensor, table: Tensor, bias: Tensor, targets: Tensor, weights: Tensor, chunk: int = 0, fused: bool = False
) -> Tensor:
    """sum_i weights_i * -log softmax(x_i table^T + bias)[targets_i], a scalar float32, in nats.

    x (rows, dim), table (vocabulary, dim), bias (vocabulary,), targets (rows,) int64, weights (rows,) float32.
    chunk: rows at once; 256 on a CPU and 8192 on a GPU when 0. fused: compile what is done to a chunk's logits.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    size = chunk or (8192 if x.is_cuda else 256)
    out: Tensor = _LinearCrossEntropy.apply(x.contiguous(), table, bias, targets, weights, size, fused)  # type: ignore[no-untyped-call]
    return out
