"""What a class-conditional transformer of LlamaGen is. Knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval

from model.families.ordinary import OrdinaryDecoder
from model.sizes import Codes, Grid, Heads, Layers, Width


@dataclass(frozen=True)
class LlamaGenConfig(OrdinaryDecoder):
    """A decoder over one class, then the image tokens in raster order (2406.06525).

    A prompt is one id: that of a class, or the one after the last class, which stands for none.
    """

    family: ClassVar[str] = "llamagen"
    text_tokens: ClassVar[int] = 1  # ids of a prompt

    classes: Annotated[int, Interval(ge=1, le=2**20 - 1)]  # that can be painted
    image_vocab: Codes
    dim: Width
    depth: Layers
    heads: Heads
    hidden: Width  # width within a feed-forward
    grid: Grid  # image tokens a side

    def __post_init__(self) -> None:
        if self.dim % (4 * self.heads):
            asked = f"heads must divide dim {self.dim} into multiples of 4, as positions by row and column need"
            raise ValueError(f"{asked}, got {self.heads}")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads

    @property
    def text_vocab(self) -> int:
        """Ids of a prompt: the classes, and the one that stands for none."""
        return self.classes + 1

    @property
    def text_columns(self) -> int:
        """Columns of `logits` in front of the image vocabulary: none, as no text is written."""
        return 0

    @property
    def max_ids(self) -> int:
        """The most ids a prompt may have."""
        return 1

    @property
    def min_ids(self) -> int:
        """The fewest ids a prompt may have."""
        return 1

    @property
    def max_text(self) -> int:
        """Positions of a prompt."""
        return 1
