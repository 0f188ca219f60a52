"""Drawing one image token a row: noise, temperature, top-k and top-p per row. No host sync, no state.

The noise of a token is one uniform number, a counter-based function of (seed, image index, position): it is the same
in every batch, and can be drawn for a whole picture before its first step. A token is the inverse of the cumulated
probabilities at that number. Each row's arithmetic is that of its own parameters only: no neighbour's parameters change
the way a row is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.inference.sequence import SamplingParams

# Philox4x32-10: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011), section 3.3 and table 2.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW, _BITS = np.uint64(0xFFFFFFFF), np.uint64(32)

IMAGE, TEXT = 0, 1  # streams of noise

_COLDEST = 1e-6  # a lower temperature would overflow float32, and draws the same token

Words = npt.NDArray[np.uint64]


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """The block of four random words of each counter. Words are 32 bits in uint64 arrays of one shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _BITS) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _BITS) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def uniforms(
    seed: int, index: int, positions: int | npt.NDArray[np.integer], stream: int = IMAGE
) -> npt.NDArray[np.float64]:
    """The noise of one image or text: a number in (0, 1) for each position, with 32 bits, never 0 and never 1.

    seed: 0..2**64-1, the key. index: of the image, 0..2**32-1. positions: their array, or how many from 0 on.
    stream: IMAGE or TEXT, which share no noise. The counter is (position, index, stream, 0), and the first word of its
    block is used.
    """
    where = np.arange(positions) if isinstance(positions, int) else positions
    p = where.astype(np.uint64)
    zero = np.zeros_like(p)
    counter = (p, np.full_like(p, index), np.full_like(p, stream), zero)
    words, *_ = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return (words.astype(np.float64) + 0.5) / 2.0**32


@dataclass(frozen=True)
class RowParams:
    """The sampling parameters of the rows of a step, on their device. Built once, when rows join or leave.

    guided, restricted, nucleus hold row numbers, so that work is done for the rows that ask for it only.
    """

    temperature: Tensor  # (rows, 1) float32; 1 in the rows that take the likeliest token
    greedy: Tensor  # (rows,) bool
    guided: Tensor  # (guided,) int64: rows that have a null row
    guidance: Tensor  # (guided, 1) float32
    restricted: Tensor  # (restricted,) int64: rows with top_k or top_p
    top_k: Tensor  # (restricted, 1) int64, at least 1; the whole vocabulary where top_k is off
    top_p: Tensor  # (restricted, 1) float64
    any_greedy: bool
    all_greedy: bool
    any_nucleus: bool
    largest_k: int  # of the restricted rows, 0 without any

    @staticmethod
    def prepare(params: Sequence[SamplingParams], guided: Sequence[int], vocab: int, device: torch.device) -> RowParams:
        """params: of each row. guided: the rows that have a null row. vocab: number of image tokens."""
        greedy = [p.temperature == 0.0 for p in params]
        heat = [1.0 if p.temperature == 0.0 else max(p.temperature, _COLDEST) for p in params]
        limited = [i for i, p in enumerate(params) if not greedy[i] and (0 < p.top_k < vocab or p.top_p < 1.0)]
        top_k = [params[i].top_k or vocab for i in limited]

        def column(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]  # (n, 1)

        return RowParams(
            temperature=column(heat, torch.float32),
            greedy=torch.tensor(greedy, device=device),
            guided=torch.tensor(list(guided), dtype=torch.int64, device=device),
            guidance=column([params[i].guidance for i in guided], torch.float32),
            restricted=torch.tensor(limited, dtype=torch.int64, device=device),
            top_k=column(top_k, torch.int64),
            top_p=column([params[i].top_p for i in limited], torch.float64),
            any_greedy=any(greedy),
            all_greedy=all(greedy),
            any_nucleus=any(params[i].top_p < 1.0 for i in limited),
            largest_k=max(top_k, default=0),
        )


def guide(conditional: Tensor, null: Tensor, rows: RowParams) -> Tensor:
    """Classifier-free guidance (2207.12598) on logits: null + guidance * (conditional - null) in the guided rows.

    conditional: (rows, vocab). null: (guided, vocab), in the order of `rows.guided`. Returns (rows, vocab).
    """
    if not len(rows.guided):
        return conditional
    return conditional.index_copy(0, rows.guided, null + rows.guidance * (conditional[rows.guided] - null))


def sample(logits: Tensor, rows: RowParams, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row.

    logits: (rows, vocab) float32, guidance applied. uniform: (rows,) float64 in (0, 1).
    Returns tokens (rows,) int64, always inside the vocabulary, and sound (rows,) bool: False where the logits gave no
    distribution (NaN, or +inf), and the token means nothing.
    """
    vocab = logits.shape[-1]
    likeliest = logits.argmax(-1) if rows.any_greedy else None
    if likeliest is not None and rows.all_greedy:
        return likeliest, logits.gather(1, likeliest[:, None])[:, 0].isfinite()
    # softmax works on one row at a time, so a row's result does not depend on how many there are.
    probabilities = torch.softmax(logits / rows.temperature, -1)
    if rows.largest_k:
        kept = _restrict(probabilities[rows.restricted], rows)
        probabilities = probabilities.index_copy(0, rows.restricted, kept)
    cumulated = probabilities.cumsum(-1, dtype=torch.float64)  # (rows, vocab)
    total = cumulated[:, -1:]
    tokens = torch.searchsorted(cumulated, uniform[:, None] * total, right=True)[:, 0].clamp_(max=vocab - 1)
    if likeliest is not None:
        tokens = torch.where(rows.greedy, likeliest, tokens)
    return tokens, total[:, 0] > 0.0  # NaN compares False


def _restrict(probabilities: Tensor, rows: RowParams) -> Tensor:
    """Zero what top-k and then top-p exclude. (restricted, vocab) -> the same; among equals the lower token is kept.

    Only the first k of the sorted probabilities enter into a row's cut, however many were sorted for its neighbours.
    """
    vocab = probabilities.shape[-1]
    if rows.largest_k < vocab:
        ranked = probabilities.topk(rows.largest_k, dim=-1).values  # (restricted, largest_k), descending
    else:
        ranked = probabilities.sort(dim=-1, descending=True).values
    last = rows.top_k - 1  # (restricted, 1): rank of the last token kept
    if rows.any_nucleus:
        mass = ranked.cumsum(-1, dtype=torch.float64)
        short = mass < rows.top_p * mass.gather(1, last)  # sets that do not reach p yet
        last = torch.where(rows.top_p < 1.0, torch.minimum(last, short.sum(-1, keepdim=True)), last)
    cut = ranked.gather(1, last)  # (restricted, 1): the smallest probability kept
    above = probabilities > cut
    level = probabilities == cut
    room = last + 1 - above.sum(-1, keepdim=True)  # tokens at the cut that are kept
    keep = above | (level & (level.cumsum(-1) <= room))
    return torch.where(keep, probabilities, 0.0)
