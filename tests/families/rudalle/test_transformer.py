"""ruDALL-E's transformer computes what the original computes, cached or not, and its files are read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.errors import CheckpointError
from model.families.rudalle.config import V2, V3
from model.families.rudalle.masks import neighbours, sees
from model.families.rudalle.transformer import RuDalleTransformer
from model.importing import rudalle
from model.importing.files import Weights
from tests.families.places import check_rows_at_different_places

DATA = Path(__file__).parents[2] / "data" / "families" / "rudalle"
GOLDEN = ("text_ids", "image_ids", "logits")
HEADS = "2"
NONE: Mapping[str, Tensor] = {}


def arrays(version: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(DATA / f"{version}.npz").items()}


def state(version: str, **changes: Tensor) -> dict[str, Tensor]:
    """The original's tensors. An empty change takes one out."""
    whole = {**{name: tensor for name, tensor in arrays(version).items() if name not in GOLDEN}, **changes}
    return {name: tensor for name, tensor in whole.items() if tensor.numel()}


def file(content: dict[str, Tensor]) -> Weights:
    return Weights(Path("m.bin"), "torch zip", content)


def network(version: str) -> RuDalleTransformer:
    part = rudalle.read_transformer(file(state(version)), HEADS, None)
    assert part.config.version == version  # told by conv_mask
    made = RuDalleTransformer(part.config)
    made.load_state_dict({name: tensor.float() for name, tensor in part.state.items()})
    return made.eval()


@pytest.mark.parametrize("version", [V2, V3])
def test_logits_are_those_of_the_original(version: str) -> None:
    transformer, golden = network(version), arrays(version)
    text, image, want = (golden[name] for name in GOLDEN)
    config = transformer.config
    got = transformer.logits(text, image)
    first, columns, last = config.max_text - 1, config.text_columns, config.max_text + 143
    assert got.shape == (2, last + 1, columns + 15)
    torch.testing.assert_close(got[:, :first, :columns], want[:, :first, :columns], atol=1e-4, rtol=0)
    torch.testing.assert_close(got[:, first:last, columns:], want[:, first:last, columns:], atol=1e-4, rtol=0)
    for masked in (got[:, :first, columns:], got[:, first:, :columns], got[:, last]):
        assert bool((masked == float("-inf")).all())
    short = transformer.logits(text[:1, :3], image[:1, :20])  # padded inside
    torch.testing.assert_close(short[:, first:, columns:], got[:1, first : first + 21, columns:], atol=1e-4, rtol=0)


def test_a_model_without_the_second_norms_computes_what_the_original_does() -> None:
    """rudalle's cogview_sandwich_layernorm is off by default, and on in the public models."""
    part = rudalle.read_transformer(file(state("plain")), HEADS, V3)
    assert not part.config.sandwich
    transformer, golden = RuDalleTransformer(part.config), arrays("plain")
    transformer.load_state_dict({name: tensor.float() for name, tensor in part.state.items()})
    text, image, want = (golden[name] for name in GOLDEN)
    got = transformer.eval().logits(text, image)[:, 5:21, 26:]
    torch.testing.assert_close(got, want[:, 5:21, 26:], atol=1e-4, rtol=0)
    check_rows_at_different_places(transformer, text, image, got, ids=3, ahead=5, turns=9, room=None)
    norm = {"transformer.layers.1.before_first_addition_layernorm.weight": torch.ones(16)}
    with pytest.raises(CheckpointError, match=r"'transformer.layers.0.before_first_addition_layernorm.weight' is miss"):
        rudalle.read_transformer(file(state("plain", **norm)), HEADS, V3)


@pytest.mark.parametrize("version", [V2, V3])
def test_cached_equals_uncached_with_rows_at_different_places(version: str) -> None:
    transformer, golden = network(version), arrays(version)
    text, image, _ = (golden[name] for name in GOLDEN)
    first, columns = transformer.config.max_text - 1, transformer.config.text_columns
    want = transformer.logits(text, image)[:, first:, columns:]
    check_rows_at_different_places(transformer, text, image, want, ids=3, ahead=17, turns=60, room=None)


@pytest.mark.parametrize("version", [V2, V3])
@pytest.mark.parametrize("kind", ["row", "column", "conv"])
def test_a_step_reads_what_the_mask_shows(kind: str, version: str) -> None:
    seen = sees(kind, 13, version)
    index, exists = neighbours(seen)
    back = torch.zeros_like(seen)
    for cell in range(len(seen)):
        back[cell, index[cell, exists[cell]]] = True
    assert torch.equal(back, seen)
    assert not bool(seen.triu(1).any())
    assert bool(seen.diagonal().all())


def test_windows_wrap_in_v2_only() -> None:
    wrapped, clamped = sees("conv", 13, V2), sees("conv", 13, V3)
    right_end = 12
    assert bool(wrapped[right_end, 0])  # the left end of the same row
    assert not bool(clamped[right_end, 0])
    assert bool(wrapped[12 * 13, 0])
    assert not bool(clamped[12 * 13, 0])


def test_which_version_it_is() -> None:
    masks = {name: torch.zeros(0) for name in state(V2) if name.endswith("_mask")}
    bare = file(state(V2, **masks))
    with pytest.raises(CheckpointError, match="--set hf_version=v3, say"):
        rudalle.read_transformer(bare, HEADS, None)
    assert rudalle.read_transformer(bare, HEADS, V2).config.version == V2
    with pytest.raises(CheckpointError, match="hf_version is v2, as transformer.conv_mask tells, and --set says v3"):
        rudalle.read_transformer(file(state(V2)), HEADS, V3)
    with pytest.raises(CheckpointError, match="hf_version must be v2 or v3, got 'v4'"):
        rudalle.read_transformer(bare, HEADS, "v4")
    odd = ~state(V2)["transformer.row_mask"]
    with pytest.raises(CheckpointError, match="transformer.row_mask must be the mask that rudalle makes"):
        rudalle.read_transformer(file(state(V2, **{"transformer.row_mask": odd})), HEADS, None)


def test_what_a_file_has_wrong_is_named() -> None:
    def said(heads: str | None = HEADS, changes: Mapping[str, Tensor] = NONE) -> str:
        with pytest.raises(CheckpointError) as caught:
            rudalle.read_transformer(file(state(V3, **changes)), heads, None)
        return str(caught.value)

    key = "transformer.layers.2.attention.dense.weight"
    assert said(changes={key: torch.zeros(0)}) == f"m.bin: the key {key!r} is missing"
    assert "must have the shape (24, 24), got (24, 9)" in said(changes={key: torch.zeros(24, 9)})
    assert f"{key!r} must be finite numbers, got NaN" in said(changes={key: torch.full((24, 24), torch.nan)})
    assert "'vae.extra' belongs to nothing in this model" in said(changes={"vae.extra": torch.zeros(2)})
    assert "layers must be at most 256, got" in said(changes={"transformer.layers.999999999.a": torch.zeros(2)})
    assert "at most 64 rows" in said(changes={"image_row_embeddings.weight": torch.zeros(100, 24)})
    assert "heads of a model 24 wide must be said by --set heads=N" in said(None)
    assert "heads must divide dim 24, got 5" in said("5")
    assert rudalle.roles(state(V3)) == rudalle.ROLE
    assert rudalle.roles(state(V3, **{"text_pos_embeddings.weight": torch.zeros(0)})) == rudalle.ROLE
    assert rudalle.roles({"a": 1}) is None
