"""Weighted captions, in English as a person types it, from a thing's names, style, colour, number and place.

A caption list is [(weight, text), ...]; the weights of a list sum to 1 and a reader draws one text each time an image
is seen. Every text states only what the picture shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .concepts import Concept, Name, article

Captions = list[tuple[float, str]]

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}

# {a} is the name with its article, {n} without.
STYLES: dict[str, tuple[str, ...]] = {
    "3d": (
        "a 3d render of {a}",
        "a 3D render of {a}",
        "{a}, 3d render",
        "a 3d emoji of {a}",
        "a 3d {n}",
        "{a} in 3d",
    ),
    "flat": ("a flat drawing of {a}", "a flat illustration of {a}", "an emoji of {a}", "{a}, flat design"),
    "emoji": ("an emoji of {a}", "a drawing of {a}", "{n} emoji", "an illustration of {a}"),
    "cartoon": ("a cartoon of {a}", "an emoji of {a}", "a drawing of {a}", "{n} emoji"),
    "icon": ("an icon of {a}", "{n} icon", "a simple drawing of {a}", "a flat icon of {a}"),
    "line": ("a line icon of {a}", "an icon of {a}", "a line drawing of {a}"),
    "silhouette": ("a silhouette of {a}", "an icon of {a}"),
    "flag": ("{a}", "an emoji of {a}", "a drawing of {a}"),
    "round flag": ("a round icon of {a}", "{a} in a circle", "a round {n}"),
    "pixel": ("pixel art of {a}", "a pixel art {n}", "{a}, pixel art"),
    "clip art": ("clip art of {a}", "a drawing of {a}", "{a}, clip art"),
    "portrait": ("{a}",),
}


def weighted(groups: Iterable[tuple[float, Sequence[str]]]) -> Captions:
    """Share each group's weight among its texts, merge equal texts, and scale to sum to 1."""
    found: dict[str, float] = {}
    for weight, texts in groups:
        texts = list(dict.fromkeys(" ".join(text.split()) for text in texts))
        for text in texts:
            found[text] = found.get(text, 0.0) + weight / len(texts)
    total = sum(found.values())
    return [(round(weight / total, 4), text) for text, weight in found.items()]


def of_styled(concept: Concept, style: str) -> Captions:
    """The style and any name, and nothing else: a thing that is drawn in another style unless this one is asked for."""
    return weighted(
        (weight, [template.format(a=name.full, n=name.text) for template in STYLES[style]])
        for weight, names in ((0.8, concept.names), (0.2, concept.synonyms))
        for name in names
    )


def of_single(concept: Concept, style: str, keywords: Sequence[str] = ()) -> Captions:
    """One thing on white: its names (55 %), style and name (25 %), the background, synonyms, keywords."""
    first = concept.names[0]
    groups: list[tuple[float, Sequence[str]]] = [
        (0.15, [first.full]),
        (0.30, [name.full for name in concept.names]),
        (0.10, [name.text for name in concept.names]),
        (0.25, [template.format(a=name.full, n=name.text) for template in STYLES[style] for name in concept.names]),
        (0.05, [f"{first.full} on a white background"]),
    ]
    if concept.countable:
        groups.append((0.03, [f"one {first.text}"]))
    if concept.synonyms:
        groups.append((0.10, [name.full for name in concept.synonyms]))
    if keywords:
        groups.append((0.05, [f"{first.full}, {', '.join(keywords[:3])}"]))
    return weighted(groups)


def of_recoloured(name: Name, style: str, colour: str) -> Captions:
    """A one-coloured icon on white: its colour is in nearly every caption."""
    drawn = {"silhouette": "silhouette", "line": "line drawing", "pixel": "pixel icon"}[style]
    a = article(colour)
    return weighted(
        [
            (0.5, [f"{a} {colour} {name.text} icon", f"{a} {colour} icon of {name.full}"]),
            (0.25, [f"{a} {colour} {drawn} of {name.full}"]),
            (0.15, [f"{a} {colour} {name.text}" if name.article else f"{colour} {name.text}"]),
            (0.1, [f"{name.text}, {colour} icon", f"{name.text} icon in {colour}"]),
        ]
    )


def by_names(names: Sequence[Name], texts: Callable[[Name], Captions]) -> Captions:
    """A composition's captions by a thing's first name (three quarters), and by each of its other names."""
    first, *others = names
    merged = dict.fromkeys((text for name in names for _, text in texts(name)), 0.0)
    for name in names:
        share = 1.0 if not others else 0.75 if name is first else 0.25 / len(others)
        for weight, text in texts(name):
            merged[text] += share * weight
    return weighted((weight, [text]) for text, weight in merged.items())


def of_background(name: Name, colour: str) -> Captions:
    """Every caption names the ground: one that did not would have a model paint grounds that nobody asked for."""
    a = article(colour)
    return weighted(
        [
            (0.6, [f"{name.full} on {a} {colour} background"]),
            (0.2, [f"{name.full} with {a} {colour} background", f"{name.full} in front of {a} {colour} background"]),
            (0.1, [f"{name.text} on {colour}", f"{name.text}, {colour} background"]),
        ]
    )


def of_pair(first: Name, second: Name, above: bool) -> Captions:
    """`first` stands left of (or above) `second`."""
    a, b = first.full, second.full
    if above:
        return weighted(
            [(0.6, [f"{a} above {b}"]), (0.25, [f"{b} below {a}"]), (0.15, [f"{a} on top of {b}", f"{b} under {a}"])]
        )
    return weighted(
        [
            (0.45, [f"{a} and {b}"]),
            (0.15, [f"{a} next to {b}", f"{a} beside {b}"]),
            (0.25, [f"{a} to the left of {b}", f"{a} left of {b}"]),
            (0.15, [f"{b} to the right of {a}"]),
        ]
    )


def of_count(name: Name, number: int) -> Captions:
    """The bare plural stands for two alone: with every number it would stand for a mixture of pictures."""
    many = plural(name.text)
    groups: list[tuple[float, Sequence[str]]] = [(0.8, [f"{NUMBERS[number]} {many}"]), (0.15, [f"{number} {many}"])]
    return weighted([*groups, (0.05, [many])] if number == 2 else groups)


def of_place(name: Name, size: str, place: str) -> Captions:
    """size: "", "small" or "tiny"; place: "" or "in the top left corner" and the like."""
    a = f"a {size} {name.text}" if size and name.article else f"{size} {name.text}".strip() if size else name.full
    whole = f"{a} {place}".strip()
    groups: list[tuple[float, Sequence[str]]] = [(0.8, [whole]), (0.1, [f"{whole} on a white background"])]
    if place:
        groups.append((0.1, [f"{name.full} {place}"]))
    return weighted(groups)


def of_shape(shape: str, colour: str, size: str, background: str) -> Captions:
    """A plain coloured shape. size: "" or "small" or "big"; background: "" when white."""
    name = " ".join(filter(None, (size, colour, shape)))
    a = article(name)
    where = f" on {article(background)} {background} background" if background else ""
    return weighted(
        [
            (0.6, [f"{a} {name}{where}"]),
            (0.2, [f"{name}{where}"]),
            (0.1, [f"a drawing of {a} {name}{where}", f"a flat {colour} {shape}{where}"]),
            (0.1, [f"a simple {name}{where}", f"{a} {name} shape{where}"]),
        ]
    )


_IRREGULAR = {
    "mouse": "mice", "goose": "geese", "fish": "fish", "sheep": "sheep", "deer": "deer", "wolf": "wolves", "ox": "oxen",
    "knife": "knives", "leaf": "leaves", "loaf of bread": "loaves of bread", "tooth": "teeth", "foot": "feet",
    "child": "children", "man": "men", "woman": "women", "calf": "calves", "die": "dice", "cactus": "cacti",
    "octopus": "octopuses", "scarf": "scarves", "tropical fish": "tropical fish",
    "kitchen knife": "kitchen knives", "person": "people", "hippopotamus": "hippos", "rhinoceros": "rhinos",
    "policeman": "policemen", "maple leaf": "maple leaves", "four leaf clover": "four leaf clovers", "bus": "buses",
    "computer mouse": "computer mice", "ox cart": "ox carts", "old man": "old men", "old woman": "old women",
    "snowman": "snowmen", "yo-yo": "yo-yos", "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes",
}  # fmt: skip
_HEADS = (" of ", " with ", " in ", " behind ", " on ", " and ", " showing ")


def plural(noun: str) -> str:
    """English plural of a name's head: "slice of pizza" -> "slices of pizza"."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    for joint in _HEADS:
        if joint in noun:
            head, rest = noun.split(joint, 1)
            return f"{plural(head)}{joint}{rest}"
    stem, _, last = noun.rpartition(" ")
    if stem and last in _IRREGULAR:
        return f"{stem} {_IRREGULAR[last]}"
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
