"""What a model is, as frozen dataclasses built once; presets are stated as differences. Knows no tensors.

`CheckpointConfig` is what stands in a checkpoint's config.json: `from_dict(to_dict(c)) == c`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

from model.errors import CheckpointError

FORMAT_VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True)
class VAEConfig:
    """The image tokenizer: 256 x 256 RGB <-> 32 x 32 ids of a codebook of prod(levels) codes.

    Quantiser: finite scalar quantisation (FSQ, Mentzer et al. 2309.15505); no codebook to collapse.
    """

    image_size: int = 256  # pixels, a side
    factor: int = 8  # pixels to an image token, a side
    levels: tuple[int, ...] = (8, 8, 8, 16)  # FSQ levels a dimension; 8 * 8 * 8 * 16 = 8192 codes
    stem_channels: int = 48  # encoder, at 1/4 resolution before the 64 x 64 stage
    mid_channels: int = 64  # encoder and decoder, at 64 x 64
    encoder_channels: int = 128  # encoder, at 32 x 32
    encoder_blocks: int = 4  # residual blocks at 32 x 32
    decoder_channels: int = 192  # decoder, at 32 x 32
    decoder_blocks: int = 6  # residual blocks at 32 x 32
    decoder_mid_blocks: int = 3  # residual blocks at 64 x 64
    pixel_channels: int = 24  # decoder, at 256 x 256

    @property
    def grid(self) -> int:
        """Image tokens a side."""
        return self.image_size // self.factor

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return math.prod(self.levels)


@dataclass(frozen=True)
class TransformerConfig:
    """The decoder-only transformer over text tokens, then image tokens in raster order.

    The body runs once a group of `group` consecutive image tokens of a row; a local network draws the group's tokens
    one after another (MegaByte, 2305.07185). group = 1 is an ordinary decoder.
    """

    text_vocab: int = 8192
    text_tokens: int = 256  # BPE tokens a prompt may have; <bos> and <eot> come on top
    image_vocab: int = 8192
    grid: int = 32  # image tokens a side
    group: int = 4  # image tokens drawn to one step of the body
    dim: int = 512
    depth: int = 12
    heads: int = 8
    kv_heads: int = 2  # grouped-query attention (2305.13245)
    head_dim: int = 64
    mlp_ratio: float = 4.0
    code_dim: int = 128  # width of the image code table, shared by input and output
    code_levels: tuple[int, ...] = (8, 8, 8, 16)  # FSQ levels: codes that share a level share a part; () for none
    local_dim: int = 384  # width of the local network
    local_depth: int = 2  # residual blocks of the local network

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads: {self.heads} is no multiple of kv_heads {self.kv_heads}")
        if self.grid % self.group:
            raise ValueError(f"group: {self.group} does not divide the grid's row of {self.grid}")
        if self.code_levels and math.prod(self.code_levels) != self.image_vocab:
            raise ValueError(f"code_levels: {self.code_levels} make no {self.image_vocab} codes")
        if self.head_dim % 8:
            raise ValueError(f"head_dim: {self.head_dim} is no multiple of 8, as the rotary positions need")

    @property
    def image_tokens(self) -> int:
        """Image tokens a picture."""
        return self.grid * self.grid

    @property
    def steps(self) -> int:
        """Body steps a picture."""
        return self.image_tokens // self.group

    @property
    def max_text(self) -> int:
        """Text positions at most: <bos>, the prompt's tokens, <eot>."""
        return self.text_tokens + 2

    @property
    def capacity(self) -> int:
        """Positions of one KV-cache slot: the longest text, and every group but the last (nothing follows it)."""
        return self.max_text + self.steps - 1


@dataclass(frozen=True)
class ClipConfig:
    """The reranker: two towers that say how well a picture, given as image tokens, fits a text (2103.00020)."""

    text_vocab: int = 8192
    text_positions: int = 64  # text ids that are read, <bos> counted; the rest of a longer prompt is not looked at
    grid: int = 32  # image tokens a side
    levels: tuple[int, ...] = (8, 8, 8, 16)  # FSQ levels of the VAE whose tokens it reads
    embed_dim: int = 128  # width of the vectors that are compared
    text_dim: int = 128
    text_depth: int = 2
    stem_dim: int = 32  # width of an image token; four times that for a patch of 2 x 2
    image_dim: int = 192  # width of a patch of 4 x 4 tokens
    image_depth: int = 3
    head_dim: int = 32

    def __post_init__(self) -> None:
        if self.grid % 4:
            raise ValueError(f"grid: {self.grid} is no multiple of 4, the side of a patch")
        for name, dim in (("text_dim", self.text_dim), ("image_dim", self.image_dim)):
            if dim % self.head_dim:
                raise ValueError(f"{name}: {dim} is no multiple of head_dim {self.head_dim}")


@dataclass(frozen=True)
class ReviserConfig:
    """The reviser: a text transformer that says a prompt in the words of the captions that the painter was taught.

    A prefix language model (1910.10683, section 3.2.1): the prompt is seen whole, what is written one after another.
    """

    text_vocab: int = 8192
    prompt_positions: int = 258  # ids of a prompt, <bos> and <eot> counted
    written_positions: int = 48  # ids of what is written, <bos> and <eot> counted
    dim: int = 256
    depth: int = 5
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 64
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads: {self.heads} is no multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim: {self.head_dim} is not even, as the rotary positions need")


TRANSFORMER_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "dim": 64,
        "depth": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "code_dim": 16,
        "local_dim": 32,
        "local_depth": 1,
    },
    "small": {"dim": 320, "depth": 8, "heads": 5, "kv_heads": 1, "local_dim": 256},
    "medium": {"dim": 384, "depth": 10, "heads": 6, "kv_heads": 2, "local_dim": 256, "local_depth": 3},
    "default": {},
    "400M": {
        "dim": 1536,
        "depth": 18,
        "heads": 24,
        "kv_heads": 6,
        "code_dim": 256,
        "local_dim": 1024,
        "local_depth": 3,
    },
    "1.3B": {
        "dim": 2304,
        "depth": 26,
        "heads": 36,
        "kv_heads": 6,
        "code_dim": 256,
        "local_dim": 1536,
        "local_depth": 4,
    },
}

VAE_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "stem_channels": 8, "mid_channels": 8, "encoder_channels": 16, "encoder_blocks": 1,
        "decoder_channels": 16, "decoder_blocks": 1, "decoder_mid_blocks": 1, "pixel_channels": 8,
    },
    "small": {
        "encoder_blocks": 3, "decoder_channels": 160, "decoder_blocks": 4, "decoder_mid_blocks": 2,
    },
    "default": {
        "stem_channels": 64, "mid_channels": 96, "encoder_channels": 192, "encoder_blocks": 6,
        "decoder_channels": 256, "decoder_blocks": 8, "decoder_mid_blocks": 4, "pixel_channels": 32,
    },
}  # fmt: skip


CLIP_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 32, "text_dim": 32, "text_depth": 1, "stem_dim": 8, "image_dim": 32, "image_depth": 1},
    "small": {"stem_dim": 16, "image_dim": 128},
    "default": {},
}


REVISER_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 64, "depth": 2, "heads": 2, "kv_heads": 2, "head_dim": 32},
    "default": {},
}


def reviser_config(preset: str, **changes: Any) -> ReviserConfig:
    """The preset's config with `changes`. Raises ValueError for a preset that is not there."""
    if preset not in REVISER_PRESETS:
        raise ValueError(f"preset: {preset!r} is none of {', '.join(REVISER_PRESETS)}")
    return ReviserConfig(**{**REVISER_PRESETS[preset], **changes})


def transformer_config(preset: str, **changes: Any) -> TransformerConfig:
    """The preset's config with `changes`. Raises ValueError for a preset that is not there."""
    if preset not in TRANSFORMER_PRESETS:
        raise ValueError(f"preset: {preset!r} is none of {', '.join(TRANSFORMER_PRESETS)}")
    return TransformerConfig(**{**TRANSFORMER_PRESETS[preset], **changes})


def vae_config(preset: str, **changes: Any) -> VAEConfig:
    """The preset's config with `changes`. Raises ValueError for a preset that is not there."""
    if preset not in VAE_PRESETS:
        raise ValueError(f"preset: {preset!r} is none of {', '.join(VAE_PRESETS)}")
    return VAEConfig(**{**VAE_PRESETS[preset], **changes})


def clip_config(preset: str, **changes: Any) -> ClipConfig:
    """The preset's config with `changes`. Raises ValueError for a preset that is not there."""
    if preset not in CLIP_PRESETS:
        raise ValueError(f"preset: {preset!r} is none of {', '.join(CLIP_PRESETS)}")
    return ClipConfig(**{**CLIP_PRESETS[preset], **changes})


@dataclass(frozen=True)
class SamplingDefaults:
    """Sampling parameters used where a request names none; chosen by measurement, stated in the model card."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 3.0


@dataclass(frozen=True)
class CheckpointConfig:
    """config.json of a native checkpoint."""

    name: str
    licence: str
    vae: VAEConfig
    transformer: TransformerConfig
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    provenance: dict[str, Any] = field(default_factory=dict)  # what trained it: steps, data, figures
    created: int = 0  # Unix time
    clip: ClipConfig | None = None  # the reranker, where the checkpoint has one
    reviser: ReviserConfig | None = None  # what says prompts in the corpus's words, where the checkpoint has one
    completes: bool = True  # the transformer was trained on captions too: it can continue a prompt
    format_version: int = FORMAT_VERSION


def to_dict(config: Any) -> dict[str, Any]:
    """A JSON-ready dict of any config above."""
    return dataclasses.asdict(config)


def _build(cls: type[T], values: Any, where: str) -> T:
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: an object is expected, and {type(values).__name__} was found")
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if extra := sorted(set(values) - known):
        raise CheckpointError(f"{where}: unknown key {extra[0]!r}; known are {', '.join(sorted(known))}")
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def from_dict(values: dict[str, Any], where: str = "config.json") -> CheckpointConfig:
    """The config that `to_dict` wrote. Raises CheckpointError naming the key that is unknown, missing or wrong."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: an object is expected, and {type(values).__name__} was found")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{where}: format_version is {version!r}, and this program reads {FORMAT_VERSION}")
    parts: dict[str, Any] = dict(values)
    sections = {
        "vae": VAEConfig, "transformer": TransformerConfig, "sampling": SamplingDefaults, "clip": ClipConfig,
        "reviser": ReviserConfig,
    }  # fmt: skip
    for key, cls in sections.items():
        if key in parts and not (key in ("clip", "reviser") and parts[key] is None):
            parts[key] = _build(cls, parts[key], f"{where}: {key}")
    return _build(CheckpointConfig, parts, where)
