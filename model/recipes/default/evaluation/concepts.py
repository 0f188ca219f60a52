"""Stage 2: does a picture show the thing that was asked for? One picture a prompt."""

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
from model.recipes.default.evaluation.judge import Places
from model.recipes.default.evaluation.stage_one import repaint
from model.training.estimates import Estimate, mean, proportion

SHOWN = 60


def top(ranks: Places | Sequence[int], k: int) -> list[bool]:
    return [int(rank) <= k for rank in ranks]


def asked_of(context: Context, path: Path) -> list[tuple[str, int | None]]:
    """Prompts of a person's own, one a line, and which tested or other thing each asks for.

    A tab and a concept's name behind a prompt say it; else it is the longest name of a thing found in the prompt, and
    None, not judged, where none is. Raises DataError.
    """
    lines = read_prompts(path)
    names = {thing.name.text: i for i, thing in enumerate(context.things)}
    found: list[tuple[str, int | None]] = []
    for line in lines:
        prompt, concept = (part.strip() for part in (f"{line}\t").split("\t")[:2])
        number = names.get(concept, context.number.get(concept))
        if concept and number is None:
            told_apart = f"the {len(context.things)} things that the judge tells apart"
            raise DataError(f"{path}: {concept!r} is none of {told_apart}")
        if not concept:
            inside = [name for name in names if re.search(rf"\b{re.escape(name)}\b", prompt, re.IGNORECASE)]
            number = names[max(inside, key=len)] if inside else None
        found.append((prompt, number))
    return found


def concepts(context: Context, prompts: Path | None = None) -> Findings:
    """concept_top1, concept_top5: the asked thing is the nearest, or among the five nearest, of all things told apart.

    prompts: a file of prompts instead of the plain names. Baselines: real drawings of the same things, the same after
    the VAE, and the painted pictures against one another's prompts.
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
            seen = "right" if rank == 1 else f"{context.things[nearest].name.text} (place {rank})"
            captions[prompt] = f"{prompt}: {seen}"
        _real(context, sorted(set(numbers.tolist())), findings)
    else:
        findings.reasons = dict.fromkeys(("concept_top1", "concept_top5"), f"{len(judged)} of the prompts name a thing")
    title = "Concepts: what was asked for, and what the judge sees"
    findings.sections.append(Section(title, pictures[:SHOWN], [captions[prompt] for prompt, _ in asked[:SHOWN]]))
    return findings


def _tops(name: str, ranks: Places) -> dict[str, Estimate]:
    return {f"{name}_top1": proportion(top(ranks, 1)), f"{name}_top5": proportion(top(ranks, 5))}


def _real(context: Context, numbers: Sequence[int], findings: Findings) -> None:
    """All real drawings of the same things, scored in the same way; and one of each after the VAE."""
    drawings = [(number, line) for number in numbers for line in context.things[number].drawings]
    features = context.see_lines([line for _, line in drawings])
    ranks = context.prototypes.ranks(features, [number for number, _ in drawings])
    of: dict[int, list[int]] = defaultdict(list)
    for (number, _), rank in zip(drawings, ranks.tolist(), strict=True):
        of[number].append(rank)
    for k in (1, 5):  # a thing is one trial, however many have drawn it
        findings.baseline(REAL, **{f"concept_top{k}": mean([float(np.mean(top(found, k))) for found in of.values()])})
    random = context.random("drawings through the VAE")
    chosen = [random.choice(context.things[number].drawings).picture() for number in numbers]
    findings.baselines[REPAINTED] = _tops("concept", context.ranks(repaint(context, chosen), numbers))
    findings.chance = {f"concept_top{k}": min(1.0, k / len(context.things)) for k in (1, 5)}
