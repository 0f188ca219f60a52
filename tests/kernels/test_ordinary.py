"""The native step of other families' decoders against PyTorch's: the same numbers, and the same bits in any company."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from model import memory
from model.checkpoints.networks import network
from model.config import TransformerConfig, from_preset
from model.families.cache import Cache
from model.families.dalle_pytorch.config import KINDS, MLP, DallePytorchConfig
from model.families.kakaobrain.config import KakaobrainConfig
from model.families.llamagen.config import LlamaGenConfig, LlamaGenTextConfig, T5Config
from model.families.min_dalle.config import MinDalleConfig
from model.families.rudalle.config import V2, V3, RuDalleConfig
from model.kernels import OrdinaryStep, SlotTensors, step_of
from model.kernels import library as library_module
from model.transformer import Transformer
from tests.conftest import randomise
from tests.kernels.rounding import round_linears
from tests.kernels.slots import drawn_within, new_slots, picture

SLOTS, STEPS = 14, 23
COMMON: dict[str, Any] = {"grid": 6, "dim": 48, "depth": 3, "image_vocab": 96}
DALLE = {**COMMON, "text_vocab": 40, "text_tokens": 9, "heads": 2, "head_dim": 32}
OPTIONS: tuple[dict[str, Any], ...] = (
    {"rotary": True, "shift": True, "stable": True},
    {"sandwich": True, "head_dim": 16},
    {"reversible": True, "shift": True, "dim": 32, "heads": 3},
    {"rotary": True, "tied": True, "shared_attention": (0, 1, 0), "shared_feed": (0, 0, 1)},
)
SHAPES: dict[str, Any] = {
    **{
        f"{kind}-{'-'.join(options)}": DallePytorchConfig(
            **{**DALLE, **options}, attention=(kind, kind if "shared_feed" in options else "full", kind)
        )
        for kind, options in zip((*KINDS[:5], KINDS[0]), (*OPTIONS, OPTIONS[0], OPTIONS[2]), strict=True)
    },
    "min-dalle": MinDalleConfig(**COMMON, text_vocab=40, heads=3, hidden=42, text_tokens=7),
    "rudalle-v2": RuDalleConfig(**{**COMMON, "depth": 5}, text_vocab=40, heads=3, text_tokens=7, version=V2),
    "rudalle-v3": RuDalleConfig(**{**COMMON, "depth": 5}, text_vocab=40, heads=1, text_tokens=7, version=V3),
    "rudalle-plain": RuDalleConfig(**COMMON, text_vocab=40, heads=3, text_tokens=7, sandwich=False),
    "llamagen": LlamaGenConfig(**COMMON, classes=5, heads=3, hidden=56),
    "llamagen-text": LlamaGenTextConfig(
        **COMMON,
        heads=3,
        hidden=56,
        encoder=T5Config(vocab=40, dim=24, depth=1, heads=2, head_dim=8, hidden=20),
        text_tokens=8,
    ),
    "kakaobrain": KakaobrainConfig(**COMMON, text_vocab=40, heads=3, pad=1, text_tokens=7),
}


@dataclass
class Scene:
    """A decoder with a native step. Every slot has read a text of its own, and is at a place of its own."""

    transformer: Any
    cache: Any
    slots: SlotTensors
    native: OrdinaryStep


def scene(name: str, dtype: torch.dtype = torch.float32) -> Scene:
    """Always the same for the same arguments. dtype: of the transformer; int8: of its native step's matrices."""
    config = SHAPES[name]
    transformer: Any = network(config).eval()
    randomise(transformer, seed=1)
    if dtype != torch.int8:
        transformer.to(dtype)
    native = step_of(transformer, dtype)
    if native is None:
        pytest.skip("the native kernels are not built here, or not for this processor")
    assert isinstance(native, OrdinaryStep)
    source = torch.Generator().manual_seed(2)
    cache, hidden = native.new_cache(SLOTS), torch.zeros(SLOTS, config.dim)
    for slot in range(SLOTS):
        text = torch.randint(2, config.text_vocab, (1, config.max_ids - (slot % 3) * (config.max_ids > 3)))
        text %= config.text_vocab
        hidden[slot] = transformer.prefill(cache, torch.tensor([slot]), text)[0]
        for _ in range(slot % 5 * 7):  # up to 28 of 36 tokens
            token = torch.randint(0, config.image_vocab, (1, 1), generator=source)
            hidden[slot] = transformer.decode(cache, slice(slot, slot + 1), token)[0]
    drawn = torch.randint(0, config.image_vocab, (SLOTS, 1), generator=source)
    slots = new_slots(hidden, drawn, cache.step.clone(), config.image_tokens, source)
    native.bind(cache, slots)
    return Scene(transformer, cache, slots, native)


def buffers(cache: Cache) -> list[Tensor]:
    return [cache.keys, cache.values, *cache.whole(), *cache.states()]


@pytest.mark.parametrize("name", SHAPES)
def test_steps_agree_with_torch(name: str) -> None:
    """Three tokens, fed to slots in any order, after which each cache holds the same."""
    torch.manual_seed(0)
    ours = scene(name)
    torch.manual_seed(0)
    theirs = scene(name)
    rows = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(5))[:11]
    for _ in range(3):
        ours.native.arrange(rows.tolist(), rows.flip(0).tolist(), [])
        ours.native.decode()
        fed = ours.slots.drawn[rows.flip(0)]
        expected = theirs.transformer.decode(theirs.cache, rows, fed)
        torch.testing.assert_close(ours.slots.hidden[rows], expected, rtol=1e-4, atol=2e-5)
        for found, wanted in zip(buffers(ours.cache), buffers(theirs.cache), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)
        ours.slots.drawn.random_(0, 96, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", SHAPES)
def test_the_likeliest_token_of_the_logits_is_drawn(name: str) -> None:
    """With guidance in every second picture."""
    ours = scene(name)
    config = ours.transformer.config
    logits = ours.transformer.image_logits(ours.slots.hidden, torch.empty(SLOTS, 0, dtype=torch.int64))
    pictures = [picture(i, i, i + 1, temperature=0.0, guidance=3.0 if i % 4 else 1.0) for i in range(0, SLOTS, 2)]
    ours.native.arrange(range(SLOTS), range(SLOTS), pictures)
    at = ours.slots.position.clone()
    ours.native.sample()
    for i in range(0, SLOTS, 2):
        mixed = logits[i + 1] + 3.0 * (logits[i] - logits[i + 1]) if i % 4 else logits[i]
        token = int(ours.slots.drawn[i, 0])
        assert mixed[token] >= mixed.max() - 1e-4
        assert int(ours.slots.tokens[i, at[i]]) == token < config.image_vocab
    assert torch.equal(ours.slots.position[0::2], at[0::2] + 1)


@pytest.mark.parametrize("name", SHAPES)
def test_steps_with_int8_agree_with_torch_s_of_rounded_weights(name: str) -> None:
    """A value that lies between two of the cache's bfloat16 numbers may be rounded up here and down there."""
    torch.manual_seed(0)
    ours = scene(name, torch.int8)
    torch.manual_seed(0)
    theirs = scene(name, torch.int8)
    round_linears(theirs.transformer)
    assert ours.native.weight_bytes == 1
    rows = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(5))[:11]
    for _ in range(3):
        ours.native.arrange(rows.tolist(), rows.flip(0).tolist(), [])
        ours.native.decode()
        expected = theirs.transformer.decode(theirs.cache, rows, ours.slots.drawn[rows.flip(0)])
        torch.testing.assert_close(ours.slots.hidden[rows], expected, rtol=1e-3, atol=5e-4)
        for found, wanted in zip(buffers(ours.cache), buffers(theirs.cache), strict=True):
            torch.testing.assert_close(found, wanted, rtol=2**-7, atol=5e-4)
        ours.slots.drawn.random_(0, 96, generator=torch.Generator().manual_seed(7))
    noise = ours.slots.noise[torch.arange(SLOTS), ours.slots.position]
    ours.native.arrange(range(SLOTS), range(SLOTS), [picture(slot, slot) for slot in range(SLOTS)])
    ours.native.sample()
    logits = theirs.transformer.image_logits(ours.slots.hidden, torch.empty(SLOTS, 0, dtype=torch.int64))
    assert drawn_within(logits, ours.slots.drawn, noise, 1e-5)


@pytest.mark.parametrize("name", ["full-rotary-shift-stable", "conv_like-rotary-tied-shared_attention-shared_feed"])
def test_bfloat16_is_near_float32(name: str) -> None:
    """Only its cache and weights are rounded: it is nearer to float32 of the same weights than PyTorch's bfloat16."""
    torch.manual_seed(0)
    ours = scene(name, torch.bfloat16)
    torch.manual_seed(0)
    theirs = scene(name, torch.bfloat16)
    exact = scene(name)
    exact.transformer.load_state_dict(ours.transformer.state_dict())
    rows = torch.arange(SLOTS)
    for mine, whole in zip(buffers(exact.cache), buffers(ours.cache), strict=True):
        mine.copy_(whole)
    ours.native.arrange(rows.tolist(), rows.tolist(), [])
    ours.native.decode()
    found = theirs.transformer.decode(theirs.cache, rows, theirs.slots.drawn).float()
    wanted = exact.transformer.decode(exact.cache, rows, exact.slots.drawn)
    assert ours.cache.keys.dtype == torch.bfloat16
    assert (ours.slots.hidden - wanted).square().mean() < (found - wanted).square().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("name", ["axial_row-sandwich-head_dim", "min-dalle", "rudalle-v2", "llamagen-text"])
def test_a_row_has_the_same_bits_alone_and_in_company(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    crowd = scene(name, dtype)
    torch.manual_seed(0)
    alone = scene(name, dtype)
    everyone = list(range(SLOTS))
    crowd.native.arrange(everyone, everyone, [picture(slot, slot, top_k=20) for slot in everyone])
    crowd.native.sample()
    crowd.native.decode()
    for slot in (0, 6, 13):
        alone.native.arrange([slot], [slot], [picture(slot, 0, top_k=20)])
        alone.native.sample()
        alone.native.decode()
        assert torch.equal(alone.slots.hidden[slot], crowd.slots.hidden[slot])
        assert torch.equal(alone.slots.drawn[slot], crowd.slots.drawn[slot])
        assert torch.equal(alone.cache.keys[:, slot], crowd.cache.keys[:, slot])


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("name", ["axial_col-reversible-shift-dim-heads", "min-dalle", "llamagen", "rudalle-v3"])
def test_libraries_for_other_registers_give_the_same_bits(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for path in library_module.built():
        library = library_module.declared(ctypes.CDLL(str(path)))
        monkeypatch.setattr("model.kernels.families.load", lambda library=library: library)
        torch.manual_seed(0)
        one = scene(name, dtype)
        one.native.arrange(range(9), range(9), [picture(slot, slot, top_k=20) for slot in range(9)])
        one.native.sample()
        one.native.decode()
        found.append(torch.cat([one.slots.hidden, one.slots.drawn.float()], dim=1))
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize(
    "name", ["full-rotary-shift-stable", "axial_row-sandwich-head_dim", "min-dalle", "rudalle-v2", "llamagen-text"]
)
def test_a_text_that_slots_share_is_read_in_one_of_them(name: str) -> None:
    torch.manual_seed(0)
    ours = scene(name)
    ours.cache.copy(0, torch.tensor([4]))
    ours.slots.drawn[4] = ours.slots.drawn[0]
    ours.native.arrange([0, 4], [0, 4], [])
    ours.native.share_text(0, [0, 4])
    for buffer in (ours.cache.keys, ours.cache.values):
        buffer[:, 4, :, : ours.transformer.config.max_text] = torch.nan
    if name == "min-dalle":
        ours.cache.text_keys[:, 4] = torch.nan
    ours.native.decode()
    assert torch.equal(ours.slots.hidden[4], ours.slots.hidden[0])
    assert ours.slots.hidden[4].isfinite().all()


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in SHAPES), ("min-dalle", torch.int8)])
def test_guessed_tokens_are_those_of_single_steps(name: str, dtype: torch.dtype) -> None:
    """From a slot's place to the picture's end, whatever is guessed: the same tokens, cache and score, bit for bit."""
    torch.manual_seed(0)
    plain = scene(name, dtype)
    torch.manual_seed(0)
    guessed = scene(name, dtype)
    last, slot, null = plain.transformer.config.image_tokens, 1, 6  # of the same place
    for one in (plain, guessed):
        one.slots.forced[slot, 20:24] = 5
        one.native.arrange(
            [slot, null], [slot, slot], [picture(slot, 0, 1, guidance=1.5, top_k=4, temperature=0.3, scored=True)]
        )
    steps = 0
    while plain.slots.position[slot] < last:
        plain.native.sample()
        plain.native.decode() if plain.slots.position[slot] < last else None
    guesses = torch.zeros(5, dtype=torch.int64)
    while guessed.slots.position[slot] < last:
        guessed.native.sample()
        steps += 1
        at = int(guessed.slots.position[slot])
        if steps % 3 == 0:  # some of the guesses are right
            guesses[: last - at] = plain.slots.tokens[slot, at : at + 5]
        guesses[steps % 5] = 7
        if at < last:
            right = guessed.native.leap(guesses[: last - 1 - at])
            assert int(guessed.slots.position[slot]) == at + right
    assert steps < last - 7 - 4
    for found, wanted in zip(guessed.slots, plain.slots, strict=True):
        assert torch.equal(found[slot], wanted[slot])
    for found, wanted in zip(buffers(guessed.cache)[2:], buffers(plain.cache)[2:], strict=True):
        assert torch.equal(found, wanted)
    for found, wanted in ((guessed.cache.keys, plain.cache.keys), (guessed.cache.values, plain.cache.values)):
        assert torch.equal(found, wanted)


def test_guessed_tokens_have_the_model_s_distribution() -> None:
    """The third token of 3000 pictures of four tokens, all fed guesses, beside its exact probabilities: chi-squared."""
    sizes = {**DALLE, "grid": 2, "image_vocab": 16, "dim": 16, "depth": 1, "heads": 1, "head_dim": 16}
    transformer: Any = network(DallePytorchConfig(**sizes, attention=("full",), rotary=True)).eval()
    randomise(transformer, seed=1)
    native = step_of(transformer)
    if native is None:
        pytest.skip("the native kernels are not built here, or not for this processor")
    assert isinstance(native, OrdinaryStep)
    text, pictures = torch.tensor([[3, 4]]), 3000
    pair = torch.cartesian_prod(torch.arange(16), torch.arange(16))  # all first two tokens
    rows = transformer.logits(text.expand(256, -1), pair)[:, -3:, -16:].softmax(-1)
    before = rows[:, 0].gather(1, pair[:, :1]) * rows[:, 1].gather(1, pair[:, 1:])  # (256, 1)
    exact = (before * rows[:, 2]).sum(0)
    cache = transformer.new_cache(1)
    hidden = transformer.prefill(cache, torch.tensor([0]), text)
    whole = torch.zeros(1, 4, dtype=torch.int64)
    slots = SlotTensors(
        *(hidden.clone(), whole, torch.zeros(1, 1, dtype=torch.int64), whole - 1),
        noise=torch.zeros(1, 4, dtype=torch.float64),
        position=torch.zeros(1, dtype=torch.int64),
        begun=torch.zeros(1, dtype=torch.bool),
        bad=torch.zeros(1, dtype=torch.bool),
        score=torch.zeros(1, dtype=torch.float64),
    )
    native.bind(cache, slots)
    native.arrange([0], [0], [picture(0, 0)])
    torch.manual_seed(5)
    counts, guesses, right = torch.zeros(16), torch.zeros(2, dtype=torch.int64), 0
    for _ in range(pictures):
        cache.length[:], cache.step[:], slots.position[:] = transformer.config.max_text, 0, 0
        slots.hidden.copy_(hidden)
        slots.noise.uniform_()
        while slots.position[0] < 3:
            native.sample()
            right += native.leap(guesses[: max(0, 3 - int(slots.position[0]))])
        counts[slots.tokens[0, 2]] += 1
    assert right > 100
    expected = pictures * exact
    assert expected.min() > 5
    assert float(((counts - expected).square() / expected).sum()) < 37.7  # 15 degrees of freedom, one in a thousand


def test_a_text_of_padding_is_attended_to_evenly() -> None:
    ours, theirs = scene("min-dalle"), scene("min-dalle")
    for one in (ours, theirs):
        one.cache.text_exists[:] = False
        one.cache.text_values.random_(0, 3, generator=torch.Generator().manual_seed(1))
        one.cache.keys.copy_(ours.cache.keys), one.cache.values.copy_(ours.cache.values)
    ours.native.arrange([3], [3], [])
    ours.native.decode()
    expected = theirs.transformer.decode(theirs.cache, torch.tensor([3]), ours.slots.drawn[3:4])
    torch.testing.assert_close(ours.slots.hidden[3:4], expected, rtol=1e-4, atol=2e-5)


def test_weights_that_float16_has_are_kept_in_it() -> None:
    """Nothing is rounded: the step is the one of float32, with half the bytes."""
    one = scene("min-dalle")
    assert one.native.weight_bytes == 4
    with torch.no_grad():
        for parameter in one.transformer.parameters():
            parameter.copy_(parameter.half().float())
    native = step_of(one.transformer)
    assert native is not None
    assert native.weight_bytes == 2
    native.bind(one.cache, one.slots)
    native.arrange([2], [2], [])
    drawn, before = one.slots.drawn[2:3].clone(), [part.clone() for part in buffers(one.cache)]
    native.decode()
    for mine, kept in zip(buffers(one.cache), before, strict=True):
        mine.copy_(kept)
    expected = one.transformer.decode(one.cache, torch.tensor([2]), drawn)
    torch.testing.assert_close(one.slots.hidden[2:3], expected, rtol=1e-4, atol=2e-5)


def test_weights_are_kept_twice_only_where_there_is_memory_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"text_vocab": 64, "image_vocab": 16, "code_levels": (4, 4), "grid": 8}
    transformer, own = network(SHAPES["llamagen"]), Transformer(from_preset(TransformerConfig, "tiny", **sizes))
    if step_of(transformer) is None:
        pytest.skip("the native kernels are not built here, or not for this processor")
    assert step_of(own) is not None
    monkeypatch.setattr(memory, "machine_memory", lambda: 10_000)
    assert step_of(transformer) is None
    assert step_of(own) is None


def test_what_the_block_has_not_is_left_to_torch() -> None:
    gated = DallePytorchConfig(**DALLE, attention=("full", MLP, "full"))
    odd = DallePytorchConfig(**{**DALLE, "head_dim": 24}, attention=("full",) * 3)
    assert step_of(network(gated)) is None
    assert step_of(network(odd)) is None
    assert step_of(network(SHAPES["llamagen"]).half()) is None
