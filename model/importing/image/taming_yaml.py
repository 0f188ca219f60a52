"""taming's .yaml of a VQGAN: what its tensors do not tell, and whether it belongs to them."""

from __future__ import annotations

from typing import Any

from model.errors import CheckpointError
from model.families.image.config import VQGANConfig
from model.importing.state import kind
from model.limits import fault, shown

TARGETS = (
    "VQModel",
    "GumbelVQ",
    "EMAVQ",
    "VQModelInterface",
    "VQNoDiscModel",
)  # classes, of taming and of latent diffusion

NOT_READ = ("tanh_out", "give_pre_end", "double_z")  # they change what a network does with the same tensors


def resolution(yaml: Any, where: str) -> int:
    """Pixels a side of the pictures that it was trained on. where: names the weights. Raises CheckpointError."""
    found = _params(yaml, where)[2].get("resolution", 256)
    if said := fault(VQGANConfig, "image_size", found):
        raise CheckpointError(f"{where}: the yaml: {said.replace('image_size', 'ddconfig.resolution', 1)}")
    return int(found)


def check_yaml(yaml: Any, config: VQGANConfig, where: str, renumbered: bool) -> str | None:
    """Raises CheckpointError for a yaml that says another network than the tensors make. where: names the weights.

    renumbered: whether the file has quantize.used. Returns unknown_index, None where it is not said.
    """
    target, params, ddconfig = _params(yaml, where)
    gumbel = target.rsplit(".", 1)[-1] == "GumbelVQ"
    if gumbel != (config.quantiser == "gumbel"):
        has = "has" if config.quantiser == "gumbel" else "has no"
        raise CheckpointError(f"{where}: the yaml says model.target {shown(target)}, and the file {has} quantize.proj")
    for key, said, have in (
        ("n_embed", params.get("n_embed"), config.codes),
        ("embed_dim", params.get("embed_dim"), config.code_dim),
        ("ddconfig.z_channels", ddconfig.get("z_channels"), config.latent),
        ("ddconfig.ch", ddconfig.get("ch"), config.stem),
        ("ddconfig.num_res_blocks", ddconfig.get("num_res_blocks"), config.blocks),
        ("ddconfig.in_channels", ddconfig.get("in_channels"), config.channels),
    ):
        if said is not None and (type(said) is not int or said != have):
            raise CheckpointError(f"{where}: the yaml says {key} {shown(said)}, and the file's tensors {have}")
    mult = ddconfig.get("ch_mult")
    if mult is not None and [config.stem * x for x in _integers(mult)] != list(config.widths):
        has = f"the file's tensors have the widths {list(config.widths)} after {config.stem}"
        raise CheckpointError(f"{where}: the yaml says ddconfig.ch_mult {shown(mult)}, and {has}")
    attends = ddconfig.get("attn_resolutions")
    side, sides = resolution(yaml, where), _integers(attends)
    if attends is not None and tuple(i for i in range(len(config.widths)) if side >> i in sides) != config.attention:
        has = f"the file's tensors have attention at {[side >> i for i in config.attention]} of {side}"
        raise CheckpointError(f"{where}: the yaml says ddconfig.attn_resolutions {shown(attends)}, and {has}")
    for key in NOT_READ:
        if ddconfig.get(key):
            raise CheckpointError(f"{where}: the yaml says ddconfig.{key} {shown(ddconfig[key])}, which is not read")
    if (params.get("remap") is not None) != renumbered:
        has = "has" if renumbered else "has no"
        told = f"the yaml says remap {shown(params.get('remap'))}, and the file {has} quantize.used"
        raise CheckpointError(f"{where}: {told}, the rows that its tokens stand for")
    said = params.get("unknown_index")
    return None if said is None else str(said)[:100]


def _integers(values: Any) -> list[int]:
    """The integers of a short list; none where it is something else."""
    short = isinstance(values, list | tuple) and len(values) <= 32
    return [value for value in values if type(value) is int] if short else []


def _params(yaml: Any, where: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """model.target, model.params and its ddconfig."""
    model = _object(yaml, "model", where)
    target = model.get("target")
    if not isinstance(target, str) or target.rsplit(".", 1)[-1] not in TARGETS:
        allowed = ", ".join(TARGETS)
        raise CheckpointError(f"{where}: the yaml's model.target must be one of {allowed}, got {kind(target)}")
    params = _object(model, "params", where)
    return target, params, _object(params, "ddconfig", where)


def _object(values: Any, key: str, where: str) -> dict[str, Any]:
    found = values.get(key) if isinstance(values, dict) else None
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: the yaml's {key} must be an object, got {kind(found)}")
    return found
