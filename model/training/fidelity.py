"""Reconstruction quality of a VAE (PSNR, SSIM), and its use of the codebook."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # pixels: the Gaussian window of the paper on SSIM, section III.B
K1, K2 = 0.01, 0.03


def psnr(painted: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture. Both (b, 3, h, w) in [0, 1]; returns (b,), 100 at most."""
    return -10 * torch.log10((painted - images).square().mean(dim=(1, 2, 3)).clamp_min(1e-10))


@cache
def _window(device: torch.device) -> Tensor:
    """(WINDOW,) weights that sum to 1."""
    x = torch.arange(WINDOW, dtype=torch.float32, device=device) - WINDOW // 2
    weights = torch.exp(-x.square() / (2 * SIGMA**2))
    return weights / weights.sum()


def _blur(x: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, c, h - 10, w - 10): convolution with the window, without padding."""
    window = _window(x.device)
    kernel = window.view(1, 1, WINDOW, 1).expand(x.shape[1], 1, WINDOW, 1)
    x = F.conv2d(x, kernel, groups=x.shape[1])
    return F.conv2d(x, kernel.transpose(2, 3), groups=x.shape[1])


def ssim(painted: Tensor, images: Tensor) -> Tensor:
    """Structural similarity of each picture: the mean over pixels and channels of Wang et al. 2004, equation 13.

    Both (b, c, h, w) in [0, 1], 11 pixels a side at least; returns (b,), 1 for equal pictures.
    """
    c1, c2 = K1**2, K2**2
    mean_a, mean_b = _blur(painted), _blur(images)
    variance_a = _blur(painted.square()) - mean_a.square()
    variance_b = _blur(images.square()) - mean_b.square()
    covariance = _blur(painted * images) - mean_a * mean_b
    similar = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a.square() + mean_b.square() + c1) * (variance_a + variance_b + c2)
    )
    return similar.mean(dim=(1, 2, 3))


class CodeCounts:
    """How often each code of a codebook was used."""

    def __init__(self, codes: int) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(codes, dtype=np.int64)

    def add(self, ids: Tensor) -> None:
        """ids: any shape, int64 in [0, codes)."""
        self.counts += np.bincount(ids.flatten().cpu().numpy(), minlength=len(self.counts))

    @property
    def usage(self) -> float:
        """The share of the codes that were used."""
        return float((self.counts > 0).mean())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the codes: the number of codes that, used uniformly, have it. 0.0 without any."""
        total = int(self.counts.sum())
        shares = self.counts[self.counts > 0] / max(1, total)
        return math.exp(float(-(shares * np.log(shares)).sum())) if total else 0.0
