"""What a transformer of kakaobrain's minDALL-E is. Knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval

from model.families.ordinary import OrdinaryDecoder
from model.sizes import Codes, Grid, Heads, Layers, TextTokens, Vocabulary, Width


@dataclass(frozen=True)
class KakaobrainConfig(OrdinaryDecoder):
    """A decoder over the text's ids, then the image tokens in raster order. Every text is padded to all its positions.

    Padding is seen like any other id.
    """

    family: ClassVar[str] = "kakaobrain"

    text_vocab: Vocabulary
    image_vocab: Codes
    dim: Width
    depth: Layers
    heads: Heads
    pad: Annotated[int, Interval(ge=0, le=2**20)]  # the text id of padding
    text_tokens: TextTokens = 64  # text ids that are read
    grid: Grid = 16  # image tokens a side

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim {self.dim}, got {self.heads}")
        if self.pad >= self.text_vocab:
            raise ValueError(f"pad must be an id of the {self.text_vocab} of text_vocab, got {self.pad}")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads

    @property
    def text_columns(self) -> int:
        """Columns of `logits` in front of the image vocabulary: the text ids, which can be written."""
        return self.text_vocab

    @property
    def max_ids(self) -> int:
        """The most ids a text may have."""
        return self.text_tokens

    @property
    def min_ids(self) -> int:
        """The fewest ids a text may have: none, which is all padding."""
        return 0

    @property
    def max_text(self) -> int:
        """Positions of a text."""
        return self.text_tokens
