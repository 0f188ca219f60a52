"""Mends what a reviser says, so that a caption claims nothing that was not asked for and nothing that is not painted.

    mended("a cat under a table", "a ping pong paddle and ball above a cat", things)  # "a cat"
    mended("two yellow cars", "two yellow cars", things)  # "two cars"

It reads captions of the forms of `model.drawings.captions`: a thing, perhaps counted, coloured or on a background, or
two of them. Without a list of things a caption stays as it is. Plain Python.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from model.inference.asking import COLOURS, FUNCTION, NUMBERS, SHADES, attribute, content, digits, shared_words, slip
from model.inference.belonging import asks_colour, counted, grounded, unowned
from model.plurals import plural
from model.things import WORD, Thing, Things, stem

FLAG, NUMBER = "the flag of ", "a number "  # beginnings of things' names
_JOINTS = re.compile(r"( and | above | below | next to | beside | to the left of | to the right of )")
_PART = re.compile(rf"(?:(an?|the|{'|'.join(NUMBERS)}) )?(.+?)( on an? .+ background)?")
_ATTRIBUTES = COLOURS | SHADES | {"small", "big", "3d"}
_SHAPES = "circle square triangle star heart diamond rectangle oval pentagon hexagon cross ring"  # in every colour
_BACKGROUND = re.compile(r" on an? (.+) background")


def mended(prompt: str, caption: str, things: Things) -> str:
    """The caption that is painted for a prompt, in what `wanted` leaves of it.

    A colour or a number that the prompt does not give to the thing is left out: "a car" for "a car with yellow lights".
    """
    if not things:
        return caption
    said = _asked_for(prompt, caption, things)
    said = _owned(prompt, _singular(prompt, said, things), things)
    parts = [part if i % 2 else _plainer(prompt, part, things) for i, part in enumerate(_JOINTS.split(said))]
    return truthful("".join(parts), things)


def truthful(caption: str, things: Things) -> str:
    """The caption without what the painter cannot paint: "two yellow cars and a tree" -> "a car and a tree".

    A painter learns other colours and backgrounds of one thing alone, and numbers of one kind on white: two things on a
    background would be a blank one. What has no "a" in its name it learns only alone: "jeans". Among several things a
    colour stays only if it belongs to a thing's name: "a red apple". Without a list of things the caption stays.
    """
    parts = _JOINTS.split(caption)
    if len(parts) > 1 and any((thing := things.find(_read(part)[1])) and not _countable(thing) for part in parts[::2]):
        return truthful(parts[0], things)
    several = len(parts) > 1 or _read(caption)[0] in NUMBERS
    if not things or not several:
        return caption
    return "".join(part if i % 2 else _paintable(part, things, len(parts) > 1) for i, part in enumerate(parts))


def in_colour(caption: str, things: Things) -> Thing | None:
    """The thing that a caption of one alone paints in a colour that its name does not have; None for none."""
    number, name, _ = _read(caption)
    found = _coloured(name, things)
    return found[1] if found and number not in NUMBERS else None


def uncoloured(caption: str, things: Things) -> str:
    """A caption `in_colour` without this colour: "a purple giraffe on a red background" has a giraffe on red."""
    thing = in_colour(caption, things)
    return f"{thing.name}{_read(caption)[2]}" if thing else caption


def joined(caption: str, things: Things) -> bool:
    """Whether a caption has two things: not "a bow and arrow", which is one."""
    return bool(_JOINTS.search(caption)) and not things.find(_read(caption)[1])


def fewer(prompt: str, caption: str, things: Things) -> bool:
    """Whether a prompt asks for several of a thing that the caption has one of: "cows" for "a cow"."""
    words = [word.lower().removesuffix("'s") for word in WORD.findall(prompt)]
    for number, name, _ in map(_read, [caption] if not joined(caption, things) else _JOINTS.split(caption)[::2]):
        thing, own = things.find(name), name.split()
        many = {stem(word) for word in words if stem(word) != word and word not in own}
        if thing and thing.bare == name and number not in NUMBERS and _countable(thing) and stem(own[-1]) in many:
            return True
    return False


def formed(caption: str, things: Things) -> bool:
    """Whether every half of the caption is a thing, a shape, or one that the list does not have.

    A fine-tuned model paints things that are not in its list. Of the list's words a reviser may make things that are
    none: "a face with a mouth".
    """
    if not things or things.find(_read(caption)[1]):
        return True
    return all(_formed(half, things) for half in _JOINTS.split(caption)[::2])


def said_by(prompt: Sequence[str], said: Sequence[Thing]) -> set[str]:
    """The words of a prompt, as `content` has them, that things were taught for: of texts whose words all are there."""
    texts = [set(content(text)) for thing in said for text in thing.words]
    return {word for words in texts if words.issubset(prompt) for word in words}


def things_in(said: set[str], things: Things) -> list[Thing]:
    """The things whose whole name is among these words."""
    return [thing for thing, named, _ in things.stems if all(digits(word) in said for word in named - FUNCTION)]


def _read(half: str) -> tuple[str, str, str]:
    """A half of a caption: its article or number, the thing, and the background with a blank before it."""
    found = _PART.fullmatch(half)
    return (found[1] or "", found[2], found[3] or "") if found else ("", half, "")


def _formed(half: str, things: Things) -> bool:
    words = _read(half)[1].split()
    while len(words) > 1 and stem(words[0]) in _ATTRIBUTES and not things.find(" ".join(words)):
        words.pop(0)
    known = things.find(" ".join(words)) or stem(words[-1]) in _SHAPES.split()
    return bool(known) or not all(attribute(word) or things.knows(word) for word in content(half))


def _paintable(part: str, things: Things, paired: bool) -> str:
    """One of several things in a caption without a background, and a colour that is not in its name."""
    number, name, _ = _read(part)
    known = things.find(name)
    if known is None:
        found = _coloured(name, things)
        if found is None:  # a fine-tuned painter's own, perhaps
            return part
        _, known, rest = found
        number, name = (number, rest) if number in NUMBERS else ("", known.name)
    if number in NUMBERS and (paired or not _countable(known)):
        number, name = "", known.name
    return f"{number} {name}".strip()


def _coloured(name: str, things: Things) -> tuple[str, Thing, str] | None:
    """(colour, thing, the words for it) of a name with a colour that is not the thing's own; None for others."""
    if things.find(name):
        return None
    first, _, rest = name.partition(" ")
    if first in SHADES:
        first, _, rest = rest.partition(" ")
    thing = things.find(rest) if stem(first) in COLOURS and rest else None
    return (stem(first), thing, rest) if thing else None


def _owned(prompt: str, caption: str, things: Things) -> str:
    """A caption of one kind of thing without the colours and the number that the prompt does not give to it."""
    if _JOINTS.search(caption):
        return caption
    number, name, background = _read(caption)
    found = _coloured(name, things)
    if found:
        colour, thing, _ = found
        if not asks_colour(prompt, colour) or unowned(prompt, colour, _means(prompt, thing)):
            number, name = ("", thing.name) if number not in NUMBERS else (number, found[2])
    several = things.find(name) if number in NUMBERS else None
    if several and not counted(prompt, number, _means(prompt, several)):
        number, name = "", several.name
    if shade := _BACKGROUND.fullmatch(background):
        colour = shade[1].removesuffix(" colored")
        if colour in COLOURS or colour == "light blue":
            background = background if grounded(prompt, colour) else ""
    return f"{number} {name}".strip() + background


def _means(prompt: str, thing: Thing) -> frozenset[str]:
    """The words of a prompt's that mean a thing: of its name, and of texts that it was taught for."""
    return frozenset(content(thing.bare)).union(said_by(content(prompt), [thing]))


def _plainer(prompt: str, half: str, things: Things) -> str:
    """A half whose thing's name the prompt says only a part of, as this part: "an umbrella" for "a closed umbrella".

    It stays where the thing was taught for other words of the prompt.
    """
    number, name, background = _read(half)
    thing, asked = things.find(name), content(prompt)
    if thing is None:
        return half
    said = content(thing.bare)
    shared = shared_words(said, asked)
    plain = next((one for word in shared if (one := things.find(word)) and one is not thing), None)
    if plain is None or shared == said or number in NUMBERS or stem(plain.bare) != plain.bare.lower():
        return half
    return half if said_by(asked, [thing]).difference(content(plain.bare)) else f"{plain.name}{background}"


def _countable(thing: Thing) -> bool:
    """Whether there are pictures of several of a thing, and of it beside another, as `model.drawings` makes them."""
    return thing.name.startswith(("a ", "an "))


def _singular(prompt: str, caption: str, things: Things) -> str:
    """The caption with the articles and numbers of its nouns: "an bird" -> "a bird", "two kite" -> "a kite"."""
    parts = _JOINTS.split(caption)
    for i in range(0, len(parts), 2):
        number, name, background = _read(parts[i])
        words = name.split()
        while len(words) > 1 and stem(words[0]) in COLOURS and not things.find(" ".join(words)):
            words.pop(0)
        thing = things.find(" ".join(words))
        if thing is None:
            continue
        if number not in NUMBERS and name == thing.bare:
            parts[i] = f"{thing.name}{background}"
        elif plural(thing.bare) == thing.bare:
            continue
        elif number in ("a", "an") and name == plural(thing.bare):
            parts[i] = f"{thing.name}{background}"
        elif number in ("a", "an") and " ".join(words) == plural(thing.bare):
            parts[i] = f"{number} {name.removesuffix(' '.join(words))}{thing.bare}{background}"
        elif number in NUMBERS and name == thing.bare and f"{number} {name}" not in prompt.lower():
            parts[i] = f"{thing.name}{background}"
    return "".join(parts)


def _asked_for(prompt: str, caption: str, things: Things) -> str:
    """The caption without a half that the prompt does not ask for, and a country as its flag, which can be painted.

    "a face and a cat" -> "a cat" for "a cat under a table". "a france" -> "the flag of france".
    """
    if things.find(_read(caption)[1]):
        return caption
    if flag := things.find(f"flag of {re.sub('^(an?|the) ', '', caption)}"):
        return flag.name
    asked = content(prompt)
    for joint in _JOINTS.finditer(caption):
        halves = caption[: joint.start()], caption[joint.end() :]
        asking = [half for half in halves if _asks(asked, half, things)]
        if len(asking) == 1 and _formed(asking[0], things):
            return asking[0]
        if twice := _asked_once(asked, halves, things):
            return twice
        if halves[0] == halves[1] and not any(asked.count(word) > 1 for word in content(halves[0])):
            return halves[0]
    return caption


def _asked_once(asked: Sequence[str], halves: tuple[str, str], things: Things) -> str:
    """The shorter half, if both are asked for by the same words, and by none of them twice; else ""."""
    words = [{word for word in content(half) if word in asked and not attribute(word)} for half in halves]
    once = words[0] == words[1] and words[0] and all(asked.count(word) == 1 for word in words[0])
    shorter = min(halves, key=len)
    return shorter if once and _formed(shorter, things) else ""


def _asks(asked: Sequence[str], half: str, things: Things) -> bool:
    """Whether a prompt asks for one thing of a caption: by a word of its name, or by one that it was taught for."""
    said = [word for word in content(half) if not attribute(word)]
    if any(word == other or slip(word, other) for word in asked for other in said):
        return True
    return bool(said_by(asked, things_in(set(content(half)), things)))
