"""`dalle-server export` writes a training run's model as a checkpoint, which can be served.

With `--format dalle-pytorch` it gives a model of that shape back to DALLE-pytorch, as a .pt.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from app.commands.common import check_out_folder, checkpoint
from app.commands.common import out as out_option
from app.commands.flags import Given, with_knobs
from app.commands.image_tokenizers import VAE, find_image_tokenizer
from app.commands.train import FIRST_STAGE
from model.files import find
from model.training.knobs import build
from model.training.options import ExportOptions, SamplingChanges

RUN = "Folder of a `train transformer` run, finished or not; for dalle-pytorch also of a checkpoint."
FORMAT = "What to write: our own checkpoint, or a file that DALLE-pytorch 1.6.6 loads."


@with_knobs(ExportOptions, SamplingChanges, flags=("name", "licence"))
def export(
    run: Annotated[Path, Argument(metavar="RUN", help=RUN)],
    *,
    out: Annotated[Path, out_option("Folder of the checkpoint to write, or the .pt of DALLE-pytorch.")],
    vae: Annotated[Path, Option(help=VAE, callback=checkpoint)] = FIRST_STAGE,
    format_: Annotated[Literal["native", "dalle-pytorch"], Option("--format", help=FORMAT)] = "native",
    clip: Annotated[
        Path | None,
        Option(
            help="Folder of a `train clip` run, or of a checkpoint with one.", show_default="none", callback=checkpoint
        ),
    ] = None,
    reviser: Annotated[
        Path | None,
        Option(
            help="Folder of a `train reviser` run, or of a checkpoint with one, whose styles come too.",
            show_default="none",
            callback=checkpoint,
        ),
    ] = None,
    mean: Annotated[
        list[str] | None,
        Option(
            metavar="FOLDER=SHARE",
            help="Export a mean of weights. This share of it is that run's or checkpoint's, and the rest is RUN's. "
            "Repeat it for several.",
            show_default="RUN's alone",
        ),
    ] = None,
    document: Annotated[
        list[Path] | None, Option(help="File to put beside the weights. Repeat it for several.")
    ] = None,
    given: Given,
) -> None:
    """Write a training run's model as a checkpoint to serve. `--set guidance=2` changes a sampling default.

    A model of DALLE-pytorch's shape goes back to it with --format dalle-pytorch: a .pt, and beside it what its
    generate.py asks for besides.
    """
    if format_ == "native":
        check_out_folder(out)
    from model.training import export as exporting

    others = shares(mean or [])
    if format_ == "dalle-pytorch":
        named = {
            "--clip": clip,
            "--reviser": reviser,
            "--document": document,
            **{f"--{name}": text for name, text in given.items()},
        }
        if flag := next((flag for flag, value in named.items() if value), None):
            raise typer.BadParameter("must be left out: a .pt of DALLE-pytorch has no place for it", param_hint=flag)
        for path in give_back(run, vae, out, others):
            typer.echo(path)
        return
    changes = dataclasses.asdict(build(SamplingChanges, given))
    changes = {name: value for name, value in changes.items() if value is not None}
    sampling = dataclasses.replace(exporting.find_sampling(vae), **changes)
    image_tokenizer = find_image_tokenizer(vae)
    options = build(ExportOptions, given, sampling=sampling, documents=tuple(document or ()))
    exporting.export(run, image_tokenizer, out, options, clip, others, reviser)
    typer.echo(out)


def give_back(run: Path, vae: Path, out: Path, others: dict[Path, float]) -> list[Path]:
    """Write a run's or a checkpoint's model for DALLE-pytorch. Returns what was written, the .pt first."""
    from model.checkpoints import load, native, sums
    from model.exporting.dalle_pytorch import check, write
    from model.training import export as exporting

    if exporting.is_checkpoint(run):
        if others:
            raise typer.BadParameter("must be left out where RUN is a checkpoint", param_hint="--mean")
        check(native.read_config(sums.load(run)).transformer, str(run))  # before its tensors are read
        return write(load(run), out)
    return write(exporting.assembled(run, find_image_tokenizer(vae), others), out)


def shares(texts: list[str]) -> dict[Path, float]:
    """["a=0.5", "b=0.2"] -> {a: 0.5, b: 0.2}. Raises BadParameter for another text, and for a folder named twice."""
    found: dict[Path, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not 0 <= number < math.inf or Path(name) in found:
            raise typer.BadParameter(
                f"mean must be FOLDER=SHARE, as in a=0.5, each folder once, got {text}", param_hint="--mean"
            )
        found[find(Path(name))] = number
    return found
