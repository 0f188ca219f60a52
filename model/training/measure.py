"""Evaluation of a checkpoint on held-out pictures with captions, without sampling.

The VAE is measured by PSNR and SSIM of its reconstructions, and by its use of the codebook. The transformer is measured
in bits for an image token, given the caption and the earlier tokens.
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
Progress = Callable[[int, int], object]  # (pictures done, pictures in all)


@dataclass(frozen=True)
class Measured:
    """pictures: the number measured. psnr in dB, ssim (at most 1), image_bits for a token: each with its 95 % interval.

    usage, perplexity: of the codebook on these pictures. image_bits: None where none of them has a caption.
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
    """Measure on the held-out pictures of `prepared`, each with its caption of the largest weight.

    every: measure on all pictures, for data that the model was not trained on. most: the number of pictures; of more,
    this many are taken at equal distances. Raises DataError where nothing is held out.
    """
    chosen = list(range(len(prepared.lines))) if every else prepared.indices("val").tolist()
    if not chosen:
        raise DataError(
            f"{prepared.folder}: none of its {len(prepared.lines)} pictures is held out (has the split val)"
        )
    chosen = [chosen[at * len(chosen) // most] for at in range(most)] if len(chosen) > most else chosen
    vae, counts = painter.vae, CodeCounts(painter.vae.config.codes)
    signal: list[float] = []
    similar: list[float] = []
    bits: list[float] = []
    for first in range(0, len(chosen), AT_ONCE):
        if progress:
            progress(first, len(chosen))
        part = chosen[first : first + AT_ONCE]
        images = to_tensor(np.stack([prepared.images[picture] for picture in part]), painter.device)
        ids = vae.encode(images)
        painted = vae.decode(ids)
        counts.add(ids)
        signal += psnr(painted, images).tolist()
        similar += ssim(painted, images).tolist()
        for picture, tokens in zip(part, ids.flatten(1), strict=True):
            if captions := prepared.lines[picture]["captions"]:
                text = painter.tokenizer.encode(_weightiest(captions), truncate=True)
                bits.append(image_bits(painter.checkpoint.own().transformer, text, tokens[None]))
    bits_a_token = mean(bits) if bits else None
    return Measured(len(chosen), mean(signal), mean(similar), counts.usage, counts.perplexity, bits_a_token)


def _weightiest(captions: Captions) -> str:
    return max(captions, key=lambda caption: caption[0])[1]
