"""State of slots for tests of native steps."""

from __future__ import annotations

import torch
from torch import Tensor

from model.kernels import Picture, SlotTensors


def new_slots(hidden: Tensor, drawn: Tensor, position: Tensor, cells: int, source: torch.Generator) -> SlotTensors:
    """Slots with nothing forced, and noise from `source`. cells: tokens of a picture."""
    slots = len(hidden)
    return SlotTensors(
        hidden=hidden,
        tokens=torch.zeros(slots, cells, dtype=torch.int64),
        drawn=drawn,
        forced=torch.full((slots, cells), -1),
        noise=torch.rand(slots, cells, generator=source, dtype=torch.float64),
        position=position,
        begun=torch.zeros(slots, dtype=torch.bool),
        bad=torch.zeros(slots, dtype=torch.bool),
        score=torch.zeros(slots, dtype=torch.float64),
    )


def picture(slot: int, *rows: int, **changes: float) -> Picture:
    """A picture that is drawn as the model says, but for the changes."""
    given = {"guidance": 1.0, "temperature": 1.0, "opening": 0.0, "top_k": 0, "top_p": 1.0, "scored": False, **changes}
    return Picture(slot, rows, **given)  # type: ignore[arg-type]


def drawn_within(logits: Tensor, drawn: Tensor, noise: Tensor, near: float) -> bool:
    """Whether each row's noise lies between the probabilities that logits (rows, vocab) give the tokens before drawn
    (rows, 1) and those up to it, but for `near`."""
    shares = logits.double().softmax(-1)
    reached = shares.cumsum(-1).gather(1, drawn)[:, 0]
    share = shares.gather(1, drawn)[:, 0]
    return bool((noise < reached + near).all() and (noise > reached - share - near).all())
