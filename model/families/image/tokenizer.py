"""The image port that all image tokenizers of other families share: `encode` and `decode`, their checks and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from model.families.image.config import ImageConfig
from model.image_shapes import as_grid, check_pictures

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
        check_pictures(pictures, self.config.channels, self.config.image_size)
        dtype = next(self.parameters()).dtype
        return torch.cat([self.find(few.to(dtype)) for few in torch.split(pictures, AT_A_TIME)])

    @torch.inference_mode()
    def decode(self, ids: Tensor) -> Tensor:
        """ids (b, grid, grid) or (b, grid * grid), int64 -> pictures (b, channels, size, size), float32 in [0, 1].

        Raises ValueError for another shape or an id outside the codebook.
        """
        ids = as_grid(ids, self.config.grid, self.config.codes)
        return torch.cat([self.paint(few) for few in torch.split(ids, AT_A_TIME)])
