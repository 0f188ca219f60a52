"""The Open Clip Art Library, as Debian packages it: 8121 drawings by several hundred people, in the public domain.

Half of them are icon themes, playing cards, stars and flags, which are not used. Of the others a drawing is used if its
title or a keyword is a noun that can be drawn.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from model.drawings.compose import Drawing
from model.drawings.concepts import Concept, guess_name, mirrors, slugify
from model.drawings.lists import words
from model.errors import DataError
from model.training.filters import english

from .licences import check
from .nouns import WORDNET, picturable
from .packages import Package
from .source import Packages, Source

OPENCLIPART = Package("deb", "openclipart-svg")
MOST_OF_A_NAME = 12  # drawings with one name
_LARGEST_FILE = 400_000  # bytes; larger ones are photographs traced into a million paths

_FOLDERS_LEFT_OUT = re.compile(
    r"^(buttons|logos|special|unsorted/duplicates|computer/(icons|buttons)|shapes/(stars|arrows|flowchart|callouts|jigsaw)"
    r"|signs_and_symbols/(led|flags|map_symbols)|recreation/games/cards|transportation/(aiga-symbols|roadsigns)"
    r"|education/gramastar)"
)
_LICENCE = re.compile(r'license rdf:resource="([^"]*)"')
_TITLE = re.compile(r"<dc:title[^>]*>([^<]*)</dc:title>")
_CREATOR = re.compile(r"<dc:creator>.*?<dc:title[^>]*>([^<]*)</dc:title>", re.DOTALL)
_KEYWORD = re.compile(r"<rdf:li[^>]*>([^<]*)</rdf:li>")
_PUBLIC_DOMAIN = ("http://web.resource.org/cc/PublicDomain", "http://creativecommons.org/licenses/publicdomain/")


def _words(text: str) -> str:
    """ "Vacuum_cleaner 2 (B and W)" -> "vacuum cleaner"; "" for anything but a plain name."""
    text = re.sub(r"\(.*?\)|clipart by .*? - ", "", html.unescape(text), flags=re.IGNORECASE)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", text)
    text = re.sub(r"[-\s]*\d+$", "", text.strip()).strip(" -.").lower()
    text = re.sub(r"^(an?|the) ", "", text)
    return text if re.fullmatch(r"[a-z' -]{3,40}", text) and len(text.split()) <= 4 else ""


def name_of(title: str, keywords: list[str], nouns: frozenset[str]) -> str | None:
    """What a drawing shows: its title if that ends in an English noun that can be drawn, else its first such keyword.

    Titles are in many languages ("Ours", "farfalla - butterfly"), keywords mostly in English ("bear").
    """
    for text in filter(None, map(_words, title.split(" - "))):
        last = text.split()[-1]
        if {text, last, text.removesuffix("s"), last.removesuffix("s")} & nouns and english(text):
            return text
    kinds = words("kinds", __package__)
    return next((keyword for keyword in keywords if keyword in nouns and keyword not in kinds), None)


def _read(packages: Packages) -> Iterator[Drawing]:
    fetched = packages[OPENCLIPART.name]
    nouns = picturable(packages[WORDNET.name].root)
    root = fetched.root / "usr" / "share" / "openclipart" / "svg"
    paths = [path for path in sorted(root.rglob("*.svg")) if path.is_file()]
    if not paths:
        raise DataError(f"{root}: no drawings in it")
    licence = check("LicenseRef-public-domain", "openclipart")
    taken: Counter[str] = Counter()
    for path in paths:
        folder = path.relative_to(root)
        if _FOLDERS_LEFT_OUT.match(str(folder)) or path.stat().st_size > _LARGEST_FILE:
            continue
        drawing = _drawing(path, folder, str(fetched), licence, nouns)
        if drawing is not None and taken[drawing.concept.slug] < MOST_OF_A_NAME:
            taken[drawing.concept.slug] += 1
            yield drawing


def _drawing(path: Path, folder: Path, package: str, licence: str, nouns: frozenset[str]) -> Drawing | None:
    svg = path.read_text(errors="replace")
    stated = _LICENCE.findall(svg)
    if not stated or any(url and url not in _PUBLIC_DOMAIN for url in stated) or "<image" in svg:  # a photograph
        return None
    categories = set(re.split(r"[/_]", str(folder.parent)))
    keywords = [
        word for word in map(_words, _KEYWORD.findall(svg)) if word and word not in {*categories, "hash", "sign"}
    ]
    title = _TITLE.search(svg)
    name = name_of(title[1] if title else "", keywords, nouns)
    if name is None:
        return None
    creator = _CREATOR.search(svg)
    author = " ".join(html.unescape(creator[1]).split()) if creator else ""
    return Drawing(
        key=f"openclipart-{slugify(str(folder.with_suffix('')))}",
        source="openclipart",
        package=package,
        licence=licence,
        author="" if author.lower().startswith("hash(") else author,
        url="https://openclipart.org",
        style="clip art",
        concept=Concept(slugify(name), (guess_name(name),), (), "clip art", mirrors(slugify(name))),
        art=re.sub(r"<!DOCTYPE[^>\[]*(\[.*?\])?\s*>", "", svg, flags=re.DOTALL) if "<!ENTITY" not in svg else svg,
        keywords=tuple(word for word in keywords if word != name)[:3],
    )


SOURCES = (Source("openclipart", (OPENCLIPART, WORDNET), _read),)
