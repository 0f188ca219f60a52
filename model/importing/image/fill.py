"""Foreign tensors into a network of ours: the config says which tensors there must be, and the file must have these."""

from __future__ import annotations

from collections.abc import Callable

from model.checkpoints.blank import blank
from model.errors import CheckpointError
from model.families.image.build import network
from model.families.image.config import ImageConfig
from model.importing.files import Part
from model.importing.state import Keys


def fill(config: ImageConfig, keys: Keys, name: Callable[[str], str]) -> Part:
    """Take every tensor of the config's network from `keys`. name: our name of a tensor -> the file's.

    Raises CheckpointError for a tensor that is missing, of another shape, of no floating type or not finite.
    """
    with blank():
        wanted = network(config).state_dict()
    return Part(config, {ours: keys.take(name(ours), tuple(tensor.shape)) for ours, tensor in wanted.items()})


def size(keys: Keys, key: str, axis: int, axes: int = 4) -> int:
    """One of the sizes of a tensor, which stays. Raises CheckpointError where it is missing or has other axes."""
    shape = keys.shape(key)
    if len(shape) != axes:
        raise CheckpointError(f"{keys.where}: {keys.name(key)} must have {axes} axes, got the shape {shape}")
    return shape[axis]


def count(keys: Keys, name: Callable[[int], str], most: int) -> int:
    """How many of name(0), name(1), ... there are without a gap, up to `most`."""
    return next((i for i in range(most) if name(i) not in keys), most)


def side(factor: int, image_size: int | None, grid: int | None, otherwise: int) -> int:
    """Pixels a side: what was asked for, else what the transformer's grid makes, else what the family has."""
    return image_size or (grid * factor if grid else otherwise)
