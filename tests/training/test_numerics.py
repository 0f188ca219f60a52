"""The optimizer, the loss and the schedule against plain versions of themselves."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from model.training import cross_entropy
from model.training.cross_entropy import linear_cross_entropy
from model.training.optimizers import Muon, orthogonalise, schedule
from model.training.train_transformer import why_not_compiled
from model.training.uniformity import busy_patches, uniformity_loss
from model.vae.quantiser import FSQ


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rows", [1, 300, 700])
def test_the_chunked_loss_is_cross_entropy_and_so_are_its_gradients(
    rows: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = torch.compile(cross_entropy._of_logits, backend="eager", dynamic=True, fullgraph=True)
    monkeypatch.setattr(cross_entropy, "_fused", lambda: compiled)  # there may be no C compiler
    torch.manual_seed(0)
    x = torch.randn(rows, 16, requires_grad=True)
    table = torch.randn(50, 16, requires_grad=True)
    bias = torch.randn(50, requires_grad=True)
    targets, weights = torch.randint(0, 50, (rows,)), torch.rand(rows)
    ours = linear_cross_entropy(x, table, bias, targets, weights, chunk=256, fused=fused)
    plain = (F.cross_entropy(x @ table.T + bias, targets, reduction="none") * weights).sum()
    torch.testing.assert_close(ours, plain)
    for found, expected in zip(
        torch.autograd.grad(ours * 3, [x, table, bias]), torch.autograd.grad(plain * 3, [x, table, bias]), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_where_nothing_can_be_compiled_the_reason_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> object:
        raise RuntimeError("no C compiler\nset TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert why_not_compiled(torch.device("cpu")) is None
    monkeypatch.setattr(torch, "compile", lambda _: fail)
    assert why_not_compiled(torch.device("cpu")) == "no C compiler"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 16, 64), (2, 64, 16), (2, 32, 32)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonalise(matrices, dtype=dtype)
    assert found.dtype == torch.float32
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


def test_muon_takes_a_kernel_for_the_matrix_of_its_outputs() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(6, 4, 3, 3)
    kernel = torch.nn.Parameter(torch.zeros(6, 4, 3, 3).contiguous(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(torch.zeros(6, 36))
    kernel.grad, matrix.grad = gradient.clone(), gradient.flatten(1).clone()
    Muon([kernel, matrix], lr=0.1).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_evenly_spread_codes_are_told_from_heaped_ones() -> None:
    torch.manual_seed(0)
    levels = (8, 8, 8, 16)
    even, heaped = torch.rand(2000, 4) * 2 - 1, torch.randn(2000, 4) * 0.2
    lopsided = even * torch.tensor([1.0, 1.0, 1.0, 0.5])  # the outer levels of one axis are never used
    tied = even[:, [0, 0, 2, 3]]  # two axes say the same, though each alone is even
    found = [float(uniformity_loss(codes, levels)) for codes in (even, lopsided, tied, heaped)]
    assert found[0] < 0.01
    assert min(found[1:3]) > 3 * found[0]
    assert found[3] > max(found[1:3])
    assert float(uniformity_loss(heaped[:10], levels)) == 0


def test_the_loss_on_unevenness_spreads_the_codes() -> None:
    torch.manual_seed(0)
    quantiser = FSQ((4, 4, 8))
    z = torch.nn.Parameter(torch.randn(1000, 3) * 0.1)
    optimizer = torch.optim.Adam([z], lr=0.1)

    def used() -> int:
        return len(set(quantiser.ids(quantiser(z)).tolist()))

    before = used()
    for _ in range(60):
        optimizer.zero_grad()
        uniformity_loss(quantiser.squash(z), quantiser.level_counts).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert before < 30
    assert used() > 0.9 * 4 * 4 * 8


def test_busy_patches_are_those_of_more_than_one_colour() -> None:
    images = torch.ones(1, 3, 16, 24)
    images[:, :, :8, :8] = torch.tensor([0.9, 0.1, 0.3]).view(1, 3, 1, 1)  # flat, though its channels differ
    images[:, :, 10:14, 18:20] = 0
    assert busy_patches(images, 8).tolist() == [[[False, False, False], [False, False, True]]]


def test_the_schedule_rises_then_falls() -> None:
    values = [schedule(step, 100, 10, 0.4) for step in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert values[9:61] == [1.0] * 52
    assert all(a > b for a, b in itertools.pairwise(values[60:]))
    assert values[100] == pytest.approx(0.02)
