"""Image tokenizers that commands are told with --vae: our own, and those of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.checkpoints.networks import AnyVAE

VAE = "Folder of a `train vae` run, of a checkpoint or of an imported image tokenizer; or a file such as last.ckpt."


def find_image_tokenizer(path: Path) -> AnyVAE:
    """The image tokenizer of a folder, or of another project's single file. Raises DataError or CheckpointError."""
    from model.training.export import checked, find_vae

    if not path.is_file():
        return find_vae(path)
    from model.importing.read import read_import
    from model.importing.write import built

    return checked(built(read_import([path], {}).vae, str(path)), path)
