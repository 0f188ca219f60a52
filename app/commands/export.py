"""`dalle-server export`: a training run's model as a checkpoint to serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from app.commands.flags import CheckpointFlags, numbers, spread
from app.commands.train import FIRST_STAGE


@spread()
def export(
    run: Annotated[Path, Argument(metavar="RUN", help="Folder of a `train transformer` run, finished or not.")],
    out: Annotated[Path, Option("-o", "--out", help="Folder of the checkpoint to write.")],
    checkpoint: CheckpointFlags,
    vae: Annotated[Path, Option(help="Folder of the `train vae` run, or of a checkpoint.")] = FIRST_STAGE,
    temperature: Annotated[float, Option(min=0.0, max=5.0, help="Sampling default.")] = 1.0,
    top_k: Annotated[int, Option(min=0, help="Sampling default.")] = 0,
    top_p: Annotated[float, Option(min=0.0, max=1.0, help="Sampling default.")] = 1.0,
    guidance: Annotated[float, Option(min=0.0, max=20.0, help="Sampling default.")] = 3.0,
    opening: Annotated[
        float,
        Option(min=0.0, max=5.0, help="Sampling default: at least the temperature until something is drawn; 0: off."),
    ] = 0.0,
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
    from model.config import SamplingDefaults
    from model.training import export as exporting

    sampling = SamplingDefaults(temperature, top_k, top_p, guidance, opening)
    options = exporting.ExportOptions(
        checkpoint.name, checkpoint.licence, checkpoint.data_note, sampling, tuple(document or ())
    )
    others = {Path(name): share for name, share in numbers(mean or [], "--mean", "FOLDER=SHARE, as in a=0.5").items()}
    exporting.export(run, exporting.find_vae(vae), out, options, clip, others, reviser)
    typer.echo(out)
