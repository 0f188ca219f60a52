"""The emoji vendors. Each draws the same few thousand things, which are found by name or by code point.

Drawings with a skin tone are left out, because there would be five times as many pictures of people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from model.drawings.compose import Drawing
from model.drawings.concepts import Concept, everyday, flag_concept, guess_name, mirrors, slugify
from model.drawings.lists import words
from model.errors import DataError

from .licences import check
from .packages import Package
from .render import iconify_svg
from .source import Packages, Source

METADATA = Package("npm", "emojibase-data", "17.0.0")
ICONIFY = Package("npm", "@iconify/json", "2.2.535")
FLUENT_3D = Package("npm", "@lobehub/fluent-emoji-3d", "1.1.0")

_GROUPS = {0: "face", 1: "person", 3: "animal", 4: "food", 5: "travel", 6: "sport", 7: "object", 8: "symbol", 9: "flag"}
_TONE = re.compile(r"-(light|medium-light|medium|medium-dark|dark)(-skin-tone)?(-|$)|-tone[1-5]")
_FOREIGN = re.compile(r"^japanese-.*-button$|^regional-indicator|^input-|facing-right$")  # writing, or a duplicate
_WITH_THE = re.compile(
    r"islands$|emirates$|republic$|nations$|^(bahamas|comoros|gambia|maldives|philippines|seychelles)$"
)
_SHORTEST_KEYWORD = 3  # letters of a keyword; shorter ones are slang or abbreviations


@dataclass(frozen=True)
class Emoji:
    """One emoji of Unicode: its concept and its keywords."""

    concept: Concept
    keywords: tuple[str, ...]


def _concept(label: str, slug: str, group: str) -> Concept:
    """An emoji's label as a person would say it: "person: beard" -> "person with beard"."""
    known = everyday().get(slug)
    if known is not None:
        return known
    label = re.sub(r"[“”!]", "", label.replace("’", "'").lower())
    label = re.sub(r" \(.*\)", "", label)
    what, _, detail = label.partition(": ")
    if what == "keycap":
        label = f"number {detail} keycap" if detail.isdigit() else f"{detail} keycap"
    elif detail in ("bald", "beard"):
        label = f"bald {what}" if detail == "bald" else f"{what} with a beard"
    elif detail:
        label = f"{what} with {detail.replace(', ', ' and ')}"
    elif slug in words("zodiac", __package__):
        label = f"{label} zodiac sign"
    elif label.endswith(("o'clock", "-thirty")):
        label = f"clock showing {label}"
    return Concept(slug, (guess_name(label),), (), group, mirrors(slug))


def _country(entry: dict[str, Any]) -> Concept | None:
    """The flag of a country, from an emoji made of two regional indicators. None for other flags."""
    codes = [int(part, 16) - 0x1F1E6 for part in entry["hexcode"].split("-")]
    if len(codes) != 2 or not all(0 <= code < 26 for code in codes):
        return None
    code = "".join(chr(ord("a") + letter) for letter in codes)
    country = re.sub(r" \(.*\)", "", entry["label"].removeprefix("flag: ")).replace("&", "and").lower()
    country = f"the {country}" if _WITH_THE.search(country) else country
    return everyday().get(f"flag-{code}") or flag_concept(code, country)


class Index:
    """Every emoji by the file names of the vendors: slug, slug without hyphens, code points."""

    def __init__(self, metadata: Path) -> None:
        entries = json.loads((metadata / "en" / "data.json").read_text())
        self.by_slug: dict[str, Emoji] = {}
        self.by_code: dict[str, Emoji] = {}
        for entry in entries:
            if "group" not in entry or entry["group"] not in _GROUPS:
                continue
            slug = slugify(entry["label"])
            country = _country(entry)
            concept = country or _concept(entry["label"], slug, _GROUPS[entry["group"]])
            named = {name.text for name in concept.names}
            keywords = [tag for tag in entry.get("tags", []) if len(tag) >= _SHORTEST_KEYWORD and tag not in named]
            emoji = Emoji(concept, tuple(keywords[:4]))
            self.by_code[entry["hexcode"].lower().replace("-fe0f", "")] = emoji
            slugs = [slug]
            if country is not None:
                name = slug.removeprefix("flag-")
                slugs = [concept.slug, slug, f"flag-for-{name}", f"flag-for-flag-{name}"]
            for spelling in slugs:
                self.by_slug.setdefault(spelling, emoji)
        self.by_letters = {slug.replace("-", ""): emoji for slug, emoji in self.by_slug.items()}

    def of_slug(self, slug: str) -> Emoji | None:
        """The emoji of a file name. A number at its end stands for a second drawing, and is ignored."""
        if _TONE.search(slug) or _FOREIGN.search(slug):
            return None
        return self.by_slug.get(slug) or self.by_slug.get(re.sub(r"-\d$", "", slug))


@cache
def _index(metadata: Path) -> Index:
    return Index(metadata)


@dataclass(frozen=True)
class IconSet:
    """An iconify set. common: whether it is a part of the selection "common" too. evaluation: whether it is only for
    evaluation, never for training.
    """

    name: str
    package: Package
    style: str
    common: bool = True
    evaluation: bool = False


def load_set(packages: Packages, package: Package, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The icons and the info (author, licence) of an iconify set, from its own package or from that of all sets."""
    root = packages[package.name].root
    try:
        if package == ICONIFY:
            icons = json.loads((root / "json" / f"{name}.json").read_text())
            return icons, icons["info"]
        return json.loads((root / "icons.json").read_text()), json.loads((root / "info.json").read_text())
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{root}: no iconify set {name} ({error})") from error


def entries(icons: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, icon) of a set: its own icons first, then retired icons and plain aliases."""
    own = icons["icons"]
    yield from ((name, icon) for name, icon in own.items() if not icon.get("hidden"))
    yield from ((name, icon) for name, icon in own.items() if icon.get("hidden"))
    for name, alias in icons.get("aliases", {}).items():
        if set(alias) <= {"parent", "hidden"} and alias["parent"] in own:  # not turned or mirrored
            yield name, own[alias["parent"]]


def _read_set(packages: Packages, wanted: IconSet) -> Iterator[Drawing]:
    icons, info = load_set(packages, wanted.package, wanted.name)
    licence = check(info["license"].get("spdx", ""), wanted.name, wanted.evaluation)
    index = _index(packages[METADATA.name].root)
    find: Callable[[str], Emoji | None] = index.by_letters.get if wanted.name == "fxemoji" else index.of_slug
    width, height = icons.get("width", 16), icons.get("height", 16)
    seen: set[str] = set()
    for name, icon in entries(icons):
        emoji = find(name)
        numbered = bool(re.search(r"[a-z]-\d$", name)) and wanted.name == "streamline-emojis"
        if emoji is None or (emoji.concept.slug in seen and not numbered):
            continue
        seen.add(emoji.concept.slug)
        yield Drawing(
            key=f"{wanted.name}-{slugify(name) if numbered else emoji.concept.slug}",
            source=wanted.name,
            package=str(packages[wanted.package.name]),
            licence=licence,
            author=info["author"]["name"],
            url=info["author"].get("url", ""),
            style="flag" if emoji.concept.group == "flag" else wanted.style,
            concept=emoji.concept,
            art=iconify_svg(icon, width, height),
            keywords=emoji.keywords,
        )


def _read_fluent_3d(packages: Packages) -> Iterator[Drawing]:
    fetched = packages[FLUENT_3D.name]
    licence = check(json.loads((fetched.root / "package.json").read_text()).get("license", ""), "fluent-3d")
    index = _index(packages[METADATA.name].root)
    country_flags = {emoji.concept.slug for slug, emoji in index.by_slug.items() if slug.startswith("flag-for-")}
    seen: set[str] = set()
    for path in sorted((fetched.root / "assets").glob("*.webp")):
        emoji = index.by_code.get(path.stem.lower().replace("-fe0f", ""))
        if emoji is None or _TONE.search(emoji.concept.slug) or _FOREIGN.search(emoji.concept.slug):
            continue
        if emoji.concept.slug in seen:  # the same code points with and without a variation selector
            continue
        if (
            emoji.concept.slug in country_flags
        ):  # Fluent has no flags; those in its set are of another vendor, which is not named
            continue
        seen.add(emoji.concept.slug)
        yield Drawing(
            key=f"fluent-3d-{emoji.concept.slug}",
            source="fluent-3d",
            package=str(fetched),
            licence=licence,
            author="Microsoft Corporation",
            url="https://github.com/microsoft/fluentui-emoji",
            style="3d",
            concept=emoji.concept,
            art=path,
            keywords=emoji.keywords,
        )


def _read_flags(packages: Packages, name: str, style: str, ending: str) -> Iterator[Drawing]:
    """A set of flags whose files are named by country code."""
    icons, info = load_set(packages, ICONIFY, name)
    licence = check(info["license"].get("spdx", ""), name)
    index = _index(packages[METADATA.name].root)
    for slug, icon in entries(icons):
        emoji = index.by_slug.get(f"flag-{slug.removesuffix(ending)}")
        if emoji is None or not slug.endswith(ending) or emoji.concept.slug != f"flag-{slug.removesuffix(ending)}":
            continue
        yield Drawing(
            key=f"{name}-{emoji.concept.slug}",
            source=name,
            package=str(packages[ICONIFY.name]),
            licence=licence,
            author=info["author"]["name"],
            url=info["author"].get("url", ""),
            style=style,
            concept=emoji.concept,
            art=iconify_svg(icon, icons.get("width", 16), icons.get("height", 16)),
        )


SETS = (
    IconSet("noto", Package("npm", "@iconify-json/noto", "1.2.9"), "emoji"),
    IconSet("twemoji", Package("npm", "@iconify-json/twemoji", "1.2.5"), "flat"),
    IconSet("fluent-emoji-flat", Package("npm", "@iconify-json/fluent-emoji-flat", "1.2.6"), "flat"),
    IconSet("noto-v1", ICONIFY, "cartoon"),
    IconSet("emojione", ICONIFY, "cartoon"),
    IconSet("fxemoji", ICONIFY, "cartoon"),
    IconSet("streamline-emojis", ICONIFY, "emoji", common=False),
    IconSet("openmoji", ICONIFY, "emoji", common=False, evaluation=True),
)


def _source(wanted: IconSet) -> Source:
    def read(packages: Packages) -> Iterator[Drawing]:
        return _read_set(packages, wanted)

    return Source(
        wanted.name, (METADATA, wanted.package), read, wanted.common, wanted.name == "noto", wanted.evaluation
    )


SOURCES = (
    *map(_source, SETS),
    Source("fluent-3d", (METADATA, FLUENT_3D), _read_fluent_3d, common=True),
    Source("flag", (METADATA, ICONIFY), lambda packages: _read_flags(packages, "flag", "flag", "-4x3"), common=True),
    Source(
        "circle-flags", (METADATA, ICONIFY), lambda p: _read_flags(p, "circle-flags", "round flag", ""), common=True
    ),
)
