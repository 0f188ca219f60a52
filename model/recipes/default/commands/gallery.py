"""`gallery` paints the model card's sheets. Prompts and seed are fixed, and no picture is chosen by hand.

A sheet is a lossy WebP of at most 200 kB, so that many sheets in many commits stay small.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typer import Option

from model.errors import InvalidRequest
from model.recipes.default.commands.options import WEIGHTS, Device, Weights
from model.recipes.default.sheets import COLUMNS, NAMES, each, paint


def gallery(
    out: Annotated[Path, Option("-o", "--out", help="File to write. With --sheet all a folder.")] = Path(
        "gallery.webp"
    ),
    sheet: Annotated[str, Option(help=f"Which sheet: {', '.join(NAMES)}; or all.")] = "common",
    prompts: Annotated[Path | None, Option(help="Prompts of your own, one a line.", show_default="none")] = None,
    columns: Annotated[int | None, Option(min=1, max=32, show_default="the sheet's own")] = None,
    seed: Annotated[int, Option(min=0)] = 0,
    guidance: Annotated[
        float | None, Option(help="How closely to follow the text, 0 to 20. 1 is off.", show_default="the checkpoint's")
    ] = None,
    temperature: Annotated[float | None, Option(help="0 to 5.", show_default="the checkpoint's")] = None,
    weights: Weights = WEIGHTS,
    device: Device = "auto",
) -> None:
    """Paint a sheet of many pictures with one seed. It shows common things, one capability, or prompts of your own."""
    if sheet not in (*NAMES, "all"):
        raise typer.BadParameter(f"{sheet} is none of {', '.join(NAMES)} and all", param_hint="--sheet")
    wanted = {name: out / f"{name}.webp" for name in NAMES} if sheet == "all" and not prompts else {sheet: out}
    if len(wanted) > 1 and out.is_file():
        raise InvalidRequest("out", f"--out must be a folder for all sheets, got the file {out}")
    for path in wanted.values():
        if path.suffix != ".webp" or path.is_dir():
            raise InvalidRequest("out", f"--out must be a .webp file, got {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
    from model.painter import load
    from model.prompts import read_prompts
    from model.sheets import contact_sheet

    texts = read_prompts(prompts) if prompts else ()
    painter = load(weights, device)
    how = {"seed": seed, "guidance": guidance, "temperature": temperature}
    bars = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *bars, console=Console(stderr=True), transient=True) as progress:
        for name, path in wanted.items():
            task = progress.add_task(path.name, total=None)
            advance = partial(_advance, progress, task)
            pictures, labels = each(painter, texts, how, advance) if texts else paint(name, painter, how, advance)
            path.write_bytes(small_webp(contact_sheet(pictures, labels, columns=columns or COLUMNS.get(name, 8))))
    typer.echo(out)


def _advance(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def small_webp(image: Image.Image, most: int = 200_000) -> bytes:
    """A lossy WebP of at most `most` bytes, at the best quality that fits. If none fits, the image is made smaller."""
    while True:
        for quality in (92, 84, 75, 62):
            file = io.BytesIO()
            image.save(file, "webp", quality=quality, method=6)
            if file.tell() <= most:
                return file.getvalue()
        image = image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.LANCZOS)
