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
from model.transformer.attention import Rotation
from model.transformer.transformer import Block, through

_BASE = 1000.0  # of the rotary wave lengths


def rotations(config: ReviserConfig) -> Rotation:
    """Rotations (most positions, head_dim) of places in a text (RoPE, 2104.09864); both texts count from 0."""
    pairs = config.head_dim // 2
    place = torch.arange(max(config.prompt_positions, config.written_positions), dtype=torch.float32)
    angles = place[:, None] * _BASE ** (-torch.arange(pairs, dtype=torch.float32) / pairs)
    return Rotation(torch.cat([angles.cos(), angles.cos()], dim=-1), torch.cat([-angles.sin(), angles.sin()], dim=-1))


class Reviser(nn.Module):
    """`logits` trains, `write` serves."""

    def __init__(self, config: ReviserConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.text_vocab, config.dim)
        self.parts = nn.Parameter(torch.randn(2, config.dim) * 0.5)  # which of the two texts a position belongs to
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6, bias=False)
        nn.init.normal_(self.table.weight, std=0.02)

    def states(self, prompt: Tensor, lengths: Tensor, written: Tensor) -> Tensor:
        """What follows each written id, normalised: (b, w, dim).

        prompt (b, p) int64 padded on the right, <bos> first and <eot> last, lengths (b,); written (b, w) int64, <bos>
        first. Raises ValueError for more positions than the config has.
        """
        config, p, w = self.config, prompt.shape[1], written.shape[1]
        if p > config.prompt_positions or w > config.written_positions:
            most = f"{config.prompt_positions} and {config.written_positions}"
            raise ValueError(f"prompt, written: {p} and {w} ids, and at most {most} are read")
        x = F.layer_norm(self.table(torch.cat([prompt, written], dim=1)), (config.dim,), eps=1e-6)
        x = x + torch.cat([self.parts[0].expand(p, -1), self.parts[1].expand(w, -1)])
        table = rotations(config)
        rotation = Rotation(*(torch.cat([part[:p], part[:w]]).to(x.device) for part in table))
        place = torch.arange(p + w, device=x.device)
        exists = (place < lengths[:, None]) | (place >= p)  # (b, p + w)
        sees = (place < p) | (place[:, None] >= place)  # the prompt, and what was written until then
        mask = (sees & exists[:, None, :]).unsqueeze(1)
        mask = mask & ~((place[:, None] < p) & (place >= p))  # the prompt does not see what is written
        for block in cast("list[Block]", list(self.blocks)):
            x = through(block, x, rotation, mask)
        out: Tensor = self.norm(x[:, p:])
        return out

    def logits(self, prompt: Tensor, lengths: Tensor, written: Tensor) -> Tensor:
        """(b, w, text_vocab) float32: of the id after each written one. Shapes as in `states`."""
        return F.linear(self.states(prompt, lengths, written), self.table.weight).float()

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], bos: int, eot: int) -> list[int] | None:
        """The likeliest ids, one after another, with <bos> and <eot>; None where they do not end in time.

        prompt: ids with <bos> and <eot>. Of one that is too long the beginning is read. Always the same for a prompt.
        """
        config, device = self.config, self.table.weight.device
        most = config.prompt_positions
        ids = list(prompt) if len(prompt) <= most else [*prompt[: most - 1], eot]
        read = torch.tensor([ids], device=device)
        lengths = torch.tensor([len(ids)], device=device)
        written = [bos]
        while len(written) < config.written_positions:
            so_far = torch.tensor([written], device=device)
            found = int(self.logits(read, lengths, so_far)[0, -1].argmax())
            written.append(found)
            if found == eot:
                return written
        return None
