"""What a transformer of min-dalle is. Knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from model.families.ordinary import OrdinaryDecoder
from model.sizes import Codes, Grid, Heads, Layers, TextTokens, Vocabulary, Width


@dataclass(frozen=True)
class MinDalleConfig(OrdinaryDecoder):
    """An encoder of the text and a decoder of the image tokens, as in BART (1910.13461), with gated feed-forwards.

    The decoder begins with the last image id as its start token, and reads the text by cross-attention alone. So a
    text takes one position of the decoder, however long it is.
    """

    family: ClassVar[str] = "min-dalle"
    pad: ClassVar[int] = 1  # the id of a text's padding, which nothing attends to

    text_vocab: Vocabulary  # rows of the text table; the tokenizer may have fewer ids
    dim: Width
    depth: Layers  # of the encoder, and of the decoder
    heads: Heads
    hidden: Width  # width within a feed-forward
    text_tokens: TextTokens = 62  # text tokens that are read; <s> and </s> come on top
    image_vocab: Codes = 2**14  # ids that can be drawn
    grid: Grid = 16  # image tokens a side

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim {self.dim}, got {self.heads}")
        if self.text_vocab <= self.pad:
            raise ValueError(f"text_vocab must be more than the id of padding, {self.pad}, got {self.text_vocab}")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads

    @property
    def text_columns(self) -> int:
        """Columns of `logits` in front of the image vocabulary: none, as no text is written."""
        return 0

    @property
    def max_ids(self) -> int:
        """Text ids at most: <s>, the tokens, </s>."""
        return self.text_tokens + 2

    @property
    def min_ids(self) -> int:
        """The fewest ids a text may have: <s> and </s>."""
        return 2

    @property
    def max_text(self) -> int:
        """Positions of a text in the decoder: the start token's."""
        return 1

    @property
    def start(self) -> int:
        """The id that the decoder begins with."""
        return self.image_vocab - 1
