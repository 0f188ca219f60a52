"""How good a checkpoint is on pictures of one's own that it has not learnt: both stages, without painting.

Stage 1, the VAE: PSNR and SSIM of what it makes of them, and how much of its codebook they use. Stage 2, the
transformer: how many bits an image token costs it that has read their captions and the tokens before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import DataError
from model.painter import Painter
from model.training.data import Captions
from model.training.estimates import Estimate, mean
from model.training.fidelity import CodeCounts, psnr, ssim
from model.training.prepare import Prepared, to_tensor
from model.transformer import Transformer

AT_ONCE = 8
Progress = Callable[[int, int], object]  # pictures done, of how many


@dataclass(frozen=True)
class Measured:
    """pictures: how many were measured. psnr in dB, ssim at most 1, image_bits a token: each with its 95 % interval.

    usage, perplexity: of the codebook, by these pictures. image_bits: None where none of them has a caption.
    """

    pictures: int
    psnr: Estimate
    ssim: Estimate
    usage: float
    perplexity: float
    image_bits: Estimate | None


@torch.inference_mode()
def image_bits(transformer: Transformer, text_ids: list[int], image_ids: Tensor) -> float:
    """Mean over the image tokens (1, n) of -log2 p(token | text, earlier tokens)."""
    text = torch.tensor([text_ids], device=image_ids.device)
    logits = transformer.logits(text, image_ids)  # (1, t + n, text + image vocabulary)
    first = len(text_ids) - 1  # the last position of the text predicts the first image token
    predicted = logits[0, first : first + image_ids.shape[1], transformer.config.text_vocab :]
    return float(F.cross_entropy(predicted, image_ids[0])) / math.log(2)


def measure(
    painter: Painter, prepared: Prepared, *, every: bool = False, most: int = 500, progress: Progress | None = None
) -> Measured:
    """Measure on the pictures that training holds out; every: on all, of data that the model has not learnt from.

    most: of more pictures so many are taken, evenly. A picture is read with its weightiest caption. Raises DataError
    where nothing is held out.
    """
    rows = list(range(len(prepared.lines))) if every else prepared.rows("val").tolist()
    if not rows:
        raise DataError(f"{prepared.folder}: none of {len(prepared.lines)} pictures is held out (has the split val)")
    rows = [rows[at * len(rows) // most] for at in range(most)] if len(rows) > most else rows
    vae, counts = painter.vae, CodeCounts(painter.vae.config.codes)
    signal: list[float] = []
    similar: list[float] = []
    bits: list[float] = []
    for first in range(0, len(rows), AT_ONCE):
        if progress:
            progress(first, len(rows))
        part = rows[first : first + AT_ONCE]
        images = to_tensor(np.stack([prepared.images[row] for row in part]), painter.device)
        ids = vae.encode(images)
        painted = vae.decode(ids)
        counts.add(ids)
        signal += psnr(painted, images).tolist()
        similar += ssim(painted, images).tolist()
        for row, tokens in zip(part, ids.flatten(1), strict=True):
            if captions := prepared.lines[row]["captions"]:
                text = painter.tokenizer.encode(_weightiest(captions), truncate=True)
                bits.append(image_bits(painter.transformer, text, tokens[None]))
    told = mean(bits) if bits else None
    return Measured(len(rows), mean(signal), mean(similar), counts.usage, counts.perplexity, told)


def _weightiest(captions: Captions) -> str:
    return max(captions, key=lambda caption: caption[0])[1]
