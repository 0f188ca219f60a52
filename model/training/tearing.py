"""Pictures made false, as a painter fails: with parts of another one, and with parts missing.

A CLIP that has only seen whole pictures looks for anything that fits the words, and takes a torn drawing of the right
thing for as good as a whole one. The image's side of `contrast`, and of captions made false.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
GROUP = 4  # tokens in a row that change together
TRIES = 4
LEAST = 6  # tokens that have to differ, or nobody could see it


def tear(image: Ids, other: Ids, grid: int, random: np.random.Generator) -> Ids | None:
    """`image` with some of its places taken by those of `other`, or blank; both (grid * grid,) ids.

    Half of the time a window of an eighth to a half of the side, else groups of tokens strewn over 5 to 40 % of the
    picture. None where a few tries find nothing that would differ.
    """
    for _ in range(TRIES):
        places = _places(grid, random).reshape(-1)
        taken = other
        if random.random() < 0.3:
            ids, often = np.unique(image, return_counts=True)
            taken = np.full_like(image, ids[often.argmax()])  # the ground
        torn = np.where(places, taken, image)
        if int((torn != image).sum()) >= LEAST:
            return torn
    return None


def _places(grid: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    places = np.zeros((grid, grid), dtype=bool)
    if random.random() < 0.5:
        height, width = random.integers(grid // 8, grid // 2 + 1, 2)
        y, x = (int(random.integers(0, grid - side + 1)) for side in (height, width))
        places[y : y + height, x : x + width] = True
    else:
        places[:] = np.repeat(random.random((grid, grid // GROUP)) < random.uniform(0.05, 0.4), GROUP, axis=1)
    return places
