"""`dalle-server export`: a training run's model as a checkpoint to serve."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from app.commands.flags import CheckpointFlags, numbers, spread
from app.commands.train import FIRST_STAGE

SAMPLING, KEPT = "Sampling default", "that of --vae's checkpoint, if it is one"


@spread()
def export(
    run: Annotated[Path, Argument(metavar="RUN", help="Folder of a `train transformer` run, finished or not.")],
    out: Annotated[Path, Option("-o", "--out", help="Folder of the checkpoint to write.")],
    checkpoint: CheckpointFlags,
    vae: Annotated[Path, Option(help="Folder of the `train vae` run, or of a checkpoint.")] = FIRST_STAGE,
    temperature: Annotated[float | None, Option(min=0.0, max=5.0, help=SAMPLING, show_default=KEPT)] = None,
    top_k: Annotated[int | None, Option(min=0, help=SAMPLING, show_default=KEPT)] = None,
    top_p: Annotated[float | None, Option(min=0.0, max=1.0, help=SAMPLING, show_default=KEPT)] = None,
    guidance: Annotated[float | None, Option(min=0.0, max=20.0, help=SAMPLING, show_default=KEPT)] = None,
    opening: Annotated[
        float | None,
        Option(
            min=0.0,
            max=5.0,
            help=f"{SAMPLING}: at least the temperature until something is drawn; 0: off.",
            show_default=KEPT,
        ),
    ] = None,
    clip: Annotated[
        Path | None, Option(help="Folder of the `train clip` run, or of a checkpoint with one.", show_default="none")
    ] = None,
    reviser: Annotated[
        Path | None, Option(help="Folder of the `train reviser` run, or of a checkpoint with one.", show_default="none")
    ] = None,
    mean: Annotated[
        list[str] | None,
        Option(
            help="FOLDER=SHARE: export a mean of weights, of which so much is that run's or checkpoint's (repeat), and "
            "the rest RUN's.",
            show_default="RUN's alone",
        ),
    ] = None,
    document: Annotated[list[Path] | None, Option(help="A file to put beside the weights (repeat).")] = None,
) -> None:
    """Write a training run's model as a checkpoint to serve."""
    from model.training import export as exporting

    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance, "opening": opening}
    changes = {name: value for name, value in given.items() if value is not None}
    sampling = dataclasses.replace(exporting.find_sampling(vae), **changes)  # type: ignore[arg-type]
    options = exporting.ExportOptions(
        checkpoint.name, checkpoint.licence, checkpoint.data_note, sampling, tuple(document or ())
    )
    others = {Path(name): share for name, share in numbers(mean or [], "--mean", "FOLDER=SHARE, as in a=0.5").items()}
    exporting.export(run, exporting.find_vae(vae), out, options, clip, others, reviser)
    typer.echo(out)
