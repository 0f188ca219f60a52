"""Icon sets: coloured drawings of things, and one-coloured icons, which are recoloured in a named colour.

Most icons are signs of user interfaces. An icon is used only if its file name is a noun that can be drawn (`nouns`). Of
the recoloured icons a few are used for each thing.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from model.drawings.colours import COLOURS
from model.drawings.compose import Drawing
from model.drawings.concepts import Concept, everyday, guess_name, mirrors, slugify

from .emoji import ICONIFY, entries, load_set
from .licences import check
from .nouns import WORDNET, noun_of, picturable
from .render import iconify_svg, recolourable
from .shapes import hex_of
from .source import Packages, Source

COLOURED = (
    "icon-park",
    "streamline-color",
    "streamline-plump-color",
    "streamline-freehand-color",
    "streamline-flex-color",
    "streamline-sharp-color",
    "streamline-ultimate-color",
    "streamline-cyber-color",
    "streamline-kameleon-color",
    "streamline-stickies-color",
    "glyphs-poly",
    "marketeq",
    "meteocons",
    "fluent-color",
    "flat-color-icons",
    "flat-ui",
)


@dataclass(frozen=True)
class Recoloured:
    """A one-coloured set. style: that of icons whose name does not say one."""

    name: str
    style: str


RECOLOURED = (
    Recoloured("game-icons", "silhouette"),
    Recoloured("fluent-emoji-high-contrast", "silhouette"),
    Recoloured("mdi", "silhouette"),
    Recoloured("ph", "line"),
    Recoloured("tabler", "line"),
    Recoloured("lucide", "line"),
    Recoloured("hugeicons", "line"),
    Recoloured("iconoir", "line"),
    Recoloured("temaki", "silhouette"),
    Recoloured("maki", "silhouette"),
    Recoloured("pinhead", "silhouette"),
    Recoloured("icon-park-solid", "silhouette"),
    Recoloured("pixelarticons", "pixel"),
)
MOST_OF_A_THING = 8  # recoloured icons of one noun, over all sets
_SECOND_BEST = re.compile(r"-(thin|light|bold|duotone|sharp|negative|24px|1[0-9]|2[0-9]|4[0-9])(-|$)|negative")


@cache
def _everyday_names() -> dict[str, Concept]:
    return {concept.names[0].text: concept for concept in reversed(everyday().values())}


def icon_concept(noun: str) -> Concept:
    """The concept of an icon with this name. It has the slug of the everyday thing of that name, but no synonyms."""
    known = _everyday_names().get(noun)
    slug = known.slug if known else slugify(noun)
    return Concept(slug, (known.names[0] if known else guess_name(noun),), (), "icon", mirrors(slug))


def _nouns(packages: Packages) -> frozenset[str]:
    return picturable(packages[WORDNET.name].root)


def _read_coloured(packages: Packages, names: Sequence[str] = COLOURED) -> Iterator[Drawing]:
    for name in names:
        icons, info = load_set(packages, ICONIFY, name)
        licence = check(info["license"].get("spdx", ""), name)
        seen: set[tuple[str, bool]] = set()
        for slug, icon in entries(icons):
            noun = noun_of(slug, _nouns(packages))
            variant = slug.endswith(("-flat", "-duo", "-fill"))  # another drawing of the same thing
            if noun is None or (noun, variant) in seen:
                continue
            seen.add((noun, variant))
            yield Drawing(
                key=f"{name}-{slugify(slug)}",
                source=name,
                package=str(packages[ICONIFY.name]),
                licence=licence,
                author=info["author"]["name"],
                url=info["author"].get("url", ""),
                style="icon",
                concept=icon_concept(noun),
                art=iconify_svg(icon, icons.get("width", 16), icons.get("height", 16)),
            )


def _style_of(slug: str, default: str) -> str:
    if "pixel" in default:
        return default
    if slug.endswith(("-outline", "-linear", "-line")):
        return "line"
    return "silhouette" if slug.endswith(("-fill", "-filled", "-solid")) else default


def _read_recoloured(packages: Packages, sets: Sequence[Recoloured] = RECOLOURED) -> Iterator[Drawing]:
    """Recoloured icons. The colour of an icon depends only on its name, so it is the same in every build."""
    taken: Counter[str] = Counter()
    colours = [colour for colour in COLOURS if colour != "white"]
    for wanted in sets:
        icons, info = load_set(packages, ICONIFY, wanted.name)
        licence = check(info["license"].get("spdx", ""), wanted.name)
        seen: set[tuple[str, str]] = set()
        for slug, icon in entries(icons):
            noun = None if _SECOND_BEST.search(slug) else noun_of(slug, _nouns(packages))
            style = _style_of(slug, wanted.style)
            if noun is None or (noun, style) in seen or taken[noun] >= MOST_OF_A_THING or not recolourable(icon):
                continue
            seen.add((noun, style))
            taken[noun] += 1
            colour = random.Random(f"{wanted.name}:{slug}").choice(colours)
            yield Drawing(
                key=f"{wanted.name}-{slugify(slug)}",
                source=wanted.name,
                package=str(packages[ICONIFY.name]),
                licence=licence,
                author=info["author"]["name"],
                url=info["author"].get("url", ""),
                style=style,
                concept=icon_concept(noun),
                art=iconify_svg(icon, icons.get("width", 16), icons.get("height", 16), hex_of(colour)),
                colour=colour,
            )


SOURCES = (
    Source("icons", (ICONIFY, WORDNET), _read_coloured),
    Source("recoloured", (ICONIFY, WORDNET), _read_recoloured),
)
