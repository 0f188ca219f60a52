"""Makes compositions of the corpus's drawings: on colours, in pairs, counted, small, off-centre or dyed.

Nothing is painted here. `model.drawings.compose` paints.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from random import Random

from model.drawings import captions
from model.drawings.colours import COLOURS, SHADES
from model.drawings.compose import ARRANGEMENTS, BACKGROUNDS, Drawing, Picture, background_texts, count, pair, single
from model.drawings.concepts import Concept, Name, article, slugify
from model.drawings.drawing import WHITE

from .dye import dye, has_black, main_family, named
from .shapes import SHAPES, far_apart, shape_svg

# Groups of things that look natural in pairs and in numbers.
_THINGS = frozenset(
    {"animal", "building", "clothes", "food", "music", "nature", "object", "plant", "sport", "travel", "vehicle"}
)


def _fit_for_backgrounds(drawing: Drawing) -> bool:
    return drawing.concept.group not in ("flag", "symbol", "portrait") and not drawing.colour


def background(rng: Random, drawing: Drawing, key: str) -> Picture:
    """A drawing on one of the named colours, which is drawn at random."""
    colour, pad = rng.choice(BACKGROUNDS), rng.uniform(0.08, 0.18)
    return Picture(
        key,
        "background",
        drawing.concept.slug,
        background_texts(drawing, colour),
        drawing,
        ((drawing.key, (pad, pad, 1 - pad, 1 - pad)),),
        COLOURS[colour],
        drawing.concept.mirror,
        contrast=0.75,
    )


_PLACES: dict[str, tuple[float, float]] = {
    "in the top left corner": (0.22, 0.22),
    "in the top right corner": (0.78, 0.22),
    "in the bottom left corner": (0.22, 0.78),
    "in the bottom right corner": (0.78, 0.78),
    "on the left": (0.22, 0.5),
    "on the right": (0.78, 0.5),
    "at the top": (0.5, 0.22),
    "at the bottom": (0.5, 0.78),
}


def place(rng: Random, drawing: Drawing, key: str) -> Picture:
    """A drawing that is small or tiny, or in a corner or at an edge."""
    where, (x, y) = ("", (0.5, 0.5)) if rng.random() < 0.4 else rng.choice(list(_PLACES.items()))
    if where:
        size, side = rng.choice((("small", 0.36), ("", 0.42)))
    else:
        size, side = rng.choice((("small", 0.38), ("small", 0.34), ("tiny", 0.18)))
    return Picture(
        key,
        "place",
        drawing.concept.slug,
        captions.by_names(drawing.concept.names, lambda name: captions.of_place(name, size, where)),
        drawing,
        ((drawing.key, (x - side / 2, y - side / 2, x + side / 2, y + side / 2)),),
        mirror=drawing.concept.mirror and "left" not in where and "right" not in where,
    )


def dyes(
    rng: Random, drawing: Drawing, number: int, backgrounds: int, taken: Collection[str] = ()
) -> Iterator[Picture]:
    """A drawing dyed in `number` other colours, in the box of `single`.

    Each is shown on white and on `backgrounds` named colours.

    Every caption names the colour. taken: names of things. A dyed thing is left out if its name would be one of them,
    or if the drawing has no main colour.
    """
    names, art = _to_dye(drawing), drawing.art
    if not names or drawing.colour or not isinstance(art, str) or (family := main_family(art)) is None:
        return
    faceless = (
        {"black"} if drawing.concept.group == "animal" and has_black(art, family) else set()
    )  # its black eyes would not be seen
    others = [name for name in SHADES if name not in {named(family), *faceless}]
    for colour in rng.sample(others, min(number, len(others))):
        coloured = [Name(f"{colour} {name.text}", article(colour) if name.article else "") for name in names]
        if {name.text for name in coloured} & set(taken):
            continue
        other = replace(drawing, key=f"{drawing.key}-in-{colour}", art=dye(art, family, colour))
        alone = replace(single(other), kind="dyed", captions=captions.by_names(coloured, captions.of_dyed))
        yield alone
        for background in rng.sample([name for name in BACKGROUNDS if name != colour], backgrounds):
            yield replace(
                alone,
                key=f"{other.key}-on-{background.replace(' ', '-')}",
                captions=captions.by_names(coloured, lambda name: captions.of_background(name, background)),  # noqa: B023
                background=COLOURS[background],
                contrast=0.75,
            )


def _to_dye(drawing: Drawing) -> list[Name]:
    """The names of a thing that name no colour and no second thing. If there are none, its synonyms."""
    concept = drawing.concept
    for names in (concept.names, concept.synonyms):
        if plain := [n for n in names if not {"and", "with", "face", *SHADES} & set(n.text.lower().split())]:
            return plain
    return []


def shapes(rng: Random, plain: Sequence[Drawing], *, full_size: bool = False) -> Iterator[Picture]:
    """The plain shapes in every colour, at full size and small, on white and on other colours.

    full_size: show each shape once in each colour, at full size, so that it has the same pixels in every colour.
    """
    for drawing in plain:
        shape, colour = drawing.concept.slug.split("-in-")
        colour = colour.replace("-", " ")
        sizes = [("", 0.84), ("", rng.uniform(0.55, 0.75))] + [("small", 0.3)] * (rng.random() < 0.6)
        backgrounds = (
            [""] * len(sizes) if colour != "white" else [rng.choice(("black", "blue", "green")) for _ in sizes]
        )
        if rng.random() < 0.6:
            sizes.append(("", 0.7))
            backgrounds.append(rng.choice([name for name in BACKGROUNDS if far_apart(name, colour)]))
        for at, ((size, side), background) in enumerate(zip(sizes, backgrounds, strict=True)):
            if full_size and at:
                break
            edge = (1 - side) / 2
            yield Picture(
                f"{drawing.key}-{at}",
                "recolour",
                drawing.concept.slug,
                captions.of_shape(shape, colour, size, background),
                drawing,
                ((drawing.key, (edge, edge, 1 - edge, 1 - edge)),),
                COLOURS[background] if background else WHITE,
            )


def plain_shapes() -> list[Drawing]:
    """Our own drawings: every shape in every named colour."""
    return [
        Drawing(
            key=f"shape-{shape}-{slugify(colour)}",
            source="shapes",
            package="dalle-server",
            licence="CC0-1.0",
            author="",
            url="",
            style="flat",
            concept=Concept(f"{shape}-in-{slugify(colour)}", (Name(f"{colour} {shape}", "a"),), (), "shape"),
            art=shape_svg(shape, colour),
            colour=colour,
        )
        for shape in SHAPES
        for colour in COLOURS
    ]


# The number of compositions of each kind, as a share of the number of drawings.
SHARES = {
    "common": {"background": 0.45, "pair": 0.2, "count": 0.15, "place": 0.1},
    "full": {"background": 0.35, "pair": 0.3, "count": 0.15, "place": 0.1},
}


def compositions(rng: Random, drawings: Sequence[Drawing], shares: dict[str, float]) -> Iterator[Picture]:
    """Backgrounds, pairs, counts and places. shares: the number of each kind, as a share of len(drawings).

    All concepts are equally likely. No two pairs show the same two things, so no pair of "val" is in "train".
    """
    counted = _counted(drawings)
    shown = [d for d in drawings if _fit_for_backgrounds(d)]
    number = {kind: round(share * len(drawings)) for kind, share in shares.items()}
    if shown:
        pick = _by_concept(rng, shown)
        yield from (background(rng, next(pick), f"background-{at:06d}") for at in range(number["background"]))
    if counted:
        pick = _by_concept(rng, counted)
        yield from (count(rng, next(pick), f"count-{at:06d}") for at in range(number["count"]))
        yield from (place(rng, next(pick), f"place-{at:06d}") for at in range(number["place"]))
        yield from _pairs(rng, counted, number["pair"])


def _counted(drawings: Sequence[Drawing]) -> list[Drawing]:
    things = [d for d in drawings if d.concept.group in _THINGS and not d.colour and d.concept.countable]
    return [d for d in things if d.everyday or d.concept.names[0].text.count(" ") < 2]


def together(rng: Random, drawings: Sequence[Drawing], pairs: int, *, named: bool = False) -> Iterator[Picture]:
    """Every countable thing two, three, four and five times, and in up to `pairs` pairs with others of its source.

    As in `compositions`, no two pairs show the same two things. named: whether the drawings were chosen by name. If
    they were, hearts and faces are counted too. The choice by group leaves those out.
    """
    seen: set[frozenset[str]] = set()
    of = defaultdict(list)
    for drawing in [d for d in drawings if d.concept.countable] if named else _counted(drawings):
        of[drawing.source].append(drawing)
        yield from (count(rng, drawing, f"{drawing.key}-times-{number}", number) for number in ARRANGEMENTS)
    for source in sorted(of):
        for _ in range(pairs):
            some = rng.sample(of[source], len(of[source]))
            for first, second in zip(some[::2], some[1::2], strict=False):
                names = frozenset((first.concept.names[0].text, second.concept.names[0].text))
                if len(names) == 2 and names not in seen:
                    seen.add(names)
                    yield pair(rng, first, second, f"{first.key}-and-{second.key}")


def _by_concept(rng: Random, drawings: Sequence[Drawing]) -> Iterator[Drawing]:
    """Yields drawings without end. All concepts are equally likely, and so are the drawings of one concept."""
    of = defaultdict(list)
    for drawing in drawings:
        of[drawing.concept.slug].append(drawing)
    slugs = sorted(of)
    while True:
        rng.shuffle(slugs)
        for slug in slugs:
            yield rng.choice(of[slug])


def _pairs(rng: Random, drawings: Sequence[Drawing], number: int) -> Iterator[Picture]:
    of: dict[str, dict[str, Drawing]] = defaultdict(dict)
    for drawing in drawings:
        of[drawing.source][drawing.concept.slug] = drawing
    sources = sorted(source for source in of if len(of[source]) > 1)
    weights = [len(of[source]) for source in sources]
    seen: set[frozenset[str]] = set()
    made = 0
    for _ in range(
        20 * number if sources else 0
    ):  # the tries are bounded, because there may be too few things for so many pairs
        here = of[rng.choices(sources, weights)[0]]
        first, second = (here[slug] for slug in rng.sample(sorted(here), 2))
        names = frozenset((first.concept.names[0].text, second.concept.names[0].text))
        if len(names) == 2 and names not in seen:
            seen.add(names)
            yield pair(rng, first, second, f"pair-{made:06d}")
            made += 1
        if made == number:
            return


def hold_out(rng: Random, pictures: Sequence[Picture], share: float = 0.02, least: int = 2) -> list[Picture]:
    """Give `share` of the pictures to "val". A concept keeps at least `least` of its single drawings in "train".

    A drawing may be alone in "val" and in a composition of "train". Then "train" also shows its concept alone.
    """
    left: dict[str, int] = defaultdict(int)
    for picture in pictures:
        if picture.kind == "single":
            left[picture.concept] += 1
    chosen: set[str] = set()
    wanted = round(share * len(pictures))
    for picture in rng.sample(list(pictures), len(pictures)):
        if len(chosen) == wanted:
            break
        if picture.kind == "single":
            if left[picture.concept] <= least:
                continue
            left[picture.concept] -= 1
        chosen.add(picture.key)
    return [replace(picture, split="val") if picture.key in chosen else picture for picture in pictures]
