"""Which text and which rows of a list belong to which picture. No picture gets the caption of another one.

A text belongs to the picture of the same name beside it. Where it has none there, it belongs to the one picture without
a text whose name is the same

1. in the same folder, apart from upper and lower case and from how accents are encoded (NFC, NFD), or
2. in a folder whose path differs in one part (images/a/0.jpg and captions/a/0.txt), if its own has no picture, or
3. anywhere, if no other picture and no other text has that name: so DALLE-pytorch pairs them.

A row of a list belongs to the picture that it names, with its ending. If there is none, upper and lower case may
differ, the ending may be missing, the list may lie in another folder, and a name that is a whole path of another
machine is compared from its end. Wherever several would fit, none is taken. What is left is told to the report.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.training.report import Report

PICTURES = (
    ".webp", ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".avif",
    ".heic", ".heif",  # Pillow cannot read these: they are counted as unreadable
)  # fmt: skip
TEXTS = (".json", ".txt", ".caption")
SECOND_PICTURE = "second picture of one name"
SECOND_TEXT = "second text of one name"
SHARED_TEXT = "text beside several pictures of one name"
LOST_TEXT = "text without a picture"
LOST_ROW = "line of a list without a picture"
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of bytes in a file. size -1: to its end."""

    path: Path
    offset: int = 0
    size: int = -1

    def read(self, at_most: int) -> bytes:
        """The bytes. Raises ValueError if there are more than `at_most`, and OSError."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(at_most + 1 if self.size < 0 else min(self.size, at_most + 1))
        if len(data) > at_most:
            raise ValueError(f"it must have at most {at_most:,} bytes, got more")
        return data


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the files of one sample are."""

    key: str
    picture: Piece
    text: Piece | None
    suffix: str  # of the text: one of TEXTS, or ""
    caption: Piece | None = None  # a .txt, for a .json without captions
    listed: tuple[Any, ...] = ()  # captions of a list, for a sample without others


@dataclass(slots=True)
class Group:
    """The files of one name in one folder. names: with their endings."""

    folder: str
    key: str
    pictures: list[tuple[str, Piece]] = field(default_factory=list)
    texts: dict[str, tuple[str, Piece]] = field(default_factory=dict)  # by ending


@dataclass(frozen=True, slots=True)
class Row:
    """What a list says of one picture. folder: of the list."""

    folder: str
    name: str
    captions: list[Any]


class Grouped:
    """Files, grouped by folder and name. A second file of the same name and ending begins a new group."""

    def __init__(self, report: Report) -> None:
        self.groups: list[Group] = []
        self._open: dict[tuple[str, str], Group] = {}
        self._report = report

    def add(self, folder: str, key: str, name: str, ending: str, piece: Piece) -> None:
        """ending: one of PICTURES or TEXTS. A tar to which files were added later may hold a name twice."""
        group = self._open.get((folder, key))
        if group is None or name in {known for known, _ in (*group.pictures, *group.texts.values())}:
            group = self._open[folder, key] = Group(folder, key)
            self.groups.append(group)
        if ending in PICTURES:
            group.pictures.append((name, piece))
        elif ending not in group.texts:
            group.texts[ending] = (name, piece)
        else:  # a.txt beside a.TXT
            self._report.leave(SECOND_TEXT, _path(group, name))


def _fold(name: str) -> str:
    """The name for comparison: case and the encoding of accents make no difference."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _readable(name: str) -> str:
    """A file name, which may not be UTF-8, as text that can be written."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _unique(pairs: Iterable[tuple[Group, Group]]) -> Iterator[tuple[Group, Group]]:
    """Those (text, picture) whose text and picture occur in no other pair."""
    pairs = [(text, picture) for (text, picture) in {(id(t), id(p)): (t, p) for t, p in pairs}.values()]
    texts, pictures = (Counter(id(pair[side]) for pair in pairs) for side in (0, 1))
    for text, picture in pairs:
        if texts[id(text)] == pictures[id(picture)] == 1:
            yield text, picture


def _similar(folder: str) -> Iterator[str]:
    """The folder's path with a star in place of one part after another."""
    parts = _fold(folder).split("/")
    for at in range(len(parts)):
        yield "/".join([*parts[:at], "*", *parts[at + 1 :]])


def join_texts(groups: list[Group], listed: set[int]) -> None:
    """Move each text without a picture to the picture that it belongs to. listed: ids of groups that need none."""
    with_pictures = {group.folder for group in groups if group.pictures}
    stems = Counter(_fold(group.key) for group in groups if group.pictures)
    steps: tuple[Callable[[Group], list[Any]], ...] = (
        lambda group: [(_fold(group.folder), _fold(group.key))],
        lambda group: [
            (folder, _fold(group.key))
            for folder in _similar(group.folder)
            if group.pictures or group.folder not in with_pictures
        ],
        lambda group: [_fold(group.key)] if stems[_fold(group.key)] == 1 else [],
    )
    for names_of in steps:
        lost = [group for group in groups if group.texts and not group.pictures]
        if not lost:
            return
        bare: dict[Any, list[Group]] = defaultdict(list)
        for group in groups:
            if group.pictures and not group.texts and id(group) not in listed:
                for name in names_of(group):
                    bare[name].append(group)
        found = [(text, picture) for text in lost for name in names_of(text) for picture in bare.get(name, ())]
        for text, picture in _unique(found):
            picture.texts, text.texts = text.texts, {}


class _Named:
    """The pictures by the names that a row may call them."""

    def __init__(self, groups: list[Group]) -> None:
        self._by: dict[Any, list[int]] = defaultdict(list)
        self.pictures: list[tuple[Group, str]] = []
        for group in groups:
            for name, _ in group.pictures:
                at = len(self.pictures)
                self.pictures.append((group, name))
                folder, folded = _fold(group.folder), _fold(name)
                for key in (
                    (0, unicodedata.normalize("NFC", f"{group.folder}/{name}")),
                    (1, f"{folder}/{folded}"),
                    (2, f"{folder}/{_fold(group.key)}"),
                    (3, folded),
                ):
                    self._by[key].append(at)

    def find(self, row: Row) -> tuple[int, int] | None:
        """(how exactly, 0 the most; the picture's number). None if there is none, or more than one."""
        for name in dict.fromkeys((row.name, row.name.replace("\\", "/"))):
            absolute = _ABSOLUTE.match(row.name) is not None
            parts = [part for part in name.split("/") if part not in ("", ".")]
            for start in range(len(parts) if absolute else min(1, len(parts))):
                if (found := self._one(row.folder, parts[start:], start)) is not None:
                    return found
        return None

    def _one(self, folder: str, parts: list[str], start: int) -> tuple[int, int] | None:
        place = folder.split("/")
        while len(parts) > 1 and parts[0] == "..":
            place, parts = place[:-1], parts[1:]
        path = "/".join([*place, *parts])
        keys = [(0, unicodedata.normalize("NFC", path)), (1, _fold(path)), (2, _fold(path))]
        if len(parts) == 1 and not start:
            keys.append((3, _fold(parts[0])))
        for exactness, key in keys:
            if exactness == 2 and Path(path).suffix.lower() in PICTURES:
                continue  # it names another picture, which is not there
            if len(found := self._by.get((exactness, key), [])) == 1:
                return exactness + 4 * start, found[0]
        return None


def join_rows(groups: list[Group], rows: list[Row], report: Report) -> dict[tuple[int, str], list[Any]]:
    """The captions of the rows, by (id of the group, name of the picture). The most exact ones count."""
    named, found = _Named(groups), defaultdict[int, list[tuple[int, Row]]](list)
    for row in rows:
        match = named.find(row)
        if match is None:
            report.leave(LOST_ROW, row.name)
        else:
            found[match[1]].append((match[0], row))
    captions: dict[tuple[int, str], list[Any]] = {}
    for at, claims in found.items():
        best = min(exactness for exactness, _ in claims)
        names = {row.name for exactness, row in claims if exactness == best}
        for exactness, row in claims:
            if exactness > best or (best and len(names) > 1):
                report.leave(LOST_ROW, row.name)
            else:
                group, name = named.pictures[at]
                captions.setdefault((id(group), name), []).extend(row.captions)
    return captions


def pair(groups: list[Group], rows: list[Row], report: Report) -> Iterator[Entry]:
    """The samples among the files of a folder or a tar, in the order of `groups`. report: gets what is left over."""
    listed = join_rows(groups, rows, report) if rows else {}
    join_texts(groups, {group for group, _ in listed})
    for group in groups:
        if not group.pictures:
            for name, _ in group.texts.values():
                report.leave(LOST_TEXT, _path(group, name))
            continue
        pictures = sorted(group.pictures, key=lambda picture: PICTURES.index(Path(picture[0]).suffix.lower()))
        several = len(pictures) > 1
        with_rows = [picture for picture in pictures if (id(group), picture[0]) in listed]
        texts = dict(group.texts)
        if several and with_rows:
            for name, _ in texts.values():
                report.leave(SHARED_TEXT, _path(group, name))
            texts = {}
        used = with_rows if several and with_rows else pictures[:1]
        for name, _ in pictures:
            if name not in {known for known, _ in used}:
                report.leave(SECOND_PICTURE, _path(group, name))
        suffixes = [suffix for suffix in TEXTS if suffix in texts]
        for suffix in suffixes[2:]:
            report.leave(SECOND_TEXT, _path(group, texts[suffix][0]))
        suffix, beside = [*suffixes, "", ""][:2]
        for at, (name, piece) in enumerate(used):
            yield Entry(
                _readable(name if at else group.key),
                piece,
                texts[suffix][1] if suffix else None,
                suffix,
                texts[beside][1] if beside else None,
                tuple(listed.get((id(group), name), ())),
            )


def _path(group: Group, name: str) -> str:
    return f"{group.folder}/{name}" if group.folder not in ("", ".") else name
