"""Stage 2 without sampling: how many bits an image token of held-out drawings takes."""

from __future__ import annotations

from model.recipes.default.evaluation.context import Context
from model.recipes.default.evaluation.findings import SHUFFLED, Findings, NotMeasured
from model.recipes.default.evaluation.stage_one import tensor_of
from model.training.estimates import mean
from model.training.measure import image_bits


def loss(context: Context) -> Findings:
    """image_bits: bits per image token of held-out drawings, with their own captions. Baseline: shuffled captions.

    A model that uses its prompt needs more bits with a wrong caption.
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
            found.append(
                image_bits(painter.checkpoint.own().transformer, painter.tokenizer.encode(caption, truncate=True), ids)
            )
    findings = Findings(figures={"image_bits": mean(own)})
    findings.baseline(SHUFFLED, image_bits=mean(others))
    return findings
