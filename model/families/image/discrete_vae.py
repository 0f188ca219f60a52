"""DALLE-pytorch's DiscreteVAE (github.com/lucidrains/DALLE-pytorch, dalle_pytorch.py), for use, not for training.

Its own `decode` gives normalised values; here a picture is those times std plus mean, which is what was normalised.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.image.config import DiscreteVAEConfig
from model.families.image.tokenizer import ImageTokenizer


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(conv(x))))). (b, c, h, w) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class Encoder(nn.Module):
    """(b, channels, size, size) normalised -> logits (b, codes, grid, grid)."""

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__()
        widths = [config.channels, *[config.width] * config.layers]
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.blocks = nn.ModuleList(ResidualBlock(config.width) for _ in range(config.blocks))
        self.out = nn.Conv2d(config.width, config.codes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for down in self.down:
            x = F.relu(down(x))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.out(x)
        return out


class Decoder(nn.Module):
    """(b, code_dim, grid, grid) -> (b, channels, size, size) normalised. It has a stem only if it has blocks."""

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__()
        first = config.width if config.blocks else config.code_dim
        widths = [first, *[config.width] * config.layers]
        self.stem = nn.Conv2d(config.code_dim, config.width, 1) if config.blocks else nn.Identity()
        self.blocks = nn.ModuleList(ResidualBlock(config.width) for _ in range(config.blocks))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.out = nn.Conv2d(config.width, config.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        for up in self.up:
            x = F.relu(up(x))
        out: Tensor = self.out(x)
        return out


class DiscreteVAE(ImageTokenizer):
    """The network of a DiscreteVAEConfig."""

    config: DiscreteVAEConfig
    encoder: Encoder

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook = nn.Embedding(config.codes, config.code_dim)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def reach(self) -> int:
        """Two rows a block. A doubling adds one row of its input, so that all of them add less than two."""
        return 2 * self.config.blocks + 2

    def find(self, pictures: Tensor) -> Tensor:
        """As `ImageTokenizer.find`."""
        mean, std = self._normal(pictures)
        ids: Tensor = self.encoder((pictures - mean) / std).argmax(1)
        return ids

    def paint(self, ids: Tensor) -> Tensor:
        """As `ImageTokenizer.paint`."""
        painted = self.decoder(rearrange(self.codebook(ids), "b h w d -> b d h w")).float()
        mean, std = self._normal(painted)
        return (painted * std + mean).clamp(0, 1)

    def _normal(self, like: Tensor) -> list[Tensor]:
        """mean and std, each (channels, 1, 1), of the type and on the device of `like`."""
        both = (self.config.mean, self.config.std)
        return [torch.tensor(x, dtype=like.dtype, device=like.device)[:, None, None] for x in both]
