"""Index files in the published layouts, with a known number of rows of every defect among a thousand sound ones.

Not a test itself: `write` makes a file and tells what a reader should count.
"""

from __future__ import annotations

import bz2
import gzip
import html
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from model.training.published.layouts import WIT_COLUMNS

THINGS = ("cat", "dog", "house", "boat", "tree", "lamp", "horse", "bridge", "garden", "window")
PLACES = ("on a table", "near the river", "in the old town", "under a blue sky", "beside the road")
LAYOUTS = ("cc3m", "cc12m", "yfcc", "wit")

Make = Callable[[int], bytes]  # a row by its number


@dataclass(frozen=True)
class Expected:
    """What a reader should count."""

    rows: int
    broken: dict[str, int]
    refused: dict[str, int]
    passed: int


def caption(number: int) -> str:
    return f"a photograph of a {THINGS[number % 10]} {PLACES[number // 10 % 5]} seen from the left"


def address(number: int) -> str:
    return f"https://pictures.example/{number // 100}/{number}.jpg?size=large"


def photo(number: int) -> int:
    return 6_000_000_000 + 7 * number


def hash_of(number: int) -> str:
    return f"{number * 2654435761 % 2**64:016x}{number:015x}"


def cc3m(number: int, text: str | None = None, where: str | None = None) -> bytes:
    return f"{caption(number) if text is None else text}\t{where or address(number)}".encode()


def cc12m(number: int, text: str | None = None, where: str | None = None) -> bytes:
    return b"\t".join(reversed(cc3m(number, text, where).split(b"\t")))


def yfcc(number: int, text: str | None = None, where: str | None = None, *, marker: str = "0", name: str = "",
         old: bool = False) -> bytes:  # fmt: skip
    text = caption(number) if text is None else text
    title = quote_plus(f"<a href='x'>{html.escape(text)}</a>" if text else "")
    where = where or f"http://farm8.staticflickr.com/7205/{photo(number)}_df7747990d.jpg"
    names = [str(number), name or str(photo(number)), hash_of(number)]
    fields = [
        *(names[1:2] if old else names), "39019111%40N00", "guckxzs", "2012-02-16 09:56:37.0", "1331840483",
        "Canon+PowerShot+ELPH+310+HS", title, "", "canon,flag", "", "-81.804885", "24.550558", "12",
        "http://www.flickr.com/photos/39019111@N00/1/", where, "Attribution License",
        "http://creativecommons.org/licenses/by/2.0/", "7205", "8", "df7747990d", "692e7e1e", "jpg", marker,
    ]  # fmt: skip
    return "\t".join(fields).encode()


def wit(number: int, text: str | None = None, where: str | None = None, *, language: str = "en",
        size: tuple[int, int] = (640, 480), context: str = "A page.") -> bytes:  # fmt: skip
    values = {
        "language": language,
        "page_url": f"https://{language}.wikipedia.org/wiki/Page_{number}",
        "image_url": where or f"https://upload.wikimedia.org/wikipedia/commons/{number}.jpg",
        "page_title": f"Page {number}",
        "caption_reference_description": caption(number) if text is None else text,
        "mime_type": "image/jpeg",
        "original_width": str(size[0]),
        "original_height": str(size[1]),
        "is_main_image": "true",
        "context_page_description": context,
    }
    return "\t".join(values.get(name, "") for name in WIT_COLUMNS).encode()


def defects(layout: str) -> tuple[dict[str, tuple[int, Make]], dict[str, tuple[int, Make]]]:
    """Broken rows and rows that break a rule: reason -> how many, and such a row."""
    row: Callable[..., bytes] = {"cc3m": cc3m, "cc12m": cc12m, "yfcc": yfcc, "wit": wit}[layout]
    broken: dict[str, tuple[int, Make]] = {
        "too few columns": (7, lambda n: row(n).split(b"\t")[0]),
        "too many columns": (3, lambda n: row(n) + b"\tone more\tand more"),
        "not UTF-8": (5, lambda n: row(n) + b"\xff\xfe"),
        "NUL byte": (4, lambda n: row(n) + b"\0"),
        "row too long": (2, lambda n: row(n) + b"x" * 300_000),
        "empty row": (6, lambda n: b" \t " if n % 2 else b""),
        "empty caption": (8, lambda n: row(n, text="")),
        "no web address": (5, lambda n: row(n, where="pictures/1.jpg")),
    }
    refused: dict[str, tuple[int, Make]] = {
        "caption too short": (4, lambda n: row(n, text="42 .")),
        "caption too long": (2, lambda n: row(n, text="the cat sat on the mat " * 200)),
        "caption is boilerplate": (6, lambda n: row(n, text=f"IMG_{n}.jpg")),
        "caption not English": (9, lambda n: row(n, text=f"ein rotes Haus mit {n} Fenstern auf einem hohen Berg")),
        "duplicate address": (11, lambda n: row(n % 50)),
    }
    if layout == "yfcc":
        broken["not UTF-8"] = (5, lambda n: row(n).replace(b"photograph", b"caf%E9"))  # percent-encoded Latin-1
        broken["not a photo"] = (6, lambda n: row(n, marker="1"))
        broken["no photo id"] = (3, lambda n: row(n, name="unknown"))
    elif layout == "wit":  # the quote is never closed; the sound row that follows must survive it
        broken["unbalanced quotes"] = (4, lambda n: row(n, context='"A page.\nIt goes on.') + b"\n" + row(n + 50_000))
        refused["page not in English"] = (12, lambda n: row(n, language="de"))
        refused["smaller than 64 pixels"] = (5, lambda n: row(n, size=(70, 40)))
        refused["aspect ratio outside 1:2"] = (7, lambda n: row(n, size=(900, 400)))
    else:
        broken["unbalanced quotes"] = (4, lambda n: row(n, text='"' + caption(n)))
    return broken, refused


def write(path: Path, layout: str, sound: int = 1000) -> Expected:
    """Write rows of `layout`, shuffled; compressed as the path's ending says."""
    broken, refused = defects(layout)
    if layout == "wit":  # a quoted field over several lines, with quotes and a tab in it
        lines = [wit(n, context='"It says ""Hello"".\n\nen\tIt goes on."' if n % 10 == 3 else "") for n in range(sound)]
    else:  # quotes that are nothing but quotes
        row: Callable[..., bytes] = {"cc3m": cc3m, "cc12m": cc12m, "yfcc": yfcc}[layout]
        lines = [row(n, text=f'{caption(n)} and a 3" nail' if n % 10 == 3 else None) for n in range(sound)]
    extra = broken["unbalanced quotes"][0] if layout == "wit" else 0
    defective = [make for count, make in (*broken.values(), *refused.values()) for _ in range(count)]
    first, rest = lines[:50], [*lines[50:], *(make(10 * sound + n) for n, make in enumerate(defective))]
    random.Random(layout).shuffle(rest)  # the originals of the duplicates stay in front
    header = ["\t".join(WIT_COLUMNS).encode()] if layout == "wit" else []
    text = b"\n".join([*header, *first, *rest, b""])
    text = gzip.compress(text) if path.suffix == ".gz" else bz2.compress(text) if path.suffix == ".bz2" else text
    path.write_bytes(text)
    return Expected(
        sound + extra + len(defective),
        {reason: count for reason, (count, _) in broken.items()},
        {reason: count for reason, (count, _) in refused.items()},
        sound + extra,
    )
