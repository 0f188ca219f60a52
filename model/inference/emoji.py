"""Emoji in a prompt, said in words: "🍎" is "a red apple", "🦊🌲" "a fox and an evergreen tree", "🐱🐱" "two cats".

A checkpoint's list of things has the emoji of each. Others are read by the names of single code points in Python's
`unicodedata`. Sequences (UTS 51) are first looked up as they are, then without their skin tone and gender.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from model.plurals import plural
from model.things import Things

_MANY = {2: "two", 3: "three", 4: "four", 5: "five"}
_ZWJ, _SELECTORS = "\u200d", "\ufe0e\ufe0f"
_TONES = "".join(map(chr, range(0x1F3FB, 0x1F400)))
_TAGS = "[\U000e0020-\U000e007f]"
_PICTURE = "[\u231a-\u23ff\u25aa-\u25fe\u2600-\u27bf\u2b05-\u2b55\U0001f000-\U0001faff]"
_ONE = f"{_PICTURE}[{_SELECTORS}{_TONES}]*{_TAGS}*"
_EMOJI = f"(?:[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|{_ONE}(?:{_ZWJ}{_ONE})*)"
_EACH = re.compile(_EMOJI)
_ROW = re.compile(rf"{_EMOJI}(?:[\s,+&]*{_EMOJI})*")
_GENDERS = re.compile(f"{_ZWJ}[♀♂➡]")
_GROWN, _CHILDREN = re.compile("[👨👩]"), frozenset("👦👧🧒")
_NUMBER = re.compile(r"\b([2-9]|[1-9]\d+|two|three|four|five|six|seven|eight|nine|ten|several|many|some)$", re.I)
_JOINT = re.compile(r"(^|[^\w\s]|\b(and|or|of|on|in|with|to|by|near|beside|above|below|over|under|behind|from))$", re.I)
_ANIMALS = (range(0x1F400, 0x1F440), range(0x1F980, 0x1F9AF))  # their names may end in FACE


def spoken(text: str, things: Things) -> str:
    """The text with the names of its emoji in their places; unchanged where it has none.

    Emoji beside each other become a row with "and", equal ones a number. Behind a number the first is a plural, behind
    another thing a comma sets it off, and behind other words it has no article. Unknown emoji stay as they are.
    """
    said, end = "", 0
    for row in _ROW.finditer(text):
        before = (said + text[end : row.start()]).rstrip()
        said, end = f"{before}{_row(before, Counter(_names(_EACH.findall(row[0]), things)), things)} ", row.end()
    return " ".join((said + text[end:]).split()) if end else text


def _row(before: str, names: Counter[tuple[str, str]], things: Things) -> str:
    """The words for a row of emoji behind the words `before`. names: of each with its article, and without.

    What these words have just named is not said again: "a cat 🐱".
    """
    names = Counter({name: n for name, n in names.items() if not _said_last(before, name[1])})
    if not names:
        return ""
    texts = [f"{_MANY.get(n, n)} {plural(bare)}" if n > 1 else full for (full, bare), n in names.items()]
    apart = " "
    if not _JOINT.search(before):
        (_, bare), many = next(iter(names.items()))
        if things.find(before.split()[-1]):
            apart = ", "
        elif many == 1:
            texts[0] = plural(bare) if _NUMBER.search(before) else bare
    return apart + " and ".join(texts)


def _said_last(before: str, bare: str) -> bool:
    """Whether a text ends with this name, in one or more: "a cat", not "a bobcat"."""
    return bool(re.search(rf"(?<!\w)(?:{re.escape(bare)}|{re.escape(plural(bare))})$", before.lower()))


def _names(row: list[str], things: Things) -> Iterator[tuple[str, str]]:
    for emoji in row:
        for form in _forms(emoji):
            if thing := things.of_emoji(form):
                yield thing.name, thing.bare
                break
        else:
            name = _of_code_point(emoji) or emoji
            yield name, name


def _forms(emoji: str) -> Iterator[str]:
    """The emoji as a list of things may have it: itself, without its gender, as a group, and without what is joined."""
    plain = emoji.translate(dict.fromkeys(map(ord, _SELECTORS + _TONES)))
    yield plain
    yield (neutral := _GENDERS.sub("", plain))
    yield _GROWN.sub("🧑", neutral)
    if not _CHILDREN.isdisjoint(neutral):
        yield "👪"
    if "❤" in neutral[1:]:
        yield "💏" if "💋" in neutral else "💑"
    if _ZWJ in neutral and neutral[0] != "🏳":  # a flag is another one without what is joined to it
        yield neutral[0]


def _of_code_point(emoji: str) -> str:
    """The name of a single code point in words, "" for none."""
    if len(emoji.rstrip(_SELECTORS + _TONES)) > 1:
        return ""
    name = unicodedata.name(emoji[0], "")
    if any(ord(emoji[0]) in block for block in _ANIMALS):
        name = name.removesuffix(" FACE")
    return name.removesuffix(" SIGN").lower()
