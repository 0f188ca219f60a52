"""The image port that all image tokenizers of other families share: `encode` and `decode`, their checks and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from einops import rearrange
from torch import Tensor, nn

from model.families.image.config import ImageConfig

AT_A_TIME = 4  # pictures through a network; more would only take more memory


class ImageTokenizer(nn.Module, ABC):
    """A picture <-> grid x grid ids of a codebook. A subclass says what happens inside, by `find` and `paint`.

    encoder: None where `config.encodes` is false.
    """

    config: ImageConfig
    encoder: nn.Module | None
    decoder: nn.Module

    @property
    def reach(self) -> int | None:
        """How many rows of tokens away a token can change a pixel.

        None where every token can change every pixel, as with attention or a normalisation over the picture.
        """
        return None

    @abstractmethod
    def find(self, pictures: Tensor) -> Tensor:
        """pictures (b, channels, size, size) in [0, 1], of the weights' type -> ids (b, grid, grid), int64."""

    @abstractmethod
    def paint(self, ids: Tensor) -> Tensor:
        """ids (b, grid, grid) -> pictures (b, channels, size, size) in [0, 1], float32.

        Where `reach` is a number, a band of a picture's rows may be given. Its edges are painted like a picture's.
        """

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """pictures (b, channels, size, size), float in [0, 1] -> ids (b, grid, grid), int64: the likeliest, no noise.

        Raises ValueError for another shape, an integer type, or a model without an encoder.
        """
        if not self.config.encodes:
            raise ValueError("this model has no image encoder, so no picture can be turned into image tokens")
        size, channels = self.config.image_size, self.config.channels
        if pictures.ndim != 4 or pictures.shape[1:] != (channels, size, size) or not pictures.is_floating_point():
            found = f"{tuple(pictures.shape)} of {pictures.dtype}"
            raise ValueError(f"pictures must be (batch, {channels}, {size}, {size}) of floats in [0, 1], got {found}")
        dtype = next(self.parameters()).dtype
        return torch.cat([self.find(few.to(dtype)) for few in torch.split(pictures, AT_A_TIME)])

    @torch.inference_mode()
    def decode(self, ids: Tensor) -> Tensor:
        """ids (b, grid, grid) or (b, grid * grid), int64 -> pictures (b, channels, size, size), float32 in [0, 1].

        Raises ValueError for another shape or an id outside the codebook.
        """
        grid, codes = self.config.grid, self.config.codes
        if ids.ndim == 2 and ids.shape[1] == grid * grid:
            ids = rearrange(ids, "b (h w) -> b h w", h=grid)
        if ids.ndim != 3 or ids.shape[1:] != (grid, grid):
            raise ValueError(f"ids must be (batch, {grid}, {grid}) or (batch, {grid**2}), got {tuple(ids.shape)}")
        if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < codes):
            raise ValueError(f"ids must be from 0 to {codes - 1}, got {int(ids.min())} to {int(ids.max())}")
        return torch.cat([self.paint(few) for few in torch.split(ids, AT_A_TIME)])
