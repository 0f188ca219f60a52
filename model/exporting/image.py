"""Image tokenizers as DALLE-pytorch 1.6.6 has them: its DiscreteVAE, taming's VQGAN, OpenAI's dVAE.

What the package fixes in its classes (dalle_pytorch/vae.py) is checked here: a VQGAN and a dVAE read pictures of 256
pixels, and a VQGAN's side of an image token is told by its lowest resolution with attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from model.checkpoints.networks import AnyVAE
from model.errors import CheckpointError
from model.families.image.config import DiscreteVAEConfig, OpenAIDVAEConfig, VQGANConfig
from model.importing.image import dalle_pytorch_vae, openai_pickles, vqgans

IMAGE_SIZE = 256  # pixels a side, of VQGanVAE and OpenAIDiscreteVAE
OPENAI_CODES = 8192


@dataclass(frozen=True)
class VAEFile:
    """An image tokenizer for a .pt.

    class_name: of the package's class. params: its arguments; None where it takes files instead. weights: the tensors
    by the class's names. yaml: of a VQGAN, what taming's .yaml says.
    """

    class_name: str
    params: dict[str, Any] | None
    weights: dict[str, Tensor] = field(repr=False)
    yaml: dict[str, Any] | None = None


def vae_file(vae: AnyVAE, where: str) -> VAEFile:
    """where: names the model. Raises CheckpointError where the package has no class that computes the same."""
    config, state = vae.config, vae.state_dict()
    match config:
        case DiscreteVAEConfig():
            if not math.log2(config.image_size).is_integer():
                told = f"sides that are a power of two, got {config.image_size} pixels"
                raise CheckpointError(f"{where}: DALLE-pytorch's DiscreteVAE must have pictures with {told}")
            weights = {dalle_pytorch_vae.name_of(ours, config): tensor for ours, tensor in state.items()}
            return VAEFile("DiscreteVAE", _arguments(config), weights)
        case OpenAIDVAEConfig():
            _check_openai(config, where)
            renamed = {openai_pickles.name_of(ours): tensor for ours, tensor in state.items()}
            halves = {"encoder": "enc", "decoder": "dec"}
            parts = ((key.partition("."), tensor) for key, tensor in renamed.items())
            return VAEFile(
                "OpenAIDiscreteVAE", None, {f"{halves[half]}.{rest}": tensor for (half, _, rest), tensor in parts}
            )
        case VQGANConfig():
            _check_vqgan(config, where)
            gumbel = config.quantiser == "gumbel"
            weights = {f"model.{vqgans.taming_name(ours, gumbel)}": tensor for ours, tensor in state.items()}
            return VAEFile("VQGanVAE", None, weights, _yaml(config))
    told = "DALLE-pytorch has no class for the image tokenizer, which is this project's own; train with an imported one"
    raise CheckpointError(f"{where}: {told}")


def _arguments(config: DiscreteVAEConfig) -> dict[str, Any]:
    given = {theirs: getattr(config, ours) for theirs, (ours, _) in dalle_pytorch_vae.FIELDS.items()}
    return {**given, "normalization": (config.mean, config.std)}


def _check_openai(config: OpenAIDVAEConfig, where: str) -> None:
    found, asked = (config.image_size, config.codes), (IMAGE_SIZE, OPENAI_CODES)
    if found != asked:
        told = f"must have pictures of {asked[0]} pixels and {asked[1]} codes, got {found[0]} and {found[1]}"
        raise CheckpointError(f"{where}: OpenAI's dVAE in DALLE-pytorch {told}")


def _check_vqgan(config: VQGANConfig, where: str) -> None:
    last = len(config.widths) - 1
    limits = (
        (config.encodes, "an encoder", "none"),
        (not config.known and not config.nameless, "a code for each token and a token for each code", "others"),
        (config.quantiser in ("nearest", "gumbel"), "the nearest code or Gumbel's", f"{config.quantiser} codes"),
        (not config.wavelet, "no wavelet", "one"),
        (config.signed, "pixels from -1 to 1", "pixels from 0 to 1"),
        (config.resample_conv, "convolutions where the side changes", "none"),
        (config.norm_eps == VQGANConfig.norm_eps, f"norms with {VQGANConfig.norm_eps:g}", f"{config.norm_eps:g}"),
        (config.channels == 3, "3 channels", f"{config.channels}"),
        (config.image_size == IMAGE_SIZE, f"pictures of {IMAGE_SIZE} pixels", f"{config.image_size}"),
        (not any(width % config.stem for width in config.widths), f"multiples of its first width, {config.stem}",
         f"widths of {', '.join(map(str, config.widths))}"),
        (last in config.attention, "attention at its lowest resolution, by which the package tells the grid",
         "none there"),
    )  # fmt: skip
    for fits, asked, found in limits:
        if not fits:
            raise CheckpointError(f"{where}: the VQGAN in DALLE-pytorch must have {asked}, got {found}")


def _yaml(config: VQGANConfig) -> dict[str, Any]:
    """taming's .yaml. The loss is left out, because it is for training, and would fetch its own weights."""
    ddconfig = {
        "double_z": False,
        "z_channels": config.latent,
        "resolution": config.image_size,
        "in_channels": config.channels,
        "out_ch": config.channels,
        "ch": config.stem,
        "ch_mult": [width // config.stem for width in config.widths],
        "num_res_blocks": config.blocks,
        "attn_resolutions": [config.image_size >> level for level in reversed(config.attention)],  # the lowest first
        "dropout": 0.0,
    }
    params: dict[str, Any] = {
        "embed_dim": config.code_dim,
        "n_embed": config.codes,
        "ddconfig": ddconfig,
        "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
    }
    gumbel = config.quantiser == "gumbel"
    if gumbel:  # asked for by the class, and used by training alone; the values are of taming's gumbel f8
        schedule = {"warm_up_steps": 0, "max_decay_steps": 1000001, "lr_start": 0.9, "lr_max": 0.9, "lr_min": 1e-6}
        target = "taming.lr_scheduler.LambdaWarmUpCosineScheduler"
        params |= {"kl_weight": 1e-8, "temperature_scheduler_config": {"target": target, "params": schedule}}
    name = "GumbelVQ" if gumbel else "VQModel"
    return {"model": {"base_learning_rate": 4.5e-6, "target": f"taming.models.vqgan.{name}", "params": params}}
