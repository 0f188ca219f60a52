"""`things` writes things.json into a checkpoint: what it paints, with the words that mean each thing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from model.drawings.concepts import Concept, everyday, evocations, kinds
from model.recipes.default.commands.options import WEIGHTS, Weights

CONCEPTS = Path(__file__).parents[1] / "concepts.txt"


def things(
    weights: Weights = WEIGHTS,
    concepts: Annotated[Path, Option(help="Slugs of the things, one a line, as for `corpus`.")] = CONCEPTS,
) -> None:
    """Write things.json into the folder of a checkpoint, and its new SHA256SUMS."""
    from model.checkpoints import load, sums
    from model.things import THINGS, parse

    load(weights)  # refuses a damaged one, whose sums would then be made anew
    slugs = concepts.read_text(encoding="utf-8").split()
    data = written([concept for slug, concept in everyday().items() if slug in set(slugs)])
    parse(data)
    sums.write_file(weights / THINGS, data)
    sums.write(weights)
    typer.echo(weights / THINGS)


def written(concepts: Iterable[Concept]) -> bytes:
    """things.json: one thing a line, so that a change of few things is a change of few lines."""
    lines = [
        {
            "name": concept.names[0].full,
            "group": concept.group,
            "words": list(dict.fromkeys(_words(concept))),
        }
        for concept in concepts
    ]
    return ("[\n" + ",\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n]\n").encode()


def _words(concept: Concept) -> Iterable[str]:
    """Other names of a thing, kinds of it, and texts that evoke it."""
    yield from (name.full for name in (*concept.names[1:], *concept.synonyms))
    yield from (kind.text for kind in kinds().get(concept.slug, ()))
    yield from evocations().get(concept.slug, ())
