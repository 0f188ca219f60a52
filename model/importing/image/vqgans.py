"""VQGANs: taming's VQModel and GumbelVQ, ruDALL-E's VAE, min-dalle's detokenizer, LlamaGen's VQ.

The shape of the network is read from its tensors. A yaml tells the picture's size, and must agree with the tensors in
the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from model.errors import CheckpointError
from model.families.image.config import VQGANConfig
from model.importing.files import Part
from model.importing.image.fill import count, fill, side, size
from model.importing.image.renumbered import renumbered
from model.importing.image.taming_yaml import check_yaml, resolution
from model.importing.state import Keys
from model.limits import build

USED = "quantize.used"  # the rows of a renumbered codebook
TRAINING = (
    "loss.",
    "model_ema.",  # latent diffusion's averages of the weights beside them
    "quantize.embedding.cluster_size",  # what EMAVQ counts for its codebook
    "quantize.embedding.embed_avg",
    "colorize",  # the colours in which a log shows segmentations
)
MAX_LEVELS = 9  # counted; the config's limit is below
MAX_BLOCKS = 66  # of a level, in the decoder; counted too
HAAR = 0.5**0.5  # the size of each number of the filters of Daubechies' first wavelet


class Layout(NamedTuple):
    """How a family names the tensors, and what it does that they do not tell. name: ours -> the file's."""

    name: Callable[[str], str]
    quantiser: str
    norm_eps: float = 1e-6
    signed: bool = True
    wavelet: bool = False
    encodes: bool = True


def read_taming(
    keys: Keys,
    yaml: Any = None,
    image_size: int | None = None,
    grid: int | None = None,
    codes: int | None = None,
    unknown: Callable[[], str | None] = lambda: None,
) -> Part:
    """taming's or ruDALL-E's VQGAN in `keys`, whose names begin with "encoder.", "decoder." and "quantize.".

    yaml: what taming's .yaml says, if there is one. image_size: pixels a side; grid: image tokens a side; without
    either the yaml's resolution, without that 256. codes: ids of the transformer that comes with it. unknown: asked for
    unknown_index of a renumbered codebook; the yaml's is taken where it says nothing.

    What is of training alone is left out, see TRAINING. `keys` is used up, and what is left over is refused. Raises
    CheckpointError naming the file and the key.
    """
    for training in TRAINING:
        keys.drop(training)
    gumbel = "quantize.proj.weight" in keys
    used = keys.take_buffer(USED) if USED in keys else None
    wavelet = "decoder.decoder.conv_in.weight" in keys
    if wavelet:
        _take_haar(keys)
    layout = Layout(lambda ours: taming_name(ours, gumbel, wavelet), "gumbel" if gumbel else "nearest", wavelet=wavelet)
    otherwise = 512 if wavelet else 256
    if yaml is not None:
        otherwise = resolution(yaml, keys.where) * (2 if wavelet else 1)
    part = _read(keys, layout, image_size, grid, otherwise)
    said = check_yaml(yaml, part.config, keys.where, used is not None) if yaml is not None else None
    if used is None:
        return part
    return renumbered(part, used, unknown() or said, codes, f"{keys.where}: {keys.name(USED)}")


def read_min_dalle(keys: Keys) -> Part:
    """min-dalle's detoker.pt in `keys`: a decoder without an encoder. 16 x 16 tokens. Raises as `read_taming` does."""
    layout = Layout(_min_dalle_name, "nearest", norm_eps=1e-5, signed=False, encodes=False)
    return _read(keys, layout, None, 16, 256)


def read_llamagen(keys: Keys, image_size: int | None = None, grid: int | None = None) -> Part:
    """LlamaGen's VQ (github.com/FoundationVision/LlamaGen, vq_model.py) in `keys`. Raises as `read_taming` does."""
    keys.drop("quantize.codebook_used")  # of training: the codes that were used last
    levels = count(keys, lambda i: f"decoder.conv_blocks.{i}.res.0.conv1.weight", MAX_LEVELS)
    return _read(keys, Layout(lambda ours: _llamagen_name(ours, levels), "cosine"), image_size, grid, 256)


def _read(keys: Keys, layout: Layout, image_size: int | None, grid: int | None, otherwise: int) -> Part:
    values = _shape(keys, layout)
    factor = 2 ** (len(values["widths"]) - 1 + layout.wavelet)
    values["image_size"] = side(factor, image_size, grid, otherwise)
    part = fill(build(VQGANConfig, values, keys.where, "the VQGAN"), keys, layout.name)
    keys.finish()
    return part


def _shape(keys: Keys, layout: Layout) -> dict[str, Any]:
    """The fields of a VQGANConfig but `image_size`, from the tensors' names and shapes."""
    name = layout.name
    levels = max(1, count(keys, lambda i: name(f"decoder.up.{i}.block.0.conv1.weight"), MAX_LEVELS))
    widths = tuple(size(keys, name(f"decoder.up.{i}.block.0.conv1.weight"), 0) for i in range(levels))
    blocks = count(keys, lambda i: name(f"decoder.up.0.block.{i}.conv1.weight"), MAX_BLOCKS) - 1
    channels = size(keys, name("decoder.conv_out.weight"), 0)
    return {
        "codes": size(keys, name("codebook.weight"), 0, axes=2),
        "code_dim": size(keys, name("codebook.weight"), 1, axes=2),
        "latent": size(keys, name("decoder.conv_in.weight"), 1),
        "stem": size(keys, name("encoder.conv_in.weight"), 0) if layout.encodes else widths[0],
        "widths": widths,
        "blocks": blocks,
        "attention": tuple(i for i in range(levels) if name(f"decoder.up.{i}.attn.0.norm.weight") in keys),
        "quantiser": layout.quantiser,
        "resample_conv": levels == 1 or name("decoder.up.1.upsample.conv.weight") in keys,
        "channels": channels // 4 if layout.wavelet else channels,
        "norm_eps": layout.norm_eps,
        "signed": layout.signed,
        "wavelet": layout.wavelet,
        "encodes": layout.encodes,
    }


def taming_name(ours: str, gumbel: bool, wavelet: bool = False) -> str:
    """A tensor of ours -> its name in taming's files. wavelet: in those of ruDALL-E's second VAE."""
    if ours == "codebook.weight":
        return "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
    if ours.startswith("code_logits."):
        return ours.replace("code_logits", "quantize.proj")
    if wavelet and ours.startswith(("decoder.", "post_quant_conv.")):
        return f"decoder.{ours}"
    return ours


def _min_dalle_name(ours: str) -> str:
    return "embedding.weight" if ours == "codebook.weight" else ours


def _llamagen_name(ours: str, levels: int) -> str:
    if ours == "codebook.weight":
        return "quantize.embedding.weight"
    theirs = (
        ours.replace(".mid.block_1.", ".mid.0.").replace(".mid.attn_1.", ".mid.1.").replace(".mid.block_2.", ".mid.2.")
    )
    theirs = re.sub(r"^encoder\.down\.(\d+)\.", r"encoder.conv_blocks.\1.", theirs)
    theirs = re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.conv_blocks.{levels - 1 - int(m[1])}.", theirs)
    return re.sub(r"(conv_blocks\.\d+)\.block\.", r"\1.res.", theirs)


def _take_haar(keys: Keys) -> None:
    """Leave out the filters of ruDALL-E's wavelet, if they are what `inverse_haar` does, and a convolution it skips."""
    for name, signs in (("g0", (1, 1)), ("g1", (1, -1))):
        for axis in ("col", "row"):
            key = f"decoder.idwt.{name}_{axis}"
            found = keys.take_buffer(key).flatten().tolist()
            if len(found) != 2 or any(abs(x - sign * HAAR) > 1e-3 for x, sign in zip(found, signs, strict=True)):
                raise CheckpointError(f"{keys.where}: {keys.name(key)} must be the filter of the Haar wavelet")
    keys.drop("post_quant_conv.")  # the decoder has one of its own
