"""What is cached equals what is not, for every kind of layer; and a step reads no more than its mask needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model.errors import CheckpointError
from model.families.dalle_pytorch.config import KINDS, DallePytorchConfig
from model.families.dalle_pytorch.neighbours import mask, neighbours
from model.families.dalle_pytorch.transformer import DallePytorchTransformer
from model.limits import build

SIZES: dict[str, Any] = {
    "text_vocab": 20,
    "text_tokens": 6,
    "image_vocab": 13,
    "grid": 6,
    "dim": 12,
    "depth": 3,
    "heads": 2,
    "head_dim": 8,
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"shift": True},
    {"rotary": True},
    {"rotary": True, "shift": True, "stable": True, "sandwich": True},
    {"reversible": True, "shift": True, "dim": 14},
    {"tied": True, "shared_attention": (0, 1, 0), "shared_feed": (0, 0, 1)},
]


def random_model(kind: str, **options: Any) -> DallePytorchTransformer:
    """A tiny model whose every weight matters. Without shared layers the second layer attends in full."""
    second = kind if "shared_attention" in options else "full"
    torch.manual_seed(0)
    model = DallePytorchTransformer(DallePytorchConfig(**{**SIZES, **options}, attention=(kind, second, kind))).eval()
    for name, parameter in model.named_parameters():
        if name.endswith((".scale1", ".scale2")):
            torch.nn.init.normal_(parameter, 0.6, 0.2)
        elif parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
        else:
            torch.nn.init.normal_(parameter, std=0.5 if "table" in name or "places" in name else 0.3)
    return model


def ids(model: DallePytorchTransformer, rows: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    config = model.config
    text = torch.randint(1, config.text_vocab, (rows, config.text_tokens))
    text[0, 4:] = 0
    return text, torch.randint(0, config.image_vocab, (rows, config.image_tokens))


def whole(model: DallePytorchTransformer, text: Tensor, image: Tensor) -> Tensor:
    """Uncached logits of every image token, (rows, image tokens, codes)."""
    config = model.config
    return model.logits(text, image)[:, config.max_text - 1 : -1, config.text_columns :]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(kind, options, id="-".join([kind, *options]))
        for kind in KINDS
        for options in OPTIONS
        if not (kind == "mlp" and "rotary" in options)  # which the package refuses
    ],
)
def test_cached_equals_uncached(kind: str, options: dict[str, Any]) -> None:
    """Two rows, of which the second begins five tokens later; by slice and by ids, with a span and without."""
    model = random_model(kind, **options)
    model.pack()
    text, image = ids(model, 2)
    expected, late, nothing = whole(model, text, image), 5, image[:, :0]
    cache = model.new_cache(2)
    hidden = torch.cat([model.prefill(cache, torch.tensor([slot]), text[slot : slot + 1]) for slot in (0, 1)])
    for step in range(model.config.image_tokens + late):
        places = [step, step - late]
        live = [slot for slot in (0, 1) if 0 <= places[slot] < model.config.image_tokens]
        for slot in live:
            found = model.image_logits(hidden[slot : slot + 1], nothing[:1])[0]
            torch.testing.assert_close(found, expected[slot, places[slot]], rtol=1e-4, atol=1e-4)
        on = [slot for slot in live if places[slot] < model.config.image_tokens - 1]
        if not on:
            continue
        tokens = torch.stack([image[slot, places[slot], None] for slot in on])
        rows = slice(on[0], on[-1] + 1) if step % 2 else torch.tensor(on)
        span = max(places[slot] for slot in on) + model.config.max_text + 1 if step % 3 else None
        hidden[on] = model.decode(cache, rows, tokens, span)
    assert cache.length.tolist() == [model.config.capacity] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_copied_slot_goes_on_like_its_source(kind: str) -> None:
    model = random_model(kind, shift=True)
    text, image = ids(model, 1)
    cache = model.new_cache(3)
    model.prefill(cache, torch.tensor([1]), text)
    for place in range(8):
        model.decode(cache, slice(1, 2), image[:, place : place + 1])
    cache.copy(1, torch.tensor([0, 2]), length=model.config.max_text + 8)
    hidden = model.decode(cache, slice(0, 3), image[:, 8:9].expand(3, 1))
    torch.testing.assert_close(hidden, hidden[1:2].expand(3, -1))
    torch.testing.assert_close(
        model.image_logits(hidden[:1], image[:, :0]), whole(model, text, image)[:, 9], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_begins_again_whatever_it_held(kind: str) -> None:
    model = random_model(kind, shift=True)
    text, image = ids(model, 1)
    cache = model.new_cache(1)
    model.prefill(cache, torch.tensor([0]), text)
    first = model.decode(cache, slice(0, 1), image[:, :1])
    for place in range(1, 12):
        model.decode(cache, slice(0, 1), image[:, place : place + 1])
    cache.length[:], cache.step[:] = model.config.max_text, 0
    assert torch.equal(model.decode(cache, slice(0, 1), image[:, :1]), first)
    cache.keys.fill_(torch.nan)
    cache.gates.fill_(torch.nan)
    cache.above.fill_(torch.nan)
    cache.clean([0])
    model.prefill(cache, torch.tensor([0]), text)
    assert torch.equal(model.decode(cache, slice(0, 1), image[:, :1]), first)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("full", "mlp")])
def test_a_step_reads_only_what_its_mask_shows(kind: str) -> None:
    """Whatever else of the picture stands in the cache may be NaN."""
    torch.manual_seed(0)
    model = DallePytorchTransformer(DallePytorchConfig(**{**SIZES, "depth": 1}, attention=(kind,))).eval()
    text, image = ids(model, 1)
    cache, config = model.new_cache(1), model.config
    model.prefill(cache, torch.tensor([0]), text)
    for place in range(20):
        model.decode(cache, slice(0, 1), image[:, place : place + 1])
    index, exists = neighbours(kind, config.grid)
    needed = config.max_text + index[20][exists[20]]
    hide = torch.ones(config.capacity, dtype=torch.bool)
    hide[: config.max_text] = False
    hide[needed] = False
    hide[config.max_text] = False  # where an index that does not exist points
    for buffer in (cache.keys, cache.values):
        buffer[:, :, :, hide] = torch.nan
    hidden = model.decode(cache, slice(0, 1), image[:, 20:21])
    torch.testing.assert_close(
        model.image_logits(hidden, image[:, :0]), whole(model, text, image)[:, 21], rtol=1e-4, atol=1e-4
    )


def test_masks_are_those_of_the_package() -> None:
    """A grid of 6, what the token in row 3, column 2 sees (`attention.py` of 1.4.2 and 1.6.6)."""
    seen = {
        "axial_row": {(3, 0), (3, 1), (3, 2)},
        "axial_col": {(0, 2), (1, 2), (2, 2), (3, 2)},
        "conv_like": {(row, column) for row in range(4) for column in range(3)},
        "conv_centred": {(r, c) for r in (1, 2, 3) for c in range(5) if (r, c) <= (3, 2)},
    }
    for kind, cells in seen.items():
        allowed = mask(kind, 6, text=4)
        row = allowed[4 + 3 * 6 + 2]
        assert row[:4].all()
        assert {divmod(int(i), 6) for i in row[4:].nonzero()} == cells
        assert torch.equal(allowed[:4], torch.ones(4, 40, dtype=torch.bool).tril())


def test_a_trained_model_gets_gradients_everywhere() -> None:
    model = random_model("axial_row", rotary=True, shift=True)
    text, image = ids(model, 2)
    model.logits(text, image)  # tables that serving made do not stop training
    states = model.states(text, image[:, :-1])
    (model.text_logits(states).square().mean() + model.image_head(states).square().mean()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_ids_out_of_range_are_refused() -> None:
    model = random_model("full")
    text, image = ids(model, 1)
    with pytest.raises(ValueError, match="text_ids must be from 0 to 19, got 20 to 20"):
        model.logits(torch.full((1, 2), 20), image)
    with pytest.raises(ValueError, match=r"text_ids and image_ids must be \(b, 0 to 6\) and \(b, 0 to 36\), got"):
        model.logits(torch.zeros(1, 7, dtype=torch.int64), image)
    with pytest.raises(ValueError, match="image_ids must be from 0 to 12, got -1"):
        model.logits(text, torch.full((1, 1), -1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": ["full", "sparse", "full"]}, "attention: must be of full, axial_row, .*, got 'sparse'"),
        ({"attention": ["full"]}, "attention: must have one kind for each of 3 layers, got 1"),
        ({"shared_feed": [0, 2, 1]}, r"shared_feed: must count up from 0 in the order of the layers, got \[0, 2, 1\]"),
        ({"shared_feed": [0]}, "shared_feed: must have one number for each of 3 layers, got 1"),
        (
            {"attention": ["full", "axial_row", "full"], "shared_attention": [0, 0, 1]},
            "shared_attention: layers that share one must be of one kind, got full and axial_row",
        ),
        ({"attention": ["mlp"] * 3, "rotary": True}, "rotary: must be false where a layer is of the kind mlp"),
        ({"shift": True, "dim": 3}, "dim: must be at least 4 where shift is true, got 3"),
        ({"attention": "full"}, "attention must be a list of 1 to 256 texts, got 'full'"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^config.json: .*{message}$"):
        build(DallePytorchConfig, {**SIZES, "attention": ["full"] * 3, **changes}, "config.json", "transformer")
