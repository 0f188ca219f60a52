"""Pictures that were met before: the same to the pixel, or the same to the eye, in memory that does not grow.

    seen = Seen()
    seen(image)  # "", "duplicate picture" or "near-duplicate picture"; and remembers it

Looks alike: the mean colours of 8 x 8 fields differ by at most `ALIKE` everywhere, as after another compression or in
another size. To find such a picture among those met, a difference hash (the sign of the step from each field to the
next, as in dHash) is cut into four bands, and pictures that share a band are compared. What no longer fits into memory
is forgotten, oldest first: then a duplicate may stay, and nothing else goes wrong.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

ALIKE = 5  # of 255
_FIELDS = 8
_STEP = 3  # of 255: smaller steps between fields are noise of the compression
_BANDS, _BAND_BITS = 4, 14

Image = npt.NDArray[np.uint8]


def fingerprint(image: Image) -> bytes:
    """16 bytes that two (h, w, 3) pictures share only if they are equal, pixel for pixel."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def look(image: Image) -> Image:
    """(h, w, 3) with sides that are multiples of 8 -> (8, 8, 3): the mean colour of each field."""
    height, width = image.shape[0] // _FIELDS, image.shape[1] // _FIELDS
    fields = image.reshape(_FIELDS, height, _FIELDS, width, 3)
    rows = fields.sum(axis=1, dtype=np.uint32).sum(axis=2)
    return (rows / (height * width)).round().astype(np.uint8)


def _bands(seen: Image) -> npt.NDArray[np.int64]:
    """(8, 8, 3) -> four places in a table of 4 x 2^14, one a band."""
    grey = seen.astype(np.int64).sum(axis=2)
    bits = (np.diff(grey, axis=1) > 3 * _STEP).reshape(_BANDS, _BAND_BITS)
    return (bits << np.arange(_BAND_BITS)).sum(axis=1) + (np.arange(_BANDS) << _BAND_BITS)


class Seen:
    """Remembers about 16 million pictures exactly and 260,000 by their look, in at most 200 MB."""

    def __init__(self, near: bool = True, exact_buckets: int = 1 << 20, looks: int = 1 << 18, ways: int = 16) -> None:
        self._near = near
        self._exact = np.zeros((exact_buckets, ways), dtype=np.uint64)
        self._looks = np.zeros((looks, _FIELDS, _FIELDS, 3), dtype=np.uint8)
        self._table = np.full((_BANDS << _BAND_BITS, ways), -1, dtype=np.int32)
        self._count = 0

    def __call__(self, image: Image, *, remember: bool = True) -> str:
        """Why this picture (h, w, 3) is not new, or "". A new one is remembered, if it is to be."""
        return self.judge(fingerprint(image), look(image) if self._near else None, remember=remember)

    def judge(self, print_: bytes, look_: Image | None, *, remember: bool = True) -> str:
        """The same of a picture's fingerprint and look."""
        if self._met(int.from_bytes(print_[:8], "little") or 1, remember):
            return "duplicate picture"
        if self._near and look_ is not None and self._met_alike(look_, remember):
            return "near-duplicate picture"
        return ""

    def _met(self, digest: int, remember: bool) -> bool:
        bucket = self._exact[digest % len(self._exact)]
        if (bucket == np.uint64(digest)).any():
            return True
        if remember:
            bucket[1:] = bucket[:-1].copy()
            bucket[0] = digest
        return False

    def _met_alike(self, seen: Image, remember: bool) -> bool:
        places = _bands(seen)
        known = self._table[places]
        candidates = self._looks[np.unique(known[known >= 0])].astype(np.int16)
        if len(candidates) and (np.abs(candidates - seen).max(axis=(1, 2, 3)) <= ALIKE).any():
            return True
        if not remember:
            return False
        at = self._count % len(self._looks)
        self._looks[at] = seen
        self._table[places, 1:] = self._table[places, :-1]
        self._table[places, 0] = at
        self._count += 1
        return False
