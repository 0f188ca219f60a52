"""PSNR, SSIM and the use of codes, whose right answer is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.training.fidelity import CodeCounts, psnr, ssim


def test_psnr_of_a_constant_error() -> None:
    images = torch.full((2, 3, 16, 16), 0.5)
    painted = images + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert psnr(painted, images).tolist() == pytest.approx([20.0, 40.0], abs=1e-3)


def test_ssim_of_flat_pictures_is_what_the_formula_says() -> None:
    a, b, c1 = 0.2, 0.6, 0.01**2
    flat = ssim(torch.full((1, 3, 24, 24), a), torch.full((1, 3, 24, 24), b))
    assert float(flat) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-4)


def test_ssim_is_that_of_the_paper() -> None:
    """The sum of the formula over all places, written out without convolutions."""
    random = np.random.default_rng(3)
    a = random.random((20, 20))
    b = np.clip(a + random.normal(0, 0.15, (20, 20)), 0, 1)
    x = np.arange(11) - 5
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    places = []
    for y in range(10):
        for at in range(10):
            p, q = a[y : y + 11, at : at + 11], b[y : y + 11, at : at + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            places.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    first, second = (torch.from_numpy(picture).float().view(1, 1, 20, 20) for picture in (a, b))
    assert float(ssim(first, second)) == pytest.approx(float(np.mean(places)), abs=1e-4)
    assert float(ssim(first, first)) == pytest.approx(1.0, abs=1e-6)


def test_codes_used_evenly_are_as_many_as_their_perplexity() -> None:
    counts = CodeCounts(8)
    assert (counts.usage, counts.perplexity) == (0.0, 0.0)
    counts.add(torch.tensor([[0, 1], [2, 3]]))
    assert counts.usage == 0.5
    assert counts.perplexity == pytest.approx(4.0)
    counts.add(torch.full((1000,), 7))
    assert counts.usage == 5 / 8
    assert counts.perplexity < 1.1
