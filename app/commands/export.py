"""`dalle-server export` writes a training run's model as a checkpoint, which can be served."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from app.commands.common import check_out_folder, checkpoint
from app.commands.common import out as out_option
from app.commands.flags import Given, with_knobs
from app.commands.train import FIRST_STAGE, FOLDER
from model.files import find
from model.training.knobs import build
from model.training.options import ExportOptions, SamplingChanges


@with_knobs(ExportOptions, SamplingChanges, flags=("name", "licence", "data_note"))
def export(
    run: Annotated[Path, Argument(metavar="RUN", help="Folder of a `train transformer` run, finished or not.")],
    *,
    out: Annotated[Path, out_option("Folder of the checkpoint to write.")],
    vae: Annotated[Path, Option(help=FOLDER.format("`train vae`"), callback=checkpoint)] = FIRST_STAGE,
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
    """Write a training run's model as a checkpoint to serve. `--set guidance=2` changes a sampling default."""
    check_out_folder(out)
    from model.training import export as exporting

    others = shares(mean or [])
    changes = dataclasses.asdict(build(SamplingChanges, given))
    changes = {name: value for name, value in changes.items() if value is not None}
    sampling = dataclasses.replace(exporting.find_sampling(vae), **changes)
    options = build(ExportOptions, given, sampling=sampling, documents=tuple(document or ()))
    exporting.export(run, exporting.find_vae(vae), out, options, clip, others, reviser)
    typer.echo(out)


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
