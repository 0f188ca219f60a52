"""A prompt in, a caption out: what of "a cute kitten reading in the rain" a painter that knows captions can paint.

A painter that was taught "a cat" tears a picture where its words are of two minds: it begins one thing and goes on with
another. Written out first, the choice is made once, before the first token is drawn, and whoever asked can read it.
That is how DALL-E 3 treats prompts (Betker et al. 2023, "Improving Image Generation with Better Captions", section 3),
with a network of five million weights in the place of a large language model.

A prefix language model (T5, 1910.10683, section 3.2.1): every prompt position sees the whole prompt, every written one
the prompt and what was written before it. Token ids only, as in `model.transformer`: it knows nothing of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ReviserConfig
from model.transformer.attention import Rotation, angles, rotation_of
from model.transformer.transformer import Block, TextState

_BASE = 1000.0  # of the rotary wave lengths


def rotation_table(config: ReviserConfig) -> Rotation:
    """Rotations (most positions, head_dim) of places in a text (RoPE, 2104.09864); both texts count from 0."""
    place = torch.arange(max(config.prompt_positions, config.written_positions), dtype=torch.float32)
    return rotation_of(angles(place, config.head_dim // 2, _BASE))


class Reviser(nn.Module):
    """`states` trains, `write` serves."""

    def __init__(self, config: ReviserConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.text_vocab, config.dim)
        self.parts = nn.Parameter(torch.randn(2, config.dim) * 0.5)  # which of the two texts a position belongs to
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6, bias=False)
        nn.init.normal_(self.table.weight, std=0.02)
        self._rotations: dict[torch.device, Rotation] = {}

    def states(self, prompt: Tensor, lengths: Tensor, written: Tensor) -> Tensor:
        """What follows each written id, normalised: (b, w, dim).

        prompt (b, p) int64 padded on the right, <bos> first and <eot> last, lengths (b,); written (b, w) int64, <bos>
        first. Raises ValueError for more positions than the config has.
        """
        config, p, w = self.config, prompt.shape[1], written.shape[1]
        if p > config.prompt_positions or w > config.written_positions:
            most = f"{config.prompt_positions} and {config.written_positions}"
            raise ValueError(f"prompt, written: {p} and {w} ids, and at most {most} are read")
        x = torch.cat([self._embed(prompt, 0), self._embed(written, 1)], dim=1)
        table = self._table(x.device)
        rotation = Rotation(*(torch.cat([part[:p], part[:w]]) for part in table))
        place = torch.arange(p + w, device=x.device)
        sees = torch.where(place[:, None] < p, place < p, place <= place[:, None])  # (query, key)
        exists = (place < lengths[:, None]) | (place >= p)  # (b, key)
        x, _ = self._through(x, rotation, (sees & exists[:, None]).unsqueeze(1))
        out: Tensor = self.norm(x[:, p:])
        return out

    def logits(self, states: Tensor) -> Tensor:
        """(..., dim) -> (..., text_vocab) float32 of the next id; the table is shared with the input."""
        return F.linear(states, self.table.weight).float()

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], bos: int, eot: int) -> list[int] | None:
        """The likeliest ids, one after another, with <bos> and <eot>; None where they do not end in time.

        prompt: ids with <bos> and <eot>; where it is too long, its beginning is read. Always the same for a prompt. The
        prompt is read once, and what is written one id at a time.
        """
        config, device, most = self.config, self.table.weight.device, self.config.prompt_positions
        ids = list(prompt) if len(prompt) <= most else [*prompt[: most - 1], eot]
        table = self._table(device)
        everything = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool, device=device)
        rotation = Rotation(table.cos[: len(ids)], table.sin[: len(ids)])
        _, past = self._through(self._embed(torch.tensor([ids], device=device), 0), rotation, everything)
        written = [bos]
        while len(written) < config.written_positions:
            at = len(written) - 1
            x = self._embed(torch.tensor([written[at:]], device=device), 1)
            seen = torch.ones(1, 1, 1, len(ids) + at + 1, dtype=torch.bool, device=device)
            x, past = self._through(x, Rotation(table.cos[at : at + 1], table.sin[at : at + 1]), seen, past)
            written.append(int(self.logits(self.norm(x[0, -1])).argmax()))
            if written[-1] == eot:
                return written
        return None

    def _table(self, device: torch.device) -> Rotation:
        if device not in self._rotations:
            with torch.inference_mode(False):  # a model that has served can still be trained
                table = rotation_table(self.config)
                self._rotations[device] = Rotation(table.cos.to(device), table.sin.to(device))
        return self._rotations[device]

    def _embed(self, ids: Tensor, part: int) -> Tensor:
        """ids (b, n) of the prompt (part 0) or of what is written (1) -> (b, n, dim)."""
        return F.layer_norm(self.table(ids), (self.config.dim,), eps=1e-6) + self.parts[part]

    def _through(
        self, x: Tensor, rotation: Rotation, mask: Tensor, past: TextState | None = None
    ) -> tuple[Tensor, TextState]:
        """All blocks over x (b, n, dim), with the keys and values of what was read before; see `Attention.forward`."""
        state: TextState = []
        for i, block in enumerate(cast("list[Block]", list(self.blocks))):
            found, k, v = block.attention(block.norm1(x), rotation, mask, past[i] if past else None)
            state.append((k, v))
            x = block.feed_forward(x + found)
        return x, state
