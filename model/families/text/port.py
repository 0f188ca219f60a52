"""What the text tokenizers of other families share: a text becomes ids, and is refused where it is too long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from model.texts import check_length, check_token_ids


class TextTokenizer(ABC):
    """Texts to ids and back, for a model whose texts have no specials and are padded at the end.

    kind: says in a checkpoint's config which of these it is. specials: ids that `encode` adds to a text's own.
    max_tokens: ids that a prompt may have. pad: the id of padding.
    """

    kind: ClassVar[str]
    specials: ClassVar[int] = 0
    pad: int = 0

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids."""

    @property
    def null(self) -> list[int]:
        """Ids of the empty prompt, the unconditional half of classifier-free guidance: padding, so any one of it."""
        return [self.pad]

    def encode(self, text: str, truncate: bool = False) -> list[int]:
        """Ids of `text`, without padding.

        truncate: cut after max_tokens ids instead of refusing (a cut may fall inside a character).
        Raises PromptTooLong with both numbers, and InvalidRequest for a lone surrogate, which is no Unicode text.
        """
        ids = self._ids(text)
        check_length(len(ids), self.max_tokens, truncate)
        return ids[: self.max_tokens]

    def count(self, text: str) -> int:
        """Number of ids of `text`; compare with max_tokens. Raises InvalidRequest."""
        return len(self._ids(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without padding. It may have other spaces and letter cases than the text had.

        Raises InvalidRequest for an id outside the vocabulary.
        """
        check_token_ids(ids, self.vocab_size)
        return self._text([i for i in ids if i != self.pad])

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The content of tokenizer.json."""

    @abstractmethod
    def _ids(self, text: str) -> list[int]:
        """All ids of `text`."""

    @abstractmethod
    def _text(self, ids: list[int]) -> str:
        """The text of ids that are in the vocabulary."""
