"""Stage 1: train the VQ-VAE on pictures alone.

It learns from crops of 128 x 128, because the network is convolutions only: four times as many different crops as whole
pictures in the same time, chosen where there is something to see, mirrored and with channels exchanged now and then.
Loss: L1, mean square, and L1 of the image's gradients, which keeps lines and letters sharp; and `unevenness`, which
spreads the codes over the whole codebook. Muon for the kernels of the blocks: after 300 steps of the small preset it
stood at 28.9 dB where AdamW stood at 24.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from model.config import VAEConfig, vae_config
from model.sheets import contact_sheet
from model.training.data import Pixels
from model.training.evenness import busy_patches, unevenness
from model.training.filters import RULES, Rules
from model.training.loop import (
    LoopOptions,
    Losses,
    Place,
    Run,
    find_place,
    first_goes_first,
    read_average,
    write_config,
)
from model.training.loop import train as run_loop
from model.training.optimizers import muon_and_adamw
from model.training.pictures import Pictures, PreparedPictures, StreamedPictures
from model.training.prepare import prepare, to_floats, to_tensor
from model.vae import VAE

CHANNEL_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass(frozen=True)
class VAEOptions:
    """`dalle-server train vae`."""

    data: tuple[Path, ...]  # folders or tar shards
    loop: LoopOptions
    preset: str = "default"
    changes: dict[str, Any] = field(default_factory=dict)  # fields of VAEConfig
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    even: float = 0.2  # weight of the loss that spreads the codes over the codebook
    crop: int = 128  # pixels; 256 for whole pictures
    exchange: float = 0.25  # chance that a crop's channels are exchanged
    cache: Path = Path("data/prepared")
    decoder_only: bool = False  # leave the codes as they are, so that tokens and transformers made with them stay valid
    rules: Rules = RULES  # what is fit to train on
    stream: bool = False  # read tars one after another, instead of preparing all pictures on disk


class Crops:
    """batch_at(step, first, end): crops first..end of the step's global batch, (n, crop, crop, 3) uint8."""

    def __init__(self, pictures: Pictures, options: VAEOptions) -> None:
        self.pictures, self.options = pictures, options

    def __call__(self, step: int, first: int, end: int) -> Tensor:
        options = self.options
        randoms = [np.random.default_rng((options.loop.seed, step, place)) for place in range(first, end)]
        crops = []
        for image, random in zip(self.pictures.draw(step, first, randoms), randoms, strict=True):
            crop = self._interesting(image, random)
            if random.random() < options.exchange:
                crop = crop[:, :, CHANNEL_ORDERS[random.integers(6)]]
            crops.append(crop[:, ::-1] if random.random() < 0.5 else crop)
        return torch.from_numpy(np.stack(crops))

    def _interesting(self, image: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
        """The busiest of three random windows."""
        size, space = self.options.crop, image.shape[0] - self.options.crop
        windows = [image[y : y + size, x : x + size] for y, x in random.integers(0, space + 1, (3 if space else 1, 2))]
        return max(windows, key=lambda window: float(window[::8, ::8].std()))


def losses(model: nn.Module, images: Tensor, even: float = 0.0, decoder_only: bool = False) -> Losses:
    """The stage's loss on images (b, 3, h, w) in [0, 1]. even: weight of the batch's `unevenness`.

    decoder_only: the mean over pictures of the logarithm of each one's squared error stands for the squared error, so
    that what is learnt is the PSNR, to which flat pictures that are nearly right count as much as busy ones (as HINet,
    2105.06086, learns image restoration).
    """
    painted, codes = model(images)
    error = painted.float() - images
    each = error.square().mean(dim=(1, 2, 3))
    l1, mse = error.abs().mean(), each.mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    loss = 0.3 * (l1 + edges) + 0.02 * (each * 1e6).log1p().mean() if decoder_only else l1 + edges + 10 * mse
    found = {"loss": loss, "l1": l1, "mse": mse}
    if even:
        busy = busy_patches(images, images.shape[-1] // codes.shape[-2])
        found["uneven"] = unevenness(codes[busy].float(), model.config.levels)  # type: ignore[union-attr, arg-type]
        found["loss"] = found["loss"] + even * found["uneven"]
    return found


def psnr(painted: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture; both (b, 3, h, w) in [0, 1]. Returns (b,)."""
    return -10 * torch.log10((painted - images).square().mean(dim=(1, 2, 3)).clamp_min(1e-10))


@torch.inference_mode()
def measure(vae: VAE, pictures: Sequence[Pixels], device: torch.device) -> dict[str, float]:
    """PSNR in dB (mean over pictures) and the share of the codebook that these pictures use."""
    values, used = [], torch.zeros(vae.config.codes, dtype=torch.bool)
    for first in range(0, len(pictures), 8):
        images = to_tensor(np.stack(pictures[first : first + 8]), device)
        ids = vae.encode(images)
        used[ids.flatten().cpu()] = True
        values.append(psnr(vae.decode(ids), images))
    return {"psnr": float(torch.cat(values).mean()), "usage": float(used.float().mean())} if values else {}


@torch.inference_mode()
def reconstructions(vae: VAE, images: Tensor) -> list[Image.Image]:
    """images (b, 3, 256, 256) in [0, 1] -> what the VAE makes of them."""
    painted = vae.decode(vae.encode(images))
    pixels = (painted * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def reconstruction_sheet(vae: VAE, originals: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """Originals (256 x 256 RGB) above their reconstructions, `columns` to a row."""
    device = next(vae.parameters()).device
    pictures: list[Image.Image] = []
    columns = min(columns, len(originals))
    for first in range(0, len(originals), columns):
        row = list(originals[first : first + columns])
        painted = reconstructions(vae, to_tensor(np.stack([np.asarray(image) for image in row]), device))
        blank = [Image.new("RGB", row[0].size, "white")] * (columns - len(row))
        pictures += [*row, *blank, *painted, *blank]
    return contact_sheet(pictures, columns=columns, cell=192)


def channels_last(vae: VAE) -> VAE:
    """The same VAE with its kernels stored channels last, as its pictures are."""
    for parameter in vae.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return vae


def build(config: VAEConfig, seed: int) -> VAE:
    """A VAE with seeded random weights."""
    torch.manual_seed(seed)
    return channels_last(VAE(config))


def parameter_groups(vae: VAE) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(kernels between hidden channels, for Muon; all the rest that is trained, for AdamW)."""
    hidden = {id(vae.encoder.mid.weight), id(vae.encoder.down.weight), id(vae.decoder.up.weight)}
    for blocks in (vae.encoder.blocks, vae.decoder.blocks, vae.decoder.mid_blocks):
        hidden |= {id(parameter) for parameter in blocks.parameters() if parameter.ndim == 4}
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    return [p for p in trained if id(p) in hidden], [p for p in trained if id(p) not in hidden]


def find_pictures(options: VAEOptions, place: Place) -> Pictures:
    """What these options name. Raises DataError."""
    if options.stream:
        return StreamedPictures(
            options.data, options.cache, options.rules, options.loop.batch, options.loop.seed, place
        )
    with first_goes_first(place):
        return PreparedPictures(prepare(options.data, options.cache, options.rules))


def train(options: VAEOptions, start: VAE | None = None) -> VAE:
    """Train, or go on training, in `options.loop.out`; returns the averaged VAE.

    start: weights to begin from, for fine-tuning; the preset then says nothing. Raises DataError.
    """
    place = find_place(options.loop)
    pictures = find_pictures(options, place)
    held_out = pictures.held_out()
    vae = start or build(vae_config(options.preset, **options.changes), options.loop.seed)
    vae.encoder.requires_grad_(not options.decoder_only)
    hidden, rest = parameter_groups(vae)

    def sample(model: nn.Module, path: Path) -> None:
        assert isinstance(model, VAE)
        if held_out:
            reconstruction_sheet(model, [Image.fromarray(picture) for picture in held_out[:16]]).save(path)

    run = Run(
        model=vae,
        optimizers=muon_and_adamw(hidden, rest, options.muon_lr, options.adam_lr, 1e-4, place.autocast),
        options=options.loop,
        place=place,
        batch_at=Crops(pictures, options),
        losses=lambda model, crops: losses(
            model, to_floats(crops), 0.0 if options.decoder_only else options.even, options.decoder_only
        ),
        evaluate=lambda model: measure(model, held_out, place.device) if isinstance(model, VAE) else {},
        sample=sample,
        position=pictures.position,
    )
    if place.first:
        write_config(options.loop.out, vae.config)
    run_loop(run, "VQ-VAE")
    average = run.average
    assert isinstance(average, VAE)
    return average


def load(folder: Path) -> VAE:
    """The averaged VAE of the run in `folder`. Raises DataError."""
    config, weights, _ = read_average(folder)
    vae = VAE(VAEConfig(**config))
    vae.load_state_dict(weights)
    return channels_last(vae).eval()
