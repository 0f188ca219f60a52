"""What an image tokenizer of another family is, as frozen dataclasses. Knows no tensors.

A config is the section "vae" of a native checkpoint's config.json, whose key "family" says which class reads it. All of
them have `image_size`, `channels`, `grid`, `codes` and `encodes`, which the engine and the HTTP side ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval, Len

from model.limits import shown
from model.sizes import MAX_CODES, Blocks, Codes, Pixels, Width

BlocksOfLevel = Annotated[int, Interval(ge=1, le=64)]
Channels = Annotated[int, Interval(ge=1, le=4)]
Number = Annotated[float, Interval(ge=-1000, le=1000)]
PerChannel = Annotated[tuple[Number, ...], Len(1, 4)]
LevelWidths = Annotated[tuple[Width, ...], Len(1, 8)]
LevelIndices = Annotated[tuple[Annotated[int, Interval(ge=0, le=7)], ...], Len(0, 8)]
Count = Annotated[int, Interval(ge=0, le=MAX_CODES)]
QUANTISERS = ("nearest", "cosine", "gumbel")
NORM_GROUPS = 32  # of every group normalisation of a VQGAN


@dataclass(frozen=True)
class DiscreteVAEConfig:
    """DALLE-pytorch's DiscreteVAE (github.com/lucidrains/DALLE-pytorch): strided convolutions and residual blocks."""

    family: ClassVar[str] = "discrete-vae"

    image_size: Pixels = 256  # pixels, a side
    codes: Codes = 512  # size of the codebook
    code_dim: Width = 512  # width of a code
    layers: Annotated[int, Interval(ge=1, le=8)] = 3  # halvings of the picture's side
    blocks: Blocks = 0  # residual blocks at the lowest resolution
    width: Width = 64  # channels of every layer
    channels: Channels = 3  # of a picture
    mean: PerChannel = (0.5, 0.5, 0.5)  # subtracted from a picture in [0, 1] before it is encoded, by channel
    std: PerChannel = (0.5, 0.5, 0.5)  # then divided by

    def __post_init__(self) -> None:
        _check_factor(self.image_size, 2**self.layers)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} must be a list of {self.channels} numbers, one a channel, got {len(values)}")
        if 0 in self.std:
            raise ValueError(f"std must have no 0, got {list(self.std)}")

    @property
    def grid(self) -> int:
        """Image tokens a side."""
        return int(self.image_size // 2**self.layers)

    @property
    def encodes(self) -> bool:
        return True


@dataclass(frozen=True)
class OpenAIDVAEConfig:
    """OpenAI's dVAE of DALL-E (2102.12092, github.com/openai/DALL-E): residual blocks in four groups."""

    family: ClassVar[str] = "openai-dvae"

    image_size: Pixels = 256  # pixels, a side
    codes: Codes = 8192  # size of the codebook
    width: Annotated[int, Interval(ge=4, le=2048)] = (
        256  # channels at the picture's own size; 8 times that at the lowest
    )
    code_dim: Width = 128  # width of a code in the decoder
    blocks: BlocksOfLevel = 2  # residual blocks a group
    channels: Channels = 3  # of a picture

    def __post_init__(self) -> None:
        _check_factor(self.image_size, 8)
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4, got {self.width}")

    @property
    def grid(self) -> int:
        """Image tokens a side."""
        return self.image_size // 8

    @property
    def encodes(self) -> bool:
        return True


@dataclass(frozen=True)
class VQGANConfig:
    """The VQGAN of taming-transformers (2012.09841), with what ruDALL-E, min-dalle and LlamaGen changed in it.

    A level is a resolution: level 0 is the picture's own, each further one has half its side.
    """

    family: ClassVar[str] = "vqgan"

    image_size: Pixels = 256  # pixels, a side
    codes: Codes = 1024  # ids of image tokens
    known: Count = 0  # ids that have a code, the first ones; the others are painted as id 0. 0: all have one
    nameless: Count = 0  # codes behind these that have no id, and that the encoder finds too
    unknown: Count = 0  # the id of what is nearest to one of those
    code_dim: Width = 256  # width of a code
    latent: Width = 256  # channels between the codebook and the convolutions
    stem: Width = 128  # channels of the encoder's first convolution
    widths: LevelWidths = (128, 128, 256, 256, 512)  # channels of each level
    blocks: BlocksOfLevel = 2  # residual blocks a level of the encoder; the decoder has one more
    attention: LevelIndices = (4,)  # levels with attention after each residual block
    quantiser: Annotated[str, Len(1, 16)] = "nearest"  # nearest code, cosine: nearest direction, gumbel: largest logit
    resample_conv: bool = True  # convolutions where the side is halved or doubled; else a mean, and a copy
    channels: Channels = 3  # of a picture
    norm_eps: Annotated[float, Interval(gt=0, le=1)] = 1e-6  # added to the variance in a group normalisation
    signed: bool = True  # the network's pixels are in [-1, 1]; else in [0, 1]
    wavelet: bool = False  # the decoder gives Haar coefficients, which one inverse step turns into twice the side
    encodes: bool = True  # whether there is an encoder

    def __post_init__(self) -> None:
        _check_factor(self.image_size, self.factor)
        if self.quantiser not in QUANTISERS:
            raise ValueError(f"quantiser must be one of {', '.join(QUANTISERS)}, got {shown(self.quantiser)}")
        for name, value, most in (("known", self.known, self.codes), ("unknown", self.unknown, self.codes - 1)):
            if value > most:
                raise ValueError(f"{name} must be at most {most}, as codes says, got {value}")
        if self.nameless and self.quantiser == "gumbel":
            raise ValueError(f"nameless must be 0 where quantiser is gumbel, got {self.nameless}")
        for name, widths in (("stem", (self.stem,)), ("widths", self.widths)):
            if any(width % NORM_GROUPS for width in widths):
                raise ValueError(f"{name} must be multiples of {NORM_GROUPS}, got {', '.join(map(str, widths))}")
        if list(self.attention) != sorted({level for level in self.attention if level < len(self.widths)}):
            allowed = f"levels from 0 to {len(self.widths) - 1} in their order"
            raise ValueError(f"attention must be {allowed}, got {list(self.attention)}")
        if self.quantiser == "gumbel" and self.code_dim != self.latent:
            raise ValueError(f"code_dim must be latent, {self.latent}, where quantiser is gumbel, got {self.code_dim}")

    @property
    def with_code(self) -> int:
        """Ids that have a code of their own, the first ones."""
        return self.known or self.codes

    @property
    def factor(self) -> int:
        """Pixels to an image token, a side."""
        return int(2 ** (len(self.widths) - 1 + self.wavelet))

    @property
    def grid(self) -> int:
        """Image tokens a side."""
        return self.image_size // self.factor


ImageConfig = DiscreteVAEConfig | OpenAIDVAEConfig | VQGANConfig


def _check_factor(image_size: int, factor: int) -> None:
    if image_size % factor:
        raise ValueError(f"image_size must be a multiple of {factor}, the pixels to a token, got {image_size}")
