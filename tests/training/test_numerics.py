"""The optimizer, the loss and the schedule against plain versions of themselves."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from model.training.cross_entropy import linear_cross_entropy
from model.training.optimizers import Muon, orthogonalise, schedule


@pytest.mark.parametrize("rows", [1, 300, 700])
def test_the_chunked_loss_is_cross_entropy_and_so_are_its_gradients(rows: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, 16, requires_grad=True)
    table = torch.randn(50, 16, requires_grad=True)
    bias = torch.randn(50, requires_grad=True)
    targets, weights = torch.randint(0, 50, (rows,)), torch.rand(rows)
    ours = linear_cross_entropy(x, table, bias, targets, weights, chunk=256)
    plain = (F.cross_entropy(x @ table.T + bias, targets, reduction="none") * weights).sum()
    torch.testing.assert_close(ours, plain)
    for found, expected in zip(
        torch.autograd.grad(ours * 3, [x, table, bias]), torch.autograd.grad(plain * 3, [x, table, bias]), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 16, 64), (2, 64, 16), (2, 32, 32)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonalise(matrices)
    values = torch.linalg.svdvals(found)
    assert values.median() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(1), (u @ v).flatten(1))
    assert cosine.min() > 0.95


def test_muon_solves_a_linear_problem() -> None:
    torch.manual_seed(0)
    target = torch.randn(8, 8)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1)
    x = torch.randn(64, 8)
    for step in range(200):
        loss = (x @ (weight - target).T).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = 0.1 * schedule(step, 200, 5, 0.5)
        optimizer.step()
    assert (weight - target).norm() < 0.05 * target.norm()
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_the_schedule_rises_then_falls() -> None:
    values = [schedule(step, 100, 10, 0.4) for step in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert values[9:61] == [1.0] * 52
    assert all(a > b for a, b in itertools.pairwise(values[60:]))
    assert values[100] == pytest.approx(0.02)
