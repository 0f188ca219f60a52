"""The tensors of a step: what every slot carries from step to step, and which rows are computed together."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import TransformerConfig
from model.inference.sampling import RowParams, uniforms
from model.inference.sequence import Sequence


class SlotState:
    """State of every slot beside the KV cache. An image's tokens, noise and position stand in its conditional slot."""

    def __init__(self, config: TransformerConfig, slots: int, device: torch.device, hidden: Tensor) -> None:
        """hidden: (1, width), as prefill gives it; its width and type are taken over."""
        tokens = config.image_tokens
        self.hidden = hidden.new_zeros(slots, hidden.shape[-1])  # what the next group is drawn from
        self.tokens = torch.zeros(slots, tokens, dtype=torch.int64, device=device)
        self.forced = torch.full((slots, tokens), -1, dtype=torch.int64, device=device)
        self.noise = torch.zeros(slots, tokens, dtype=torch.float64, device=device)
        self.drawn = torch.zeros(slots, config.group, dtype=torch.int64, device=device)  # the group just drawn
        self.position = torch.zeros(slots, dtype=torch.int64, device=device)  # image tokens drawn
        self.bad = torch.zeros(slots, dtype=torch.bool, device=device)  # logits gave no distribution
        self.score = torch.zeros(slots, dtype=torch.float64, device=device)  # nats

    def start(self, sequence: Sequence, forced: Tensor | None) -> None:
        """Take an image in, at its first token. forced: (image tokens,) int64, -1 where the model is free."""
        slot, tokens = sequence.slots[0], self.tokens.shape[1]
        self.noise[slot] = torch.from_numpy(uniforms(sequence.request.params.seed, sequence.index, tokens))
        self.forced[slot] = -1 if forced is None else forced.to(self.forced.device)
        for state in (self.tokens, self.position, self.bad, self.score):
            state[slot] = 0


@dataclass(frozen=True)
class Batch:
    """The running images and the rows computed for them, until one joins or leaves.

    Rows are runs of neighbouring slots, so that the cache is read in place; a slot between that nobody holds is
    computed and thrown away.
    """

    sequences: tuple[Sequence, ...]
    slices: tuple[slice, ...]  # the slots computed together; one, if not only single rows agree
    rows: Tensor  # (rows,) int64: the slot of each row
    idle: Tensor  # (idle,) int64: slots among them that nobody holds
    source: Tensor  # (rows,) int64: the slot whose tokens a row is fed: a null row those of its conditional row
    images: Tensor  # (images,) int64: the conditional slot of each image
    conditional: Tensor  # (images,) int64: its row
    null: Tensor  # (guided,) int64: the null rows, in the order of params.guided
    params: RowParams
    forces: bool  # some image has forced tokens
    scored: Tensor  # (scored,) int64: the images that ask for a score, counted in `images`
    scored_null: Tensor  # (scored,) int64: their null rows

    @property
    def width(self) -> int:
        """Rows that are computed together."""
        return self.slices[0].stop - self.slices[0].start

    @staticmethod
    def build(
        sequences: Seq[Sequence], widths: tuple[int, ...], forced: set[str], vocab: int, device: torch.device
    ) -> Batch:
        """widths: the numbers of rows that may be computed together. forced: ids of requests with forced tokens."""
        busy = sorted(slot for s in sequences for slot in s.slots)
        slices = _slices(busy, widths)
        rows = [slot for part in slices for slot in range(part.start, part.stop)]
        row_of = {slot: row for row, slot in enumerate(rows)}
        owner = {slot: s.slots[0] for s in sequences for slot in s.slots}
        guided = [i for i, s in enumerate(sequences) if s.request.params.guidance != 1.0]
        scored = [i for i, s in enumerate(sequences) if s.request.score]

        def indices(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        return Batch(
            sequences=tuple(sequences),
            slices=slices,
            rows=indices(rows),
            idle=indices([slot for slot in rows if slot not in owner]),
            source=indices([owner.get(slot, slot) for slot in rows]),
            images=indices([s.slots[0] for s in sequences]),
            conditional=indices([row_of[s.slots[0]] for s in sequences]),
            null=indices([row_of[sequences[i].slots[1]] for i in guided]),
            params=RowParams.prepare([s.request.params for s in sequences], guided, vocab, device),
            forces=any(s.request.id in forced for s in sequences),
            scored=indices(scored),
            scored_null=indices([row_of[sequences[i].slots[1]] for i in scored]),
        )


def _slices(busy: list[int], widths: tuple[int, ...]) -> tuple[slice, ...]:
    """Slots 0.. up to the last busy one, in the smallest width that holds them; or single rows, if none does."""
    fitting = [width for width in widths if width > busy[-1]]
    if fitting:
        return (slice(0, min(fitting)),)
    return tuple(slice(slot, slot + 1) for slot in busy)
