"""A BPE that youtokentome made, as DALLE-pytorch uses it: the text as it is, nothing around it. Imports no torch."""

from __future__ import annotations

import re
from typing import ClassVar

from model.families.text.youtokentome import BEGIN, END, PAD, SPACE, SPECIALS, UNKNOWN, YouTokenToMe
from model.texts import check_length, check_unicode

_SPACES = re.compile(f"[ \\t\\n\\v\\f\\r{SPACE}]+")  # what youtokentome/cpp/utils.cpp takes for a space


class PlainYouTokenToMe(YouTokenToMe):
    """Text to ids, without <BOS> and <EOS>. Id 0, <PAD>, stands in no text."""

    kind: ClassVar[str] = "youtokentome-plain"
    specials: ClassVar[int] = 0

    @property
    def null(self) -> list[int]:
        """Ids of the empty prompt, the unconditional half of classifier-free guidance: padding, so any one 0."""
        return [0]

    def encode(self, text: str, truncate: bool = False) -> list[int]:
        """Ids of `text`, at most max_tokens.

        truncate: cut after max_tokens ids instead of refusing.
        Raises PromptTooLong with both numbers, and InvalidRequest for a lone surrogate, which is no Unicode text.
        """
        ids = self._tokens(text)
        check_length(len(ids), self.max_tokens, truncate)
        return ids[: self.max_tokens]

    def _tokens(self, text: str) -> list[int]:
        check_unicode(text)
        return self._bpe.encode([SPACE + word for word in _SPACES.split(text) if word])

    def to_model(self) -> str:
        """The text of a bpe.model, as youtokentome writes it; see `read`."""
        ids, merges = self._bpe.vocabulary, self._bpe.merges
        made = {left + right for left, right in merges}
        characters = [token for token in ids if token not in made and token not in SPECIALS]
        lines = [(len(characters), len(merges))]
        lines += [(ord(character), ids[character]) for character in characters]
        rules = [(ids[left], ids[right], ids[left + right]) for left, right in merges]
        ends = tuple(SPECIALS.index(token) for token in (UNKNOWN, PAD, BEGIN, END))
        return "".join(" ".join(map(str, line)) + "\n" for line in (*lines, *rules, ends))
