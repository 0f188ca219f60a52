"""Our VAE's decoder by the native library: what `VAE.paint` computes with torch, on the CPU.

Arithmetic is float32, or `narrow`: where the processor multiplies bfloat16 numbers, the weights and the inputs of all
convolutions but the last are rounded to them. Pictures of the default model then differ from those in float32 by about
70 dB (PSNR). Sums, norms and what stands between the layers stay float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.image_shapes import as_grid
from model.kernels import layout
from model.kernels.layout import LANES, Keeper
from model.kernels.library import load
from model.vae import VAE
from model.vae.vae import ChannelNorm, ResidualBlock

POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # of Winograd's F(4, 3), beside infinity; as `source/convolution.hpp` has them


def painter_of(vae: nn.Module, narrow: bool = True) -> NativePainter | None:
    """The native decoder of a VAE; None where PyTorch has to compute it.

    That is: of other families, on other devices, without the library, with channels that are no multiples of LANES.
    narrow: it may multiply in bfloat16.
    """
    if not isinstance(vae, VAE) or vae.decoder.out.weight.device.type != "cpu":
        return None
    config = vae.config
    if config.decoder_channels % LANES or config.mid_channels % LANES:
        return None
    short = load(narrow=True) if narrow else None
    library = short or load()
    return NativePainter(library, vae, short is not None) if library else None


class NativePainter:
    """The decoder of a VAE, as the library sees it. It keeps a copy of the weights."""

    def __init__(self, library: ctypes.CDLL, vae: VAE, narrow: bool) -> None:
        """narrow: whether the library multiplies in bfloat16."""
        self._library, self._config, self._quantiser = library, vae.config, vae.quantiser
        self._keeper = Keeper(narrow)
        self._dtype = torch.bfloat16 if narrow else torch.float32
        self._code_dim = -(-len(vae.config.levels) // LANES) * LANES
        with torch.inference_mode():
            self._decoder = self._packed(vae)

    def decode(self, ids: Tensor) -> Tensor:
        """As `VAE.decode`."""
        return self.paint(as_grid(ids, self._config.grid, self._config.codes))

    @torch.inference_mode()
    def paint(self, ids: Tensor) -> Tensor:
        """As `VAE.paint`: ids (b, rows, columns), int64 -> images (b, 3, 8 rows, 8 columns), float32 in [0, 1]."""
        codes = self._quantiser.codes(ids)
        codes = F.pad(codes, (0, self._code_dim - codes.shape[-1])).contiguous()
        count, rows, columns, _ = codes.shape
        painted = torch.empty(count, 3, self._config.factor * rows, self._config.factor * columns)
        self._library.dalle_threads(torch.get_num_threads())
        for picture, found in zip(codes, painted, strict=True):
            self._library.dalle_paint(ctypes.byref(self._decoder), picture.data_ptr(), rows, columns, found.data_ptr())
        return painted

    def _packed(self, vae: VAE) -> layout.PictureDecoder:
        config, decoder, floats = vae.config, vae.decoder, self._keeper.floats
        # `up` writes the four pixels that it makes one after another, so its channels go before their places.
        up = decoder.up.weight.view(config.mid_channels, 4, -1).transpose(0, 1).flatten(0, 1)
        up_bias = _bias(decoder.up).view(config.mid_channels, 4).T.flatten()
        return layout.PictureDecoder(
            stem=self._three(decoder.stem, self._code_dim),
            up=self._one(up, up_bias),
            up_pixels=self._one(decoder.up_pixels.weight.flatten(1), _bias(decoder.up_pixels)),
            blocks=self._blocks(decoder.blocks),
            mid_blocks=self._blocks(decoder.mid_blocks),
            norm=self._norm(decoder.norm),
            out=floats(decoder.out.weight),
            out_bias=floats(_bias(decoder.out)),
            code_dim=self._code_dim,
            channels=config.decoder_channels,
            mid_channels=config.mid_channels,
            pixel_channels=config.pixel_channels,
            depth=config.decoder_blocks,
            mid_depth=config.decoder_mid_blocks,
        )

    def _blocks(self, blocks: Iterable[nn.Module]) -> int:
        found = []
        for block in blocks:
            assert isinstance(block, ResidualBlock)
            found.append(
                layout.ResidualBlock(self._norm(block.norm), self._three(block.conv1), self._three(block.conv2))
            )
        return self._keeper.keep((layout.ResidualBlock * len(found))(*found))

    def _norm(self, norm: ChannelNorm) -> layout.Norm:
        return layout.Norm(self._keeper.floats(norm.weight), self._keeper.floats(norm.bias))

    def _three(self, conv: nn.Conv2d, inputs: int | None = None) -> layout.Convolution:
        """A 3 x 3 convolution at the points. inputs: channels, those added are 0."""
        weight = conv.weight.double()  # (out, in, 3, 3)
        if inputs is not None:
            weight = F.pad(weight, (0, 0, 0, 0, 0, inputs - weight.shape[1]))
        at_points = weight @ at_the_points().T  # (out, in, 3, points)
        by_panels = rearrange(at_points, "(out lane) i row point -> (out point lane) (row i)", lane=LANES)
        return self._one(by_panels, _bias(conv))

    def _one(self, weight: Tensor, bias: Tensor) -> layout.Convolution:
        """weight (out, in), a product."""
        panels = self._keeper.panels(weight.to(self._dtype).contiguous())
        return layout.Convolution(panels, self._keeper.floats(bias))


def at_the_points() -> Tensor:
    """(points, 3) float64: what turns three weights of a row into one for each point.

    A weight is a polynomial. It is taken at each point p and divided by the product of p's distances to the others.
    At infinity it is the highest coefficient.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)
    apart = points[:, None] - points + torch.eye(len(points), dtype=torch.float64)
    powers = points[:, None] ** torch.arange(3)
    return torch.cat([powers / apart.prod(1, keepdim=True), powers.new_tensor([[0.0, 0.0, 1.0]])])


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
