"""Stage 2: how much pictures of one prompt differ, and whether they are copies of training pictures."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from PIL import Image

from model.recipes.default.evaluation.context import Context
from model.recipes.default.evaluation.findings import REAL, REPAINTED, SHUFFLED, Findings, NotMeasured, Section
from model.recipes.default.evaluation.judge import Vectors
from model.recipes.default.evaluation.stage_one import repaint
from model.styles import AUTO
from model.training.estimates import mean, proportion

COPY = (
    95  # percentile of the distances between drawings and their reconstructions; a picture that is nearer may be a copy
)
MOST_REPAINTED = 100
SHOWN = 20


def pairwise(directions: Vectors) -> float:
    """The mean distance, 1 - cosine, between all pairs of (n, width) unit vectors, n > 1."""
    return float(np.mean([1 - directions[i] @ directions[j] for i, j in combinations(range(len(directions)), 2)]))


def diversity(context: Context) -> Findings:
    """diversity: mean distance between pictures of one prompt, in the judge's features (0 equal, about 1 unrelated).

    Baselines: real drawings of one thing by different families; painted pictures of different prompts.
    """
    n, things = context.options.seeds, context.tested[: context.options.various]
    if n < 2:
        raise NotMeasured(f"the number of pictures a prompt must be 2 or more, got {n}")
    painted = context.paint([thing.name.full for thing in things], n, AUTO)  # as clients get them
    directions = context.prototypes.directions(context.see([picture for row in painted for picture in row]))
    rows = directions.reshape(len(things), n, -1)
    findings = Findings(figures={"diversity": mean([pairwise(row) for row in rows])})
    if len(things) > 1:
        findings.baseline(SHUFFLED, diversity=mean([pairwise(rows[:, i]) for i in range(n)]))
    real = []
    for thing in things:
        of_family = {line.family: line for line in thing.drawings}
        real.append(pairwise(context.prototypes.directions(context.see_lines(list(of_family.values())))))
    findings.baseline(REAL, diversity=mean(real))
    shown = [picture for row in painted[:10] for picture in row]
    captions = [thing.name.full for thing in things[:10] for _ in range(n)]
    findings.sections.append(Section("Diversity: one prompt, several seeds", shown, captions, columns=2 * n))
    return findings


def nearest(context: Context) -> Findings:
    """nearest_train: distance of a painted picture to the nearest drawing of the training data.

    copies: the share of pictures as near to one as its reconstruction is. Baselines: held-out drawings, and
    reconstructions of training drawings.
    """
    lines = [line for thing in context.things for line in thing.drawings]
    features = context.see_lines(lines)
    shown = {line.entry for line in context.drawings.shown("single")}
    train = [i for i, line in enumerate(lines) if line.entry in shown]
    if not train:
        raise NotMeasured("the model was trained on none of these drawings")
    directions = context.prototypes.directions(features)

    def closest(found: Vectors) -> tuple[list[int], list[float]]:
        similar = context.prototypes.directions(found) @ directions[train].T
        return [train[i] for i in similar.argmax(1)], (1 - similar.max(1)).tolist()

    prompts = [thing.name.full for thing in context.tested]
    pictures = [row[0] for row in context.paint(prompts)]
    drawings, distances = closest(context.see(pictures))
    findings = Findings(figures={"nearest_train": mean(distances)})
    chosen = context.random("copies").sample(train, min(MOST_REPAINTED, len(train)))
    _, copied = closest(context.see(repaint(context, [lines[i].picture() for i in chosen])))
    findings.baseline(REPAINTED, nearest_train=mean(copied))
    limit = float(np.percentile(copied, COPY))
    findings.figures["copies"] = proportion([distance <= limit for distance in distances])
    held_out = [i for i, line in enumerate(lines) if line.split == "val"]
    if held_out:
        _, strangers = closest(features[held_out])
        findings.baseline(REAL, nearest_train=mean(strangers), copies=proportion([d <= limit for d in strangers]))
    near = sorted(range(len(distances)), key=distances.__getitem__)[:SHOWN]
    originals: list[Image.Image] = [lines[drawings[i]].picture() for i in near]
    shown_pictures = [picture for pair in zip((pictures[i] for i in near), originals, strict=True) for picture in pair]
    captions = [text for i in near for text in (f"{prompts[i]}: {distances[i]:.3f}", f"{lines[drawings[i]].source}")]
    title = f"Nearest to training: painted, then the drawing it is nearest to (a copy: below {limit:.3f})"
    findings.sections.append(Section(title, shown_pictures, captions))
    return findings
