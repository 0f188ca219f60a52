"""The published layouts: rows of fields -> the web address of a picture and the captions that its row gives.

- cc3m (Sharma et al. 2018): caption, address; the labelled subset has three columns more. No header.
- cc12m (Changpinyo et al. 2021, 2102.08981): address, caption. No header. For both, a header that names the columns
  "caption" and "url", which img2dataset's instructions put there, is understood and decides the order.
- yfcc (Thomee et al. 2016, 1503.01817): 25 columns (row number, photo id and hash first) or the 23 of the first
  release (photo id first); title and description are percent-encoded; the last column is 0 for a photo, 1 for a video.
- yfcc-subset: row number, photo id, hash: the photos of YFCC100M that CLIP and DALL-E learnt from. Gives no captions of
  its own; it chooses among the rows of yfcc files.
- wit (Srinivasan et al. 2021, 2103.01913): a header of 17 columns; fields may be quoted and go over lines; captions in
  three columns.
"""

from __future__ import annotations

import html
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_plus

from model.errors import DataError
from model.training.data import Captions
from model.training.published.rows import RowReport, rows

LAYOUTS = ("cc3m", "cc12m", "yfcc", "yfcc-subset", "wit")
WIT_COLUMNS = (
    "language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title",
    "caption_reference_description", "caption_attribution_description", "caption_alt_text_description", "mime_type",
    "original_height", "original_width", "is_main_image", "attribution_passes_lang_id", "page_changed_recently",
    "context_page_description", "context_section_description",
)  # fmt: skip
# The text beside the picture says most of what it shows, the file's own description less, and is often of its place.
WIT_WEIGHTS = {
    "caption_reference_description": 0.5,
    "caption_alt_text_description": 0.3,
    "caption_attribution_description": 0.2,
}
_ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{20,32}", re.IGNORECASE)
_PHOTO = re.compile(r"[0-9]{1,18}")
_TAG = re.compile(r"<[^<>]*>")
_LANGUAGE = re.compile(r"^[A-Z][A-Za-zÀ-ÿ -]{2,20}: ")  # "English: A map of Wales", as Wikimedia Commons writes it


@dataclass(frozen=True, slots=True)
class Row:
    """What an index file says of one picture."""

    address: str  # http or https
    captions: Captions  # not empty
    names: tuple[str, ...] = ()  # others that it goes by: a photo id, a hash
    size: tuple[int, int] | None = None  # width and height in pixels, where the index knows them
    language: str = ""  # of the page that the picture is on, where the index knows it: "en", "de"


Parser = Callable[[list[str]], Row | str]  # a row's fields -> what it says, or why it says nothing


def _two_columns(address_at: int, columns: tuple[int, ...]) -> Parser:
    def parse(fields: list[str]) -> Row | str:
        if len(fields) < 2:
            return "too few columns"
        if len(fields) not in columns:
            return "too many columns"
        address, caption = fields[address_at].strip(), " ".join(fields[1 - address_at].split())
        if not _ADDRESS.fullmatch(address):
            return "no web address"
        return Row(address, [(1.0, caption)]) if caption else "empty caption"

    return parse


def _decoded(field: str) -> str:
    """Percent-encoded HTML -> one line of text. Raises UnicodeDecodeError."""
    return " ".join(html.unescape(_TAG.sub(" ", unquote_plus(field, errors="strict"))).split())


def _yfcc(fields: list[str]) -> Row | str:
    if len(fields) < 23:
        return "too few columns"
    if len(fields) not in (23, 25):
        return "too many columns"
    if len(fields) == 25:
        _, photo, hash_, *rest = fields
    else:
        photo, *rest, hash_ = *fields, ""
    title, description, address, marker = rest[5], rest[6], unquote_plus(rest[13]).strip(), rest[21]
    if not _PHOTO.fullmatch(photo):
        return "no photo id"
    if marker.strip() != "0":
        return "not a photo"
    if not _ADDRESS.fullmatch(address):
        return "no web address"
    try:
        captions = [(0.5, text) for text in (_decoded(title), _decoded(description)) if text]
    except UnicodeDecodeError:
        return "not UTF-8"
    names = (f"photo:{photo}", *([f"hash:{hash_.lower()}"] if _HASH.fullmatch(hash_) else []))
    return Row(address, captions, names) if captions else "empty caption"


def _wit(columns: list[str]) -> Parser:
    at = {name: columns.index(name) for name in WIT_COLUMNS if name in columns}

    def parse(fields: list[str]) -> Row | str:
        if len(fields) < len(columns):
            return "too few columns"
        if len(fields) > len(columns):
            return "too many columns"
        value = {name: fields[place] for name, place in at.items()}
        if not _ADDRESS.fullmatch(address := value["image_url"].strip()):
            return "no web address"
        captions = []
        for name, weight in WIT_WEIGHTS.items():
            if text := _LANGUAGE.sub("", " ".join(value.get(name, "").split())):
                captions.append((weight, text))
        if not captions:
            return "empty caption"
        sides = value.get("original_width", ""), value.get("original_height", "")
        size = (int(sides[0]), int(sides[1])) if all(side.isdecimal() for side in sides) else None
        return Row(address, captions, (), size, value["language"].strip())

    return parse


def _header(fields: list[str]) -> list[str]:
    """The columns that a header names; empty where the row is none."""
    names = [field.strip().lower() for field in fields]
    return names if {"url", "caption"} <= set(names) or {"language", "image_url"} <= set(names) else []


def _layout_of(fields: list[str]) -> str:
    """The layout that a row looks like, or ""."""
    address = [bool(_ADDRESS.fullmatch(field.strip())) for field in fields]
    if len(fields) == 3 and fields[0].isdecimal() and _PHOTO.fullmatch(fields[1]) and _HASH.fullmatch(fields[2]):
        return "yfcc-subset"
    if len(fields) in (23, 25) and fields[-1].strip() in ("0", "1"):
        return "yfcc"
    if len(fields) == len(WIT_COLUMNS) and address[1] and address[2]:
        return "wit"
    if len(fields) in (2, 5) and address[1]:
        return "cc3m"
    return "cc12m" if len(fields) == 2 and address[0] else ""


def layout_of(path: Path, looked_at: int = 100) -> str:
    """Which of LAYOUTS a file has, by the first lines that can be read. Raises DataError when it looks like none."""
    found = Counter[str]()
    for fields in itertools.islice(rows(path, RowReport()), looked_at):
        if header := _header(fields):
            return "wit" if "image_url" in header else ("cc12m" if header.index("url") == 0 else "cc3m")
        found[_layout_of(fields)] += 1
    del found[""]
    if not found:
        raise DataError(
            f"{path}: not an index file of a known layout ({', '.join(LAYOUTS)}), nor a folder or tar of pictures; "
            "name a picture's folder, and unpack .zip and .tar.gz"
        )
    return found.most_common(1)[0][0]


def read(path: Path, layout: str, report: RowReport) -> Iterator[Row]:
    """What a file's rows say, in its order; rows that say nothing are counted in the report under one reason each.

    layout: as `layout_of` found it, not yfcc-subset. Raises DataError.
    """
    parsers: dict[str, Parser] = {
        "cc3m": _two_columns(1, (2, 5)),
        "cc12m": _two_columns(0, (2,)),
        "yfcc": _yfcc,
        "wit": _wit(list(WIT_COLUMNS)),
    }
    parse = parsers[layout]
    for number, fields in enumerate(rows(path, report, over_lines=layout == "wit")):
        if number == 0 and (header := _header(fields)):
            report.rows -= 1
            if layout == "wit":
                parse = _wit(header)
            elif len(header) != 2:
                raise DataError(f"{path}: columns {', '.join(header)}, and only caption and url are understood")
            continue
        found = parse(fields)
        if isinstance(found, str):
            report.broken[found] += 1
        else:
            yield found


def photos_of(path: Path, report: RowReport) -> Iterator[int]:
    """The photo ids of a yfcc-subset file."""
    for fields in rows(path, report):
        if _layout_of(fields) == "yfcc-subset":
            yield int(fields[1])
        else:
            report.broken["too few columns" if len(fields) < 3 else "no photo id"] += 1
