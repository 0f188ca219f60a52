"""The reranker's two towers: what they read, what they do not, and its place in a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from model.checkpoints import Checkpoint, load, save
from model.checkpoints.describe import describe
from model.clip import Clip
from model.config import CLIP_PRESETS, ClipConfig, from_preset
from model.errors import CheckpointError
from tests.conftest import randomise


@pytest.fixture(scope="module")
def clip() -> Clip:
    model = Clip(from_preset(ClipConfig, "tiny", text_vocab=512))
    randomise(model, seed=5)
    return model.eval()


@pytest.fixture(scope="module")
def with_clip(clip: Clip, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint and a CLIP, as a folder."""
    path = tmp_path_factory.mktemp("clip") / "tiny"
    keep(load(tiny_checkpoint), clip, path)
    return path


def keep(checkpoint: Checkpoint, clip: Clip, path: Path) -> None:
    config = dataclasses.replace(checkpoint.config, clip=clip.config)
    save(path, config, checkpoint.tokenizer, checkpoint.vae, checkpoint.transformer, torch.float32, clip=clip)


def test_vectors_have_length_one_and_padding_changes_nothing(clip: Clip) -> None:
    text = torch.tensor([[0, 20, 30, 1], [0, 20, 1, 2]])
    found = clip.encode_text(text, torch.tensor([4, 3]))
    assert found.shape == (2, 32)
    assert torch.allclose(found.norm(dim=1), torch.ones(2))
    assert torch.allclose(found[1], clip.encode_text(torch.tensor([[0, 20, 1]]))[0], atol=1e-6)
    ids = torch.randint(8192, (3, 32, 32), generator=torch.Generator().manual_seed(0))
    image = clip.encode_image(ids)
    assert torch.allclose(image.norm(dim=1), torch.ones(3))
    assert torch.equal(image, clip.encode_image(ids.flatten(1)))


def test_order_matters_in_a_text_and_place_in_a_picture(clip: Clip) -> None:
    first, second = clip.encode_text(torch.tensor([[0, 20, 30, 1], [0, 30, 20, 1]]))
    assert not torch.allclose(first, second, atol=1e-4)
    ids = torch.zeros(1, 32, 32, dtype=torch.int64)
    ids[:, 4:8, 4:8] = 77
    here, there = clip.encode_image(torch.cat([ids, ids.roll(16, 2)]))
    assert not torch.allclose(here, there, atol=1e-4)


def test_codes_that_are_near_look_alike(clip: Clip) -> None:
    def picture(code: int) -> torch.Tensor:
        ids = torch.zeros(1, 32, 32, dtype=torch.int64)
        ids[:, 4:20, 4:20] = code
        return clip.encode_image(ids)[0].detach()

    one, near, far = picture(3), picture(3 + 512), picture(3 + 12 * 512)  # 512: a step in the last of four dimensions
    assert float(one @ near) > float(one @ far)


def test_only_the_first_words_of_a_long_text_are_read(clip: Clip) -> None:
    text = torch.full((1, 200), 20)
    other = text.clone()
    other[:, 64:] = 30
    assert torch.equal(clip.encode_text(text), clip.encode_text(other))


def test_a_picture_of_another_size_is_refused_with_both_shapes(clip: Clip) -> None:
    with pytest.raises(ValueError, match=r"ids must be \(batch, 32, 32\) or \(batch, 1024\), got \(1, 8, 8\)"):
        clip.encode_image(torch.zeros(1, 8, 8, dtype=torch.int64))


def test_a_checkpoint_with_it_is_well_under_10_mb_larger() -> None:
    for preset in CLIP_PRESETS:
        with torch.device("meta"):
            model = Clip(from_preset(ClipConfig, preset))
        assert 2 * sum(parameter.numel() for parameter in model.parameters()) < 7e6  # bytes in bfloat16
    with pytest.raises(ValueError, match="preset must be one of tiny, small, default, got 'huge'"):
        from_preset(ClipConfig, "huge")
    with pytest.raises(ValueError, match="grid: 30 is no multiple of 4"):
        from_preset(ClipConfig, "tiny", grid=30)
    with pytest.raises(ValueError, match="text_dim: 100 is no multiple of head_dim 32"):
        from_preset(ClipConfig, "default", text_dim=100)


def test_it_comes_back_from_a_checkpoint_bit_for_bit(clip: Clip, with_clip: Path) -> None:
    found = load(with_clip)
    assert found.clip is not None
    assert found.clip.config == clip.config == found.config.clip
    assert not found.clip.training
    state = found.clip.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in clip.state_dict().items())
    assert "clip-1-of-1.safetensors" in (with_clip / "SHA256SUMS").read_text()


def test_a_checkpoint_without_it_has_none(tiny_checkpoint: Path) -> None:
    found = load(tiny_checkpoint)
    assert (found.clip, found.config.clip) == (None, None)
    assert "clip" not in dict(describe(tiny_checkpoint).parameters)


def test_it_is_described_and_its_damage_is_named(clip: Clip, with_clip: Path, tmp_path: Path) -> None:
    found = describe(with_clip)
    assert dict(found.parameters)["clip"] == sum(parameter.numel() for parameter in clip.parameters())
    assert found.problems == ()
    keep(load(with_clip), clip, tmp_path / "copy")
    (tmp_path / "copy" / "clip-1-of-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"clip-1-of-1\.safetensors: no such file"):
        load(tmp_path / "copy")


def test_a_clip_that_does_not_fit_is_not_saved(clip: Clip, tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = load(tiny_checkpoint)
    for changes, message in (
        ({"grid": 16}, "32 tokens a side of the levels .*, the CLIP reads 16"),
        ({"levels": (8, 8, 16, 8)}, r"the CLIP reads 32 of \(8, 8, 16, 8\)"),
        ({"text_vocab": 259}, "and the CLIP's table has 259"),
    ):
        with pytest.raises(CheckpointError, match=message):
            keep(checkpoint, Clip(dataclasses.replace(clip.config, **changes)), tmp_path / "wrong")
    with pytest.raises(ValueError, match="clip: the config says None"):
        save(
            tmp_path / "wrong",
            checkpoint.config,
            checkpoint.tokenizer,
            checkpoint.vae,
            checkpoint.transformer,
            clip=clip,
        )
    assert not (tmp_path / "wrong").exists()
