"""The text-to-image transformer of LlamaGen: a T5 reads the text, and what it says of each id takes a position.

Where the original pads a text at its left and hides the padding from all that follows, a text here takes as many
positions as it has ids. That is the same, because the positions of a text are not turned and attention does not count
them. Source of the model: github.com/FoundationVision/LlamaGen, gpt.py, generate.py and sample_t2i.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.families.cache import Cache
from model.families.llamagen.config import LlamaGenTextConfig
from model.families.llamagen.t5 import T5Encoder
from model.families.llamagen.transformer import Decoder

KEPT = 16  # texts whose vectors are kept: a text is read again where another of its images begins


class LlamaGenTextTransformer(Decoder):
    """See `CausalTransformer`. A text that is shorter than others beside it is padded with id 0 at its end."""

    config: LlamaGenTextConfig

    def __init__(self, config: LlamaGenTextConfig) -> None:
        super().__init__(config)
        self.encoder = T5Encoder(config.encoder)
        self.null_caption = nn.Parameter(torch.randn(config.max_text, config.encoder.dim))
        self.caption1 = nn.Linear(config.encoder.dim, config.dim, bias=False)
        self.caption2 = nn.Linear(config.dim, config.dim, bias=False)
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def embed_text(self, text_ids: Tensor) -> Tensor:
        """Inputs of the positions of one text: text_ids (1, t) -> (1, its length, dim)."""
        ids = text_ids[0].tolist()
        ids = ids[: self.config.length(ids)]
        weight = self.caption1.weight
        key = (*ids, weight.device, weight.dtype)
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._read(text_ids[:, : len(ids)], null=set(ids) == {self.config.pad})
        return self._kept[key]

    def _read(self, text_ids: Tensor, null: bool) -> Tensor:
        captions = self.null_caption[None, -text_ids.shape[1] :] if null else self.encoder(text_ids)
        out: Tensor = self.caption2(F.gelu(self.caption1(captions), approximate="tanh"))
        return out

    @torch.inference_mode()
    def logits(self, text_ids: Tensor, image_ids: Tensor) -> Tensor:
        of = super().logits
        return torch.cat([of(text_ids[i : i + 1], image_ids[i : i + 1]) for i in range(len(text_ids))])

    @torch.inference_mode()
    def prefill(self, cache: Cache, slots: Tensor, text_ids: Tensor) -> Tensor:
        of = super().prefill
        return torch.cat([of(cache, slots[i : i + 1], text_ids[i : i + 1]) for i in range(len(text_ids))])
