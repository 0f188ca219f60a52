"""Our VQ-VAE: 256 x 256 RGB <-> 32 x 32 ids of 8192 codes. Convolutions only, so crops of any multiple of 8 train it.

The decoder is slim on purpose: nothing wider than `mid_channels` above 32 x 32, and the last two doublings are one
pixel shuffle (Shi et al., 1609.05158), because a slim decoder is worth more than a fast one. There is no normalisation
over the picture, so a patch of white ground gets the same code whatever stands elsewhere: easy to predict.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.config import VAEConfig
from model.vae.quantiser import FSQ


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel. (b, c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias)
        return x.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))); starts as the identity. (b, c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class Encoder(nn.Module):
    """(b, 3, 8h, 8w) in [-1, 1] -> (b, dims, h, w), before quantisation."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, config.stem_channels, 5, stride=4, padding=2)
        self.mid = nn.Conv2d(config.stem_channels, config.mid_channels, 3, padding=1)
        self.down = nn.Conv2d(config.mid_channels, config.encoder_channels, 4, stride=2, padding=1)
        self.blocks = _blocks(config.encoder_channels, config.encoder_blocks)
        self.norm = ChannelNorm(config.encoder_channels)
        self.out = nn.Conv2d(config.encoder_channels, len(config.levels), 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.mid(F.silu(self.stem(x))))
        x = self.blocks(self.down(x))
        out: Tensor = self.out(F.silu(self.norm(x)))
        return out


class Decoder(nn.Module):
    """(b, dims, h, w) codes in [-1, 1] -> (b, 3, 8h, 8w), about [-1, 1]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(len(config.levels), config.decoder_channels, 3, padding=1)
        self.blocks = _blocks(config.decoder_channels, config.decoder_blocks)
        self.up = nn.Conv2d(config.decoder_channels, config.mid_channels * 4, 1)
        self.mid_blocks = _blocks(config.mid_channels, config.decoder_mid_blocks)
        self.norm = ChannelNorm(config.mid_channels)
        self.up_pixels = nn.Conv2d(config.mid_channels, config.pixel_channels * 16, 1)
        self.out = nn.Conv2d(config.pixel_channels, 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.blocks(self.stem(codes))
        x = self.mid_blocks(F.pixel_shuffle(self.up(x), 2))
        x = F.pixel_shuffle(self.up_pixels(F.silu(self.norm(x))), 4)
        out: Tensor = self.out(F.silu(x))
        return out


class VAE(nn.Module):
    """The image tokenizer. `encode` and `decode` are the public surface; `forward` is what training needs."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantiser = FSQ(config.levels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (b, 3, h, w) in [0, 1] -> reconstruction (b, 3, h, w), unclamped, and what was rounded to codes.

        The latter is (b, h / 8, w / 8, dims) in (-1, 1), see `FSQ.squash`.
        """
        z = rearrange(self.encoder(images * 2 - 1), "b d h w -> b h w d")
        painted = self.decoder(rearrange(self.quantiser(z), "b h w d -> b d h w"))
        return (painted + 1) / 2, self.quantiser.squash(z)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """images (b, 3, 256, 256), float in [0, 1] -> ids (b, 32, 32), int64 in [0, 8192).

        Raises ValueError for another shape or an integer type.
        """
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size) or not images.is_floating_point():
            found = f"{tuple(images.shape)} of {images.dtype}"
            raise ValueError(f"images: {found} found, and (batch, 3, {size}, {size}) of floats in [0, 1] is read")
        z = rearrange(self.encoder(images * 2 - 1), "b d h w -> b h w d")
        return self.quantiser.ids(self.quantiser(z))

    @torch.inference_mode()
    def decode(self, ids: Tensor) -> Tensor:
        """ids (b, 32, 32) or (b, 1024), int64 in [0, 8192) -> images (b, 3, 256, 256), float32 in [0, 1].

        Raises ValueError for another shape or an id outside the codebook.
        """
        grid, codes = self.config.grid, self.config.codes
        if ids.ndim == 2 and ids.shape[1] == grid * grid:
            ids = rearrange(ids, "b (h w) -> b h w", h=grid)
        if ids.ndim != 3 or ids.shape[1:] != (grid, grid):
            raise ValueError(
                f"ids: {tuple(ids.shape)} found, and (batch, {grid}, {grid}) or (batch, {grid * grid}) is read"
            )
        if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < codes):
            raise ValueError(f"ids: {int(ids.min())} to {int(ids.max())} found, and the codebook has 0 to {codes - 1}")
        dtype = self.decoder.out.weight.dtype
        painted = self.decoder(rearrange(self.quantiser.codes(ids).to(dtype), "b h w d -> b d h w"))
        return ((painted.float() + 1) / 2).clamp(0, 1)
