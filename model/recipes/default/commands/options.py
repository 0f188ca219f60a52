"""Options that several of the recipe's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

WEIGHTS = Path("weights/default")
Weights = Annotated[Path, Option(help="Folder of the checkpoint.")]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:1 ...")]
