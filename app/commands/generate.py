"""`dalle-server generate TEXT` paints pictures without HTTP, with the same engine. `--like FILE` paints one again."""

from __future__ import annotations

import dataclasses
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer import Argument, Option

from app.batch.folder import slug
from app.commands.common import DEFAULT_WEIGHTS, Device, Seed, Weights, check_out, save_image, utf8
from app.commands.common import out as out_option
from app.commands.common import temperature as temperature_option
from app.commands.common import top_k as top_k_option
from app.commands.prompts import paint_file
from app.pictures.encode import enlarge
from app.pictures.provenance import Provenance, prompt_hash
from model.errors import DataError, InvalidRequest
from model.files import find, read_file
from model.limits import printable
from model.picture_files import PictureError, examine
from model.styles import AUTO

if TYPE_CHECKING:
    from PIL import Image

    from model import Painter

OWN = "the checkpoint's"
LIKE_BYTES, LIKE_PIXELS = 1 << 26, 1 << 24  # of a picture to paint again


def generate(
    text: Annotated[
        str | None,
        Argument(help="What the pictures should show.", show_default="with --like, the picture's own", callback=utf8),
    ] = None,
    n: Annotated[int, Option("-n", "--num-images", min=1, max=64, help="How many pictures.")] = 1,
    out: Annotated[Path | None, out_option("Picture to write.", show_default="the text, as a file name")] = None,
    separate: Annotated[
        bool, Option("--separate", help="Write a file for each picture (apple-1.png ...) instead of a grid.")
    ] = False,
    like: Annotated[Path | None, Option(help="Paint the picture in this PNG again. Its text chunks say how.")] = None,
    prompts: Annotated[
        Path | None,
        Option(
            help="Paint every line of this file instead: a text for each line of a .txt, or a JSON object with text, "
            "count, seed and the other fields for each line of a .jsonl. --out is then a folder with the pictures, "
            "contact sheets and manifest.jsonl. The same command, started again, goes on. "
            "The other flags are for lines that do not tell the field."
        ),
    ] = None,
    server: Annotated[
        str | None,
        Option(
            help="Address of a server whose jobs paint the prompts, such as http://localhost:8000. "
            "DALLE_CLIENT_KEY holds its API key.",
            show_default="this machine paints",
        ),
    ] = None,
    seed: Seed = None,
    temperature: Annotated[float | None, temperature_option(OWN)] = None,
    top_k: Annotated[int | None, top_k_option(OWN)] = None,
    top_p: Annotated[
        float | None,
        Option(help="Draw from the likeliest tokens that together have this probability, 0 to 1.", show_default=OWN),
    ] = None,
    guidance: Annotated[
        float | None, Option(help="How closely to follow the text, 0 to 20. 1 is off.", show_default=OWN)
    ] = None,
    best_of: Annotated[
        int | None,
        Option(help="Paint this many, up to 64, and keep the -n that fit the text best.", show_default="off"),
    ] = None,
    complete: Annotated[bool, Option("--complete", help="The model completes the text as a caption first.")] = False,
    revise: Annotated[
        bool | None,
        Option(
            "--revise/--no-revise",
            help="Let the model first put the text into words that it was taught.",
            show_default="if it can, and the text is not completed",
        ),
    ] = None,
    style: Annotated[
        str | None,
        Option(
            help="One of the checkpoint's styles, as `inspect` tells them, for a thing that it knows.",
            show_default="auto: the pictures go round them",
        ),
    ] = None,
    on_unknown: Annotated[
        Literal["paint", "refuse"] | None,
        Option(help="A text that the reviser does not know: paint and say so, or refuse it.", show_default="paint"),
    ] = None,
    truncate: Annotated[
        bool, Option("--truncate", help="Cut a text that has too many tokens instead of refusing it.")
    ] = False,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Paint pictures of TEXT into a file. Several become a grid. The checkpoint has the sampling's defaults."""
    steering = {"seed": seed, "temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    console = Console(stderr=True)
    if prompts is not None:
        _refuse("--prompts", {"TEXT": text is not None, "--like": like is not None, "--separate": separate})
        if server is not None:
            _refuse("--server", {"--weights": weights != find(DEFAULT_WEIGHTS), "--device": device != "auto"})
        fields = {**steering, "best_of": best_of, "style": style, "revise": revise, "count": n}
        fields |= {"on_unknown": on_unknown}
        fields |= {"complete": complete or None, "truncate": truncate or None}
        paint_file(prompts, out or Path(prompts.stem), fields, server, weights, device, console)
        return
    if server is not None:
        raise typer.BadParameter("it needs --prompts", param_hint="--server")
    if like is not None:
        if given := [name for name, value in steering.items() if value is not None]:
            raise typer.BadParameter(
                "it must be left out with --like, which takes it from the picture",
                param_hint=f"--{given[0].replace('_', '-')}",
            )
        if n != 1:
            raise typer.BadParameter("it must be 1 with --like, which paints one picture", param_hint="-n")
        asked = {
            "--complete": complete,
            "--best-of": best_of is not None,
            "--style": style is not None,
            "--revise": revise is True,
            "--no-revise": revise is False,
            "--on-unknown": on_unknown is not None,
        }
        if name := next((name for name, is_asked in asked.items() if is_asked), None):
            raise typer.BadParameter("it must be left out with --like, which paints one picture again", param_hint=name)
        _paint_like(like, text, out or Path(f"{like.stem}-again.png"), weights, device, console)
        return
    if text is None:
        raise typer.BadParameter("it is missing; it must say what the pictures should show", param_hint="TEXT")
    path = out or Path(f"{slug(text)}.png")
    check_out(path)
    painter = _load(weights, device, console)
    params = painter.sampling(**steering)  # type: ignore[arg-type]
    if complete:
        (text,) = painter.complete(text, seed=params.seed)
        console.print(printable(text), highlight=False, markup=False)
        revise = bool(revise)
    how = Provenance(painter.checkpoint.config.name, 0, params, prompt_hash(text), text)
    started = time.monotonic()
    images = _paint(painter, how, text, n, truncate, console, best_of, revise, style or AUTO, on_unknown or "paint")
    seconds = time.monotonic() - started
    texts = list(dict.fromkeys(image.info.get("revised", text) for image in images))
    if said := _misfit(text, images[0]):
        console.print(printable(said), highlight=False, markup=False, soft_wrap=True)
    if texts != [text]:
        nearest = ", the nearest that I can paint" if images[0].info.get("fit") == "near" and not said else ""
        console.print(printable(f"painted as: {'; '.join(texts)}{nearest}"), highlight=False, markup=False)
    if n == 1 or separate:
        paths = numbered(path, n)
        for image, file in zip(images, paths, strict=True):
            save_image(image, file, _painted(how, image, text).texts())
    else:
        from model.sheets import contact_sheet

        paths = [path]
        grid = contact_sheet(images, columns=math.ceil(math.sqrt(n)), cell=images[0].width)
        save_image(grid, path, {"Prompt": "; ".join(texts), "Seed": params.seed})
    for file in paths:
        typer.echo(printable(file))
    scores = "".join(f", score {image.info['score']:.3f}" for image in images if best_of)
    console.print(f"{best_of or n} in {seconds:.1f} s, seed {params.seed}{scores}", highlight=False)


def _refuse(flag: str, others: Mapping[str, bool]) -> None:
    """Raises typer.BadParameter if one of the others was given, which cannot be beside this flag."""
    if name := next((name for name, given in others.items() if given), None):
        raise typer.BadParameter(f"it must be left out with {flag}", param_hint=name)


def _painted(how: Provenance, image: Image.Image, text: str) -> Provenance:
    """How this picture of an order was painted. how, text: of the order."""
    found = image.info
    text = found.get("revised", text)
    return dataclasses.replace(
        how, index=found["index"], prompt=text, prompt_hash=prompt_hash(text), style=found.get("style")
    )


def _misfit(text: str, image: Image.Image) -> str:
    """What the command says of a text that the model does not know, or not in the style asked for; "" for neither."""
    told = image.info
    if told.get("fit") == "unknown":
        return f"I don't know '{text}'." + (f" Closest: {told['closest']}" if "closest" in told else "")
    if missing := told.get("missing_style"):
        return f"I know '{told.get('revised', text)}', but not in {missing}. So it is painted {told['style']}."
    return ""


def _paint_like(file: Path, text: str | None, out: Path, weights: Path, device: str, console: Console) -> None:
    """Paint the picture in `file` again into `out`, and compare. Raises DataError if the pixels are not the same."""
    from PIL import Image

    check_out(out)
    original, how = read_provenance(file)
    text = how.prompt if text is None else text
    if text is None:
        raise DataError(f"TEXT is missing; {file} holds only a hash of its text")
    painter = _load(weights, device, console)
    if painter.checkpoint.config.name != how.model:
        found = f"{painter.checkpoint.config.name} in {weights}"
        raise InvalidRequest("weights", f"--weights must hold {how.model}, which painted {file}, got {found}")
    if prompt_hash(text) != how.prompt_hash and painter.revises:
        text = painter.revise(text)
    if prompt_hash(text) != how.prompt_hash and how.style is not None:
        text = painter.checkpoint.styles.choose(text, how.style).text
    if prompt_hash(text) != how.prompt_hash:
        raise InvalidRequest("text", f"TEXT must be the text that {file} was painted from, got another")
    (painted,) = _paint(painter, how, text, 1, True, console, revise=False)
    rgb = enlarge(painted.tobytes(), painted.width, original.width)
    save_image(Image.frombytes("RGB", original.size, rgb), out, dataclasses.replace(how, prompt=text).texts())
    typer.echo(printable(out))
    if rgb != original.tobytes():
        by = f"{how.software} painted {file}, perhaps with other weights, other threads or on another machine"
        raise DataError(f"{out} is not identical: {by}")
    console.print(printable(f"identical to {file}"), highlight=False, markup=False)


def read_provenance(file: Path) -> tuple[Image.Image, Provenance]:
    """The RGB picture in a PNG, and how it was painted. Raises DataError, which names the file."""
    from PIL import Image, UnidentifiedImageError

    data = read_file(file, LIKE_BYTES)
    try:
        examine(data).check(LIKE_PIXELS)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            how = Provenance.read(image.text)  # type: ignore[attr-defined]
            if image.width != image.height:
                raise DataError(f"must be square, got {image.width} x {image.height} pixels")
            return image.convert("RGB"), how
    except (DataError, PictureError) as error:
        raise DataError(f"{file} {error}") from None
    except UnidentifiedImageError:
        raise DataError(f"{file} must be a PNG that can be read") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file} must be a PNG that can be read: {getattr(error, 'strerror', None) or error}") from None


def _load(weights: Path, device: str, console: Console) -> Painter:
    with console.status("loading"):
        import model

        return model.load(weights, device)


def _paint(
    painter: Painter,
    how: Provenance,
    text: str,
    n: int,
    truncate: bool,
    console: Console,
    best_of: int | None = None,
    revise: bool | None = None,
    style: str = AUTO,
    on_unknown: str = "paint",
) -> list[Image.Image]:
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
        return painter.generate(
            text,
            n=n,
            truncate=truncate,
            index=how.index,
            forced=how.forced,
            best_of=best_of,
            revise=revise,
            style=style,
            on_unknown=on_unknown,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            **dataclasses.asdict(how.params),
        )


def numbered(path: Path, n: int) -> list[Path]:
    """The files of `n` pictures. apple.png -> [apple.png] for one, [apple-1.png, apple-2.png, ...] for more."""
    return [path] if n == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(1, n + 1)]
