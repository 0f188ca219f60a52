"""A check for all families: slots of one cache that stand at different places of their pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_rows_at_different_places(
    transformer: Any, text: Tensor, image: Tensor, want: Tensor, ids: int, ahead: int, turns: int, room: int | None = 2
) -> None:
    """Three slots give the wanted logits (2, tokens, vocab), step by step, though one is `ahead` of the others.

    text (2, n): ids of the first are copied from slot to slot. image (2, tokens). room: positions beyond the place of
    the foremost slot within which every second step reads; None: all steps read the whole capacity.
    """
    cache, none = transformer.new_cache(4), torch.zeros(1, 0, dtype=torch.int64)
    hidden = transformer.prefill(cache, torch.tensor([2, 0]), text)
    cache.copy(2, torch.tensor([1]), length=transformer.config.text_positions(ids))
    for i in range(ahead):
        first = transformer.decode(cache, slice(1, 2), image[:1, i : i + 1])
    places, rows, of_slot = [0, ahead, 0], [hidden[1], first[0], hidden[0]], [1, 0, 0]  # by slot
    for turn in range(turns):
        for slot, place in enumerate(places):
            got = transformer.image_logits(rows[slot][None], none)[0]
            torch.testing.assert_close(got, want[of_slot[slot], place], atol=1e-4, rtol=0)
        fed = torch.stack([image[of_slot[slot], place] for slot, place in enumerate(places)])[:, None]
        span = {} if room is None else {"span": max(places) + room if turn % 2 else None}
        rows = list(transformer.decode(cache, slice(0, 3) if turn % 3 else torch.arange(3), fed, **span))
        places = [place + 1 for place in places]
