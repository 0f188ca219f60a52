"""Finds the one thing that the caption of a user's picture names. Other captions can be made of its name."""

from __future__ import annotations

import re

from .colours import COLOURS
from .concepts import Name, guess_name
from .lists import words

_LONGEST = 4  # the most words of a name
_KINDS = (
    "photo", "photograph", "picture", "image", "drawing", "illustration", "painting", "sketch", "cartoon", "icon",
    "sticker", "close[- ]up", "3d render", "render", "line drawing", "watercolou?r", "portrait",
)  # fmt: skip
_MADE = re.compile(rf"^(?:an? |the )?(?:{'|'.join(_KINDS)}) of ", re.IGNORECASE)
_HOW = rf"(?:(?!(?:{'|'.join(words('joint'))}) )[\w-]+,? ){{0,4}}"  # words that describe the background
_BACKGROUND = re.compile(
    rf",? (?:isolated )?(?:on|against|with|in front of|over) (?:an? |the )?{_HOW}"
    rf"(?:background|backdrop|{'|'.join(COLOURS)})$|, {_HOW}background$",
    re.IGNORECASE,
)
_WHOSE = ("my", "our", "your", "his", "her", "their", "its")


def thing_in(caption: str) -> Name | None:
    """The one thing that a caption names, without its background: "A zorb on a pink background." -> "a zorb".

    The thing must be one to four plain words, with or without an article, "my" or "one". Any other caption gives None:
    one of several things, one with a position or a size, and a sentence. Compositions state position and number in
    their own words.
    """
    text = _BACKGROUND.sub("", _MADE.sub("", " ".join(caption.split()).rstrip(".!")))
    first, _, rest = text.partition(" ")
    article = first.lower() if first.lower() in ("a", "an", "the", "one", *_WHOSE) else ""
    bare = rest if article else text
    parts = bare.split()
    plain = all(re.fullmatch(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", part) for part in parts)
    if (
        not 1 <= len(parts) <= _LONGEST
        or not plain
        or not (words("joint") | words("nameless")).isdisjoint(bare.lower().split())
    ):
        return None
    if any(part.endswith("ing") for part in parts[1:]):  # "a cat sitting", not "an earring"
        return None
    if article == "one":
        return guess_name(bare)
    if article in ("a", "an", "the"):
        return Name(bare, article)
    if article or "'s" in bare or "’s" in bare or (len(parts) == 1 and bare[0].isupper()):
        return Name(text)  # somebody's thing, or a person: there is only one of it
    return guess_name(bare[0].lower() + bare[1:] if bare[1:].islower() else bare)
