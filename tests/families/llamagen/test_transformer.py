"""LlamaGen's transformer computes what the original computes, cached or not, and its files are read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.errors import CheckpointError
from model.families.llamagen.transformer import LlamaGenTransformer, turns
from model.importing import llamagen
from model.importing.files import Weights
from tests.families.llamagen.originals import arrays, published, state, trained, vq
from tests.families.places import check_rows_at_different_places

HEADS, GRID = "2", 8
NONE: Mapping[str, Tensor] = {}


def file(content: object) -> Weights:
    return Weights(Path("c2i.pt"), "torch zip", content)


@pytest.fixture(scope="module")
def transformer() -> LlamaGenTransformer:
    part = llamagen.read_transformer(file(published()), HEADS, GRID)
    made = LlamaGenTransformer(part.config)
    made.load_state_dict({key: tensor.float() for key, tensor in part.state.items()})
    return made.eval()


def test_logits_are_those_of_the_original(transformer: LlamaGenTransformer) -> None:
    golden = arrays()
    text, image, want = golden["text_ids"], golden["image_ids"], golden["logits"]
    got = transformer.logits(text, image)
    assert got.shape == (3, 65, 50)
    torch.testing.assert_close(got[:, :64], want, atol=1e-4, rtol=0)
    assert bool((got[:, 64] == float("-inf")).all())
    torch.testing.assert_close(transformer.logits(text[:1], image[:1, :9]), got[:1, :10], atol=1e-4, rtol=0)


def test_cached_equals_uncached_with_rows_at_different_places(transformer: LlamaGenTransformer) -> None:
    golden = arrays()
    text, image, want = golden["text_ids"], golden["image_ids"], golden["logits"]
    check_rows_at_different_places(transformer, text[:2], image, want, ids=1, ahead=17, turns=46)


def test_a_cleaned_slot_is_finite(transformer: LlamaGenTransformer) -> None:
    cache = transformer.new_cache(2)
    for buffer in (cache.keys, cache.values):
        buffer[:, 1] = float("nan")
    cache.clean([1])
    hidden = transformer.decode(cache, slice(0, 2), torch.zeros(2, 1, dtype=torch.int64))
    assert bool(hidden.isfinite().all())
    assert cache.nbytes > 0


def test_the_class_is_not_turned_but_zero() -> None:
    config = llamagen.read_transformer(file(published()), HEADS, GRID).config
    for table in turns(config):
        assert table.shape == (65, 4)
        assert not bool(table[0].any())


def test_roles() -> None:
    for content in (published(), state(), {"module": state()}, {"state_dict": state()}, trained()):
        assert llamagen.roles(content) == llamagen.ROLE
    gone = {"tok_embeddings.weight": torch.zeros(0)}
    assert llamagen.roles(published(**gone)) == llamagen.ROLE
    for other in (vq(), {"a": 1}, {"model": 3}, [1], None):
        assert llamagen.roles(other) is None


def test_a_saved_table_of_positions_must_be_ours() -> None:
    config = llamagen.read_transformer(file(published()), HEADS, GRID).config
    table = torch.stack(turns(config), dim=-1)
    part = llamagen.read_transformer(file(published(freqs_cis=table)), HEADS, GRID)
    assert "freqs_cis" not in part.state
    with pytest.raises(CheckpointError, match="freqs_cis must be the cosines and sines of 7 x 7 image tokens"):
        llamagen.read_transformer(file(published(freqs_cis=table)), HEADS, 7)


def test_what_a_file_has_wrong_is_named() -> None:
    def said(heads: str | None = HEADS, changes: Mapping[str, Tensor] = NONE) -> str:
        with pytest.raises(CheckpointError) as caught:
            llamagen.read_transformer(file(published(**changes)), heads, GRID)
        return str(caught.value)

    key = "layers.1.attention.wqkv.weight"
    assert said(changes={key: torch.zeros(0)}) == f"c2i.pt: the key {key!r} is missing"
    assert "must have the shape (48, 16), got (48, 9)" in said(changes={key: torch.zeros(48, 9)})
    assert f"{key!r} must be finite numbers, got NaN" in said(changes={key: torch.full((48, 16), torch.nan)})
    assert f"{key!r} must be of a floating type" in said(changes={key: torch.zeros(48, 16, dtype=torch.int64)})
    assert "'layers.0.extra' belongs to nothing in this model" in said(changes={"layers.0.extra": torch.zeros(2)})
    assert "layers must be at most 256, got" in said(changes={"layers.999999999.a": torch.zeros(2)})
    assert "must have two dimensions" in said(changes={"tok_embeddings.weight": torch.zeros(50)})
    assert "heads of a model 16 wide must be said by --set heads=N" in said(None)
    assert "heads must divide dim 16 into multiples of 4" in said("8")
