"""`styles` gives a checkpoint its styles: for each the word of its captions, and a list of the things that it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from model.checkpoints.native import restyle
from model.config import Style
from model.drawings.concepts import everyday
from model.errors import CheckpointError, DataError
from model.recipes.default.commands.options import WEIGHTS, Weights
from model.styles import Styles, parse_things

FIRST = "flat"  # the unstyled one


def styles(
    given: Annotated[
        list[str],
        Argument(metavar="WORD=FILE...", help="A word of the captions, and a file of slugs or names, one a line."),
    ],
    weights: Weights = WEIGHTS,
    painter: Annotated[
        list[str] | None,
        Option(metavar="WORD=CHECKPOINT", help="Checkpoint whose transformer paints this style alone."),
    ] = None,
) -> None:
    """Give the checkpoint its styles, instead of those that it has: flat, and one for each WORD=FILE, as 3d=clean.txt.

    A slug of everyday.txt stands for the thing's first name, which the reviser says.
    """
    from model.checkpoints import load

    made, things = [Style(FIRST)], [None, *(names_in(Path(pair.partition("=")[2])) for pair in given)]
    own = dict(pair.partition("=")[::2] for pair in painter or ())
    painters = {}
    for word, _, _ in (pair.partition("=") for pair in given):
        name = "-".join(word.lower().split())
        try:
            made.append(Style(name, word, f"things-{name}.txt", transformer=word in own))
        except ValueError as error:
            raise DataError(f"{word}: {error}") from None
        if word in own:
            painters[name] = load(own[word]).transformer
    restyle(weights, Styles(tuple(made), tuple(things)), painters)
    for style, known in zip(made, things, strict=True):
        typer.echo(f"{style.name}: {'everything' if known is None else f'{len(known)} things'}")


def names_in(file: Path) -> tuple[str, ...]:
    """The things that a file names, each once. Raises DataError."""
    try:
        lines = parse_things(file.read_bytes(), str(file))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except CheckpointError as error:
        raise DataError(str(error)) from None
    known = everyday()
    return tuple(dict.fromkeys(known[line].names[0].text if line in known else line for line in lines))
