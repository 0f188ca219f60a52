"""`dalle-server caption TEXT` completes a caption with the model's text head. Each completion is a line."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Argument, Option

from app.commands.common import DEFAULT_WEIGHTS, Device, Seed, Weights, utf8
from app.commands.common import temperature as temperature_option
from app.commands.common import top_k as top_k_option
from model.limits import printable


def caption(
    text: Annotated[
        str, Argument(help='The beginning of the caption. "" lets the model write all of it.', callback=utf8)
    ],
    n: Annotated[int, Option("-n", "--num-captions", min=1, max=64, help="How many completions.")] = 1,
    seed: Seed = None,
    temperature: Annotated[float | None, temperature_option("0.7")] = None,
    top_k: Annotated[int | None, top_k_option("50")] = None,
    tokens: Annotated[int | None, Option(help="Largest number of tokens to add, 1 to 256.", show_default="32")] = None,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Complete TEXT as a caption of the training data. `generate --complete` paints such a text."""
    import model

    painter = model.load(weights, device)
    for line in painter.complete(text, n, seed, temperature, top_k, tokens):
        typer.echo(printable(line))
