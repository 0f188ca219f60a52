"""`showcase` paints the small gallery that a checkpoint carries for the page: gallery.webp and gallery.json."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from PIL import Image
from typer import Option

from model.recipes.default.commands.gallery import small_webp
from model.recipes.default.commands.options import WEIGHTS, Device, Weights
from model.styles import AUTO

PICTURES = {  # kind -> prompts; every sheet has them in this order
    "Animals": ("a fox", "a cat on a blue background", "an owl", "a panda"),
    "Food": ("a red apple", "pizza", "a slice of cake", "grapes"),
    "Things": ("a rocket", "a yellow car", "a guitar", "a birthday cake"),
    "Several": ("three hearts", "two penguins", "a dog and a cat", "a bird above a tree"),
    "In 3d": tuple(
        f"a 3d {thing}" for thing in ("cat", "dog", "penguin", "owl", "red apple", "house", "castle", "guitar")
    ),
}
COLUMNS, SIDE, MOST = 4, 144, 250_000  # pictures a row; pixels a picture; bytes of the sheet


def showcase(
    weights: Weights = WEIGHTS,
    seed: Annotated[int, Option(min=0, help="Of every picture.")] = 0,
    device: Device = "auto",
) -> None:
    """Paint the checkpoint's gallery into its folder, and write its new SHA256SUMS."""
    from model.checkpoints import sums
    from model.gallery import GALLERY, SHEET, parse
    from model.painter import load

    painter = load(weights, device)
    texts = [(kind, text) for kind, prompts in PICTURES.items() for text in prompts]
    first = next(iter(painter.checkpoint.styles.names), AUTO)
    painted = painter.generate_each([text for _, text in texts], seed=seed, style=first)
    rows = -(-len(texts) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * SIDE), "white")
    for i, picture in enumerate(painted):
        small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(small, (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    pictures = [{"kind": kind, "text": text} for kind, text in texts]
    data = (json.dumps({"columns": COLUMNS, "pictures": pictures}, indent=1, ensure_ascii=False) + "\n").encode()
    parse(data)
    sums.write_file(weights / GALLERY, data)
    sums.write_file(weights / SHEET, small_webp(sheet, MOST))
    sums.write(weights)
    typer.echo(weights / SHEET)
