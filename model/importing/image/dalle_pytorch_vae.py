"""DALLE-pytorch's DiscreteVAE: the file {hparams, weights} of train_vae.py, or `vae.*` and vae_params of a dalle.pt.

The tensors' numbers follow from the layers (dalle_pytorch.py, class DiscreteVAE): the encoder is its halvings, its
residual blocks, and a convolution; the decoder is a convolution where it has blocks, the blocks, the doublings, and a
convolution.
"""

from __future__ import annotations

from typing import Any

from model.errors import CheckpointError
from model.families.image.config import DiscreteVAEConfig
from model.importing.files import Part
from model.importing.image.fill import fill
from model.importing.state import Keys, kind
from model.limits import build, fault, shown

# What hparams call it -> our field, and the original's default where hparams have none.
FIELDS: dict[str, tuple[str, int]] = {
    "image_size": ("image_size", 256),
    "num_tokens": ("codes", 512),
    "codebook_dim": ("code_dim", 512),
    "num_layers": ("layers", 3),
    "num_resnet_blocks": ("blocks", 0),
    "hidden_dim": ("width", 64),
    "channels": ("channels", 3),
}
# Of training alone.
TRAINING = ("smooth_l1_loss", "temperature", "straight_through", "reinmax", "kl_div_loss_weight")
NORMAL = ((0.5, 0.5, 0.5, 0.0), (0.5, 0.5, 0.5, 1.0))  # means and deviations by channel, the original's default
RESIDUAL = {"conv1": "net.0", "conv2": "net.2", "conv3": "net.4"}


def read(keys: Keys, hparams: Any, place: str = "hparams") -> Part:
    """The DiscreteVAE in `keys`, whose names begin with "codebook.", "encoder." and "decoder.".

    hparams: the arguments that it was made with; place: what the file calls them. `keys.finish` is left to the caller.
    Raises CheckpointError naming the file and the key, or the argument.
    """
    config = build(DiscreteVAEConfig, _values(hparams, f"{keys.where}: {place}"), keys.where, place)
    return fill(config, keys, lambda ours: name_of(ours, config))


def _values(hparams: Any, where: str) -> dict[str, Any]:
    if not isinstance(hparams, dict):
        raise CheckpointError(f"{where} must be the arguments of a DiscreteVAE, got {kind(hparams)}")
    known = {*FIELDS, *TRAINING, "normalization"}
    if extra := [key for key in hparams if key not in known]:
        raise CheckpointError(f"{where}: {shown(extra[0])} is no argument of a DiscreteVAE")
    values: dict[str, Any] = {}
    for theirs, (ours, default) in FIELDS.items():
        values[ours] = hparams.get(theirs, default)
        if said := fault(DiscreteVAEConfig, ours, values[ours]):
            raise CheckpointError(f"{where}: {said.replace(ours, theirs, 1)}")
    channels = values["channels"]
    normal = hparams.get("normalization", NORMAL)
    if normal is None:  # until 1.5 it could be left out so
        normal = ((0.0,) * channels, (1.0,) * channels)
    if not isinstance(normal, list | tuple) or len(normal) != 2 or not all(isinstance(x, list | tuple) for x in normal):
        raise CheckpointError(f"{where}: normalization must be two lists of numbers, got {kind(normal)}")
    for ours, numbers in zip(("mean", "std"), normal, strict=True):
        values[ours] = tuple(numbers[:channels])
        if said := fault(DiscreteVAEConfig, ours, values[ours]):
            raise CheckpointError(f"{where}: normalization: {said}")
    return values


def name_of(ours: str, config: DiscreteVAEConfig) -> str:
    """encoder.down.0.weight -> encoder.0.0.weight, and so on."""
    part, *path, leaf = ours.split(".")
    if part == "codebook":
        return ours
    match path:
        case ["down", at]:
            return f"{part}.{at}.0.{leaf}"
        case ["up", at]:
            return f"{part}.{int(at) + (config.blocks + 1 if config.blocks else 0)}.0.{leaf}"
        case ["blocks", at, conv]:
            first = config.layers if part == "encoder" else 1
            return f"{part}.{int(at) + first}.{RESIDUAL[conv]}.{leaf}"
        case ["stem"]:
            return f"{part}.0.{leaf}"
    assert path == ["out"], ours
    stem = bool(config.blocks) and part == "decoder"
    return f"{part}.{config.layers + config.blocks + stem}.{leaf}"
