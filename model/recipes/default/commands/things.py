"""`things` writes things.json into a checkpoint: what it paints, with the words that mean each thing."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from model.drawings.concepts import Concept, everyday, evocations, kinds
from model.recipes.default.commands.options import WEIGHTS, Weights
from model.recipes.default.corpus.emoji import METADATA, Index

CONCEPTS = Path(__file__).parents[1] / "concepts.txt"


def things(
    weights: Weights = WEIGHTS,
    concepts: Annotated[Path, Option(help="Slugs of the things, one a line, as for `corpus`.")] = CONCEPTS,
) -> None:
    """Write things.json into the folder of a checkpoint, and its new SHA256SUMS. The emoji come from a package."""
    from model.checkpoints import load, sums
    from model.recipes.default.corpus.builder import default_cache
    from model.recipes.default.corpus.packages import fetch
    from model.things import THINGS, parse

    load(weights)  # refuses a damaged one, whose sums would then be made anew
    slugs = concepts.read_text(encoding="utf-8").split()
    listed = [concept for slug, concept in everyday().items() if slug in set(slugs)]
    data = written(listed, emoji_of(listed, Index(fetch(METADATA, default_cache()).root)))
    parse(data)
    sums.write_file(weights / THINGS, data)
    sums.write(weights)
    typer.echo(weights / THINGS)


def written(concepts: Iterable[Concept], emoji: Mapping[str, Sequence[str]]) -> bytes:
    """things.json: one thing a line, so that a change of few things is a change of few lines. emoji: by slug."""
    lines = [
        {
            "name": concept.names[0].full,
            "group": concept.group,
            "words": list(dict.fromkeys(_words(concept))),
            "emoji": list(emoji.get(concept.slug, ())),
        }
        for concept in concepts
    ]
    return ("[\n" + ",\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n]\n").encode()


def emoji_of(concepts: Sequence[Concept], index: Index) -> dict[str, list[str]]:
    """Slug -> the emoji that show the thing, as code points: its own, then those whose concept has one of its names."""
    named = {name.text: concept.slug for concept in concepts for name in (*concept.names, *concept.synonyms)}
    slugs = {concept.slug for concept in concepts}
    own, others = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for code, entry in index.by_code.items():
        name = entry.concept.names[0].text
        if entry.concept.slug in slugs:
            own[entry.concept.slug].append(code)
        elif name in named:
            others[named[name]].append(code)
    return {slug: own[slug] + others[slug] for slug in slugs}


def _words(concept: Concept) -> Iterable[str]:
    """Other names of a thing, kinds of it, and texts that evoke it."""
    yield from (name.full for name in (*concept.names[1:], *concept.synonyms))
    yield from (kind.text for kind in kinds().get(concept.slug, ()))
    yield from evocations().get(concept.slug, ())
