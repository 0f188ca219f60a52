"""Captions by web address, on disk: what index files say, ready to be joined to the pictures that were fetched.

    store = Captions.build(files, Path("captions.sqlite"), RULES, counts)
    store.join(sample)   # the sample with the captions of its index row

img2dataset's shards (KEY.jpg, KEY.txt and KEY.json with "url", "key" and more) are joined by address. Photos of
YFCC100M that were fetched from elsewhere are joined by photo id ("photoid", or as Flickr writes it) or by hash.
Memory does not grow with the number of rows: 12 million take about 3 GB of disk.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from model.errors import DataError
from model.training.data import Sample
from model.training.filters import Rules, fit_captions
from model.training.published.layouts import Row, layout_of, photos_of, read
from model.training.published.rows import RowReport

_FLICKR = re.compile(r"/(\d{5,})_[0-9a-f]{6,}(_[a-z0-9]{1,2})?\.\w+$")
_HASH = re.compile(r"[0-9a-f]{20,32}", re.IGNORECASE)


@dataclass
class FileReport(RowReport):
    """What an index file held. rows = broken + refused + passed."""

    layout: str = ""
    refused: dict[str, int] = field(default_factory=dict)  # sound rows that break a rule: reason -> how many
    passed: int = 0

    def refuse(self, reason: str) -> None:
        """Count a sound row under the rule that it breaks."""
        self.refused[reason] = self.refused.get(reason, 0) + 1


def _is_index(path: Path) -> bool:
    """True for what can only be an index file: no folder, no tar."""
    if not path.is_file() or path.suffix.lower() == ".tar":
        return False
    with path.open("rb") as file:
        file.seek(257)
        return file.read(5) != b"ustar"


def parted(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Folders and tars of pictures; and index files. Raises DataError for a path that does not exist."""
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    files = [path for path in paths if _is_index(path)]
    return [path for path in paths if path not in files], files


def normal(address: str) -> str:
    """What two spellings of a web address have in common: no scheme, no fragment, host in small letters."""
    try:
        parts = urlsplit(address.strip())
    except ValueError:  # an address like "http://[": nothing to normalise
        return address.strip()
    return f"{parts.netloc.lower()}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def names_of(sample: Sample) -> Iterator[str]:
    """The names that a fetched picture may be found by, surest first."""
    address = sample.meta.get("url")
    if isinstance(address, str):
        yield normal(address)
        if found := _FLICKR.search(address):
            yield f"photo:{found[1]}"
    for name in ("photoid", "photo_id"):
        if str(photo := sample.meta.get(name, "")).isdecimal():
            yield f"photo:{photo}"
    for stem in (sample.key, PurePosixPath(address).stem if isinstance(address, str) else ""):
        if _HASH.fullmatch(stem):
            yield f"hash:{stem.lower()}"
    if not isinstance(address, str) and sample.key.isdecimal():  # img2dataset's keys count, and have an address
        yield f"photo:{sample.key}"


def _key(name: str) -> int:
    """A name as 64 signed bits: among 10^8 names, two share a key once in some 4000 data sets."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)


def _row_reason(row: Row, photos: npt.NDArray[np.int64] | None, rules: Rules) -> str:
    if photos is not None and row.names:
        photo = int(row.names[0].removeprefix("photo:"))
        at = int(np.searchsorted(photos, photo))
        if at == len(photos) or photos[at] != photo:
            return "not in the subset"
    if rules.english and row.language not in ("", "en"):
        return "page not in English"
    return rules.size(*row.size) if row.size else ""


class CaptionStore:
    """Captions in a SQLite file, found by 64-bit keys of the names that a picture goes by."""

    def __init__(self, path: Path) -> None:
        self._rows = sqlite3.connect(path, isolation_level=None)

    def close(self) -> None:
        """Let go of the file."""
        self._rows.close()

    @classmethod
    def build(cls, files: Sequence[Path], path: Path, rules: Rules, reports: dict[str, FileReport]) -> CaptionStore:
        """Read index files into a new store at `path`; what each held is told in `reports`, by file.

        Rows whose captions pass the rules are kept; of several rows with one address, the first. yfcc-subset files
        choose among the rows of yfcc files, wherever they stand among the files. Raises DataError.
        """
        layouts = {file: layout_of(file) for file in files}
        subsets = [file for file in files if layouts[file] == "yfcc-subset"]
        for file in files:
            reports[str(file)] = FileReport(layout=layouts[file])
        photos = None
        if subsets:
            ids = [np.fromiter(photos_of(file, reports[str(file)]), dtype=np.int64) for file in subsets]
            photos = np.unique(np.concatenate(ids))
            for file, found in zip(subsets, ids, strict=True):
                reports[str(file)].passed = len(found)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        store = cls(partial)
        store._rows.execute("PRAGMA journal_mode = OFF")
        store._rows.execute("PRAGMA synchronous = OFF")  # a store that was not finished is thrown away
        store._rows.execute("CREATE TABLE captions (id INTEGER PRIMARY KEY, captions TEXT NOT NULL)")
        store._rows.execute("CREATE TABLE names (key INTEGER PRIMARY KEY, id INTEGER NOT NULL)")
        store._rows.execute("BEGIN")
        for file in files:
            if layouts[file] != "yfcc-subset":
                store._gather(file, photos if layouts[file] == "yfcc" else None, rules, reports[str(file)])
        store._rows.execute("COMMIT")
        store.close()
        partial.replace(path)
        return cls(path)

    def _gather(self, file: Path, photos: npt.NDArray[np.int64] | None, rules: Rules, report: FileReport) -> None:
        rows = read(file, report.layout, report)
        for row in track(rows, f"reading {file.name}", total=None, console=Console(stderr=True)):
            captions, reason = row.captions, _row_reason(row, photos, rules)
            if not reason:
                captions, reason = fit_captions(captions, rules)
            if not reason and not self._add(replace(row, captions=captions)):
                reason = "duplicate address"
            if reason:
                report.refuse(reason)
            else:
                report.passed += 1

    def _add(self, row: Row) -> bool:
        """Keep a row; False when its address is known."""
        keys = [_key(name) for name in (normal(row.address), *row.names)]
        if self._rows.execute("SELECT 1 FROM names WHERE key = ?", keys[:1]).fetchone():
            return False
        text = json.dumps(row.captions, ensure_ascii=False)
        number = self._rows.execute("INSERT INTO captions (captions) VALUES (?)", (text,)).lastrowid
        self._rows.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", [(key, number) for key in keys])
        return True

    def join(self, sample: Sample) -> tuple[Sample, bool]:
        """The sample with the captions of its row, and True; or as it is, and False, where the index has none."""
        for name in names_of(sample):
            found = self._rows.execute(
                "SELECT captions FROM captions JOIN names USING (id) WHERE key = ?", (_key(name),)
            ).fetchone()
            if found:
                return replace(sample, captions=[(weight, text) for weight, text in json.loads(found[0])]), True
        return sample, False


@contextmanager
def joined(
    paths: Sequence[Path], path: Path, rules: Rules, reports: dict[str, FileReport]
) -> Iterator[tuple[list[Path], Callable[[Sample], Sample]]]:
    """The folders and tars among `paths`, and what gives a sample of theirs the captions of its row in an index file.

    A sample without a row keeps its own captions. path: of the store, which is made anew and removed at the end.
    reports: as in `CaptionStore.build`. Raises DataError.
    """
    pictures, files = parted(paths)
    if not files:
        yield pictures, lambda sample: sample
        return
    store = CaptionStore.build(files, path, rules, reports)
    try:
        yield pictures, lambda sample: store.join(sample)[0]
    finally:
        store.close()
        path.unlink()
