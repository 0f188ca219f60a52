"""English plurals of the names of things. Knows no list of things."""

from __future__ import annotations

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
_AFTER_NOUN = (" of ", " with ", " in ", " behind ", " on ", " and ", " showing ")


def plural(noun: str) -> str:
    """English plural of a name: "slice of pizza" -> "slices of pizza"."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    for joint in _AFTER_NOUN:
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
