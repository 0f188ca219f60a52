"""What a transformer of ruDALL-E is. Knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval, Len

from model.families.ordinary import OrdinaryDecoder
from model.limits import shown
from model.sizes import Codes, Heads, Layers, TextTokens, Vocabulary, Width

ROW, COLUMN, CONV = "row", "column", "conv"
V2, V3 = "v2", "v3"  # as the package calls the two formats of its weights


@dataclass(frozen=True)
class RuDalleConfig(OrdinaryDecoder):
    """A decoder over the text's ids, then the image tokens in raster order.

    Every text fills all its positions: where a text has id 0, or has ended, stands an id that only that position has.
    """

    family: ClassVar[str] = "rudalle"
    bos: ClassVar[int] = 2  # the id that v2 puts in front of the text's own

    text_vocab: Vocabulary  # ids of the text tokenizer; the ids of the padding come on top
    image_vocab: Codes
    dim: Width
    depth: Layers
    heads: Heads
    # "v2": one more <bos> stands in front of the text, and the convolution's window wraps around the picture's edges.
    # "v3": neither.
    version: Annotated[str, Len(2, 2)] = V3
    text_tokens: TextTokens = 126  # text tokens that are read; <bos> and <eos> come on top
    grid: Annotated[int, Interval(ge=1, le=64)] = 32  # image tokens a side
    sandwich: bool = True  # a second norm, behind each attention and each feed-forward

    def __post_init__(self) -> None:
        if self.version not in (V2, V3):
            raise ValueError(f"version must be {V2} or {V3}, got {shown(self.version)}")
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim {self.dim}, got {self.heads}")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads

    def kind(self, layer: int) -> str:
        """What a layer sees of the picture: "row", "column" or "conv"; of the text it sees all."""
        if layer % 4 == 1:
            return COLUMN
        return CONV if layer == self.depth - 1 else ROW

    @property
    def text_columns(self) -> int:
        """Text ids that can be written: the tokenizer's, and one of padding for each position."""
        return self.text_vocab + self.max_ids

    @property
    def max_ids(self) -> int:
        """Text ids at most: <bos>, the tokens, <eos>."""
        return self.text_tokens + 2

    @property
    def min_ids(self) -> int:
        """The fewest ids a text may have: none, which is all padding."""
        return 0

    @property
    def max_text(self) -> int:
        """Text positions: the ids, and in v2 one more."""
        return self.max_ids + (self.version == V2)
