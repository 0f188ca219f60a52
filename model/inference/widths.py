"""With how many rows, and on a CPU how many threads, a step may be computed, so that a row's bits do not depend on it.

Matrix kernels change with the number of rows and of threads, and some treat the rows of one call differently: PyTorch's
own float32 products on a CPU were bit-equal within widths {1}, {2, 3} and {4 and more} only, and with two threads a
width of 5 computed its fifth row like a width of 1. No library promises anything here, so it is measured on the model
itself, at its start: the same sequence in every slot must give the same bits in every row, at every width and number of
threads that is used. Among those that do the fastest is taken, so that what the clock said cannot be seen in a picture:
a second thread may halve the time of a step or double it, with the size of the model, the width and the machine.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from model.transformer import KVCache, Transformer

_STEPS = 4  # steps compared at each width; the fastest counts
_SEED = 20210124

Widths = dict[int, int]  # width -> threads, widths ascending


def candidates(rows: int) -> list[int]:
    """Widths worth a try for a cache of `rows` rows, ascending, `rows` itself last."""
    pace = 4 if rows <= 32 else 8
    return sorted({width for width in (1, 2, *range(pace, rows, pace)) if width < rows} | {rows})


def thread_counts(most: int) -> list[int]:
    """Numbers of threads worth a try, ascending: the powers of two, and all."""
    return sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})


@torch.inference_mode()
def measure_widths(transformer: Transformer, cache: KVCache, rows: int, strict: bool = True) -> Widths:
    """The widths to compute with, and the threads that are fastest for each.

    strict: only widths at which slots 0..width-1 compute what they compute at the full width of `rows`, bit for bit.
    That leaves {1: all threads}, rows computed one at a time, if not even the rows of the full width agree with each
    other. Otherwise all widths up to `rows`. The number of threads is left as it was; slots 0..rows-1 of the cache are
    overwritten.
    """
    most = torch.get_num_threads()
    counts = thread_counts(most) if cache.length.device.type == "cpu" else [most]
    _fill(transformer, cache, rows)
    try:
        one = _reference(transformer, cache, rows, counts) if strict else None
        if strict and one is None:
            return {1: most}
        fastest: dict[int, tuple[float, int]] = {}
        for threads in counts:
            torch.set_num_threads(threads)
            for width in candidates(rows):
                found, seconds = _run(transformer, cache, width)
                if one is None or torch.equal(found, one.expand_as(found)):
                    fastest[width] = min(fastest.get(width, (seconds, threads)), (seconds, threads))
    finally:
        torch.set_num_threads(most)
    if strict:
        return {width: fastest[width][1] for width in sorted(fastest)}
    tried = candidates(rows)
    return {width: fastest[next(t for t in tried if t >= width)][1] for width in range(1, rows + 1)}


def _reference(transformer: Transformer, cache: KVCache, rows: int, counts: list[int]) -> Tensor | None:
    """What a row computes at the full width, (1, values), with the fewest threads with which all rows agree."""
    for threads in counts:
        torch.set_num_threads(threads)
        found, _ = _run(transformer, cache, rows)
        if torch.equal(found, found[:1].expand_as(found)):
            return found[:1]
    return None


def _fill(transformer: Transformer, cache: KVCache, rows: int) -> None:
    """The same random prompt, as long as they come, in all slots."""
    config = transformer.config
    source = torch.Generator().manual_seed(_SEED)
    text = torch.randint(3, config.text_vocab, (1, config.max_text), generator=source).to(cache.length.device)
    transformer.prefill(cache, torch.zeros(1, dtype=torch.int64, device=text.device), text)
    if rows > 1:
        cache.copy(0, torch.arange(1, rows, device=text.device), length=config.max_text)


def _run(transformer: Transformer, cache: KVCache, width: int) -> tuple[Tensor, float]:
    """Decode the same tokens in slots 0..width-1: everything computed, (width, values), and the fastest step's seconds.

    On a device that computes later the seconds say nothing.
    """
    config = transformer.config
    device = cache.length.device
    source = torch.Generator().manual_seed(_SEED + 1)
    cache.length[:width] = config.max_text
    cache.step[:width] = 0
    out, times = [], []
    for _ in range(min(_STEPS, config.steps - 1)):
        tokens = torch.randint(0, config.image_vocab, (1, config.group), generator=source).to(device)
        group = tokens.expand(width, config.group)
        began = time.perf_counter()
        hidden = transformer.decode(cache, slice(0, width), group)
        out.append(hidden.float())
        out += [transformer.image_logits(hidden, group[:, :j]) for j in range(config.group)]
        times.append(time.perf_counter() - began)
    return torch.cat(out, dim=1), min(times)
