"""OpenAI's dVAE: encoder.pkl and decoder.pkl, each a pickled module, or `vae.enc.*` and `vae.dec.*` of a dalle.pt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from model.errors import CheckpointError
from model.families.image.config import OpenAIDVAEConfig
from model.families.image.openai_dvae import GROUPS
from model.importing.calls import Inert
from model.importing.files import Part
from model.importing.image.fill import count, fill, side, size
from model.importing.state import Keys, kind
from model.limits import build, shown

LEAVES = {"weight": "w", "bias": "b"}
FACTOR = 2 ** (GROUPS - 1)  # pixels to an image token, a side
MAX_BLOCKS = 65  # counted of a group; the config's limit is below
MAX_MODULES = 10_000  # of a pickled network
MAX_DEPTH = 16  # modules within each other


def parameters(module: Any, where: str) -> dict[str, Tensor]:
    """The tensors of a pickled torch module by key, as its state dict would name them. where: names the file.

    Raises CheckpointError for what is no module, or holds more than a network of OpenAI's does.
    """
    found = dict(_walk(module, "", where, [0]))
    if not found:
        raise CheckpointError(f"{where}: {kind(module)} has no tensors")
    return found


def _walk(module: Any, prefix: str, where: str, seen: list[int]) -> Iterator[tuple[str, Tensor]]:
    seen[0] += 1
    if seen[0] > MAX_MODULES or prefix.count(".") > MAX_DEPTH:
        raise CheckpointError(f"{where}: the module has too many modules in it")
    if not isinstance(module, Inert) or not isinstance(module.state, dict):
        raise CheckpointError(f"{where}: {shown(prefix)} must be a pickled torch module, got {kind(module)}")
    for held in ("_parameters", "_buffers", "_modules"):
        values = module.state.get(held) or {}
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise CheckpointError(f"{where}: {shown(prefix + held)} must be an object, got {kind(values)}")
        for name, value in values.items():
            if value is None:
                continue
            if held == "_modules":
                yield from _walk(value, f"{prefix}{name}.", where, seen)
            elif isinstance(value, Tensor):
                yield prefix + name, value
            else:
                raise CheckpointError(f"{where}: {shown(prefix + name)} must be a tensor, got {kind(value)}")


def read(encoder: Keys, decoder: Keys, image_size: int | None = None, grid: int | None = None) -> Part:
    """The dVAE in both, whose names begin with "blocks.". They are used up, and what is left over is refused.

    image_size: pixels a side; grid: image tokens a side; without either 256 x 256. Raises CheckpointError naming the
    file and the key.
    """
    values = {
        "image_size": side(FACTOR, image_size, grid, 256),
        "codes": size(encoder, "blocks.output.conv.w", 0),
        "width": size(encoder, "blocks.input.w", 0),
        "code_dim": size(decoder, "blocks.input.w", 0),
        "blocks": count(encoder, lambda i: f"blocks.group_1.block_{i + 1}.res_path.conv_1.w", MAX_BLOCKS),
        "channels": size(encoder, "blocks.input.w", 1),
    }
    both = {"encoder": encoder, "decoder": decoder}
    part = fill(build(OpenAIDVAEConfig, values, encoder.where, "the dVAE"), _Both(both), name_of)
    for keys in both.values():
        keys.finish()
    return part


class _Both(Keys):
    """Two state dicts under two prefixes, each with its own file in its refusals."""

    def __init__(self, parts: dict[str, Keys]) -> None:
        self._parts = parts

    def take(self, key: str, shape: Any = None) -> Tensor:
        part, _, rest = key.partition(".")
        return self._parts[part].take(rest, shape)


def name_of(ours: str) -> str:
    """encoder.groups.0.1.convs.2.weight -> encoder.blocks.group_1.block_2.res_path.conv_3.w, and so on."""
    part, *path, leaf = ours.split(".")
    match path:
        case ["stem"]:
            theirs = "input"
        case ["out"]:
            theirs = "output.conv"
        case ["groups", group, block, "skip"]:
            theirs = f"group_{int(group) + 1}.block_{int(block) + 1}.id_path"
        case _:
            _, group, block, _, conv = path
            theirs = f"group_{int(group) + 1}.block_{int(block) + 1}.res_path.conv_{int(conv) + 1}"
    return f"{part}.blocks.{theirs}.{LEAVES[leaf]}"
