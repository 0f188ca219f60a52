"""Folders of pictures and WebDataset tars -> samples: a 256 x 256 picture, its weighted captions, what else is known.

    for sample in iterate([Path("shards")], split="train", seed=1, epoch=0):
        sample.image, sample_caption(sample.captions, rng)

A folder holds pictures (PICTURES, at any depth) with a .json or .txt of the same name beside each, or a list of
captions (`listed`), or shards; a shard is an uncompressed tar with KEY.webp and KEY.json or KEY.txt (the WebDataset
layout). A .txt is one caption. A .json has "captions": [[weight, text], ...] (or texts only, or one text as "caption"
or "text"; where it has none, a .txt beside it gives one) and any other fields, which become `Sample.meta`; "split" is
the one that `iterate` reads.

Everything is indexed first and read at random after that, so any order can be walked, split and taken up again. Knows
nothing of models or tokens.
"""

from __future__ import annotations

import io
import json
import logging
import math
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from model.errors import DataError
from model.training.listed import LISTS, read_list

logger = logging.getLogger(__name__)

SIZE = 256  # side of a sample's picture, in pixels
PICTURES = (
    ".webp", ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".avif",
    ".heic", ".heif",  # which Pillow cannot read: they are counted as that, and not passed over in silence
)  # fmt: skip
TEXTS = (".json", ".txt", ".caption")
_FORKS = "._"  # files of macOS beside those that they are named after

Pixels = npt.NDArray[np.uint8]
Captions = list[tuple[float, str]]


class Uniform(Protocol):
    """A source of numbers in [0, 1): `random.Random` and `numpy.random.Generator` both are."""

    def random(self) -> float: ...


@dataclass(frozen=True)
class Sample:
    """One picture and what is known of it."""

    key: str  # name without its ending, unique within its folder or shard
    image: Pixels  # (256, 256, 3) RGB
    captions: Captions  # (weight, text), weights above 0; empty when the picture came without a caption
    meta: dict[str, Any] = field(default_factory=dict)  # the other fields of the .json
    size: tuple[int, int] = (SIZE, SIZE)  # width and height of the picture as it was stored
    position: int = 0  # place in this walk: `iterate(..., start=position + 1)` goes on after it


@dataclass
class Report:
    """What a walk met. corrupt: what cannot be read, by kind; names: the first few of it; unused: what has no place."""

    read: int = 0
    without_caption: int = 0
    corrupt: Counter[str] = field(default_factory=Counter)  # "picture", "text", "shard", "end of a shard", "list"
    unused: Counter[str] = field(default_factory=Counter)  # "text without a picture", "second picture of one name"
    names: list[str] = field(default_factory=list)

    @property
    def undecodable(self) -> int:
        """Samples whose picture or text cannot be read."""
        return self.corrupt["picture"] + self.corrupt["text"]

    def note(self, kind: str, what: str) -> None:
        """Count something that cannot be read."""
        self.corrupt[kind] += 1
        if len(self.names) < 5:
            self.names.append(what)

    def __str__(self) -> str:
        line = f"{self.read} pictures read, {self.without_caption} of them without a caption"
        if self.corrupt:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.corrupt.items())
            line += f"; {self.corrupt.total()} cannot be read and were left out ({kinds}): {', '.join(self.names)}"
        if self.unused:
            line += f"; unused: {', '.join(f'{kind} {count}' for kind, count in self.unused.items())}"
        return line


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of bytes in a file; size -1 is the whole of it."""

    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one sample lies."""

    key: str
    picture: Piece
    text: Piece | None
    suffix: str  # of the text: one of TEXTS, or ""
    caption: Piece | None = None  # for a text that has none
    listed: tuple[Any, ...] = ()  # captions of a list, for a sample without any beside it


Found = dict[tuple[str, str], dict[str, Piece]]  # (folder, key) -> the files of that name, by their endings


def _pair(found: Found, report: Report, listed: Mapping[tuple[str, str], list[Any]]) -> Iterator[Entry]:
    with_pictures = {folder for (folder, _), pieces in found.items() if not pieces.keys().isdisjoint(PICTURES)}
    for (folder, key), pieces in found.items():
        pictures = [pieces[s] for s in PICTURES if s in pieces]
        texts = [s for s in TEXTS if s in pieces]
        if pictures:
            report.unused["second picture of one name"] += len(pictures) - 1
            suffix, *more = texts or [""]
            beside = pieces[more[0]] if more else None
            yield Entry(key, pictures[0], pieces.get(suffix), suffix, beside, tuple(listed.get((folder, key), ())))
        elif texts and folder in with_pictures:  # elsewhere it may be anything: the statistics beside shards
            report.unused["text without a picture"] += 1
    report.unused["line of a list without a picture"] += sum(place not in found for place in listed)
    report.unused = +report.unused


def readable(name: str) -> str:
    """A file's name that may not be UTF-8, as text that can be written."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _zeros_from(path: Path, offset: int) -> bool:
    """The file goes on at `offset`, and with nothing but zeros: where a tar ends, and tarfile stops without a word."""
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read(1 << 16)
        ends = bool(rest)
        while rest and not rest.strip(b"\0"):
            rest = file.read(1 << 16)
        return ends and not rest


def _in_tar(path: Path, report: Report) -> Iterator[Entry]:
    found: Found = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = readable(member.name).rpartition("/")
                if member.isfile() and not name.startswith(_FORKS):
                    key, _, suffix = name.partition(".")  # WebDataset: the key ends at the first dot
                    place = found.setdefault((folder, key), {})
                    place[f".{suffix.lower()}"] = Piece(path, member.offset_data, member.size)
            if not _zeros_from(path, tar.offset):
                raise tarfile.ReadError(f"byte {tar.offset} is neither a file's header nor the archive's end")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:  # damaged numbers, too
        report.note("end of a shard" if found else "shard", f"{path.name} ({error})")
    yield from _pair(found, report, {})


def _in_folder(folder: Path, report: Report) -> Iterator[Entry]:
    found: Found = {}
    listed: dict[tuple[str, str], list[Any]] = {}
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if suffix == ".tar":
            yield from _in_tar(path, report)
        elif path.name.lower() in LISTS:
            for name, captions in read_list(path, lambda what: report.note("list", what)).items():
                picture = path.parent / name
                listed.setdefault((str(picture.parent), picture.stem), []).extend(captions)
        elif (suffix in PICTURES or suffix in TEXTS) and not path.name.startswith(_FORKS):
            found.setdefault((str(path.parent), path.stem), {})[suffix] = Piece(path)
    yield from _pair(found, report, listed)


def index(paths: Sequence[Path], report: Report | None = None) -> list[Entry]:
    """Every sample of these folders and tars, in an order that depends only on their names.

    A tar that is none, or is cut short, is counted in the report, and the rest is read. Raises DataError, with the
    path, when one does not exist, a folder holds no picture at all, or none of the tars can be read.
    """
    report = report if report is not None else Report()
    entries: list[Entry] = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        here = list(_in_folder(path, report) if path.is_dir() else _in_tar(path, report))
        if not here and not report.corrupt["shard"]:
            raise DataError(f"{path}: no pictures in it ({', '.join(PICTURES)}, or tars of them)")
        entries += here
    if not entries:
        why = (
            f"{paths[0]}: no shard can be read: {', '.join(report.names)}"
            if paths
            else "no folder or tar of pictures is named"
        )
        raise DataError(why)
    return entries


def _weighted(captions: object) -> Captions:
    texts = [captions] if isinstance(captions, str) else captions
    if not isinstance(texts, list):
        raise ValueError(f"captions are a text or a list, not {type(captions).__name__}")
    found: Captions = []
    for entry in texts:
        try:
            weight, text = (1.0, entry) if isinstance(entry, str) else entry
            weight = float(weight)
        except (TypeError, ValueError, OverflowError):
            weight, text = math.nan, None
        if not isinstance(text, str) or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"a caption is a text or [weight, text], not {entry!r}")
        if weight and text.strip():
            found.append((weight, text.strip()))
    return found


def parse_text(raw: bytes, suffix: str) -> tuple[Captions, dict[str, Any]]:
    """The captions and other fields of a .json or .txt. Raises ValueError for what cannot be read."""
    text = raw.decode("utf-8-sig")
    if suffix != ".json":
        return _weighted(" ".join(text.split())), {}
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("the .json of a sample is an object")
    if not isinstance(split := fields.get("split", ""), str):
        raise ValueError(f'"split" is a name, not {split!r}')
    if "\\u" in text:
        json.dumps(fields, ensure_ascii=False).encode()  # half a character, "\\ud800", could not be written again
    named = [name for name in ("captions", "caption", "text") if fields.get(name) is not None]
    captions = _weighted(fields.pop(named[0])) if named else []
    return captions, fields


def square(image: Image.Image, size: int = SIZE) -> Pixels:
    """Any picture -> (size, size, 3) RGB: turned as its EXIF says, on white, centre-cropped, resized (Lanczos)."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # 16 bits of grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    image = image.convert("RGB")
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize(
            (size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side), reducing_gap=3
        )
    return np.array(image, dtype=np.uint8)


class Corrupt(ValueError):
    """A sample that cannot be read. kind: "picture" or "text"."""

    def __init__(self, kind: str, why: object) -> None:
        super().__init__(str(why))
        self.kind = kind


def load(entry: Entry, position: int = 0, split: str | None = None) -> Sample | None:
    """Read and decode one sample; None when it belongs to another split. Raises Corrupt."""
    try:
        captions, meta = parse_text(entry.text.read(), entry.suffix) if entry.text else ([], {})
        if not captions and entry.caption:
            captions, _ = parse_text(entry.caption.read(), "")
        captions = captions or _weighted(list(entry.listed))
    except (ValueError, OSError, RecursionError) as error:
        raise Corrupt("text", error) from error
    if split is not None and meta.get("split", "train") != split:
        return None
    try:
        with Image.open(io.BytesIO(entry.picture.read())) as image:
            size, pixels = image.size, square(image)
    except UnidentifiedImageError as error:
        raise Corrupt("picture", "no picture of a kind that can be read") from error
    except Exception as error:  # damage makes Pillow's readers stumble over anything: struct.error, EOFError, KeyError
        raise Corrupt("picture", error) from error
    return Sample(readable(entry.key), pixels, captions, meta, size, position)


def order(count: int, seed: int | None, epoch: int = 0, rank: int = 0, world: int = 1) -> npt.NDArray[np.int64]:
    """Which of `count` samples the reader `rank` of `world` sees in this epoch, and in which order.

    The readers of one (seed, epoch) together see every sample once. seed None: as they lie.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world} readers: 0..{world - 1} is meant")
    places = np.arange(count, dtype=np.int64)
    if seed is not None:
        places = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(places)
    return places[rank::world]


def iterate(
    paths: Sequence[Path],
    *,
    split: str | None = None,
    seed: int | None = None,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    refine: Callable[[Sample], Sample | None] | None = None,
    report: Report | None = None,
) -> Iterator[Sample]:
    """Walk the samples of folders and tars once.

    split: only samples of this "split" (one that names none counts as "train"); None: all.
    seed, epoch: shuffle, the same way every time; seed None keeps the stored order.
    rank, world: this reader's share (with several workers a process: rank * workers + worker of world * workers).
    start: go on at this place of the walk: the last sample's `position` + 1.
    refine: judges each sample, for example a `filters.Filter`; None from it leaves the sample out.
    report: filled as the walk goes. What cannot be read is counted there, logged at the end, and left out.
    Raises DataError, at once, when there is nothing at all; and at the end, when nothing of it can be read.
    """
    report = report if report is not None else Report()
    entries = index(paths, report)
    places = order(len(entries), seed, epoch, rank, world)
    return _walk(entries, places, start, split, refine, report)


def _walk(
    entries: list[Entry],
    places: npt.NDArray[np.int64],
    start: int,
    split: str | None,
    refine: Callable[[Sample], Sample | None] | None,
    report: Report,
) -> Iterator[Sample]:
    for position in range(start, len(places)):
        entry = entries[places[position]]
        try:
            sample = load(entry, position, split)
        except Corrupt as error:
            report.note(error.kind, f"{entry.picture.path.name}:{entry.key} ({error})")
            continue
        if sample is None:
            continue
        report.read += 1
        report.without_caption += not sample.captions
        kept = sample if refine is None else refine(sample)
        if kept is not None:
            yield kept
    if report.corrupt or report.unused:
        logger.warning("%s", report)
    if report.undecodable and not report.read and start == 0:
        where = entries[0].picture.path
        raise DataError(f"{where}: none of {report.undecodable} samples can be read: {report.names[0]}")


def sample_caption(captions: Captions, rng: Uniform) -> str:
    """One text, drawn by weight; "" (the null caption) where there is none."""
    total = sum(weight for weight, _ in captions)
    left = rng.random() * total
    for weight, text in captions:
        left -= weight
        if left < 0:
            return text
    return captions[-1][1] if captions else ""
