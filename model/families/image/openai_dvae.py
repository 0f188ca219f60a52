"""OpenAI's discrete VAE of DALL-E (2102.12092; github.com/openai/DALL-E, dall_e/encoder.py and decoder.py).

A picture goes in and comes out by its map of [0, 1] to [0.1, 0.9] and back (section A.1: the logit-Laplace density has
no room at 0 and 1). Of the decoder's six channels the first three are the picture, the others are its spread.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.image.config import OpenAIDVAEConfig
from model.families.image.tokenizer import ImageTokenizer

EPSILON = 0.1  # dall_e/utils.py, logit_laplace_eps
GROUPS = 4  # of residual blocks, in the encoder and in the decoder


class Block(nn.Module):
    """skip(x) + gain * (four times: relu, convolution). kernels: of the four. (b, before, h, w) -> (b, after, h, w)."""

    def __init__(self, before: int, after: int, kernels: Sequence[int], gain: float) -> None:
        super().__init__()
        hidden = after // 4
        widths = (before, hidden, hidden, hidden, after)
        self.gain = gain
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2) for i, kernel in enumerate(kernels)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(F.relu(y))
        out: Tensor = self.skip(x) + self.gain * y
        return out


def _groups(first: int, widths: Sequence[int], blocks: int, kernels: Sequence[int]) -> nn.ModuleList:
    gain = 1 / (len(widths) * blocks) ** 2  # post_gain of the original
    groups = nn.ModuleList()
    before = first
    for width in widths:
        befores = [before] + [width] * (blocks - 1)
        groups.append(nn.Sequential(*(Block(each, width, kernels, gain) for each in befores)))
        before = width
    return groups


class Encoder(nn.Module):
    """(b, channels, size, size) in [0.1, 0.9] -> logits (b, codes, grid, grid)."""

    def __init__(self, config: OpenAIDVAEConfig) -> None:
        super().__init__()
        widths = [config.width * 2**i for i in range(GROUPS)]
        self.stem = nn.Conv2d(config.channels, config.width, 7, padding=3)
        self.groups = _groups(config.width, widths, config.blocks, (3, 3, 3, 1))
        self.out = nn.Conv2d(widths[-1], config.codes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, group in enumerate(self.groups):
            x = group(F.max_pool2d(x, 2) if i else x)
        out: Tensor = self.out(F.relu(x))
        return out


class Decoder(nn.Module):
    """ids (b, grid, grid) -> (b, 2 * channels, size, size), before the sigmoid."""

    def __init__(self, config: OpenAIDVAEConfig) -> None:
        super().__init__()
        widths = [config.width * 2**i for i in reversed(range(GROUPS))]
        self.stem = nn.Conv2d(config.codes, config.code_dim, 1)
        self.groups = _groups(config.code_dim, widths, config.blocks, (1, 3, 3, 3))
        self.out = nn.Conv2d(config.width, 2 * config.channels, 1)

    def forward(self, ids: Tensor) -> Tensor:
        table = self.stem.weight[:, :, 0, 0].T  # (codes, code_dim): the convolution of a one-hot picks a row
        assert self.stem.bias is not None
        x = rearrange(F.embedding(ids, table) + self.stem.bias, "b h w d -> b d h w")
        for i, group in enumerate(self.groups):
            x = group(F.interpolate(x, scale_factor=2.0, mode="nearest") if i else x)
        out: Tensor = self.out(F.relu(x))
        return out


class OpenAIDVAE(ImageTokenizer):
    """The network of an OpenAIDVAEConfig."""

    config: OpenAIDVAEConfig
    encoder: Encoder

    def __init__(self, config: OpenAIDVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def reach(self) -> int:
        """Three pixels a block, in each group of half the size of those before: 3 + 3/2 + 3/4 + 3/8 rows for each."""
        last = 1 << (GROUPS - 1)  # pixels of the last group to a row
        return -(-3 * self.config.blocks * (2 * last - 1) // last)

    def find(self, pictures: Tensor) -> Tensor:
        """As `ImageTokenizer.find`."""
        ids: Tensor = self.encoder((1 - 2 * EPSILON) * pictures + EPSILON).argmax(1)
        return ids

    def paint(self, ids: Tensor) -> Tensor:
        """As `ImageTokenizer.paint`."""
        means = torch.sigmoid(self.decoder(ids).float()[:, : self.config.channels])
        return ((means - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)
