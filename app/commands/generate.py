"""`dalle-server generate TEXT`: pictures without HTTP, by the same engine."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer import Argument, Option

from app.commands.common import DEFAULT_WEIGHTS, Device, Weights, check_out, save_image

if TYPE_CHECKING:
    from PIL import Image


def generate(
    text: Annotated[str, Argument(help="What the pictures shall show.")],
    n: Annotated[int, Option("-n", "--num-images", min=1, max=64, help="How many pictures.")] = 1,
    out: Annotated[
        Path | None, Option("-o", "--out", help="Picture to write.", show_default="the text, as a file name")
    ] = None,
    separate: Annotated[bool, Option("--separate", help="One file a picture (apple-1.png ...), no grid.")] = False,
    seed: Annotated[int | None, Option(help="The same seed gives the same pictures.", show_default="random")] = None,
    temperature: Annotated[float | None, Option(help="0 to 5; 0 takes the likeliest token.")] = None,
    top_k: Annotated[int | None, Option(help="Draw from the k likeliest tokens only; 0: from all.")] = None,
    top_p: Annotated[float | None, Option(help="Draw from the likeliest tokens that reach p, 0 to 1.")] = None,
    guidance: Annotated[float | None, Option(help="How closely to follow the text, 0 to 20; 1: off.")] = None,
    truncate: Annotated[bool, Option("--truncate", help="Cut a text that is too long.")] = False,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Paint pictures of TEXT into a file; several become a grid. Sampling defaults are the checkpoint's."""
    path = out or Path(f"{slug(text)}.png")
    check_out(path)
    console = Console(stderr=True)
    with console.status("loading"):
        import model
        from model.sheets import contact_sheet

        painter = model.load(weights, device)
    started = time.monotonic()
    with Progress(
        TextColumn("painting"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("painting", total=None)
        images = painter.generate(
            text,
            n=n,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance=guidance,
            truncate=truncate,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    seconds = time.monotonic() - started
    if n == 1 or separate:
        paths = numbered(path, n)
        for image, file in zip(images, paths, strict=True):
            save_image(image, file, {"prompt": text, **_numbers(image)})
    else:
        paths = [path]
        grid = contact_sheet(images, columns=math.ceil(math.sqrt(n)), cell=images[0].width)
        save_image(grid, path, {"prompt": text, "seed": images[0].info["seed"]})
    for file in paths:
        typer.echo(file)
    console.print(f"{n} in {seconds:.1f} s, seed {images[0].info['seed']}", highlight=False)


def _numbers(image: Image.Image) -> dict[str, object]:
    return {"seed": image.info["seed"], "index": image.info["index"]}


def slug(text: str) -> str:
    """A file name of the text's words: "A red apple!" -> "a-red-apple"."""
    words = re.findall(r"\w+", text.lower())
    return "-".join(words)[:60].rstrip("-") or "picture"


def numbered(path: Path, n: int) -> list[Path]:
    """apple.png -> [apple.png] for one, [apple-1.png, apple-2.png, ...] for more."""
    return [path] if n == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(1, n + 1)]
