"""`dalle-server import`: other people's checkpoints become one of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from app.commands.common import check_out_folder
from app.commands.common import out as out_option
from model.errors import CheckpointError
from model.importing.recognise import read_files
from model.limits import printable, shown

FILES = "Weights, image tokenizer, yaml, tokenizer, in any order: what a file is is told by what it holds."


def import_(
    files: Annotated[list[Path], Argument(metavar="FILE...", help=FILES)],
    *,
    out: Annotated[Path, out_option("Folder of the checkpoint to write.")],
    licence: Annotated[
        str | None,
        Option(metavar="TEXT", help="Licence of the weights, as the checkpoint states it.", show_default="unknown"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KEY=VALUE",
            help="What no file tells: heads and hf_version of ruDALL-E, say. Repeat it for several.",
        ),
    ] = None,
) -> None:
    """Write another project's model as a checkpoint to serve: DALLE-pytorch, taming's VQGAN, OpenAI's dVAE and others.

    Nothing in a file is executed. What cannot be done exactly is refused.
    """
    check_out_folder(out)
    said = pairs(settings or [])
    read_files(files)  # a first look, which refuses most of what is no checkpoint without waiting for torch
    from model.importing.read import read_import
    from model.importing.write import write_import

    imported = read_import(files, said)
    if licence is not None:
        imported = replace(imported, licence=licence)
    write_import(imported, out, {"files": [printable(file.name) for file in files], **({"set": said} if said else {})})
    typer.echo(out)


def pairs(texts: list[str]) -> dict[str, str]:
    """["heads=16"] -> {"heads": "16"}. Raises CheckpointError for another text, and for a key that is there twice."""
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not (sign and key and value and text.isprintable() and len(text) <= 200) or key in found:
            raise CheckpointError(f"--set must be KEY=VALUE, each key once, got {shown(text)}")
        found[key] = value
    return found
