"""Pictures alone, for stage 1: prepared ones, drawn at random; or streamed from tars, in order, decoded as they come.

Both give the picture of a place in a batch as a function of (seed, step, place) alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model.errors import DataError
from model.inference.cores import usable_cores
from model.training.data import Corrupt, Entry, Piece, Pixels, Report, index, load
from model.training.filters import Rules, fit_size, not_blank
from model.training.lanes import Lanes, Position, count_lanes, digest
from model.training.loop import Place, wait_for_all
from model.training.prepare import Prepared
from model.training.published.store import parted
from model.training.token_shards import HELD_OUT, home_of_tar, tars_of

log = logging.getLogger(__name__)

MEASURED = 64  # held-out pictures that a run looks at
_TOLD = 10  # pictures that cannot be read and are logged
_TRIES = 64  # pictures that are tried, one after another, where some cannot be read


class Pictures(Protocol):
    """What stage 1 learns from."""

    def draw(self, step: int, first: int, randoms: Sequence[np.random.Generator]) -> list[Pixels]:
        """The pictures, (256, 256, 3) RGB, of the places first, first + 1 ... of the batch of `step`."""
        ...

    def held_out(self) -> list[Pixels]:
        """At most MEASURED pictures that are not learnt from."""
        ...

    def position(self, step: int) -> dict[str, Any]:
        """Where `step` begins, for the saved state."""
        ...


class PreparedPictures:
    """Drawn from an array on disk, each as likely as any other."""

    def __init__(self, prepared: Prepared) -> None:
        self.images, self.rows, self.val = prepared.images, prepared.rows("train"), prepared.rows("val")
        if not len(self.rows):
            raise DataError(f"{prepared.folder}: none of the {len(prepared.lines)} pictures is to be trained on")

    def draw(self, step: int, first: int, randoms: Sequence[np.random.Generator]) -> list[Pixels]:  # noqa: ARG002
        """See `Pictures`; each random is of its step and place."""
        return [self.images[self.rows[random.integers(len(self.rows))]] for random in randoms]

    def held_out(self) -> list[Pixels]:
        """See `Pictures`."""
        return [self.images[row] for row in self.val[:MEASURED]]

    def position(self, step: int) -> dict[str, Any]:  # noqa: ARG002
        """See `Pictures`: nothing but the step."""
        return {}


def _entries_of(tar: Path, report: Report) -> npt.NDArray[np.int64]:
    """(n, 5): offset and size of each picture and of its text (0, 0 without one), and whether that is a .json."""
    try:
        entries = index([tar], report)
    except DataError:
        return np.zeros((0, 5), dtype=np.int64)
    places = [
        (e.picture.offset, e.picture.size, *((e.text.offset, e.text.size) if e.text else (0, 0)), e.suffix == ".json")
        for e in entries
    ]
    return np.array(places, dtype=np.int64)


class StreamedPictures:
    """Read from tars in the order of their lanes. Where a picture is unfit, the next of its tar stands in for it."""

    def __init__(self, data: Sequence[Path], cache: Path, rules: Rules, batch: int, seed: int, place: Place) -> None:
        """cache: keeps where in the tars the pictures lie. batch: of all processes. Raises DataError."""
        self.rules, self.report = rules, Report()
        tars = tars_of(parted(data)[0])  # stage 1 reads no captions
        homes = [home_of_tar(tar, cache / "tars").with_suffix(".npy") for tar in tars]
        for at in range(place.rank, len(tars), place.world):
            if not homes[at].exists():
                homes[at].parent.mkdir(parents=True, exist_ok=True)
                partial = homes[at].with_suffix(".partial")
                with partial.open("wb") as file:
                    np.save(file, _entries_of(tars[at], self.report))
                partial.replace(homes[at])
        wait_for_all(place)
        found = [(tar, np.load(home, mmap_mode="r")) for tar, home in zip(tars, homes, strict=True)]
        self.shards = [(tar, entries) for tar, entries in found if len(entries)]
        if len(self.shards) < len(tars):
            log.warning("%d of %d tars cannot be read and are left out", len(tars) - len(self.shards), len(tars))
        if not self.shards:
            raise DataError(f"{tars[0]}: no tar can be read")
        self.names = [tar.name for tar, _ in self.shards]
        sizes = [len(entries) - len(entries) // HELD_OUT for _, entries in self.shards]
        self.lanes = Lanes(sizes, batch, count_lanes(len(sizes), batch, place.world), seed)
        self._threads = ThreadPoolExecutor(min(8, usable_cores()))

    def draw(self, step: int, first: int, randoms: Sequence[np.random.Generator]) -> list[Pixels]:
        """See `Pictures`. Raises DataError where nothing but unfit pictures is found."""
        places = [self.lanes.at(step, first + number) for number in range(len(randoms))]
        return list(self._threads.map(self._fetch, places))

    def _fetch(self, at: Position) -> Pixels:
        size = self.lanes.sizes[at.shard]
        for row in range(at.row, at.row + _TRIES):
            row = row % size
            picture = self._fit(at.shard, row + row // (HELD_OUT - 1))  # every fiftieth is held out
            if picture is not None:
                return picture
        raise DataError(f"{self.shards[at.shard][0]}: {_TRIES} unfit pictures one after another from {at.row} on")

    def _fit(self, shard: int, entry: int) -> Pixels | None:
        """A picture of the training split that keeps the rules, or None."""
        tar, entries = self.shards[shard]
        offset, size, text_offset, text_size, is_json = map(int, entries[entry])
        text = Piece(tar, text_offset, text_size) if text_size else None
        try:
            sample = load(
                Entry(str(entry), Piece(tar, offset, size), text, ".json" if is_json else ".txt"), split="train"
            )
        except Corrupt as error:
            self.report.note(error.kind, f"{tar.name}:{entry} ({error})")
            if self.report.undecodable <= _TOLD:
                log.warning("%s: its picture %d cannot be read: %s", tar, entry, error)
            return None
        if sample is None or fit_size(sample, self.rules) or not not_blank(sample.image):
            return None
        return sample.image

    def held_out(self) -> list[Pixels]:
        """See `Pictures`: of the first tars."""
        return list(islice(self._held_out(), MEASURED))

    def _held_out(self) -> Iterator[Pixels]:
        for shard, (_, entries) in enumerate(self.shards):
            for entry in range(HELD_OUT - 1, len(entries), HELD_OUT):
                if (picture := self._fit(shard, entry)) is not None:
                    yield picture

    def position(self, step: int) -> dict[str, Any]:
        """See `Pictures`: a name of the tars, and for each lane its epoch, tar and row."""
        return {"shards": digest(self.names, self.lanes.sizes), **self.lanes.describe(step, self.names)}
