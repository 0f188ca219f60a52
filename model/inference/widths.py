"""Which numbers of rows a step may be computed with, so that a row's bits do not depend on the number.

Matrix kernels change with the number of rows, and some treat the rows of one call differently: in float32 on a CPU a
linear layer is bit-equal within widths {1}, {2, 3} and {4 and more}, and with two threads a width of 5 computes its
fifth row like a width of 1. No library promises anything here, so it is measured on the model itself, at its start: the
same sequence in every slot must give the same bits in every row, and at every width that is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.transformer import KVCache, Transformer

_STEPS = 3  # steps compared at each width
_SEED = 20210124


def candidates(rows: int) -> list[int]:
    """Widths worth a try for a cache of `rows` rows, ascending, `rows` itself last."""
    pace = 4 if rows <= 32 else 8
    return sorted({width for width in (1, 2, *range(pace, rows, pace)) if width < rows} | {rows})


@torch.inference_mode()
def agreeing_widths(transformer: Transformer, cache: KVCache, rows: int) -> tuple[int, ...]:
    """The widths at which slots 0..width-1 compute what they compute at the full width of `rows`, bit for bit.

    Ascending. (1,), rows computed one at a time, if not even the rows of the full width agree with each other.
    Overwrites slots 0..rows-1 of the cache.
    """
    _fill(transformer, cache, rows)
    reference = _run(transformer, cache, rows)
    one = reference[:1]
    if not torch.equal(reference, one.expand_as(reference)):
        return (1,)
    agree = []
    for width in candidates(rows):
        found = _run(transformer, cache, width)
        if torch.equal(found, one.expand_as(found)):
            agree.append(width)
    return tuple(agree)


def _fill(transformer: Transformer, cache: KVCache, rows: int) -> None:
    """The same random prompt, as long as they come, in all slots."""
    config = transformer.config
    source = torch.Generator().manual_seed(_SEED)
    text = torch.randint(3, config.text_vocab, (1, config.max_text), generator=source).to(cache.length.device)
    transformer.prefill(cache, torch.zeros(1, dtype=torch.int64, device=text.device), text)
    if rows > 1:
        cache.copy(0, torch.arange(1, rows, device=text.device), length=config.max_text)


def _run(transformer: Transformer, cache: KVCache, width: int) -> Tensor:
    """Decode the same tokens in slots 0..width-1. Returns everything computed, (width, values)."""
    config = transformer.config
    device = cache.length.device
    source = torch.Generator().manual_seed(_SEED + 1)
    cache.length[:width] = config.max_text
    cache.step[:width] = 0
    out = []
    for _ in range(min(_STEPS, config.steps - 1)):
        tokens = torch.randint(0, config.image_vocab, (1, config.group), generator=source).to(device)
        group = tokens.expand(width, config.group)
        hidden = transformer.decode(cache, slice(0, width), group)
        out.append(hidden.float())
        out += [transformer.image_logits(hidden, group[:, :j]) for j in range(config.group)]
    return torch.cat(out, dim=1)
