"""min-dalle's transformer computes what the original computes, cached or not, and its files are read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.errors import CheckpointError
from model.families.min_dalle.config import MinDalleConfig
from model.families.min_dalle.transformer import MinDalleTransformer
from model.importing import min_dalle
from model.importing.files import Weights
from tests.families.places import check_rows_at_different_places

DATA = Path(__file__).parents[2] / "data" / "families" / "min_dalle" / "mini.npz"
Halves = tuple[dict[str, Tensor], dict[str, Tensor]]
HEADS = "2"
NONE: Mapping[str, Tensor] = {}


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(DATA).items()}


@pytest.fixture(scope="module")
def halves(arrays: dict[str, Tensor]) -> Halves:
    def half(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name): array for key, array in arrays.items() if key.startswith(name)}

    return half("encoder."), half("decoder.")


@pytest.fixture(scope="module")
def transformer(halves: Halves) -> MinDalleTransformer:
    part = min_dalle.read_transformer(*files(halves), HEADS)
    network = MinDalleTransformer(part.config)
    network.load_state_dict({name: tensor.float() for name, tensor in part.state.items()})
    return network.eval()


def files(halves: Halves) -> tuple[Weights, Weights]:
    first, second = (Weights(Path(f"{i}.pt"), "torch zip", half) for i, half in enumerate(halves))
    return first, second


def test_roles(halves: Halves) -> None:
    assert [min_dalle.roles(half) for half in halves] == [min_dalle.ENCODER, min_dalle.DECODER]
    less = {key: tensor for key, tensor in halves[0].items() if key != "embed_tokens.weight"}
    assert min_dalle.roles(less) == min_dalle.ENCODER
    assert min_dalle.roles({"a": 1}) is None
    assert min_dalle.roles([1]) is None


def test_logits_are_those_of_the_original(transformer: MinDalleTransformer, arrays: dict[str, Tensor]) -> None:
    text, image, want = arrays["text_ids"], arrays["image_ids"].expand(2, -1), arrays["logits"]
    got = transformer.logits(text, image)
    assert got.shape == (2, 257, 2**14)
    torch.testing.assert_close(got[:, :256, : want.shape[2]], want, atol=1e-4, rtol=0)
    assert bool((got[:, 256] == float("-inf")).all())
    short = transformer.logits(text[:1, :6], image[:1, :9])  # padded inside
    torch.testing.assert_close(short[0, :, : want.shape[2]], want[0, :10], atol=1e-4, rtol=0)


def test_cached_equals_uncached_with_rows_at_different_places(
    transformer: MinDalleTransformer, arrays: dict[str, Tensor]
) -> None:
    text, image = arrays["text_ids"], arrays["image_ids"].expand(2, -1)
    want = transformer.logits(text, image)
    check_rows_at_different_places(transformer, text, image, want, ids=6, ahead=5, turns=60)


def test_a_cleaned_slot_is_finite(transformer: MinDalleTransformer) -> None:
    cache = transformer.new_cache(2)
    for buffer in (cache.keys, cache.values, cache.text_keys, cache.text_values):
        buffer[:, 1] = float("nan")
    cache.clean(torch.tensor([1]))
    hidden = transformer.decode(cache, slice(0, 2), torch.zeros(2, 1, dtype=torch.int64))
    assert bool(hidden.isfinite().all())
    assert cache.nbytes > 0


def test_ids_out_of_range_are_refused(transformer: MinDalleTransformer) -> None:
    text, image = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="text_ids must be from 0 to 23, got 24 to 24"):
        transformer.logits(text[:, :1] + 24, image)
    with pytest.raises(ValueError, match=r"must be \(b, 0 to 64\) and \(b, 0 to 256\)"):
        transformer.logits(torch.zeros(1, 65, dtype=torch.int64), image)


def test_what_the_files_have_wrong_is_named(halves: Halves) -> None:
    encoder, decoder = halves

    def said(
        heads: str | None = HEADS, *, first: dict[str, Tensor] | None = None, changes: Mapping[str, Tensor] = NONE
    ) -> str:
        whole = {key: tensor for key, tensor in {**decoder, **changes}.items() if tensor.numel()}
        with pytest.raises(CheckpointError) as caught:
            min_dalle.read_transformer(*files((encoder if first is None else first, whole)), heads)
        return str(caught.value)

    gone, key = torch.zeros(0), "layers.1.encoder_attn.q_proj.weight"
    assert said(changes={key: gone}) == f"1.pt: the key {key!r} is missing"
    assert "must have the shape (20, 20), got (20, 5)" in said(changes={key: torch.zeros(20, 5)})
    assert f"{key!r} must be finite numbers, got NaN" in said(changes={key: torch.full((20, 20), torch.nan)})
    assert f"{key!r} must be of a floating type, got int64" in said(
        changes={key: torch.zeros(20, 20, dtype=torch.int64)}
    )
    assert "'layers.0.extra' belongs to nothing in this model" in said(changes={"layers.0.extra": torch.zeros(2)})
    assert "layers must be at most 256, got 1000000000" in said(changes={"layers.999999999.a": torch.zeros(2)})
    assert "must have at least 16384 rows" in said(changes={"embed_tokens.weight": torch.zeros(9, 20)})
    assert "heads of a model 20 wide must be said by --set heads=N" in said(None)
    assert "heads must divide dim 20, got 3" in said("3")
    assert "--set heads must be a number, got 'many'" in said("many")
    with pytest.raises(CheckpointError, match="in two files, and decoder.pt must be given too"):
        min_dalle.read_transformer(files(halves)[0], None, HEADS)


def test_rows_that_can_neither_be_fed_nor_drawn_are_left_out(halves: Halves) -> None:
    part = min_dalle.read_transformer(*files(halves), HEADS)
    assert len(halves[1]["lm_head.weight"]) == 2**14 + 1
    assert len(part.state["decoder.head.weight"]) == len(part.state["decoder.table.weight"]) == 2**14
    assert part.config == MinDalleConfig(text_vocab=24, dim=20, depth=2, heads=2, hidden=24)
