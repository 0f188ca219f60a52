"""`dalle-server gallery`: the README's sheets, the same prompts and seed every time, nothing picked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer import Option

from app.commands.common import DEFAULT_WEIGHTS, Device, Weights, check_out, save_image

COMMON = (
    "a red apple", "a cat", "a rocket", "a slice of pizza", "the flag of japan", "a blue circle", "a dog",
    "a house", "a tree", "the sun", "a car", "a yellow star", "a fish", "a rose", "a robot", "a cup of coffee",
    "a snowman", "a bus", "a grinning face", "a red heart", "a banana", "an octopus", "a guitar", "a penguin",
    "the flag of france", "a crown", "a butterfly", "a strawberry", "a castle", "an umbrella", "a ghost",
    "a mushroom", "a soccer ball", "a bicycle", "a burger", "a cactus", "a frog", "a green square",
    "an airplane", "a key", "a skull", "a sunflower", "a turtle", "a pink heart", "a pumpkin", "a train",
    "an owl", "a watermelon",
)  # fmt: skip
HARD = (
    "a red cat", "two dogs", "a cat and a dog", "a cat to the left of a tree", "five stars", "a purple banana",
    "a photograph of a street at night", "happiness", "a man running", "the word hello", "an astronaut riding a horse",
    "a small house on a blue background",
)  # fmt: skip
SHEETS = {"common": COMMON, "hard": HARD}


def gallery(
    out: Annotated[Path, Option("-o", "--out", help="Picture to write.")] = Path("gallery.png"),
    sheet: Annotated[str, Option(help=f"Which prompts: {' or '.join(SHEETS)}.")] = "common",
    prompts: Annotated[Path | None, Option(help="Prompts of your own, one a line.", show_default="none")] = None,
    columns: Annotated[int, Option(min=1, max=32)] = 8,
    seed: Annotated[int, Option(min=0)] = 0,
    guidance: Annotated[float | None, Option(help="0 to 20; 1: off.", show_default="the checkpoint's")] = None,
    temperature: Annotated[float | None, Option(help="0 to 5.", show_default="the checkpoint's")] = None,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Paint one picture of each of many prompts, with one seed, as a sheet."""
    check_out(out)
    if sheet not in SHEETS:
        raise typer.BadParameter(f"{sheet} is none of {', '.join(SHEETS)}", param_hint="--sheet")
    try:
        texts = list(SHEETS[sheet]) if prompts is None else [t for t in prompts.read_text().splitlines() if t.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{prompts}: {error}", param_hint="--prompts") from None
    if not texts:
        raise typer.BadParameter(f"{prompts}: holds no prompt", param_hint="--prompts")
    import model
    from model.sheets import contact_sheet

    painter = model.load(weights, device)
    bars = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("painting"), *bars, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("painting", total=None)
        pictures = painter.generate_each(
            texts,
            seed=seed,
            guidance=guidance,
            temperature=temperature,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    save_image(contact_sheet(pictures, texts, columns=columns), out, {"seed": seed})
    typer.echo(out)
