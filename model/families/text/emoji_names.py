"""Emoji in a text become their English names, as the emoji package's demojize writes them. Imports no torch.

    spell_out("two 🍎")  # "two red_apple"

The names are in emoji_names.txt, in lower case and ASCII. What stands around the emoji is left as it is, but for
variation selectors, which vanish. Compared with emoji 2.16, joined emoji that no name is known for included.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

JOINER = "\u200d"
SELECTORS = ("\ufe0e", "\ufe0f")  # text or picture
NAME = ""  # the key of a name among the characters that may follow
# Skin tones and hair: parts of other emoji, which may stand alone too.
COMPONENTS = frozenset("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff\U0001f9b0\U0001f9b1\U0001f9b2\U0001f9b3")

Tree = dict[str, Any]  # the next character -> the tree behind it; NAME -> the name of what ends here


@cache
def tree() -> Tree:
    """All emoji by their characters."""
    root: Tree = {}
    lines = files(__package__).joinpath("emoji_names.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("#"):
            continue
        points, name = line.split(" ")
        at = root
        for point in points.split("-"):
            at = at.setdefault(chr(int(point, 16)), {})
        at[NAME] = name
    return root


def spell_out(text: str) -> str:
    """`text` with the name of each emoji in its place.

    From each character the longest way into the tree is gone, and it is an emoji if the way ends at a name. A joiner
    that leads nowhere is found only afterwards. Then what stands before it is read again, up to the joiner.
    """
    root = tree()
    done: list[str] = []
    read: list[tuple[str, str]] = []  # since the last plain character: what was read, and what is written for it
    passed: set[int] = set()  # joiners that lead nowhere
    at = 0
    while at < len(text):
        char = text[at]
        if at in passed:
            read.append((char, char))
            at += 1
            continue
        if char in root:
            end, name = _longest(root, text, at, passed)
            if name is not None:
                read.append((text[at:end], name))
                at = end
                continue
        elif char == JOINER and read and text[at - 1] in root and _is_emoji(root, read[-1][0]):
            passed.add(at)
            at = _back(text, at, read)
            continue
        else:
            done += (written for _, written in read)
            read = []
        if char not in SELECTORS:
            read.append((char, char))
        at += 1
    return "".join([*done, *(written for _, written in read)])


def _longest(root: Tree, text: str, start: int, passed: set[int]) -> tuple[int, str | None]:
    """Where the longest way from `start` ends, and the name there."""
    at, end = root[text[start]], start + 1
    while end < len(text) and text[end] in at and end not in passed:
        at, end = at[text[end]], end + 1
    return end, at.get(NAME)


def _is_emoji(root: Tree, chars: str) -> bool:
    at = root
    for char in chars:
        if char not in at:
            return False
        at = at[char]
    return NAME in at


def _back(text: str, at: int, read: list[tuple[str, str]]) -> int:
    """Where the emoji before the joiner at `at` begins. What was read from there on is taken out of `read`."""
    if read[-1][0] not in COMPONENTS:
        return at - len(read.pop()[0])
    before = at - sum(len(chars) for chars, _ in read[-2:])
    if text[before] == JOINER:  # this joiner is one that was passed
        read.pop()
        return before + 1
    del read[-2:]
    return before
