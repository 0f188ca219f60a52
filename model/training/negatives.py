"""Hard negatives for the CLIP: captions with one word made false, and torn pictures. And pairs that are no negatives.

Contrastive training takes every other caption of a batch as a negative of a picture. A caption that happens to fit the
picture must not count as one: `may_fit` finds these pairs. Random captions also teach little of colours, sides and
numbers. Without captions in which one word is wrong, a CLIP reads a bag of words (Yuksekgonul et al., 2210.01936).

The pictures have the same need. A CLIP that has seen whole pictures only scores a torn drawing of the right thing as
high as a whole one. `tear` makes such pictures, as CutMix (1905.04899) pastes windows of another picture.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from model.training.data import Captions, Uniform
from model.training.examples import Ids

_WORD = re.compile(r"\w+")
# Groups of words that exclude one another where they describe the same thing.
RIVALS: tuple[tuple[str, ...], ...] = (
    ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "gray", "black", "white"),
    ("left", "right"),
    ("top", "bottom"),
    ("above", "below"),
    ("two", "three", "four", "five"),
    ("2", "3", "4", "5"),
)
_OTHERS = {word: tuple(other for other in group if other != word) for group in RIVALS for word in group}
RUN = 4  # adjacent tokens of a row that are replaced together
TRIES = 4
LEAST = 6  # tokens that must differ: fewer could not be seen


def words(text: str) -> frozenset[str]:
    """The words of a caption in lower case."""
    return frozenset(_WORD.findall(text.lower()))


def all_words(captions: Captions) -> frozenset[str]:
    """The words of all captions of a picture."""
    return frozenset().union(*(words(text) for _, text in captions))


def may_fit(caption: frozenset[str], concept: str | None, picture: frozenset[str], shown: str | None) -> bool:
    """Whether a caption may be true of a picture that it was not written for.

    caption: its words. concept: what its own picture shows. picture: the words of all captions of the other picture.
    shown: what the other picture shows. "a heart" fits a red heart, and any caption of a concept may fit its other
    drawings.
    """
    return (concept is not None and concept == shown) or caption <= picture


def falsify(text: str, random: Uniform) -> str | None:
    """The caption with one of its colours, sides or numbers replaced by a rival; None where it has none.

    "a red apple on the left" -> "a red apple on the right", or "a pink apple on the left".
    """
    matches = [match for match in _WORD.finditer(text) if match[0].lower() in _OTHERS]
    if not matches:
        return None
    match = matches[int(random.random() * len(matches))]
    rivals = _OTHERS[match[0].lower()]
    return text[: match.start()] + rivals[int(random.random() * len(rivals))] + text[match.end() :]


def tear(image: Ids, other: Ids, grid: int, random: np.random.Generator) -> Ids | None:
    """`image` with some tokens replaced by those of `other`, or by the background's; both (grid * grid,) ids.

    Half of the time a window is replaced, each side of which is 1/8 to 1/2 of the picture's. Else runs of tokens all
    over the picture are replaced, 5 to 40 % of it. None where a few tries change too little to be seen.
    """
    for _ in range(TRIES):
        mask = _mask(grid, random).reshape(-1)
        taken = other
        if random.random() < 0.3:
            ids, counts = np.unique(image, return_counts=True)
            taken = np.full_like(image, ids[counts.argmax()])  # the commonest token is the background's
        torn = np.where(mask, taken, image)
        if int((torn != image).sum()) >= LEAST:
            return torn
    return None


def _mask(grid: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(grid, grid): True where a token is replaced."""
    mask = np.zeros((grid, grid), dtype=bool)
    if random.random() < 0.5:
        height, width = random.integers(grid // 8, grid // 2 + 1, 2)
        y, x = (int(random.integers(0, grid - side + 1)) for side in (height, width))
        mask[y : y + height, x : x + width] = True
    else:
        mask[:] = np.repeat(random.random((grid, grid // RUN)) < random.uniform(0.05, 0.4), RUN, axis=1)
    return mask
