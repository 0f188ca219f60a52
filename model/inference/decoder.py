"""The transformer at work on slots: prefill, draw, feed. Tensors only; knows nothing of events or pixels.

In strict mode every row's bits depend on its own sequence alone: prompts are read one by one, attention reads the whole
capacity of a slot, and rows are computed in widths and with threads that were measured to agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from model.inference.batch import Batch, SlotState
from model.inference.flags import Flags
from model.inference.sampling import guide, sample
from model.inference.sequence import Sequence
from model.inference.widths import Widths, measure_widths, using_threads
from model.transformer import Transformer


class SlotDecoder:
    """One static KV cache with its slots, and one more that holds the null prompt."""

    def __init__(
        self,
        transformer: Transformer,
        null: Seq[int],
        slots: int,
        device: torch.device,
        strict: bool = True,
        likelihood: bool = True,
    ) -> None:
        """transformer: on `device`, in its final type. null: the null prompt. slots: rows that images may take.

        likelihood: images that ask for a score get one by likelihood (`score`).
        """
        transformer.pack()
        self.transformer = transformer
        self.config = transformer.config
        self.device = device
        self.strict = strict
        self._likelihood = likelihood
        # In strict mode a multiple of four rows is computed: of the widths measured so far, all such widths agree.
        rows = -(-slots // 4) * 4 if strict else slots
        self._null_slot, self._null_length = rows, len(null)
        self.cache = transformer.new_cache(rows + 1)
        self.widths: Widths = measure_widths(transformer, self.cache, rows, strict)
        self._null_hidden = self._prefill(self._null_slot, null)
        self.state = SlotState(self.config, rows, device, self._null_hidden)
        self._flags = Flags(self.state.bad)

    def batch(self, running: Seq[Sequence], forced: set[str]) -> Batch:
        """The rows to compute for these images. forced: ids of the requests with forced tokens."""
        return Batch.build(running, tuple(self.widths), forced, self.config.image_vocab, self.device)

    def start(self, sequences: list[Sequence], forced: Tensor | None) -> None:
        """Fill the slots of images of one request: one prefill for all of them, and copies of the null prompt's.

        forced: (image tokens,) int64, -1 where the model is free; None for nowhere.
        """
        text_ids = sequences[0].request.text_ids
        first, *others = (s.slots[0] for s in sequences)
        hidden = self._prefill(first, text_ids)
        self._copy(first, others, len(text_ids))
        self.state.hidden[[first, *others]] = hidden
        nulls = [slot for s in sequences for slot in s.slots[1:]]
        self._copy(self._null_slot, nulls, self._null_length)
        self.state.hidden[nulls] = self._null_hidden
        for sequence in sequences:
            self.state.start(sequence, forced)

    def draw(self, batch: Batch) -> None:
        """One group of tokens for every image, one token after another."""
        with using_threads(self.widths[batch.width]):
            state, images = self.state, batch.images
            hidden = state.hidden[batch.rows]
            at = state.position[images]  # (images,)
            for j in range(self.config.group):
                logits = self._logits(batch, hidden, state.drawn[batch.source, :j])  # (rows, vocab)
                conditional = logits[batch.conditional]
                mixed = guide(conditional, logits[batch.null], batch.params)
                tokens, sound = sample(mixed, batch.params, state.noise[images, at + j])
                if batch.forces:
                    forced = state.forced[images, at + j]
                    tokens = torch.where(forced >= 0, forced, tokens)
                if self._likelihood and len(batch.scored):
                    self._score(batch, conditional, logits, tokens, at + j)
                state.drawn[images, j] = tokens
                state.tokens[images, at + j] = tokens
                state.bad[images] |= ~sound
            state.position[images] = at + self.config.group
            self._flags.post()

    def feed(self, batch: Batch) -> None:
        """Give the groups just drawn to the transformer, for images that go on."""
        with using_threads(self.widths[batch.width]):
            self.cache.length[batch.idle] = self._null_length  # slots that nobody holds stay short
            self.cache.step[batch.idle] = 0
            longest = max(len(s.request.text_ids) + s.step for s in batch.sequences)
            span = None if self.strict else longest
            fed = self.state.drawn[batch.source]  # (rows, group)
            hidden, row = [], 0
            for part in batch.slices:
                width = part.stop - part.start
                hidden.append(self.transformer.decode(self.cache, part, fed[row : row + width], span=span))
                row += width
            self.state.hidden[batch.rows] = torch.cat(hidden)

    def unsound(self) -> list[bool]:
        """Of every slot: whether the logits before the last `feed` gave no distribution. Waits for nothing newer."""
        return self._flags.read()

    def sound(self, slot: int) -> bool:
        """Whether all logits of the image in this slot gave a distribution. Waits for the device."""
        return not bool(self.state.bad[slot])

    def tokens(self, slot: int) -> Tensor:
        """The tokens of the image in this slot, (image tokens,) int64 on the CPU; zeros where none is drawn yet."""
        return self.state.tokens[slot].cpu().clone()

    def score(self, slot: int) -> float:
        """The mean of log p(token | prompt) - log p(token | null prompt) over the tokens that were free."""
        return float(self.state.score[slot]) / max(1, int((self.state.forced[slot] < 0).sum()))

    def clean(self, slots: Iterable[int]) -> None:
        """Zero slots that may hold NaN: a masked position counts zero times its value, which NaN survives."""
        for slot in slots:
            for buffer in (self.cache.k, self.cache.v):
                buffer[:, slot] = 0
            self.cache.caption[slot] = 0
            self.state.hidden[slot] = 0
            self.state.bad[slot] = False

    def _prefill(self, slot: int, text_ids: Seq[int]) -> Tensor:
        """Read one prompt into a slot, alone. Returns hidden, (1, width)."""
        ids = torch.tensor([list(text_ids)], dtype=torch.int64, device=self.device)
        return self.transformer.prefill(self.cache, torch.tensor([slot], device=self.device), ids)

    def _copy(self, source: int, targets: list[int], length: int) -> None:
        if targets:
            self.cache.copy(source, torch.tensor(targets, device=self.device), length=length)

    def _logits(self, batch: Batch, hidden: Tensor, drawn: Tensor) -> Tensor:
        if len(batch.slices) == 1:
            return self.transformer.image_logits(hidden, drawn)
        rows = range(len(hidden))  # single rows: no two of them may be computed together
        return torch.cat([self.transformer.image_logits(hidden[i : i + 1], drawn[i : i + 1]) for i in rows])

    def _score(self, batch: Batch, conditional: Tensor, logits: Tensor, tokens: Tensor, at: Tensor) -> None:
        """Add log p(token | prompt) - log p(token | null prompt) where the model was free to draw."""
        slots, chosen = batch.images[batch.scored], tokens[batch.scored, None]
        given = conditional[batch.scored].log_softmax(-1).gather(1, chosen)[:, 0]
        without = logits[batch.scored_null].log_softmax(-1).gather(1, chosen)[:, 0]
        free = self.state.forced[slots, at[batch.scored]] < 0
        self.state.score[slots] += torch.where(free, (given - without).double(), 0.0)
