"""Stage 1: how well the VAE reconstructs drawings that it was not trained on, and how much of the codebook it uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.errors import DataError
from model.recipes.default.evaluation.context import Context
from model.recipes.default.evaluation.drawings import Drawings, Line
from model.recipes.default.evaluation.findings import Findings, NotMeasured, Section
from model.training.estimates import Estimate, mean
from model.training.fidelity import CodeCounts, psnr, ssim
from model.training.prepare import to_bytes, to_tensor, vae_digest

AT_ONCE = 8
SHOWN = 10  # pictures of each set on the sheet


def tensor_of(pictures: Sequence[Image.Image], device: torch.device) -> Tensor:
    """RGB pictures -> (n, 3, 256, 256) in [0, 1]."""
    return to_tensor(np.stack([np.asarray(picture) for picture in pictures]), device)


def to_pictures(images: Tensor) -> list[Image.Image]:
    """(n, 3, h, w) in [0, 1] -> RGB pictures."""
    pixels = to_bytes(images)
    return [Image.fromarray(picture) for picture in pixels]


def repaint(context: Context, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """The VAE's reconstructions of pictures."""
    vae, found = context.painter.vae, []
    for first in range(0, len(pictures), AT_ONCE):
        images = tensor_of(pictures[first : first + AT_ONCE], context.painter.device)
        found += to_pictures(vae.decode(vae.encode(images)))
    return found


def vae(context: Context) -> Findings:
    """PSNR and SSIM on held-out drawings and on a held-out vendor, and the codes that the whole corpus uses."""
    findings = Findings()
    held_out = context.drawings.of(split="val")
    if held_out:
        _fidelity(context, held_out, "", "held-out drawings", findings)
    else:
        for name in ("vae_psnr", "vae_ssim"):
            findings.reasons[name] = "the corpus holds no picture out (none has the split val)"
    try:
        if context.held_out is None:
            raise NotMeasured("no folder of a vendor never trained on was named (--held-out)")
        lines = Drawings([context.held_out]).lines
    except DataError as error:
        why = f"{error}; `python -m model.recipes.default build eval` makes one"
        findings.reasons.update(vae_psnr_openmoji=why, vae_ssim_openmoji=why)
    else:
        _fidelity(context, lines, "_openmoji", "a vendor never trained on", findings)
    counts = _usage(context)
    size = int(counts.counts.sum()) // context.painter.vae.config.grid**2
    findings.figures["vae_usage"] = Estimate(counts.usage, counts.usage, counts.usage, size)
    findings.figures["vae_perplexity"] = Estimate(counts.perplexity, counts.perplexity, counts.perplexity, size)
    return findings


def _fidelity(context: Context, lines: Sequence[Line], suffix: str, what: str, findings: Findings) -> None:
    model, device = context.painter.vae, context.painter.device
    chosen = context.sample(f"vae{suffix}", lines, context.options.pictures)
    signal: list[float] = []
    similar: list[float] = []
    shown: list[tuple[Image.Image, Image.Image, float]] = []
    for first in range(0, len(chosen), AT_ONCE):
        context.progress(f"repainting {what}", first, len(chosen))
        pictures = [line.picture() for line in chosen[first : first + AT_ONCE]]
        images = tensor_of(pictures, device)
        painted = model.decode(model.encode(images))
        signal += psnr(painted, images).tolist()
        similar += ssim(painted, images).tolist()
        if len(shown) < SHOWN:
            shown += zip(pictures, to_pictures(painted), signal[first:], strict=True)
    findings.figures[f"vae_psnr{suffix}"] = mean(signal)
    findings.figures[f"vae_ssim{suffix}"] = mean(similar)
    originals, repainted, decibels = zip(*shown[:SHOWN], strict=True)
    captions = [line.caption for line in chosen[:SHOWN]] + [f"{value:.1f} dB" for value in decibels]
    title = f"Stage 1: {what}, above what the image tokenizer makes of them"
    findings.sections.append(Section(title, [*originals, *repainted], captions, columns=len(originals)))


def _usage(context: Context) -> CodeCounts:
    """Counts of the codes over the whole corpus, cached for each encoder."""
    model, drawings = context.painter.checkpoint.own().vae, context.drawings
    counts = CodeCounts(model.config.codes)
    lines = context.sample("codes", drawings.lines, context.options.codes or len(drawings.lines))
    kept = context.out / f"codes-{vae_digest(model)}-{drawings.digest}-{len(lines)}.json"
    if kept.exists():
        counts.counts[:] = json.loads(kept.read_text())
        return counts
    for first in range(0, len(lines), AT_ONCE):
        context.progress("counting codes", first, len(lines))
        pictures = [line.picture() for line in lines[first : first + AT_ONCE]]
        counts.add(model.encode(tensor_of(pictures, context.painter.device)))
    _write(kept, json.dumps(counts.counts.tolist()))
    return counts


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
