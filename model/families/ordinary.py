"""What configs of ordinary decoders have in common: one image token a step. Knows no tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class OrdinaryDecoder(ABC):
    """Base of frozen dataclasses. grid: image tokens a side."""

    grid: int

    @property
    @abstractmethod
    def max_text(self) -> int:
        """Positions of a text, padded. Every text takes as many."""

    def text_positions(self, ids: int) -> int:  # noqa: ARG002
        """Cached positions of a text of so many ids: always the same."""
        return self.max_text

    def null_of(self, null: Sequence[int], ids: Sequence[int]) -> tuple[int, ...]:  # noqa: ARG002
        """The null prompt beside a text of these ids, of guidance. null: the tokenizer's. It is the same for all."""
        return tuple(null)

    @property
    def group(self) -> int:
        """Image tokens drawn to a step."""
        return 1

    @property
    def image_tokens(self) -> int:
        """Image tokens a picture."""
        return self.grid * self.grid

    @property
    def steps(self) -> int:
        """Steps a picture."""
        return self.image_tokens

    @property
    def capacity(self) -> int:
        """Positions of one cache slot: the text, and every image token but the last (nothing follows it)."""
        return self.max_text + self.image_tokens - 1
