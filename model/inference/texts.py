"""The text of each picture of one request: the request's own, said in the picture's style.

A picture's text is a function of (the request's text, its style, seed, index) alone, so that a picture is the same
whichever others are painted with it.
"""

from __future__ import annotations

from model.inference.requests import GenerationRequest, Said
from model.inference.sampling import STYLE, uniforms
from model.styles import Styles
from model.tokenizers import AnyTokenizer


def place(seed: int) -> int:
    """Where the styles of a seed's pictures begin: 32 bits of its noise."""
    return int(uniforms(seed, 0, 1, STYLE)[0] * 2**32)


class Texts:
    """What the pictures of one request are painted from."""

    def __init__(
        self, styles: Styles, tokenizer: AnyTokenizer, asked: GenerationRequest, request: GenerationRequest
    ) -> None:
        """asked: the request as it came. request: the same, completed and revised if it asked for that."""
        self._styles, self._tokenizer, self._request = styles, tokenizer, request
        self._plain = tokenizer.decode(request.text_ids) if styles.styles else ""
        self._reworded = asked.revise
        self._style = asked.style
        if asked.revise:  # the reviser is not told the word that names the style
            self._style = styles.wanted(tokenizer.decode(asked.text_ids), asked.style)
        self._place = place(request.params.seed)
        self._said: dict[str, Said] = {}  # by style

    def of(self, index: int) -> Said:
        """What the picture of this index is painted from."""
        chosen = self._styles.choose(self._plain, self._style, self._place, index, self._reworded)
        if chosen.style not in self._said:
            changed = chosen.text != self._plain
            ids = tuple(self._tokenizer.encode(chosen.text, truncate=True)) if changed else self._request.text_ids
            self._said[chosen.style] = Said(ids, chosen.style, chosen.text if changed else None)
        return self._said[chosen.style]
