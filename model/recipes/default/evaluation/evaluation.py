"""Evaluates a checkpoint part by part. A part that cannot be run gives a reason, and the others are still run.

report = evaluate(model.load("weights/default"), [Path("data/corpus")], Path("runs/evaluation"))
print(to_json(report))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from model.painter import Painter
from model.recipes.default.evaluation.album import weights_digest
from model.recipes.default.evaluation.best_of import best_of
from model.recipes.default.evaluation.colours import colours
from model.recipes.default.evaluation.compositions import background, counts, pairs
from model.recipes.default.evaluation.concepts import concepts
from model.recipes.default.evaluation.context import Context, Options, Progress
from model.recipes.default.evaluation.findings import Findings, NotMeasured
from model.recipes.default.evaluation.likelihood import loss
from model.recipes.default.evaluation.report import Report, merge
from model.recipes.default.evaluation.stage_one import vae
from model.recipes.default.evaluation.styles import styles
from model.recipes.default.evaluation.variety import diversity, nearest

PARTS: dict[str, Callable[[Context], Findings]] = {
    "vae": vae,
    "loss": loss,
    "concepts": concepts,
    "background": background,
    "counts": counts,
    "pairs": pairs,
    "colours": colours,
    "styles": styles,
    "best_of": best_of,
    "diversity": diversity,
    "nearest": nearest,
}
FIGURES = {  # the figures of each part; they get its reason if it cannot be run
    "vae": ("vae_psnr", "vae_psnr_openmoji", "vae_usage"),
    "loss": ("image_bits",),
    "concepts": ("concept_top1", "concept_top5", "real_top1", "real_top5"),
    "background": ("background",),
    "counts": ("counts",),
    "pairs": ("both_objects", "left_right", "unseen_pairs"),
    "colours": ("coloured",),
    "styles": ("styled_top1", "styled_top5"),
    "best_of": ("best_of_4_top1",),
    "diversity": ("diversity",),
    "nearest": ("nearest_train",),
}


def _silent(_what: str, _done: int, _total: int) -> None:
    """A progress callback that does nothing."""


def evaluate(
    painter: Painter,
    data: Sequence[Path],
    out: Path,
    options: Options | None = None,
    *,
    parts: Sequence[str] = tuple(PARTS),
    prompts: Path | None = None,
    held_out: Path | None = None,
    known: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure `painter` with the corpus in `data`. Pictures, features and counts are cached in `out`.

    parts: of PARTS, in any order. prompts: a file of prompts for the concepts (`concepts.asked_of`). held_out: a
    folder of drawings by a vendor that was never trained on. known: a file of the concepts that the model was trained
    on, one a line. progress: called with what is being done, how much of it is done, and how much there is.
    Raises DataError if the corpus cannot be read, if the prompt file cannot be used, or if the judge's packages are
    missing. Raises what the painter raises.
    """
    options = options or Options()
    context = Context(painter, data, out, options, progress or _silent, held_out, known)
    found = []
    for name in (name for name in PARTS if name in parts):
        part = partial(concepts, prompts=prompts) if name == "concepts" else PARTS[name]
        try:
            found.append(part(context))
        except NotMeasured as reason:
            found.append(Findings(reasons=dict.fromkeys(FIGURES[name], str(reason))))
        context.finish()
    params = context.album.params("")
    about: dict[str, Any] = {
        "model": painter.checkpoint.config.name,
        "weights": weights_digest(painter.checkpoint.path),
        "corpus": context.drawings.digest,
        "parts": [name for name in PARTS if name in parts],
        "sampling": {key: value for key, value in dataclasses.asdict(params).items() if key != "seed"},
    }
    if context.has_things:
        about |= {"things_asked": len(context.tested), "things_told_apart": len(context.things)}
    return Report(merge(found), options, about)
