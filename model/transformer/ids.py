"""Checks of the ids that an uncached pass is given, the same for every family."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Vocabularies(Protocol):
    """The fields of a transformer's config that are checked."""

    @property
    def text_vocab(self) -> int: ...
    @property
    def image_vocab(self) -> int: ...
    @property
    def image_tokens(self) -> int: ...


def check_ids(config: Vocabularies, text_ids: Tensor, image_ids: Tensor, least: int, most: int) -> None:
    """text_ids (b, least to most), image_ids (b, 0 to image_tokens). Raises ValueError naming what is wrong."""
    fits = text_ids.ndim == image_ids.ndim == 2 and text_ids.shape[0] == image_ids.shape[0]
    if not fits or not least <= text_ids.shape[1] <= most or image_ids.shape[1] > config.image_tokens:
        raise ValueError(
            f"text_ids and image_ids must be (b, {least} to {most}) and (b, 0 to {config.image_tokens}), "
            f"got {tuple(text_ids.shape)} and {tuple(image_ids.shape)}"
        )
    for name, ids, limit in (("text_ids", text_ids, config.text_vocab), ("image_ids", image_ids, config.image_vocab)):
        if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < limit):
            raise ValueError(f"{name} must be from 0 to {limit - 1}, got {int(ids.min())} to {int(ids.max())}")
