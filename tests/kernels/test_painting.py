"""The native decoder of our VAE against PyTorch's: the same pictures, and the same bits alone and in company."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.checkpoints import load_vae
from model.config import VAEConfig, from_preset
from model.families.image.config import DiscreteVAEConfig
from model.families.image.discrete_vae import DiscreteVAE
from model.inference.image_codec import ImageCodec
from model.kernels import NativePainter, painter_of
from model.kernels import library as library_module
from model.vae import VAE
from tests.conftest import randomise
from tests.kernels.test_step import threads

__all__ = ["threads"]  # a fixture

WEIGHTS = Path("weights/default")
SHAPES: tuple[dict[str, Any], ...] = (
    {"decoder_channels": 32, "mid_channels": 32},
    {"decoder_channels": 48, "mid_channels": 80, "pixel_channels": 5, "decoder_blocks": 2},
    {"decoder_channels": 64, "mid_channels": 16, "levels": (4, 4), "decoder_blocks": 0, "decoder_mid_blocks": 3},
    {"decoder_channels": 16, "mid_channels": 48, "pixel_channels": 1, "levels": (5,) * 6, "decoder_mid_blocks": 0},
)
BANDS = ((1, 1), (2, 9), (7, 4), (13, 6))  # rows and columns of tokens


def made(narrow: bool, **changes: Any) -> tuple[VAE, NativePainter]:
    vae = VAE(from_preset(VAEConfig, "tiny", **changes)).eval()
    randomise(vae, seed=1)
    return vae, painter(vae, narrow)


def painter(vae: VAE, narrow: bool) -> NativePainter:
    if library_module.load(narrow) is None:
        pytest.skip("the native kernels are not built here, or not for this processor")
    found = painter_of(vae, narrow)
    assert found is not None
    return found


def ids_of(vae: VAE, count: int, rows: int, columns: int) -> Tensor:
    source = torch.Generator().manual_seed(rows)
    return torch.randint(0, vae.config.codes, (count, rows, columns), generator=source)


def psnr(found: Tensor, expected: Tensor) -> float:
    return float(-10 * (found - expected).square().mean().log10())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("narrow", "least"), [(False, 110.0), (True, 45.0)])
def test_pictures_are_those_of_torch(shape: dict[str, Any], narrow: bool, least: float) -> None:
    vae, native = made(narrow, **shape)
    for rows, columns in BANDS:
        ids = ids_of(vae, 2, rows, columns)
        expected = vae.paint(ids)
        assert expected.std() > 0.05
        assert psnr(native.paint(ids), expected) > least


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("narrow", [False, True])
def test_a_row_has_the_same_bits_in_company_and_in_a_band(shape: dict[str, Any], narrow: bool) -> None:
    vae, native = made(narrow, **shape)
    ids = ids_of(vae, 3, 4 * vae.reach, 6)
    whole = native.paint(ids)
    torch.set_num_threads(1)
    assert torch.equal(native.paint(ids[2:])[0], whole[2])
    first, last = vae.reach - 1, 3 * vae.reach + 1
    band = native.paint(ids[:1, first:last])[0]
    sure = slice(8 * vae.reach, -8 * vae.reach)  # pixels that no token beside the band can change
    assert torch.equal(band[:, sure], whole[0, :, 8 * first : 8 * last][:, sure])
    assert not torch.equal(band, whole[0, :, 8 * first : 8 * last])


def test_libraries_for_other_registers_give_the_same_bits() -> None:
    vae = VAE(from_preset(VAEConfig, "tiny", **SHAPES[1])).eval()
    randomise(vae, seed=1)
    ids = ids_of(vae, 1, 5, 7)
    libraries = [library_module.declared(ctypes.CDLL(str(path))) for path in library_module.built()]
    found = [NativePainter(library, vae, narrow=False).paint(ids) for library in libraries]
    assert all(torch.equal(one, found[0]) for one in found)


def drawings() -> Tensor:
    """(n, 3, 256, 256) in [0, 1]: of the checkpoint's gallery."""
    with Image.open(WEIGHTS / "gallery.webp") as file:
        sheet = file.convert("RGB")
    side = sheet.width // 4
    squares = [sheet.crop((x, y, x + side, y + side)).resize((256, 256)) for x in (0, 2 * side) for y in (0, side)]
    return torch.from_numpy(np.stack([np.asarray(one) for one in squares])).permute(0, 3, 1, 2) / 255


def test_in_bfloat16_drawings_stay_what_they_are() -> None:
    vae = load_vae(WEIGHTS)
    assert isinstance(vae, VAE)
    native, pictures = painter(vae, narrow=True), drawings()
    ids = vae.encode(pictures)
    exact, found = vae.decode(ids), native.decode(ids)
    assert psnr(found, exact) > 60
    assert abs(psnr(found, pictures) - psnr(exact, pictures)) < 0.01


def test_the_order_of_weights_in_memory_does_not_matter() -> None:
    vae, native = made(narrow=False, **SHAPES[0])
    ids = ids_of(vae, 1, 2, 3)
    wanted = native.paint(ids)
    for parameter in vae.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    assert torch.equal(painter(vae, narrow=False).paint(ids), wanted)


def test_what_is_not_in_the_codebook_is_refused() -> None:
    vae, native = made(False, **SHAPES[0])
    with pytest.raises(ValueError, match="ids must be from 0 to"):
        native.decode(torch.full((1, vae.config.grid, vae.config.grid), vae.config.codes))


def test_other_networks_and_sizes_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert painter_of(DiscreteVAE(DiscreteVAEConfig(image_size=64, codes=64, layers=2, width=16))) is None
    assert painter_of(VAE(from_preset(VAEConfig, "tiny", decoder_channels=24))) is None
    vae = VAE(from_preset(VAEConfig, "tiny")).eval()
    monkeypatch.setattr("model.kernels.painting.load", lambda narrow=False: None)  # noqa: ARG005
    codec = ImageCodec(vae, torch.device("cpu"))
    ids = ids_of(vae, 1, vae.config.grid, vae.config.grid)
    pixels = (vae.decode(ids)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    assert codec.decode(ids.flatten(1)) == [pixels.numpy().tobytes()]
