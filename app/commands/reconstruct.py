"""`dalle-server reconstruct IN... --out sheet.png` shows how much of a picture the image tokenizer keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from app.commands.common import DEFAULT_WEIGHTS, Device, Weights, check_out, read_image, save_image
from app.commands.common import out as out_option
from model.errors import InvalidRequest


def reconstruct(
    pictures: Annotated[list[Path], Argument(metavar="IN...", help="Pictures of any size.")],
    out: Annotated[Path, out_option("Sheet to write.")] = Path("reconstructions.png"),
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Show the middle square of each picture above the picture that the VAE makes of its image tokens."""
    check_out(out)
    import model
    from model.training.train_vae import reconstruction_sheet

    vae = model.load_vae(weights, device)
    if not vae.config.encodes:
        raise InvalidRequest("weights", f"--weights must have an image encoder, and {weights} has none")
    originals = [read_image(path, vae.config.image_size) for path in pictures]
    save_image(reconstruction_sheet(vae, originals), out, {})
    typer.echo(out)
