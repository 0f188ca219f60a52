"""Stage 2: how often a picture shows the thing of its prompt. One picture is painted for each prompt."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.errors import DataError
from model.prompts import read_prompts
from model.recipes.default.evaluation.context import Context
from model.recipes.default.evaluation.findings import REAL, REPAINTED, SHUFFLED, Findings, Section
from model.recipes.default.evaluation.judge import Ints
from model.recipes.default.evaluation.stage_one import repaint
from model.training.estimates import Estimate, mean, proportion

SHOWN = 60


def top(ranks: Ints | Sequence[int], k: int) -> list[bool]:
    return [int(rank) <= k for rank in ranks]


def asked_of(context: Context, path: Path) -> list[tuple[str, int | None]]:
    """Prompts from a file, one a line, each with the number of its thing. None instead if the prompt is not judged.

    The thing is named after a tab. Without a tab it is the thing with the longest name in the prompt. Raises DataError.
    """
    lines = read_prompts(path)
    names = {thing.name.text: i for i, thing in enumerate(context.things)}
    found: list[tuple[str, int | None]] = []
    for line in lines:
        prompt, concept = (part.strip() for part in (f"{line}\t").split("\t")[:2])
        number = names.get(concept, context.number.get(concept))
        if concept and number is None:
            raise DataError(f"{path}: must be one of the {len(context.things)} things of the judge, got {concept!r}")
        if not concept:
            inside = [name for name in names if re.search(rf"\b{re.escape(name)}\b", prompt, re.IGNORECASE)]
            number = names[max(inside, key=len)] if inside else None
        found.append((prompt, number))
    return found


def concepts(context: Context, prompts: Path | None = None) -> Findings:
    """concept_top1, concept_top5: how often the prompt's thing is the nearest of all things, or among the five nearest.

    prompts: a file of prompts. Without it the prompts are the names of the things. Baselines: real drawings of the same
    things, their reconstructions by the VAE, and the painted pictures with shuffled prompts.
    """
    asked: list[tuple[str, int | None]] = [(thing.name.full, i) for i, thing in enumerate(context.tested)]
    if prompts is not None:
        asked = asked_of(context, prompts)
    pictures = [row[0] for row in context.paint([prompt for prompt, _ in asked])]
    judged = [
        (prompt, number, picture)
        for (prompt, number), picture in zip(asked, pictures, strict=True)
        if number is not None
    ]
    findings = Findings()
    captions = {prompt: prompt for prompt, _ in asked}
    if len(judged) > 1:
        similar = context.prototypes.similarities(context.see([picture for *_, picture in judged]))
        numbers = np.array([number for _, number, _ in judged])
        ranks = (similar > similar[np.arange(len(similar)), numbers][:, None]).sum(1) + 1
        shuffled = numbers[context.others("concepts", len(numbers))]
        by_chance = (similar > similar[np.arange(len(similar)), shuffled][:, None]).sum(1) + 1
        findings.figures = _tops("concept", ranks)
        findings.baselines[SHUFFLED] = _tops("concept", by_chance)
        for (prompt, *_), rank, nearest in zip(judged, ranks, similar.argmax(1), strict=True):
            seen = "right" if rank == 1 else f"{context.things[nearest].name.text} (rank {rank})"
            captions[prompt] = f"{prompt}: {seen}"
        _real(context, sorted(set(numbers.tolist())), findings)
    else:
        findings.reasons = dict.fromkeys(("concept_top1", "concept_top5"), f"{len(judged)} of the prompts name a thing")
    title = "Concepts: what was asked for, and what the judge sees"
    findings.sections.append(Section(title, pictures[:SHOWN], [captions[prompt] for prompt, _ in asked[:SHOWN]]))
    return findings


def _tops(name: str, ranks: Ints) -> dict[str, Estimate]:
    return {f"{name}_top1": proportion(top(ranks, 1)), f"{name}_top5": proportion(top(ranks, 5))}


def _real(context: Context, numbers: Sequence[int], findings: Findings) -> None:
    """The baselines: all real drawings of the same things, and a reconstruction of one of each."""
    drawings = [(number, line) for number in numbers for line in context.things[number].drawings]
    features = context.see_lines([line for _, line in drawings])
    ranks = context.prototypes.ranks(features, [number for number, _ in drawings])
    of: dict[int, list[int]] = defaultdict(list)
    for (number, _), rank in zip(drawings, ranks.tolist(), strict=True):
        of[number].append(rank)
    for k in (1, 5):  # each thing is one trial, however many drawings it has
        findings.baseline(REAL, **{f"concept_top{k}": mean([float(np.mean(top(found, k))) for found in of.values()])})
    random = context.random("drawings through the VAE")
    chosen = [random.choice(context.things[number].drawings).picture() for number in numbers]
    findings.baselines[REPAINTED] = _tops("concept", context.ranks(repaint(context, chosen), numbers))
    findings.chance = {f"concept_top{k}": min(1.0, k / len(context.things)) for k in (1, 5)}
