"""The order in which shards are streamed. It is a pure function of (seed, step, index in the batch).

A batch is cut into equal parts, and each part is read from a stream of its own. Every shard belongs to one stream. A
stream reads its shards in another order each epoch, and shuffles the samples of a few neighbouring shards together.

A process computes the parts of some streams, so it reads shards that no other process reads. The number of processes
does not change what is learnt. A run resumes from the step number alone: no shuffle buffer has to be saved, because
the sample of every position is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from model.errors import DataError

MOST_STREAMS = 16
SHUFFLED_SHARDS = 4  # shards of a stream whose samples are shuffled together

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Position:
    """Which sample is read, and when.

    epoch: the epoch of its stream, from 0. offset: how many samples the stream has read before it in this epoch.
    shard: the index of its shard in the sizes of `Streams`. index: of the sample within its shard.
    """

    epoch: int
    offset: int
    shard: int
    index: int


def count_streams(shards: int, batch: int, world: int) -> int:
    """The number of streams: the largest that divides the batch, is a multiple of `world`, and gives each a shard.

    More than MOST_STREAMS are used only if there are more processes than that. Raises DataError if no number fits.
    """
    found = [n for n in range(world, min(shards, batch, max(MOST_STREAMS, world)) + 1) if not (batch % n or n % world)]
    if not found:
        raise DataError(
            f"a stream needs a shard and an equal part of the batch for each process, got {shards} shards, "
            f"a batch of {batch} and {world} processes"
        )
    return found[-1]


@dataclass(frozen=True)
class _Window:
    """Neighbouring shards of a stream that are shuffled together, in one epoch."""

    epoch: int
    start: int  # how many samples of the epoch come before this window
    shards: Ints
    ends: Ints  # cumulative sizes of the shards
    order: Ints  # the window's samples, numbered through its shards, in the order in which they are read


@dataclass
class Streams:
    """The sample of every (step, index in the batch).

    sizes: how many samples each shard has, 1 or more. batch: samples in a step, over all processes. streams: their
    number, see `count_streams`. seed: decides every order.
    """

    sizes: Sequence[int]
    batch: int
    streams: int
    seed: int
    _last: dict[int, _Window] = field(default_factory=dict, repr=False)  # by stream: most batches stay in one window

    def __post_init__(self) -> None:
        dealt = self._random(0).permutation(len(self.sizes))
        self._shards = [np.sort(dealt[stream :: self.streams]) for stream in range(self.streams)]
        self._totals = [int(sum(self.sizes[shard] for shard in shards)) for shards in self._shards]

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *key))

    def at(self, step: int, index: int) -> Position:
        """The sample at `index` (0 <= index < batch) of the batch of `step`."""
        share = self.batch // self.streams
        stream, within = divmod(index, share)
        epoch, offset = divmod(step * share + within, self._totals[stream])
        window = self._window(stream, epoch, offset)
        number = int(window.order[offset - window.start])
        which = int(np.searchsorted(window.ends, number, side="right"))
        first = int(window.ends[which - 1]) if which else 0
        return Position(epoch, offset, int(window.shards[which]), number - first)

    def _window(self, stream: int, epoch: int, offset: int) -> _Window:
        """The window that holds sample `offset` of a stream's epoch."""
        last = self._last.get(stream)
        if last and last.epoch == epoch and last.start <= offset < last.start + len(last.order):
            return last
        shards = self._random(1, stream, epoch).permutation(self._shards[stream])
        ends = np.cumsum([self.sizes[shard] for shard in shards])
        first = int(np.searchsorted(ends, offset, side="right")) // SHUFFLED_SHARDS * SHUFFLED_SHARDS
        start = int(ends[first - 1]) if first else 0
        part = slice(first, first + SHUFFLED_SHARDS)
        order = self._random(2, stream, epoch, first).permutation(int(ends[part][-1]) - start)
        self._last[stream] = _Window(epoch, start, shards[part], ends[part] - start, order)
        return self._last[stream]

    def describe(self, step: int, names: Sequence[str]) -> dict[str, list[dict[str, int | str]]]:
        """The place of each stream before `step`, for the saved state. names: those of the shards."""
        share = self.batch // self.streams
        positions = [self.at(step, stream * share) for stream in range(self.streams)]
        return {  # the keys are those of saved runs
            "lanes": [
                {"epoch": p.epoch, "offset": p.offset, "shard": names[p.shard], "row": p.index} for p in positions
            ]
        }


def digest(names: Sequence[str], sizes: Sequence[int]) -> str:
    """A short hash of the shards' names and sizes. If these change, the order of the samples changes too."""
    text = "\n".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
