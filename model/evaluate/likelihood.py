"""Stage 2 without painting: how many bits an image token of held-out drawings costs the transformer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.evaluate.context import Context
from model.evaluate.estimates import mean
from model.evaluate.findings import SHUFFLED, Findings, NotMeasured
from model.evaluate.stage_one import tensor_of
from model.transformer import Transformer


@torch.inference_mode()
def image_bits(transformer: Transformer, text_ids: list[int], image_ids: Tensor) -> float:
    """Mean over the image tokens (1, n) of -log2 p(token | text, earlier tokens)."""
    text = torch.tensor([text_ids], device=image_ids.device)
    logits = transformer.logits(text, image_ids)  # (1, t + n, text + image vocabulary)
    first = len(text_ids) - 1  # the last position of the text predicts the first image token
    predicted = logits[0, first : first + image_ids.shape[1], transformer.config.text_vocab :]
    return float(F.cross_entropy(predicted, image_ids[0])) / math.log(2)


def loss(context: Context) -> Findings:
    """Bits an image token on held-out drawings, with their own captions and with one another's.

    A model that reads its prompt pays more for the wrong caption.
    """
    lines = [line for line in context.drawings.of(split="val") if line.caption]
    if len(lines) < 2:
        raise NotMeasured("the corpus holds out fewer than two pictures with captions (split val)")
    chosen = context.sample("loss", lines, context.options.pictures)
    painter = context.painter
    own: list[float] = []
    others: list[float] = []
    for at, line in enumerate(chosen):
        context.progress("measuring the loss", at, len(chosen))
        ids = painter.vae.encode(tensor_of([line.picture()], painter.device)).flatten(1)
        for caption, found in ((line.caption, own), (chosen[at - 1].caption, others)):
            found.append(image_bits(painter.transformer, painter.tokenizer.encode(caption, truncate=True), ids))
    findings = Findings(figures={"image_bits": mean(own)})
    findings.baseline(SHUFFLED, image_bits=mean(others))
    return findings
