"""Stage 2: things in a style that is told in the caption, as 3d. One picture is painted of each thing.

The judge compares them with drawings of all vendors, as it does with the plain names. The baseline is the real drawings
in that style: pictures of the kind "styled", whose captions name it.
"""

from __future__ import annotations

from model.recipes.default.evaluation.concepts import top
from model.recipes.default.evaluation.context import Context
from model.recipes.default.evaluation.findings import REAL, SHUFFLED, Findings, NotMeasured, Section
from model.styles import bare
from model.training.estimates import proportion

SHOWN = 60


def styles(context: Context) -> Findings:
    """styled_top1, styled_top5: how often the thing is the nearest of all things, or among the five nearest.

    Measured on the things that both the style and the judge know, over all styles but the first. Raises NotMeasured for
    a checkpoint with one style.
    """
    known = context.painter.checkpoint.styles
    findings = Findings()
    pictures, captions, numbers, real = [], [], [], []
    for style, things in list(zip(known.styles, known.things, strict=True))[1:]:
        drawn = {line.concept: line for line in context.drawings.of("styled") if style.word in line.caption.split()}
        knows = frozenset(things or ())
        asked = [i for i, thing in enumerate(context.tested) if not knows or bare(thing.name.full) in knows]
        names = [context.things[i].name.full for i in asked]
        pictures += [row[0] for row in context.paint(names, style=style.name)]
        captions += [f"{name} in {style.name}" for name in names]
        numbers += asked
        real += [(i, drawn[slug]) for i in asked for slug in context.things[i].slugs[:1] if slug in drawn]
    if len(numbers) < 2:
        raise NotMeasured("the checkpoint has no style but one, or knows none of the judge's things in another")
    ranks = context.ranks(pictures, numbers)
    shuffled = [numbers[i] for i in context.others("styles", len(numbers))]
    by_chance = context.ranks(pictures, shuffled)
    for k in (1, 5):
        findings.figures[f"styled_top{k}"] = proportion(top(ranks, k))
        findings.baseline(SHUFFLED, **{f"styled_top{k}": proportion(top(by_chance, k))})
        findings.chance[f"styled_top{k}"] = min(1.0, k / len(context.things))
    if real:
        seen = context.prototypes.ranks(context.see_lines([line for _, line in real]), [i for i, _ in real])
        for k in (1, 5):
            findings.baseline(REAL, **{f"styled_top{k}": proportion(top(seen, k))})
    labels = [
        f"{caption}: {'right' if rank == 1 else f'rank {rank}'}" for caption, rank in zip(captions, ranks, strict=True)
    ]
    findings.sections.append(Section("Things in other styles", pictures[:SHOWN], labels[:SHOWN]))
    return findings
