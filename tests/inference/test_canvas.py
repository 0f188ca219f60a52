"""Unfinished pictures painted by rows: equal to those painted whole, for every decoder that can be cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.checkpoints import Checkpoint, load_vae
from model.checkpoints.networks import AnyVAE, network
from model.config import VAEConfig, from_preset
from model.families.image.config import DiscreteVAEConfig, OpenAIDVAEConfig, VQGANConfig
from model.inference.canvas import VISIBLE, Canvas, measure_halo
from model.inference.image_codec import ImageCodec
from tests.conftest import randomise

SHORT: dict[str, Any] = {
    "ours": from_preset(VAEConfig, "tiny", image_size=128, levels=(8, 8, 8), decoder_blocks=1, decoder_mid_blocks=1),
    "discrete": DiscreteVAEConfig(image_size=64, codes=64, code_dim=8, layers=2, blocks=1, width=8),
    "openai": OpenAIDVAEConfig(image_size=128, codes=64, width=8, code_dim=8, blocks=1),
}
WHOLE = VQGANConfig(image_size=64, codes=64, code_dim=8, latent=8, stem=32, widths=(32, 32), blocks=1, attention=(1,))


def codec_of(config: Any) -> ImageCodec:
    vae: AnyVAE = network(config).eval()  # type: ignore[assignment]
    randomise(vae, seed=5)
    return ImageCodec(vae, torch.device("cpu"))


def tokens_of(codec: ImageCodec) -> torch.Tensor:
    source = torch.Generator().manual_seed(6)
    return torch.randint(0, codec.vae.config.codes, (codec.grid**2,), generator=source)


def rows_known(codec: ImageCodec, rows: int) -> torch.Tensor:
    return torch.arange(codec.grid**2) < rows * codec.grid


def whole(codec: ImageCodec, tokens: torch.Tensor) -> NDArray[np.int16]:
    picture = np.frombuffer(codec.decode(tokens[None])[0], np.uint8)
    return picture.reshape(codec.size, codec.size, 3).astype(np.int16)


def look(codec: ImageCodec, rgb: bytes) -> NDArray[np.int16]:
    return np.frombuffer(rgb, np.uint8).reshape(codec.size, codec.size, 3).astype(np.int16)


@pytest.mark.parametrize("config", SHORT.values(), ids=SHORT)
def test_a_token_changes_pixels_as_far_as_the_decoder_says_and_no_further(config: Any) -> None:
    codec = codec_of(config)
    reach, middle = codec.vae.reach, codec.grid // 2
    assert reach is not None
    tokens = tokens_of(codec).view(1, codec.grid, codec.grid)
    changed = tokens.clone()
    changed[:, middle] = (tokens[:, middle] + 1) % codec.vae.config.codes
    moved = (codec.vae.decode(tokens) - codec.vae.decode(changed)).abs().amax(dim=(0, 1, 3))
    rows = moved.view(codec.grid, -1).amax(1).nonzero().flatten().tolist()
    assert rows[0] >= middle - reach
    assert rows[-1] <= middle + reach
    assert reach - 1 <= max(middle - rows[0], rows[-1] - middle)


@pytest.mark.parametrize("config", SHORT.values(), ids=SHORT)
def test_rows_that_no_longer_change_are_those_of_the_finished_picture(config: Any) -> None:
    codec = codec_of(config)
    tokens, reach = tokens_of(codec), codec.vae.reach
    assert reach is not None
    canvas = Canvas(codec, reach)
    final = whole(codec, tokens)
    factor = codec.size // codec.grid
    for rows in (2, 3, codec.grid // 2, codec.grid - 1):
        known = rows_known(codec, rows)
        shown = look(codec, canvas.show(tokens, known))
        settled = factor * max(0, rows - reach)
        assert np.abs(shown[:settled] - final[:settled]).max(initial=0) <= 1
        now = whole(codec, torch.where(known, tokens, codec.blank))  # the same tokens, painted whole
        assert np.abs(shown[: rows * factor] - now[: rows * factor]).max() <= 1
        assert np.ptp(shown[rows * factor :]) == 0
    assert settled


def test_a_band_is_painted_and_not_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codec_of(SHORT["discrete"])
    tokens, painted = tokens_of(codec), list[int]()
    paint = codec.paint

    def noted(ids: torch.Tensor) -> NDArray[np.uint8]:
        painted.append(len(ids))
        return paint(ids)

    monkeypatch.setattr(codec, "paint", noted)
    canvas = Canvas(codec, 2)
    for rows in range(2, codec.grid, 2):
        canvas.show(tokens, rows_known(codec, rows))
    assert painted[0] == 2 + 2
    assert max(painted) == 2 + 3 * 2  # new rows, those above that they change, and what these two see on both sides
    canvas.show(tokens, rows_known(codec, codec.grid - 2))
    assert len(painted) == codec.grid // 2 - 1  # nothing new, nothing painted


def test_cells_that_are_kept_are_shown_from_the_start(small: Checkpoint) -> None:
    codec = ImageCodec(small.vae, torch.device("cpu"))
    tokens, reach = tokens_of(codec), small.vae.reach
    kept = torch.zeros(codec.grid**2, dtype=torch.bool)
    kept[codec.grid * 5 + 1] = kept[codec.grid * 3] = True
    canvas = Canvas(codec, reach)
    for rows in (0, 2, 4):
        known = rows_known(codec, rows) | kept
        now = whole(codec, torch.where(known, tokens, codec.blank))
        cells = known.view(codec.grid, codec.grid).repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
        shown = look(codec, canvas.show(tokens, known))
        assert np.abs(shown - now)[cells].max() <= 1
        assert np.ptp(shown[~cells]) == 0


def test_a_decoder_that_sees_the_whole_picture_paints_it_whole() -> None:
    codec = codec_of(WHOLE)
    assert codec.vae.reach is None
    assert measure_halo(codec) is None
    tokens, known = tokens_of(codec), rows_known(codec, 3)
    canvas = Canvas(codec, None)
    canvas.show(tokens, rows_known(codec, 2))
    shown = look(codec, canvas.show(tokens, known))
    now = whole(codec, torch.where(known, tokens, codec.blank))
    assert np.array_equal(shown[: 3 * 2], now[: 3 * 2])


def test_the_default_decoder_has_a_halo_far_shorter_than_its_reach() -> None:
    codec = ImageCodec(load_vae("weights/default"), torch.device("cpu"))
    halo = measure_halo(codec)
    assert codec.vae.reach == 22
    assert halo is not None
    assert 3 <= halo <= 8
    canvas, tokens = Canvas(codec, halo), tokens_of(codec)
    for rows in (12, 14, 16):
        known = rows_known(codec, rows)
        shown = look(codec, canvas.show(tokens, known))
    now = whole(codec, torch.where(known, tokens, codec.blank))
    assert np.abs(shown[: 16 * 8] - now[: 16 * 8]).max() <= 2 * VISIBLE
