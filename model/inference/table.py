"""Who is drawn in which slot, and how: a table of numbers on the host, which goes to a GPU in one copy.

What is told of a picture stays the same from its start to its end. So a step's table is gathered from what was written
then, which takes some 50 us for 256 pictures.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.inference.batch import Work
from model.inference.requests import SamplingParams, Sequence
from model.inference.sampling import COLDEST
from model.kernels.gpu import Column

_LARGEST_K = 256  # with top_k up to this for every image, so many are sorted; else the whole vocabulary


@dataclass(frozen=True)
class Table(Work):
    """Work whose rows are the slots 0 to width - 1. columns: (columns, slots) float64, on the host, see `Column`."""

    width: int
    columns: Tensor
    vocab: int

    @property
    def sampling(self) -> tuple[int, bool]:
        """How many probabilities are sorted, 0 for none and -1 for all, and whether some image has top_p.

        A graph of PyTorch's operations cannot vary this.
        """
        drawn = [params for s in self.sequences if (params := s.request.params).temperature != 0.0]
        limited = [params for params in drawn if 0 < params.top_k < self.vocab or params.top_p < 1.0]
        if not limited:
            return 0, False
        few = len(limited) == len(drawn) and all(0 < params.top_k <= _LARGEST_K for params in limited)
        return _LARGEST_K if few else -1, any(params.top_p < 1.0 for params in limited)


class Tables:
    """Makes the tables of a decoder. Of a slot that no image holds a table says nothing that could do harm."""

    def __init__(self, slots: int, vocab: int) -> None:
        self._vocab = vocab
        self._empty = np.zeros((len(Column), slots))
        self._empty[[Column.SOURCE, Column.NULL]] = np.arange(slots)
        self._empty[[Column.GUIDANCE, Column.TEMPERATURE, Column.OPENING, Column.TOP_K, Column.TOP_P]] = 1
        self._told = self._empty.copy()

    def tell(self, sequence: Sequence) -> None:
        """Write down how an image is drawn that has its slots."""
        slot, *null = sequence.slots
        columns = _columns(sequence.request.params, self._vocab)
        columns |= {Column.IMAGE: 1, Column.NULL: null[0] if null else slot}
        columns |= {Column.SCORED: sequence.request.score and bool(null)}
        self._told[:, sequence.slots] = self._empty[:, sequence.slots]
        self._told[list(columns), slot] = list(columns.values())
        self._told[Column.SOURCE, sequence.slots] = slot
        self._told[Column.HELD, sequence.slots] = 1

    def of(self, running: Seq[Sequence], width: int) -> Table:
        """The table of these images, which were told of."""
        held = [slot for sequence in running for slot in sequence.slots]
        columns = self._empty.copy()
        columns[:, held] = self._told[:, held]
        return Table(tuple(running), width, torch.from_numpy(columns), self._vocab)


def _columns(params: SamplingParams, vocab: int) -> dict[Column, float]:
    """How an image is drawn. As RowParams.prepare has it."""
    greedy = params.temperature == 0.0
    heat = 1.0 if greedy else max(params.temperature, COLDEST)
    return {
        Column.GUIDANCE: params.guidance,
        Column.TEMPERATURE: heat,
        Column.OPENING: max(heat, params.opening),
        Column.GREEDY: greedy,
        Column.TOP_K: 1 if greedy else params.top_k or vocab,
        Column.TOP_P: 1.0 if greedy else params.top_p,
    }
