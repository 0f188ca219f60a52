"""`dalle-server gallery`: the README's sheets, the same prompts and seed every time, nothing picked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer import Option

from app.commands.common import DEFAULT_WEIGHTS, Device, Weights, check_out, save_image
from app.commands.sheets import NAMES, each, paint


def gallery(
    out: Annotated[Path, Option("-o", "--out", help="Picture to write.")] = Path("gallery.png"),
    sheet: Annotated[str, Option(help=f"Which sheet: {', '.join(NAMES)}.")] = "common",
    prompts: Annotated[Path | None, Option(help="Prompts of your own, one a line.", show_default="none")] = None,
    columns: Annotated[int, Option(min=1, max=32)] = 8,
    seed: Annotated[int, Option(min=0)] = 0,
    guidance: Annotated[float | None, Option(help="0 to 20; 1: off.", show_default="the checkpoint's")] = None,
    temperature: Annotated[float | None, Option(help="0 to 5.", show_default="the checkpoint's")] = None,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Paint a sheet of many pictures with one seed: of common things, of one capability, or of prompts of your own."""
    check_out(out)
    if sheet not in NAMES:
        raise typer.BadParameter(f"{sheet} is none of {', '.join(NAMES)}", param_hint="--sheet")
    import model
    from model.prompts import read_prompts
    from model.sheets import contact_sheet

    texts = read_prompts(prompts) if prompts else ()
    painter = model.load(weights, device)
    bars = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("painting"), *bars, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("painting", total=None)
        how = {"seed": seed, "guidance": guidance, "temperature": temperature}

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        pictures, told = each(painter, texts, how, advance) if texts else paint(sheet, painter, how, advance)
    save_image(contact_sheet(pictures, told, columns=columns), out, {"seed": seed})
    typer.echo(out)
