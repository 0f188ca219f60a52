"""The VQGAN of taming-transformers (2012.09841; github.com/CompVis/taming-transformers), for use, not for training.

One network serves taming's VQModel and GumbelVQ, ruDALL-E's VAE, min-dalle's detokenizer and LlamaGen's tokenizer: they
differ by what `VQGANConfig` says. The names of its tensors are taming's but for the codebook's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.families.image.config import NORM_GROUPS, VQGANConfig
from model.families.image.tokenizer import ImageTokenizer


class Residual(nn.Module):
    """shortcut(x) + conv(silu(norm(conv(silu(norm(x)))))). (b, before, h, w) -> (b, after, h, w)."""

    def __init__(self, before: int, after: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, before, eps)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, after, eps)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)
        self.widens = before != after

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        out: Tensor = (self.nin_shortcut(x) if self.widens else x) + y
        return out


class Attention(nn.Module):
    """Every pixel attends to every pixel, by one head as wide as the channels. (b, c, h, w) -> the same."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, width, eps)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (rearrange(part(y), "b c h w -> b 1 (h w) c") for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.proj_out(rearrange(y, "b 1 (h w) c -> b c h w", h=x.shape[2]))
        return out


class Middle(nn.Module):
    """A residual block, attention, a residual block. (b, width, h, w) -> the same."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.block_1 = Residual(width, width, eps)
        self.attn_1 = Attention(width, eps)
        self.block_2 = Residual(width, width, eps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Halve(nn.Module):
    """(b, c, 2h, 2w) -> (b, c, h, w). The convolution pads on the right and below only, as taming's does."""

    def __init__(self, width: int, convolves: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2) if convolves else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Double(nn.Module):
    """(b, c, h, w) -> (b, c, 2h, 2w)."""

    def __init__(self, width: int, convolves: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1) if convolves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """The residual blocks of one resolution, each with attention after it if `attends`, then a step to the next one."""

    def __init__(
        self,
        before: int,
        width: int,
        blocks: int,
        attends: bool,
        eps: float,
        downsample: Halve | None = None,
        upsample: Double | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(Residual(width if i else before, width, eps) for i in range(blocks))
        self.attn = nn.ModuleList(Attention(width, eps) for _ in range(blocks if attends else 0))
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x if self.upsample is None else self.upsample(x)


class Encoder(nn.Module):
    """(b, channels, size, size) -> (b, latent, grid, grid)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        eps, last = config.norm_eps, config.widths[-1]
        self.conv_in = nn.Conv2d(config.channels, config.stem, 3, padding=1)
        self.down = nn.ModuleList()
        before = config.stem
        for i, width in enumerate(config.widths):
            halve = Halve(width, config.resample_conv) if i < len(config.widths) - 1 else None
            self.down.append(Level(before, width, config.blocks, i in config.attention, eps, downsample=halve))
            before = width
        self.mid = Middle(last, eps)
        self.norm_out = nn.GroupNorm(NORM_GROUPS, last, eps)
        self.conv_out = nn.Conv2d(last, config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """(b, latent, grid, grid) -> (b, channels, size, size), or four times the channels at half the size (wavelet)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        eps, before = config.norm_eps, config.widths[-1]
        self.conv_in = nn.Conv2d(config.latent, before, 3, padding=1)
        self.mid = Middle(before, eps)
        levels: list[Level] = []
        for i, width in reversed(list(enumerate(config.widths))):
            double = Double(width, config.resample_conv) if i else None
            levels.append(Level(before, width, config.blocks + 1, i in config.attention, eps, upsample=double))
            before = width
        self.up = nn.ModuleList(reversed(levels))  # numbered by level, painted from the last
        self.norm_out = nn.GroupNorm(NORM_GROUPS, before, eps)
        self.conv_out = nn.Conv2d(before, config.channels * (4 if config.wavelet else 1), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class VQGAN(ImageTokenizer):
    """The network of a VQGANConfig."""

    config: VQGANConfig

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook = nn.Embedding(config.with_code + config.nameless, config.code_dim)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latent, 1)
        self.decoder = Decoder(config)
        self.encoder = None
        if config.encodes:
            self.encoder = Encoder(config)
            self.quant_conv = nn.Conv2d(config.latent, config.code_dim, 1)
            if config.quantiser == "gumbel":
                self.code_logits = nn.Conv2d(config.latent, config.with_code, 1)

    def find(self, pictures: Tensor) -> Tensor:
        """As `ImageTokenizer.find`."""
        assert self.encoder is not None
        if self.config.wavelet:  # the encoder reads pictures of half the side that the decoder paints
            pictures = F.avg_pool2d(pictures, 2)
        z = self.quant_conv(self.encoder(pictures * 2 - 1 if self.config.signed else pictures))
        if (
            self.config.quantiser == "gumbel"
        ):  # the likeliest: the original draws noise here even when it does not train
            likeliest: Tensor = self.code_logits(z).argmax(1)
            return likeliest
        found = self._nearest(rearrange(z, "b d h w -> b h w d"))
        return torch.where(found < self.config.with_code, found, self.config.unknown)

    def _nearest(self, z: Tensor) -> Tensor:
        """(b, h, w, code_dim) -> the code of the smallest |z - e|^2 = |z|^2 + |e|^2 - 2 z e, rows (b, h, w)."""
        codes = self._codes()
        if self.config.quantiser == "cosine":
            z = F.normalize(z, dim=-1)
        flat = rearrange(z, "b h w d -> (b h w) d")
        distances = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * (flat @ codes.T)
        return distances.argmin(1).view(z.shape[:-1])

    def _codes(self) -> Tensor:
        """The codebook (rows, code_dim), each code of length 1 where directions are compared."""
        codes = self.codebook.weight
        return F.normalize(codes, dim=-1) if self.config.quantiser == "cosine" else codes

    def paint(self, ids: Tensor) -> Tensor:
        """As `ImageTokenizer.paint`."""
        ids = torch.where(ids < self.config.with_code, ids, 0)
        codes = rearrange(F.embedding(ids, self._codes()), "b h w d -> b d h w")
        painted = self.decoder(self.post_quant_conv(codes)).float()
        if self.config.wavelet:
            painted = inverse_haar(painted)
        return ((painted.clamp(-1, 1) + 1) / 2) if self.config.signed else painted.clamp(0, 1)


def inverse_haar(x: Tensor) -> Tensor:
    """(b, 4c, h, w) -> (b, c, 2h, 2w): one inverse step of the two-dimensional Haar wavelet transform.

    The first c channels are the mean; then come three for each channel of the picture: its differences between rows,
    between columns, and between both.
    """
    channels = x.shape[1] // 4
    low = x[:, :channels]
    rows, columns, both = rearrange(x[:, channels:], "b (c k) h w -> k b c h w", k=3)
    corners = (
        low + rows + columns + both,
        low + rows - columns - both,
        low - rows + columns - both,
        low - rows - columns + both,
    )
    return rearrange(torch.stack(corners) / 2, "(i j) b c h w -> b c (h i) (w j)", i=2)
